"""The reconciler of a cluster: observes, plans, carries out; it alone holds the whole supervisor.

Calls of hosts may hang for as long as they like: they are tasks of their own, one for each name at a time. Calls of
etcd and the API have limits of their own and are made one after the other.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.errors import ClusterError, DataLost, PortTaken, StartFailed
from rayplane.control_plane.cluster.patience import Patience, is_passing, until
from rayplane.control_plane.cluster.supervisor.actions import (
    Action,
    AddLearner,
    DeleteNode,
    Promote,
    RemoveMember,
    Start,
    Stop,
    StoreTopology,
    WaitUntil,
)
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus, Observed
from rayplane.control_plane.cluster.supervisor.plan import is_settled, plan
from rayplane.control_plane.cluster.supervisor.ports import Ports
from rayplane.control_plane.cluster.supervisor.starts import StartRecords
from rayplane.control_plane.cluster.topology import PORTS, Instance, Machine, Phase, Role, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import reason_of
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.control_plane.timings import SERVER_CHANGES
from rayplane.node.config import SHUTDOWN_MAX_S

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
# Before the next step after one that has been taken, and after one that has failed.
STEP_PAUSE_S = 0.02
RETRIES = Backoff(0.2, CHECK_EVERY_S)
# How long a call of the host that only looks may take; one that hangs must not keep the rest from being done.
LOOK_TIMEOUT_S = 15.0
# Beside the time that a node's pods may have to end.
STOP_TIMEOUT_S = 30.0
# A new member copies the data before it may vote; one that leaves may wait for another to be well. In fair time.
JOIN_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 30.0
# How long a change waits for etcd to have a leader again.
CHANGE_TIMEOUT_S = 30.0
# One may go only when all who talk to members and API servers know its successor.
LEARN_S = SERVER_CHANGES.learn_s
# An actor is moved only to machines that stay, and not while others come and go.
STEADY_S = 15.0


class Superseded(ClusterError):
    """Another supervisor of the same cluster has come after this one."""


Edit = Callable[[Topology, frozenset[str]], Topology]
"""The changed topology, of the desired one and the names that are never given again. May be asked more than once."""


class Reconciler:
    """The topology is first the one that it is given; the one in etcd counts as soon as it can be read."""

    def __init__(self, topology: Topology, ports: Ports) -> None:
        self.records = StartRecords()
        self.loaded = asyncio.Event()
        self.running: frozenset[str] = frozenset()
        """What ran when the host was asked last."""
        self.actions: Counter[str] = Counter()
        """Actions carried out, by their kind."""
        self.replacements = 0
        self.elastic = False
        """Whether machines come for nodes alone."""
        self._topology = topology
        self._own = topology.of(Role.SUPERVISOR)
        self._claimed = False
        self._ports = ports
        self._current = False
        self._revision = 0
        self._storing = asyncio.Lock()
        self._checked = False  # whether etcd's members have been compared with the topology
        self._joined_at = -LEARN_S
        # What must stay the same before actors are spread anew, and since when it is.
        self._steady: tuple[tuple[tuple[Machine, ...], tuple[Instance, ...]], float] = ((), ()), 0.0
        self._moved: set[str] = set()  # who has not started yet where it is planned now
        self._awaited: set[str] = set()  # whose coming was asked for since this supervisor began
        self._deregistered: set[str] = set()
        self._refusals: dict[str, str] = {}
        self._refused_in_a_row: Counter[str] = Counter()
        self._patience: dict[tuple[str, Phase], Patience] = {}
        self._tasks: dict[str, tuple[type[Start | Stop], asyncio.Task[None]]] = {}
        self._operated: dict[str, type[Start | Stop]] = {}  # what was being done at any time in this round
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._superseded: Superseded | None = None

    @property
    def topology(self) -> Topology:
        return self._topology

    def reason(self, name: str) -> str:
        """Why an actor is not as it is wanted, if anything is known of that."""
        return self.records.reasons.get(name) or self._refusals.get(name, "")

    def wake(self) -> None:
        """Something has changed: look at once."""
        self._wake.set()

    async def turn(self) -> None:
        """Return after the next round. Raises Superseded when there is none any more."""
        await self._turned.wait()
        if self._superseded is not None:
            raise self._superseded

    async def look(self, timeout: float) -> None:
        """See what runs. TimeoutError when the host does not say."""
        async with asyncio.timeout(timeout):
            self.running = frozenset(await self._ports.host.running())

    async def change(self, edit: Edit, why: str) -> None:
        """Change the stored topology; the loop goes on from there. Raises what `edit` raises, or RpcError."""
        await self.loaded.wait()
        await until(lambda: self._change(edit, why), CHANGE_TIMEOUT_S, is_passing, self._ports.slowdown)
        self.wake()

    async def run(self) -> None:
        """Reconcile until cancelled, or until another supervisor does."""
        while True:
            pause = CHECK_EVERY_S
            try:
                pause = await self._round()
            except Superseded as e:
                log.critical("this supervisor does no more: %s", e)
                self._superseded = e
                self._turned.set()
                return
            except TimeoutError:
                log.warning("the host does not answer in time")
            except (ClusterError, RpcError) as e:
                log.warning("the topology is not as wanted yet: %s", e)
            except Exception:
                log.exception("reconciling the topology failed")
            self._turned.set()
            self._turned = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def stop(self) -> None:
        """End what is being started or stopped."""
        await cancel_and_wait(*(task for _, task in self._tasks.values()))

    async def _round(self) -> float:
        """Seconds until the next round."""
        self._operated = {name: kind for name, (kind, _) in self._tasks.items()}
        await self._try_to_load()
        await self.look(LOOK_TIMEOUT_S)
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            machines = tuple(await self._ports.host.machines())
        # Whoever does not tell the topology does not tell of members either.
        observed = self._observe(machines, None if self._current else ())
        pause = await self._act(observed)
        if not self._current:
            return pause
        if self._checked and is_settled(self._topology, observed):
            return pause * self._ports.leisure if self._rests(pause) else pause
        members, retired = await self._ask_etcd()
        return min(pause, await self._act(replace(self._observe(machines, members), retired=retired)))

    def _rests(self, pause: float) -> bool:
        """Whether all run and nothing is being done: nobody waits for the next round."""
        wanted = {i.name for i in self._topology.instances if i.role is not Role.SUPERVISOR}
        return pause == CHECK_EVERY_S and not self._tasks and wanted <= self.running

    def renew(self, name: str) -> None:
        """Have an actor start anew as it is wanted now; its end is no failure."""
        self.records.forgive(name)
        before = self._tasks.get(name)
        self._begin(Stop(name, ""), name, self._stop(name, before, comes_back=True))

    # Observed state

    def _observe(self, machines: tuple[Machine, ...], members: tuple[MemberStatus, ...] | None) -> Observed:
        now = self._ports.now()
        records = self.records
        records.look(self.running | set(self._operated), now)
        places = machines, self._topology.of(Role.MEMBER)
        if places != self._steady[0]:
            self._steady = places, now
        return Observed(
            running=self.running,
            starting=frozenset(n for n, kind in self._operated.items() if kind is Start),
            stopping=frozenset(n for n, kind in self._operated.items() if kind is Stop),
            machines=machines,
            not_before=dict(records.not_before),
            failures=dict(records.here),
            unfit=records.unfit(now),
            crowded=frozenset(records.crowded),
            lost=frozenset(records.lost),
            overdue=self._overdue(now, members),
            awaited=frozenset(self._awaited),
            deregistered=frozenset(self._deregistered),
            current=self._current,
            members=members,
            learnt_at=self._joined_at + LEARN_S,
            steady_at=self._steady[1] + STEADY_S,
            elastic=self.elastic,
        )

    async def _ask_etcd(self) -> tuple[tuple[MemberStatus, ...], frozenset[str]]:
        """Members and names of former ones; none when there is no answer."""
        try:
            return await self._ports.members.members(), await self._ports.store.retired()
        except Exception as e:
            self._say("etcd", "its members cannot be listed", e)
            return (), frozenset()

    def _overdue(self, now: float, members: tuple[MemberStatus, ...] | None) -> frozenset[str]:
        """Who is in its phase for too long: a change is given up when it gets no further."""
        pending = {(i.name, i.phase): i for i in self._topology.instances if i.phase is not Phase.ACTIVE}
        if not pending:
            self._patience.clear()
            return frozenset()
        slowdown = self._ports.slowdown()
        for key, instance in pending.items():
            span = JOIN_TIMEOUT_S if instance.phase is Phase.JOINING else LEAVE_TIMEOUT_S
            patience = self._patience.setdefault(key, Patience(span, now))
            # Hosts have limits of their own; and one learns at a time.
            if instance.name in self._operated or (members and _is_queued(instance, members)):
                patience.now = now
            elif members is None and instance.phase is Phase.JOINING:
                continue  # whose turn it is will be known when etcd is asked
            patience.passed(now, slowdown)
            patience.reached(int(self.records.has_started(instance.name)))
        self._patience = {key: patience for key, patience in self._patience.items() if key in pending}
        return frozenset(name for (name, _), patience in self._patience.items() if patience.over)

    # The stored topology

    async def _try_to_load(self) -> None:
        if self._current:
            return
        try:
            async with self._storing:
                await self._load()
        except Superseded:
            raise
        except Exception as e:
            # Members may be missing just because nobody started them: what can be done is done meanwhile.
            self._say("the stored topology", "it cannot be read yet", e)

    async def _load(self) -> None:
        """Take the topology from etcd, or put it there when the cluster has just been brought up."""
        if self._current:
            return
        stored, self._revision = await self._ports.store.load()
        if stored is None or stored.run != self._topology.run:
            await self._save(self._topology, "the cluster was brought up")
        else:
            if any(i.phase is not Phase.ACTIVE for i in stored.instances):
                # When the last came is not known.
                self._joined_at = self._ports.now()
            await self._adopt(stored)
            await self._claim(stored)
        self._claimed = self._current = True
        self._checked = False
        self.loaded.set()

    async def _claim(self, stored: Topology) -> None:
        """Say where this supervisor is, when its host has brought it back elsewhere: once, since the one of before may
        still run where nobody hears of it, and must not claim its place back."""
        told = stored.of(Role.SUPERVISOR)
        if [_place(i) for i in told] == [_place(i) for i in self._own]:
            return
        if self._claimed:
            raise Superseded(f"another one on {told[0].machine.address if told else 'no machine'} has taken over")
        for own in self._own:
            stored = stored.replaced(own)
        await self._save(stored, "the supervisor came back on another machine")

    async def _change(self, edit: Edit, why: str) -> None:
        async with self._storing:
            await self._load()
            changed = edit(self._topology, await self._ports.store.retired())
            if changed != self._topology:
                before = self._topology
                await self._save(changed, why)
                self._awaited |= {i.name for i in self._topology.instances if not before.has(i.name)}

    async def _save(self, topology: Topology, why: str) -> None:
        log.info("new topology: %s", why)
        before = self._topology
        topology = self._with_ports(topology)
        retire = {i.name for i in before.of(Role.MEMBER)} - {i.name for i in topology.of(Role.MEMBER)}
        try:
            self._revision = await self._ports.store.save(topology, revision=self._revision, retire=sorted(retire))
        except RpcError:
            # It may have been stored all the same.
            self._current = False
            raise
        self.replacements += sum(bool(i.replaces) and not before.has(i.name) for i in topology.instances)
        await self._adopt(topology)
        voted = {i.name for i in topology.of(Role.MEMBER) if i.phase is Phase.ACTIVE}
        if any(i.name in voted for i in before.instances if i.phase is Phase.JOINING):
            self._joined_at = self._ports.now()

    async def _adopt(self, topology: Topology) -> None:
        self.records.given_up(self._topology, topology, self._ports.now())
        for instance in topology.instances:
            if not self._topology.has(instance.name):
                self.records.inherited(instance.name, instance.replaces)
            elif _place(instance) != _place(self._topology.get(instance.name)):
                self.records.moved(instance.name)
                self._moved.add(instance.name)
        self._topology = topology
        self.records.keep({i.name for i in topology.instances})
        self._moved = {name for name in self._moved if topology.has(name)}
        self._awaited = {name for name in self._awaited if topology.has(name)}
        self._refusals = {name: why for name, why in self._refusals.items() if topology.has(name)}
        self._refused_in_a_row.clear()
        self._deregistered.intersection_update(n for i in topology.instances for n in i.nodes)
        try:
            await self._ports.directory.adopt(topology)
        except OSError as e:
            # It is in etcd: a supervisor that cannot remember it must still work, and its successor finds it there.
            self._say("the topology", "it cannot be remembered on disk", e)

    def _with_ports(self, topology: Topology) -> Topology:
        for instance in topology.instances:
            if len(instance.ports) < len(PORTS[instance.role]):
                # What it had may be what kept it from starting.
                there = [i for i in (*topology.instances, *self._topology.instances) if i.machine == instance.machine]
                taken = {port for i in there for port in i.ports.values()}
                topology = topology.replaced(replace(instance, ports=self._allotted(instance, taken)))
        return topology

    def _allotted(self, instance: Instance, taken: set[int]) -> Mapping[str, int]:
        ports = dict(instance.ports)  # what it has it keeps: others know it there
        for label in PORTS[instance.role]:
            if label not in ports:
                ports[label] = self._ports.allot(instance.machine.address, taken | set(ports.values()))
        return ports

    # Actions

    async def _act(self, observed: Observed) -> float:
        """Carry out what is planned; seconds until the next look."""
        desired, now = self._topology, self._ports.now()
        pause, quiet = CHECK_EVERY_S, True
        for action in plan(desired, observed, now):
            quiet &= isinstance(action, (Start, Stop, WaitUntil))
            try:
                pause = min(pause, await self._carry_out(action, desired))
                self._refusals.pop(_subject(action), None)
                del self._refused_in_a_row[_subject(action)]
            except Exception as e:
                # Whatever it is, the other actions have nothing to do with it.
                pause = min(pause, self._refused(action, e))
        if observed.members:
            self._checked = quiet and not any(m.learner for m in observed.members)
        return pause

    async def _carry_out(self, action: Action, desired: Topology) -> float:
        self.actions[type(action).__name__] += 1
        match action:
            case Start(instance):
                self._begin(action, instance.name, self._start(instance))
                return CHECK_EVERY_S
            case Stop(name, why):
                log.warning("stopping %s: %s", name, why, extra={"actor": name, "reason": why})
                self._begin(action, name, self._stop(name, self._tasks.get(name)))
                return CHECK_EVERY_S
            case WaitUntil(time):
                return max(time - self._ports.now(), STEP_PAUSE_S)
            case StoreTopology(topology, why):
                async with self._storing:
                    # Somebody may have asked for a change since this was planned.
                    if self._topology is desired:
                        await self._save(topology, why)
            case AddLearner(_, peer):
                await self._ports.members.add_learner(peer)
            case Promote(_, member_id):
                await self._ports.members.promote(member_id)
            case RemoveMember(_, member_id):
                await self._ports.members.remove(member_id)
            case DeleteNode(node):
                await self._ports.nodes.delete(node)
                self._deregistered.add(node)
        log.info("done: %s", action if not isinstance(action, StoreTopology) else action.why)
        return STEP_PAUSE_S

    def _begin(self, action: Start | Stop, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{type(action).__name__.lower()} {name}")
        self._tasks[name] = (type(action), task)
        self._operated[name] = type(action)
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name, (None, None))[1] is task:
            del self._tasks[name]
        self.wake()

    async def _start(self, instance: Instance) -> None:
        name, records, now = instance.name, self.records, self._ports.now
        records.began(name)
        log.info("starting %s", name, extra={"actor": name})
        try:
            spec = self._ports.specs.make(instance, self._topology, restarted=not instance.joins)
            await self._ports.host.start(spec)
        except StartFailed as e:
            self._failed(instance, str(e), lost=isinstance(e, DataLost), crowded=isinstance(e, PortTaken))
        except Exception as e:
            log.exception("starting %s failed", name)
            self._failed(instance, f"{type(e).__name__}: {e}")
        else:
            if instance.role is not Role.MEMBER and (records.counts.get(name) == 1 or name in self._moved):
                self._joined_at = now()
            self._moved.discard(name)
            records.succeeded(name, now())

    def _failed(self, instance: Instance, reason: str, *, lost: bool = False, crowded: bool = False) -> None:
        name = instance.name
        pause = self.records.failed(name, reason, self._ports.now(), lost=lost, crowded=crowded)
        if instance.replaces:
            self.records.handed_on(name, instance.replaces)
        told = {"actor": name, "reason": reason, "pause_s": pause}
        log.warning("%s failed (%s); trying again in %.1f s", name, reason, pause, extra=told)

    async def _stop(
        self, name: str, before: tuple[type[Start | Stop], asyncio.Task[None]] | None, *, comes_back: bool = False
    ) -> None:
        """End an actor. `before`: what is being done to it already."""
        end = self._ports.host.halt if comes_back else self._ports.host.stop
        if before is not None:
            await cancel_and_wait(before[1])
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S + SHUTDOWN_MAX_S):
                await end(name)
        except TimeoutError:
            log.warning("%s does not stop in time", name, extra={"actor": name})
        except Exception:
            log.exception("stopping %s failed", name)

    def _refused(self, action: Action, error: Exception) -> float:
        """Seconds until it should be tried again."""
        subject = _subject(action)
        self._refused_in_a_row[subject] += 1
        # That a learner has not caught up yet is how most of its first promotions end.
        self._say(subject, type(action).__name__, error, expected=isinstance(action, Promote))
        return RETRIES.pause_s(self._refused_in_a_row[subject])

    def _say(self, subject: str, what: str, error: Exception, *, expected: bool = False) -> None:
        """Log what went wrong once, not at every try."""
        known = isinstance(error, (RpcError, ApiError, ClusterError, OSError))
        why = f"{what}: {reason_of(error) if known else repr(error)}"
        if self._refusals.get(subject) != why:
            self._refusals[subject] = why
            level = logging.INFO if expected else logging.WARNING
            log.log(level, "%s: %s", subject, why, exc_info=None if known else error)


def _is_queued(instance: Instance, members: tuple[MemberStatus, ...]) -> bool:
    """Whether a member that is to join is kept from it by another that learns."""
    listed = any(m.is_of(instance) for m in members)
    return instance.phase is Phase.JOINING and not listed and any(m.learner for m in members)


def _place(instance: Instance) -> tuple[Machine, Mapping[str, int]]:
    return instance.machine, instance.ports


def _subject(action: Action) -> str:
    """What an action is about."""
    match action:
        case Start(instance):
            return instance.name
        case Stop(name) | AddLearner(name) | Promote(name) | RemoveMember(name) | DeleteNode(name):
            return name
    return "the topology"
