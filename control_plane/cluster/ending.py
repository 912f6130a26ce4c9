"""Ending the processes of a cluster, and telling whether any still run."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path

from rayplane.control_plane.cluster import carried, processes, ray_cluster
from rayplane.control_plane.cluster.access import access, answers, refresh
from rayplane.control_plane.cluster.config import PROCESS, makes_processes
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.ray_driven import CONNECT_TIMEOUT_S, POLL_S, ray_driver, while_ray_lives
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.supervisor.etcd import REMEMBERED
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.node.runtime.isolation.held_groups import remove_left
from rayplane.node.volumes.memory import unmount_below

HOST_MODULE = "rayplane.control_plane.cluster.process_host"
STOP_TIMEOUT_S = 30.0
# Beside the time that pods may take: for a driver of Ray to come and go.
LEAVE_MARGIN_S = 60.0
# For a Ray whose actors are all out of reach: it is asked all the same, as it may be about to start them again.
GONE_TIMEOUT_S = 15.0
# What was killed gives back its ports only when the kernel has ended its last thread.
SETTLED_S = 1.0
#: Of a state's host: whether the cluster ended before anybody could ask what had become of its topology.
UNSURE = "unsure"
#: Of a state's host: the `up` after which nobody could ask; somebody else of its machines may remember.
AFTER = "after"

Progress = Callable[[str], None]


def of_this_cluster(pid: int, directory: StateDir) -> bool:
    """Whether that process still is the cluster's and not another that got its number."""
    ours = {HOST_MODULE.encode(), os.fsencode(directory.path.resolve())}
    return processes.is_alive(pid) and ours.issubset(processes.arguments(pid))


def process_of(directory: StateDir, known: int) -> int:
    """The process of a cluster that has one; 0 when it has ended. `known`: what was written down."""
    if of_this_cluster(known, directory):
        return known
    # Whoever started it may have ended before it could write down which it is.
    return next((one for one in processes.running() if of_this_cluster(one, directory)), 0)


async def take_down(directory: StateDir, progress: Progress) -> None:
    """End every process of the cluster, if it is up."""
    state = directory.read()
    if state is None or not state.running:
        return
    known = await _remember(directory, state)
    grace_s = shutdown_s(state)
    if grace_s:
        progress("pods end, the least important ones first")
    if state.config.host == PROCESS:
        await _end_process(state.host.get("pid", 0), directory, grace_s)
        # The end of a killed process is none of theirs.
        left = (carried.process_of(directory.path.resolve() / "data" / i.name) for i in state.topology.instances)
        await asyncio.gather(*(carried.end(pid) for pid in left if pid))
    else:
        if grace_s:
            await _leave_ray(directory, state, grace_s, progress)
        progress("ending the actors")
        if state.host["owned"]:
            # They live in Ray's session; nothing that they hold is lost by ending them.
            await asyncio.to_thread(ray_cluster.stop, state.host)
        else:
            await _end_actors(directory, state, progress)
    if any(map(makes_processes, state.topology.runtimes(state.config.runtime))):
        # Who ended its hosts by force may have ended those who remove their groups and memory, too.
        await asyncio.to_thread(remove_left)
        await asyncio.to_thread(unmount_below, str(directory.path / "data"))
    state = directory.read() or state
    directory.write(replace(state, running=False, host=state.host | {UNSURE: not known}))
    if state.host.get("owned"):
        await asyncio.to_thread(ray_cluster.remove_folder, state.host)


async def forget_elsewhere(directory: StateDir, state: ClusterState, progress: Progress) -> None:
    """Delete what the actors of a cluster that is down left on other machines of a Ray cluster that it had joined.

    What cannot be reached stays, which is told: it is of no use, but to whoever finds its keys.
    """
    if not state.config.address:
        return
    try:
        async with ray_driver(directory, "forget") as driver:
            await while_ray_lives(state.host, driver.line(), GONE_TIMEOUT_S)
            await driver.ended()
    except ClusterError as e:
        progress(f"what lies in {directory.path} on other machines stays: {e}")


