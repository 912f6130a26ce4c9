"""Bringing a cluster up and taking it down, for both hosts of real machines.

What is about to be started is written to the state directory first, so that `down` can end it however `up` ended.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets as randomness
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

from rayplane.control_plane.apiserver.outgoing.kubeconfig import BadKubeconfig, read_kubeconfig
from rayplane.control_plane.apiserver.storage.encryption import BadEncryptionConfig, Encryption, generate
from rayplane.control_plane.cluster import processes, ray_cluster
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import (
    DEFAULT_HISTORY,
    FILES,
    KEPT,
    NONE,
    PROCESS,
    RAY,
    AddressPlan,
    ClusterConfig,
)
from rayplane.control_plane.cluster.ending import (
    AFTER,
    HOST_MODULE,
    UNSURE,
    Progress,
    deadline,
    forget_elsewhere,
    is_running,
    latest,
    take_down,
)
from rayplane.control_plane.cluster.errors import AlreadyUp, Busy, ClusterError, NewerState, UsageError
from rayplane.control_plane.cluster.isolation import decide
from rayplane.control_plane.cluster.node_runtime import check_fits
from rayplane.control_plane.cluster.pki import ENCRYPTION_FILE, Secrets, issue_for_ray, read_encryption
from rayplane.control_plane.cluster.ports import can_bind, free_port, share, with_ports
from rayplane.control_plane.cluster.ray_driven import CONNECT_TIMEOUT_S, POLL_S, Driver, ray_driver, while_ray_lives
from rayplane.control_plane.cluster.readiness import await_ready
from rayplane.control_plane.cluster.renewal import write_admin
from rayplane.control_plane.cluster.slots import in_order, reserved, stays_taken
from rayplane.control_plane.cluster.specs import founders
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, Topology, crowded, founding, of_one_build, on_machines
from rayplane.control_plane.rpc.tls import key_hash
from rayplane.storage.env import LockHeld, SystemClock
from rayplane.storage.env.private import write_private

# In fair time (`patience`) without progress.
READY_TIMEOUT_S = 60.0
RAY_TRIES = 4
FREE_TIMEOUT_S = 5.0
SLOT_TRIES = 3
PROCESS_OUT = "process.out"
#: Of a state's host: the Python that it runs with.
PYTHON = "python"

Prepare = Callable[[ClusterState, Secrets], Awaitable[ClusterState]]


async def up(
    config: ClusterConfig,
    directory: StateDir,
    progress: Progress,
    *,
    prepare: Prepare | None = None,
    encryption: bytes = b"",
) -> ClusterState:
    """Start everything and wait until it is ready; on failure or interruption leave nothing behind.

    `prepare` is called when everything is decided and nothing is started: it may lay out the actors' data, and gives
    the state to go on with.
    `encryption`: an EncryptionConfiguration that replaces the cluster's; empty: the one it has, or a new one.
    """
    config.validate()
    _check_kubeconfigs(config)
    with exclusive(directory, config.name):
        before = directory.read()
        if before is not None and before.running:
            if await is_running(before, directory):
                raise AlreadyUp(
                    f"a cluster called {config.name!r} is up; run `rayplane down{directory.flags(config.name)}` first"
                )
            # It ended without a `down`: what is left of it would keep ports, and on a Ray cluster names.
            await take_down(directory, progress)
            before = directory.read()
        fresh = before is None
        try:
            await _up(config, directory, before, progress, prepare=prepare, encryption=encryption)
            # By now the supervisor may have changed what was begun.
            state = replace(directory.read_running(), founded=True)
            directory.write(state)
            return state
        except BaseException:
            progress("taking down what was started")
            with contextlib.suppress(ClusterError):
                await take_down(directory, progress)
            if fresh:
                await _forget(directory, progress)
                # The message may point to a log.
                directory.purge(keep_logs=True)
            raise


def _check_kubeconfigs(config: ClusterConfig) -> None:
    for path in config.kubeconfigs:
        try:
            read_kubeconfig(path)
        except BadKubeconfig as e:
            raise UsageError(f"the webhook's kubeconfig file cannot be used: {e}") from e


async def down(directory: StateDir, progress: Progress, *, purge: bool = False) -> list[str]:
    """End every process of the cluster; with `purge` delete its data too, even if nobody can read what it was.

    The names of what a purge left in the directory because rayplane did not make it.
    """
    directory.check_ours()
    try:
        state = directory.read()
    except ClusterError as e:
        # What runs of it a newer build knows how to find.
        if not purge or isinstance(e, NewerState):
            raise
        state = None
    if state is not None:
        with exclusive(directory, state.config.name):
            await take_down(directory, progress)
            if purge:
                await forget_elsewhere(directory, state, progress)
    return directory.purge() if purge else []


async def _up(
    config: ClusterConfig,
    directory: StateDir,
    before: ClusterState | None,
    progress: Progress,
    *,
    prepare: Prepare | None,
    encryption: bytes,
) -> None:
    """A new cluster whose addresses another takes back just then begins again with others."""
    history = config.history or (before.config.history if before else "") or DEFAULT_HISTORY
    config = replace(config, history=history)
    rng = random.Random()
    secrets = _secrets(config.name, directory, encryption, encrypted=before is not None and before.encrypted)
    isolated = await decide(config, before.plan if before else None, progress)
    _check_runtimes(config, before, isolated=isolated)
    kept = {other.plan.slot for other in directory.others()}
    plans = [before.plan] if before else in_order(rng, kept)
    for tries_left in reversed(range(1 if before else SLOT_TRIES)):
        async with reserved(plans, key_hash(secrets.ca_cert)) as free:
            try:
                plan = replace(free, isolated=isolated)
                state = await _begun(config, directory, before, plan, secrets, progress)
                start = _up_process if state.config.host == PROCESS else _up_ray
                return await start(directory, state, secrets, progress, prepare)
            except ClusterError:
                if not tries_left or not await _another_has(free, directory, progress):
                    raise
        progress(f"a cluster that was starting again has {free.pod_cidr}: beginning anew with other addresses")
        await _forget(directory, progress)
        directory.forget_data()
        plans = [plan for plan in plans if plan != free]


def _check_runtimes(config: ClusterConfig, before: ClusterState | None, *, isolated: bool) -> None:
    """Raises UsageError where what is asked for now does not fit a node that there is, or is to be."""
    wanted, topology = (going_on(before.config, config), before.topology) if before else (config, Topology(()))
    for runtime in sorted(topology.runtimes(wanted.runtime)):
        check_fits(runtime, wanted, isolated=isolated)


async def _another_has(plan: AddressPlan, directory: StateDir, progress: Progress) -> bool:
    """Whether another cluster has the addresses with which a start failed, once nothing of the own is left."""
    try:
        await take_down(directory, progress)
    except ClusterError as e:
        # What is left may be the own, and why the start failed is what counts.
        progress(f"not all that was started has ended: {e}")
        return False
    return await stays_taken(plan)


async def _begun(
    config: ClusterConfig,
    directory: StateDir,
    before: ClusterState | None,
    plan: AddressPlan,
    secrets: Secrets,
    progress: Progress,
) -> ClusterState:
    """The state with which an `up` begins."""
    rng, run = random.Random(), randomness.token_hex(8)
    if before is None:
        # `none` is no text.
        config = going_on(config, config)
        host = _new_host(config, plan, rng, secrets, ())
        return ClusterState(
            config=config, plan=plan, topology=Topology((), run), running=True, host=host, encrypted=True
        )
    where = f" on the host {before.config.host}, as it was" if before.config.host != config.host else ""
    progress(f"found the cluster's data in {directory.path}: going on from it{where}")
    before = await _with_free_ports(latest(directory, before), progress)
    config = going_on(before.config, config)
    topology = replace(of_one_build(before.topology), run=run)
    host = _new_host(config, plan, rng, secrets, topology.ports)
    if before.host.get(UNSURE):
        host |= {AFTER: before.topology.run}
    return replace(before, config=config, topology=topology, running=True, host=host, encrypted=True)


async def _forget(directory: StateDir, progress: Progress) -> None:
    """Delete what a start that failed left on other machines."""
    if (begun := directory.read()) is not None and begun.topology.instances:
        await forget_elsewhere(directory, begun, progress)


def going_on(before: ClusterConfig, asked: ClusterConfig) -> ClusterConfig:
    """The configuration of a cluster that has data: as it was, but for what may be asked for anew."""
    if asked.address and before.address:
        # The same machines may have other addresses now.
        before = replace(before, address=asked.address)
    if asked.ray_tls and before.host == RAY and not before.address:
        before = replace(before, ray_tls=True)
    if asked.scheduling and before.scheduler_config and not asked.scheduler_config:
        raise UsageError(
            "--scheduling: the cluster was given a --scheduler-config, whose profiles count; "
            "add --scheduler-config none to do without it"
        )
    given = {name: text for name in KEPT if (text := getattr(asked, name))}
    kept: dict[str, Any] = {name: "" if text == NONE else text for name, text in given.items()}
    kept |= {FILES[name]: getattr(asked, FILES[name]) for name in given if name in FILES}
    return replace(before, log_format=asked.log_format, **kept)


def _secrets(cluster: str, directory: StateDir, encryption: bytes, *, encrypted: bool) -> Secrets:
    """The cluster's keys, made where there are none. Those that etcd's content needs are never made up."""
    file = directory.pki / ENCRYPTION_FILE
    kept = read_encryption(directory.pki)
    if encrypted and not (kept or encryption):
        raise ClusterError(
            f"{file} is gone, and with it the keys of what is encrypted in etcd: put it back, or give a copy of it "
            "with --encryption-config"
        )
    try:
        Encryption.parse(encryption or kept, os.urandom)
    except BadEncryptionConfig as e:
        raise UsageError(f"{'--encryption-config' if encryption else file}: {e}") from e
    if encryption and kept and encryption != kept:
        # Whoever drops a key that is still needed can go back.
        os.replace(file, file.with_suffix(".old"))
    found = Secrets.read(directory.pki)
    secrets = found or Secrets.create(cluster)
    secrets = replace(secrets, encryption=encryption or kept or generate(os.urandom))
    if secrets != found:
        secrets.write(directory.pki)
    return secrets


async def _up_process(
    directory: StateDir, state: ClusterState, secrets: Secrets, progress: Progress, prepare: Prepare | None
) -> None:
    if not state.topology.instances:
        state = replace(state, topology=_place(state, (Machine(),)))
    _write_access(directory, state, secrets)
    state = await _prepared(directory, state, secrets, prepare)
    progress("starting the cluster's process")
    pid = _start_process(directory)
    state = replace(state, host={"pid": pid, PYTHON: sys.executable})
    directory.write(state)
    await _wait(directory, progress, ended=lambda: "" if processes.is_alive(pid) else last_words(directory))


def _start_process(directory: StateDir) -> int:
    out = directory.logs / PROCESS_OUT
    write_private(out, b"")
    return processes.start([sys.executable, "-m", HOST_MODULE, str(directory.path.resolve())], out)


def last_words(directory: StateDir) -> str:
    lines = (directory.logs / PROCESS_OUT).read_text(errors="replace").strip().splitlines()
    return f"the cluster's process ended: {lines[-1] if lines else 'it said nothing'}"


async def _up_ray(
    directory: StateDir, state: ClusterState, secrets: Secrets, progress: Progress, prepare: Prepare | None
) -> None:
    directory.write(state)
    async with contextlib.AsyncExitStack() as stack:
        state, driver, (found, holders, elastic) = await _reach_ray(stack, directory, state, progress)
        if state.topology.instances:
            state = replace(state, topology=on_machines(state.topology, found, holders, elastic=elastic))
        else:
            state = replace(state, topology=_place(state, found))
        _write_access(directory, state, secrets)
        state = await _prepared(directory, state, secrets, prepare)
        for role in crowded(state.topology) if len(found) > 1 else ():
            progress(f"there are fewer machines than {role}s: some share one")
        count = len(founders(state.topology))
        progress(f"starting {count} actors on {len(found)} machine(s)")
        driver.go_on()
        for number in range(1, count + 1):
            name = (await while_ray_lives(state.host, driver.line())).strip()
            progress(f"{name} has started, {number} of {count}")
    host = state.host
    await _wait(
        directory, progress, ended=lambda: "" if not host["owned"] or ray_cluster.is_alive(host) else "Ray ended"
    )
    if state.host["owned"]:
        ray_cluster.close_folders(state.host)


async def _prepared(
    directory: StateDir, state: ClusterState, secrets: Secrets, prepare: Prepare | None
) -> ClusterState:
    if prepare is not None:
        state = await prepare(state, secrets)
        directory.write(state)
    return state


async def _reach_ray(
    stack: contextlib.AsyncExitStack, directory: StateDir, state: ClusterState, progress: Progress
) -> tuple[ClusterState, Driver, tuple[tuple[Machine, ...], dict[str, list[Machine]], bool]]:
    """A driver that is connected to Ray, which is started where it is ours; Ray's machines, who has whose data, and
    whether machines come and go with nodes."""
    log_file = directory.logs / "ray.log"
    for tries_left in reversed(range(RAY_TRIES)):
        if state.host["owned"]:
            progress("starting Ray")
            pid = ray_cluster.start(state.host, log_file)
            state = replace(state, host=state.host | {"pid": pid})
            directory.write(state)
        driver = await stack.enter_async_context(ray_driver(directory, "start"))
        try:
            line = await while_ray_lives(state.host, driver.line(), CONNECT_TIMEOUT_S)
            found, holders, elastic, known = json.loads(line)
            machines = tuple(Machine(**m) for m in found)
            state = replace(state, topology=Topology.from_json(known))
            held = {name: [Machine(**m) for m in places] for name, places in holders.items()}
            return state, driver, (machines, held, elastic)
        except ClusterError as e:
            if not state.host["owned"] or ray_cluster.is_alive(state.host):
                raise
            if not tries_left or not ray_cluster.was_slow(state.host, log_file):
                raise ClusterError(f"Ray ended while it was starting; see {log_file}") from e
            progress("Ray took itself too long on this busy machine: starting it again")
            await asyncio.to_thread(ray_cluster.stop, state.host)
    raise AssertionError("the last try returns or raises")


async def _wait(directory: StateDir, progress: Progress, *, ended: Callable[[], str]) -> None:
    async with access(directory) as admin:
        await await_ready(admin, directory, timeout=READY_TIMEOUT_S, ended=ended, progress=progress)


def _new_host(
    config: ClusterConfig, plan: AddressPlan, rng: random.Random, secrets: Secrets, taken: Collection[int]
) -> dict[str, object]:
    """`taken`: ports of actors, which do not listen yet."""
    if config.host == PROCESS:
        return {"pid": 0, PYTHON: sys.executable}
    if config.address:
        return {"owned": False, "address": config.address, "pid": 0, PYTHON: sys.executable}
    tls = issue_for_ray(secrets.authority) if config.ray_tls else None
    port = free_port(ray_cluster.LOOPBACK, taken, rng, share(plan))
    return ray_cluster.reserve(port, randomness.token_hex(32), tls, slot=plan.slot) | {PYTHON: sys.executable}


def _write_access(directory: StateDir, state: ClusterState, secrets: Secrets) -> None:
    write_admin(directory, state, secrets, SystemClock().now())
    directory.write(state)


def _place(state: ClusterState, machines: tuple[Machine, ...]) -> Topology:
    """A new cluster's actors on these machines."""
    placed = with_ports(founding(state.config, machines), random.Random(), share(state.plan))
    return replace(placed, run=state.topology.run)


