"""Rolling upgrades of a running cluster, step by step as `rolling` plans them; each step begins when all is well."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.access import Access, access, answers, refresh
from rayplane.control_plane.cluster.carried import HAND_OVER
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.ending import HOST_MODULE, of_this_cluster, process_of
from rayplane.control_plane.cluster.environments import Build, build_of, check_reads_all, environment
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.launch import PROCESS_OUT, PYTHON, exclusive, last_words
from rayplane.control_plane.cluster.patience import stretched
from rayplane.control_plane.cluster.readiness import await_ready
from rayplane.control_plane.cluster.rolling import HandOver, Move, Part, ReplaceHost, Step, plan
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.status import measure
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env.marks import MARK_FILE
from rayplane.storage.formats import FIRST, CorruptMark, Mark

# In fair time without progress.
WELL_TIMEOUT_S = 120.0
# On an idle machine; a busy one gets more, up to so many times.
MOVE_TIMEOUT_S = 180.0
LOOK_TIMEOUT_S = 20.0
SLOWDOWN_MAX = 10.0
END_TIMEOUT_S = START_TIMEOUT_S = 60.0
POLL_S = 0.05
Say = Callable[[str], None]


class UpgradeStopped(ClusterError):
    """A step failed: the message says how to go on."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The parts that are there, and the steps that are to be taken."""

    parts: list[Part]
    steps: list[Step]
    wanted: Build
    kept: str = ""
    """What goes on with the build of before, and until when."""


async def outlook(directory: StateDir, python: str, say: Say = lambda _: None) -> Outlook:
    """The steps to the build of an environment. Raises UsageError, ClusterError: that would lose what is kept."""
    wanted = await checked(directory, python, say)
    async with access(directory) as admin:
        return await _outlook(admin, wanted)


async def upgrade(directory: StateDir, python: str, say: Say) -> int:
    """Take all steps to that build; how many there were. Raises UpgradeStopped, and whatever `outlook` does."""
    wanted = await checked(directory, python, say)
    state = directory.read_reachable()
    with exclusive(directory, state.config.name):
        await _finish_replacing(directory)
        async with access(directory) as admin:
            found = await _outlook(admin, wanted)
        steps, away = found.steps, {part.name for part in found.parts if part.away}
        for number, step in enumerate(steps, 1):
            say(f"{number} of {len(steps)}: {step}")
            try:
                if not (isinstance(step, Move) and step.name in away):
                    await _well(directory, say)
                await _take(directory, step, wanted)
            except (ClusterError, RpcError, OSError) as e:
                why = getattr(e, "message", "") or str(e)
                raise UpgradeStopped(
                    f"step {number} of {len(steps)} ({step}) failed: {why}. The cluster goes on with both "
                    "builds: see to it (`rayplane status`, logs), then give the same command again, which goes on here"
                ) from e
        await _well(directory, say)
    return len(steps)


async def checked(directory: StateDir, python: str, say: Say) -> Build:
    """The build of an environment, which can read what this one and the cluster's host write.

    Raises UsageError: it is none; ClusterError: it cannot.
    """
    wanted = await asyncio.to_thread(build_of, python)
    state = directory.read_reachable()
    host = str(state.host.get(PYTHON, ""))
    # An environment that was changed in place, or is gone, does not tell any more.
    present = _as_marked(directory, state)
    if host not in ("", python, sys.executable):
        try:
            present = await asyncio.to_thread(build_of, host)
        except UsageError:
            say(f"{host} has no rayplane any more: what it wrote is known from the marks of this machine's data alone")
    # What this one has read of the state directory is not newer than what it writes there.
    for writes in (Build.own(), present):
        check_reads_all(wanted, writes)
    return wanted


def _as_marked(directory: StateDir, state: ClusterState) -> Build:
    """A build that is gone, as far as the marks of actors' data tell."""
    version, formats = "the build of before", dict[str, int]()
    for instance in state.topology.instances:
        file = directory.path / "data" / instance.name / MARK_FILE
        with contextlib.suppress(OSError, CorruptMark):
            mark, kind = Mark.decode(file.read_bytes(), str(file)), instance.role.value
            version, formats[kind] = mark.build or version, max(mark.format, formats.get(kind, FIRST))
    return Build(version, "", formats)


async def _well(directory: StateDir, say: Say) -> None:
    """Return when every part does what it is for. Raises ClusterError."""
    async with access(directory) as admin:
        await refresh(directory, admin)
    async with access(directory) as admin:
        await await_ready(admin, directory, timeout=WELL_TIMEOUT_S, ended=str, progress=say)


