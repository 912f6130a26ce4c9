"""Bringing a cluster up and taking it down, for both hosts of real machines.

What is about to be started is written to the state directory first, so that `down` can end it however `up` ended.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets as randomness
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from rayplane.control_plane.apiserver.outgoing.kubeconfig import BadKubeconfig, read_kubeconfig
from rayplane.control_plane.apiserver.storage.encryption import BadEncryptionConfig, Encryption, generate
from rayplane.control_plane.cluster import processes, ray_cluster
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import (
    FILES,
    KEPT,
    NONE,
    PROCESS,
    RAY,
    AddressPlan,
    ClusterConfig,
)
from rayplane.control_plane.cluster.errors import AlreadyUp, ClusterError, UsageError
from rayplane.control_plane.cluster.isolation import decide
from rayplane.control_plane.cluster.pki import ENCRYPTION_FILE, Secrets, issue_for_ray, read_encryption
from rayplane.control_plane.cluster.ports import all_plans, can_bind, reserved, share, with_ports
from rayplane.control_plane.cluster.ray_driven import CONNECT_TIMEOUT_S, Driver, ray_driver, while_ray_lives
from rayplane.control_plane.cluster.readiness import await_ready
from rayplane.control_plane.cluster.renewal import write_admin
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, Role, Topology, crowded, founding
from rayplane.storage.env import LockHeld, SystemClock
from rayplane.storage.env.private import write_private

# In fair time (`patience`) without progress.
READY_TIMEOUT_S = 60.0
RAY_TRIES = 4
STOP_TIMEOUT_S = 30.0
# Beside the time that pods may take: for a driver of Ray to come and go.
LEAVE_MARGIN_S = 60.0
# What was killed gives back its ports only when the kernel has ended its last thread.
SETTLED_S = 1.0
FREE_TIMEOUT_S = 5.0
POLL_S = 0.05
_PROCESS_OUT = "process.out"
_HOST_MODULE = "rayplane.control_plane.cluster.process_host"

Progress = Callable[[str], None]
Prepare = Callable[[ClusterState, Secrets], Awaitable[None]]


async def up(
    config: ClusterConfig,
    directory: StateDir,
    progress: Progress,
    *,
    prepare: Prepare | None = None,
    encryption: bytes = b"",
) -> ClusterState:
    """Start everything and wait until it is ready; on failure or interruption leave nothing behind.

    `prepare` is called when everything is decided and nothing is started: it may lay out the actors' data.
    `encryption`: an EncryptionConfiguration that replaces the cluster's; empty: the one it has, or a new one.
    """
    config.validate()
    _check_kubeconfigs(config)
    with _exclusive(directory, config.name):
        before = directory.read()
        if before is not None and before.running:
            if await _is_alive(before, directory):
                raise AlreadyUp(
                    f"a cluster called {config.name!r} is up; run `rayplane down{directory.flags(config.name)}` first"
                )
            # It ended without a `down`: what is left of it would keep ports, and on a Ray cluster names.
            await _take_down(directory, progress)
        fresh = before is None
        try:
            state = await _up(config, directory, before, progress, prepare=prepare, encryption=encryption)
            state = replace(state, founded=True)
            directory.write(state)
            return state
        except BaseException:
            progress("taking down what was started")
            with contextlib.suppress(ClusterError):
                await _take_down(directory, progress)
            if fresh:
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
    except ClusterError:
        if not purge:
            raise
        state = None
    if state is not None:
        with _exclusive(directory, state.config.name):
            await _take_down(directory, progress)
    return directory.purge() if purge else []


async def _up(
    config: ClusterConfig,
    directory: StateDir,
    before: ClusterState | None,
    progress: Progress,
    *,
    prepare: Prepare | None,
    encryption: bytes,
) -> ClusterState:
    rng = random.Random()
    run = randomness.token_hex(8)
    secrets = _secrets(config.name, directory, encryption, encrypted=before is not None and before.encrypted)
    isolated = await decide(config, before.plan if before else None, progress)
    with reserved([before.plan] if before else all_plans(rng)) as free:
        plan = replace(free, isolated=isolated)
        if before is not None:
            progress(f"found the cluster's data in {directory.path}: going on from it")
            await _await_free(before)
            config = going_on(before.config, config)
            topology = replace(before.topology, run=run)
            host = _new_host(config, plan, rng, secrets)
            state = replace(before, config=config, topology=topology, running=True, host=host, encrypted=True)
        else:
            # `none` is no text.
            config = going_on(config, config)
            state = ClusterState(
                config=config,
                plan=plan,
                topology=Topology((), run),
                running=True,
                host=_new_host(config, plan, rng, secrets),
                encrypted=True,
            )
        start = _up_process if config.host == PROCESS else _up_ray
        return await start(directory, state, secrets, progress, prepare)


def going_on(before: ClusterConfig, asked: ClusterConfig) -> ClusterConfig:
    """The configuration of a cluster that has data: as it was, but for what may be asked for anew."""
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
) -> ClusterState:
    if not state.topology.instances:
        state = replace(state, topology=_place(state, (Machine(),)))
    _write_access(directory, state, secrets)
    if prepare is not None:
        await prepare(state, secrets)
    progress("starting the cluster's process")
    pid = _start_process(directory)
    state = replace(state, host={"pid": pid})
    directory.write(state)
    await _wait(directory, progress, ended=lambda: "" if processes.is_alive(pid) else _last_words(directory))
    return state


def _start_process(directory: StateDir) -> int:
    out = directory.logs / _PROCESS_OUT
    write_private(out, b"")
    return processes.start([sys.executable, "-m", _HOST_MODULE, str(directory.path.resolve())], out)


def _last_words(directory: StateDir) -> str:
    lines = (directory.logs / _PROCESS_OUT).read_text(errors="replace").strip().splitlines()
    return f"the cluster's process ended: {lines[-1] if lines else 'it said nothing'}"


async def _up_ray(
    directory: StateDir, state: ClusterState, secrets: Secrets, progress: Progress, prepare: Prepare | None
) -> ClusterState:
    directory.write(state)
    async with contextlib.AsyncExitStack() as stack:
        state, driver, found = await _reach_ray(stack, directory, state, progress)
        if state.topology.instances:
            state = replace(state, topology=_on_machines(state.topology, found))
        else:
            state = replace(state, topology=_place(state, found))
        _write_access(directory, state, secrets)
        if prepare is not None:
            await prepare(state, secrets)
        for role in crowded(state.topology) if len(found) > 1 else ():
            progress(f"there are fewer machines than {role}s: some share one")
        count = len(state.topology.instances)
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
    return state


async def _reach_ray(
    stack: contextlib.AsyncExitStack, directory: StateDir, state: ClusterState, progress: Progress
) -> tuple[ClusterState, Driver, tuple[Machine, ...]]:
    """A driver that is connected to Ray, which is started where it is ours, and Ray's machines."""
    log_file = directory.logs / "ray.log"
    for tries_left in reversed(range(RAY_TRIES)):
        if state.host["owned"]:
            progress("starting Ray")
            pid = ray_cluster.start(state.host, log_file)
            state = replace(state, host=state.host | {"pid": pid})
            directory.write(state)
        driver = await stack.enter_async_context(ray_driver(directory, "start"))
        try:
            found = json.loads(await while_ray_lives(state.host, driver.line(), CONNECT_TIMEOUT_S))
            return state, driver, tuple(Machine(**m) for m in found)
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