def left_behind(topology: Topology, forgotten: Collection[str], is_here: Callable[[str], bool]) -> str:
    """Why what actors left may still lie on other machines than those that have forgotten it; empty: it does not. Pure.

    `is_here` is told an address: what lies on this machine its commands delete.
    """
    left = [address for address in topology.addresses if address not in forgotten and not is_here(address)]
    if not left:
        return ""
    names = ", ".join(left)
    return f"{names} cannot be reached, or others have files in that directory there: delete it by hand"


def latest(directory: StateDir, state: ClusterState) -> ClusterState:
    """The state of a cluster that ended by itself, with the topology that its supervisor knew last, if it was here."""
    if state.host.get(UNSURE):
        with contextlib.suppress(OSError):
            return replace(state, topology=of_same_run(state.topology, memory(directory).read_bytes()))
    return state


def of_same_run(topology: Topology, remembered: bytes) -> Topology:
    """What a supervisor remembered in place of a topology; the topology itself, if that was in another `up`."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = Topology.from_json(json.loads(remembered))
        if found.run == topology.run:
            return found
    return topology


def memory(directory: StateDir) -> Path:
    """Where a supervisor keeps what it remembers, on its machine."""
    return directory.path / "data" / Role.SUPERVISOR.value / REMEMBERED


async def _remember(directory: StateDir, state: ClusterState) -> bool:
    """Write down what has become of the topology, for the next `up`: only the members may know; whether they did."""
    asked = (answers(member, "client") for member in state.topology.of(Role.MEMBER))
    if any(await asyncio.gather(*asked)):
        with contextlib.suppress(ClusterError):
            async with access(directory) as admin:
                return await refresh(directory, admin)
    return False


async def _end_actors(directory: StateDir, state: ClusterState, progress: Progress) -> None:
    """End them by the Ray cluster that they are in; one that is gone has taken them along."""
    within_s = GONE_TIMEOUT_S if await _nobody_listens(state) else CONNECT_TIMEOUT_S
    try:
        async with ray_driver(directory, "stop") as driver:
            await while_ray_lives(state.host, driver.line(), within_s)
            await driver.ended()
    except ClusterError:
        if not await _nobody_listens(state):
            raise
        progress("Ray is gone, and every actor with it")


async def _nobody_listens(state: ClusterState) -> bool:
    """Whether all machines say that none of the actors' ports is in use."""
    places = [(i.machine.address, port) for i in state.topology.instances for port in i.ports.values()]
    return all(await asyncio.gather(*(asyncio.to_thread(_is_refused, *place) for place in places)))


def _is_refused(address: str, port: int) -> bool:
    """Whether nobody listens there. Of a machine that says nothing that is not known."""
    try:
        socket.create_connection((address, port), 1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


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
    pid = process_of(directory, pid)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    for number in (signal.SIGKILL, None):
        async with deadline(STOP_TIMEOUT_S + grace_s) as time_left:
            while of_this_cluster(pid, directory) and time_left():
                await asyncio.sleep(POLL_S)
        if not of_this_cluster(pid, directory):
            return
        if number is not None:
            os.kill(pid, number)
    raise ClusterError(f"process {pid} does not end; end it by hand")


@contextlib.asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[Callable[[], bool]]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    yield lambda: loop.time() < end


async def is_running(state: ClusterState, directory: StateDir) -> bool:
    """Whether its processes run. Those that were killed a moment ago do not, though the kernel has not ended them yet.

    A port that somebody listens at says nothing where the processes can be looked for: others may have it by now.
    """
    if state.config.host == PROCESS:
        return of_this_cluster(state.host.get("pid", 0), directory)
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
    async with deadline(SETTLED_S) as time_left:
        while before and time_left():
            await asyncio.sleep(POLL_S)
            now = sorted(found())
            if len(now) < len(before):
                return await _stays(found)
    return bool(before)