# What is there


async def _outlook(admin: Access, wanted: Build) -> Outlook:
    host = admin.state.host
    own = str(host.get(PYTHON, ""))
    try:
        told = await admin.supervisor.Topology(
            pb.TopologyRequest(builds=True), timeout=stretched(LOOK_TIMEOUT_S, times_max=SLOWDOWN_MAX)
        )
    except RpcError as e:
        raise ClusterError(f"the supervisor does not answer ({e.message}); see `rayplane status`") from e
    leading = await _leading(admin)
    hosts = [row for row in told.instances if row.role == Role.SUPERVISOR.value]
    rows = [row for row in told.instances if row.role != Role.SUPERVISOR.value]
    if not any(row.build for row in rows):
        raise ClusterError(
            "the cluster's build cannot be upgraded in place: `rayplane down` with that one, `rayplane up` with this"
        )
    parts = [_part(row, own, leads=row.name in leading) for row in rows]
    replaceable = admin.state.config.host == PROCESS
    host_part = _part(hosts[0], own, leads=False) if replaceable and hosts else None
    kept = "" if replaceable else "the supervisor and Ray keep their build until `rayplane down` and `up`"
    return Outlook(parts, plan(parts, wanted.python, wanted.version, host=host_part), wanted, kept)


def _part(row: pb.InstanceStatus, own: str, *, leads: bool) -> Part:
    """A part whose build does not tell itself is one that does not run."""
    away = not (row.running and row.build)
    python = "" if away else row.runs_in or own
    return Part(row.name, Role(row.role), python, row.build, leads and not away, away)


async def _leading(admin: Access) -> set[str]:
    """Names of the actors that lead others."""
    facts = await measure(admin)
    holders = {lead.holder.partition("_")[0] for lead in facts.leads}
    return holders | {member.name for member in facts.members if member.id and member.leader == member.id}


# Steps


async def _take(directory: StateDir, step: Step, wanted: Build) -> None:
    match step:
        case ReplaceHost():
            await _replace_host(directory, wanted.python)
        case HandOver(source, target):
            async with access(directory) as admin:
                await _hand_over(admin, source, target)
        case Move(name):
            async with access(directory) as admin:
                limit = stretched(MOVE_TIMEOUT_S, times_max=SLOWDOWN_MAX)
                request = pb.MoveRequest(name=name, python=wanted.python, version=wanted.version)
                await admin.supervisor.Move(request, timeout=limit)


async def _hand_over(admin: Access, source: str, target: str) -> None:
    members = {m.name: m for m in (await measure(admin)).members}
    old, new = members.get(source), members.get(target)
    if old is None or new is None or not new.id:
        raise ClusterError(f"{target} does not answer")
    if old.leader == old.id:
        await admin.etcd.move_leader(old.endpoint, new.id)


async def _replace_host(directory: StateDir, python: str) -> None:
    """End the supervisor's process but not the actors beside it; start one of the other build, which goes on."""
    state = directory.read_reachable()
    pid = process_of(directory, int(state.host.get("pid", 0)))
    # Whoever goes on from here after an interruption knows what was meant.
    directory.write(replace(state, host=state.host | {PYTHON: python, "pid": 0}))
    if pid:
        os.kill(pid, HAND_OVER)
        async with asyncio.timeout(stretched(END_TIMEOUT_S, times_max=SLOWDOWN_MAX)):
            while of_this_cluster(pid, directory):
                await asyncio.sleep(POLL_S)
    await _start_host(directory, python)


async def _start_host(directory: StateDir, python: str) -> None:
    state = directory.read_reachable()
    out = directory.logs / PROCESS_OUT
    command = [python, "-m", HOST_MODULE, str(directory.path.resolve())]
    pid = await asyncio.to_thread(processes.start, command, out, environment=environment())
    directory.write(replace(state, host=state.host | {"pid": pid}))
    supervisor = state.topology.of(Role.SUPERVISOR)[0]
    async with asyncio.timeout(stretched(START_TIMEOUT_S, times_max=SLOWDOWN_MAX)):
        while not await answers(supervisor, "grpc"):
            if not processes.is_alive(pid):
                raise ClusterError(last_words(directory))
            await asyncio.sleep(POLL_S)


async def _finish_replacing(directory: StateDir) -> None:
    """Take the last step where the upgrade before was interrupted between the process's end and its next start."""
    state = directory.read_reachable()
    if state.config.host == PROCESS and not state.host.get("pid") and state.host.get(PYTHON):
        await _replace_host(directory, str(state.host[PYTHON]))