async def _take_down(directory: StateDir, progress: Progress) -> None:
    state = directory.read()
    if state is None or not state.running:
        return
    grace_s = shutdown_s(state)
    if grace_s:
        progress("pods end, the least important ones first")
    if state.config.host == PROCESS:
        await _end_process(state.host.get("pid", 0), directory, grace_s)
    else:
        if grace_s:
            await _leave_ray(directory, state, grace_s, progress)
        progress("ending the actors")
        if state.host["owned"]:
            # They live in Ray's session; nothing that they hold is lost by ending them.
            await asyncio.to_thread(ray_cluster.stop, state.host)
        else:
            async with ray_driver(directory, "stop") as driver:
                await while_ray_lives(state.host, driver.line(), CONNECT_TIMEOUT_S)
                await driver.ended()
    directory.write(replace(state, running=False))
    if state.host.get("owned"):
        await asyncio.to_thread(ray_cluster.remove_folder, state.host)


def shutdown_s(state: ClusterState) -> float:
    """How long pods of the cluster's nodes may take to end when it is taken down; 0: they are not told."""
    texts = {i.kubelet_config or state.config.kubelet_config for i in state.topology.of(Role.NODE_HOST)} - {""}
    return max((state.config.kubelet_settings(text).shutdown_s for text in texts), default=0.0)


async def _leave_ray(directory: StateDir, state: ClusterState, grace_s: float, progress: Progress) -> None:
    """Let the actors that are node hosts end their pods. What cannot be had of that holds nothing up."""
    try:
        async with ray_driver(directory, "leave") as driver, asyncio.timeout(grace_s + LEAVE_MARGIN_S):
            await while_ray_lives(state.host, driver.line(), CONNECT_TIMEOUT_S)
            await driver.ended()
    except (ClusterError, TimeoutError) as e:
        progress(f"not all pods were told: {e or 'it took too long'}")