async def _with_free_ports(state: ClusterState, progress: Progress) -> ClusterState:
    """A cluster that was down, with other ports in the place of those that other programs of this machine keep."""
    topology, rng = state.topology, random.Random()
    async with deadline(FREE_TIMEOUT_S) as time_left:
        for instance in topology.instances:
            for label, port in instance.ports.items():
                while not (free := can_bind(instance.machine.address, port)) and time_left():
                    await asyncio.sleep(POLL_S)
                if not free:
                    another = free_port(instance.machine.address, topology.ports, rng, share(state.plan))
                    progress(f"port {port} of {instance.name} is in use by another program: it gets {another}")
                    ports = {**topology.get(instance.name).ports, label: another}
                    topology = topology.replaced(replace(instance, ports=ports))
    return replace(state, topology=topology)


@contextlib.contextmanager
def exclusive(directory: StateDir, name: str):  # type: ignore[no-untyped-def]
    """One `up`, `down` or `upgrade` at a time. Raises Busy."""
    existed = directory.path.exists()
    disk = directory.create()
    try:
        with disk.lock("lock"):
            yield
    except LockHeld as e:
        raise Busy(f"another command is bringing cluster {name!r} up or down; wait for it") from e
    finally:
        if not existed and directory.path.exists() and directory.read() is None:
            directory.purge(keep_logs=True)