async def _end_process(pid: int, directory: StateDir, grace_s: float = 0.0) -> None:
    """TERM, then KILL when it takes too long. `grace_s`: what its pods may take."""
    if not _is_ours(pid, directory):
        # Whoever started it may have ended before it could write down which it is.
        pid = next((one for one in processes.running() if _is_ours(one, directory)), 0)
        if not pid:
            return
    os.kill(pid, signal.SIGTERM)
    for number in (signal.SIGKILL, None):
        async with _deadline(STOP_TIMEOUT_S + grace_s) as time_left:
            while _is_ours(pid, directory) and time_left():
                await asyncio.sleep(POLL_S)
        if not _is_ours(pid, directory):
            return
        if number is not None:
            os.kill(pid, number)
    raise ClusterError(f"process {pid} does not end; end it by hand")


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[Callable[[], bool]]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    yield lambda: loop.time() < end


def _is_ours(pid: int, directory: StateDir) -> bool:
    """Whether that process still is the cluster's and not another that got its number."""
    ours = {_HOST_MODULE.encode(), os.fsencode(directory.path.resolve())}
    return processes.is_alive(pid) and ours.issubset(processes.arguments(pid))


async def _is_alive(state: ClusterState, directory: StateDir) -> bool:
    """Whether its processes run. Those that were killed a moment ago do not, though the kernel has not ended them yet.

    A port that somebody listens at says nothing where the processes can be looked for: others may have it by now.
    """
    if state.config.host == PROCESS:
        return _is_ours(state.host.get("pid", 0), directory)
    if state.host["owned"]:
        return await _stays(lambda: ray_cluster.processes_of(state.host))
    instance = state.topology.of(Role.SUPERVISOR)
    if not instance:
        return False
    try:
        with socket.create_connection((instance[0].machine.address, instance[0].ports["grpc"]), 1.0):
            return True
    except OSError:
        return False


async def _stays(found: Callable[[], list[int]]) -> bool:
    """Whether something is found, and is not about to end: for a while it does not get less."""
    before = sorted(found())
    async with _deadline(SETTLED_S) as time_left:
        while before and time_left():
            await asyncio.sleep(POLL_S)
            now = sorted(found())
            if len(now) < len(before):
                return await _stays(found)
    return bool(before)


def _new_host(config: ClusterConfig, plan: AddressPlan, rng: random.Random, secrets: Secrets) -> dict[str, object]:
    if config.host == PROCESS:
        return {"pid": 0}
    if config.address:
        return {"owned": False, "address": config.address, "pid": 0}
    tls = issue_for_ray(secrets.authority) if config.ray_tls else None
    return ray_cluster.reserve(rng, randomness.token_hex(32), tls, share(plan))


def _write_access(directory: StateDir, state: ClusterState, secrets: Secrets) -> None:
    write_admin(directory, state, secrets, SystemClock().now())
    directory.write(state)


def _place(state: ClusterState, machines: tuple[Machine, ...]) -> Topology:
    """A new cluster's actors on these machines."""
    placed = with_ports(founding(state.config, machines), random.Random(), share(state.plan))
    return replace(placed, run=state.topology.run)


def _on_machines(topology: Topology, machines: tuple[Machine, ...]) -> Topology:
    """Ray gives its nodes new ids at each start: find each actor's machine again by its address."""
    by_address = {m.address: m for m in machines}
    instances = []
    for instance in topology.instances:
        machine = by_address.get(instance.machine.address)
        if machine is None:
            raise ClusterError(
                f"{instance.name} ran on {instance.machine.address}, which is not in the Ray cluster now"
            )
        instances.append(replace(instance, machine=machine))
    return replace(topology, instances=tuple(instances))


async def _await_free(state: ClusterState) -> None:
    """Return when all ports of a cluster can be had. ClusterError when another program keeps one."""
    async with _deadline(FREE_TIMEOUT_S) as time_left:
        for instance in state.topology.instances:
            for port in instance.ports.values():
                while not can_bind(instance.machine.address, port):
                    if not time_left():
                        raise ClusterError(
                            f"port {port} of {instance.name} is in use by another program; close it and try again"
                        )
                    await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def _exclusive(directory: StateDir, name: str):  # type: ignore[no-untyped-def]
    """One `up` or `down` at a time."""
    existed = directory.path.exists()
    disk = directory.create()
    try:
        with disk.lock("lock"):
            yield
    except LockHeld as e:
        raise ClusterError(f"another command is bringing cluster {name!r} up or down; wait for it") from e
    finally:
        if not existed and directory.path.exists() and directory.read() is None:
            directory.purge(keep_logs=True)
