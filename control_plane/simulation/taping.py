"""The recording of a run: who looks at it from outside and tells a tape, so that the run is the one of its seed."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.faults.vocabulary import NEVER_S, Fault, Target, ends, lasts
from rayplane.control_plane.recordings import Ending, Head, Tape
from rayplane.control_plane.recordings.tape import EVENTS_MAX, Struck
from rayplane.control_plane.simulation.cell import EPOCH, Cell
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.plan import Strike, said
from rayplane.control_plane.simulation.result import sentence
from rayplane.control_plane.simulation.run import Run
from rayplane.control_plane.simulation.scenario import Scenario
from rayplane.control_plane.simulation.trace import COMMON, Event

LOOK_EVERY_S = 0.5


class Taping:
    """The control of one run that records it; `file` is the recording once it is over."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.file = b""
        self._tape = Tape(Head(of="simulation", name=scenario.name, seed=seed, started=EPOCH))
        self._run: Run | None = None
        self._look_at = 0.0
        self._events: list[tuple[float, str]] = []

    def begin(self, parts: Run) -> None:
        self._run = parts
        parts.judge.listener = self._tape
        parts.trace.listeners.append(self._heard)
        parts.loop.before_time = self._before

    def end(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        judge = run.judge
        self.file = self._tape.finished(
            Ending(
                end_s=run.loop.time(),
                ok=not run.wrong,
                faults=lasted(run.struck),
                invariants={name: [v for v in judge.violations if v.invariant == name] for name in judge.counts},
                unseen=judge.unseen(),
                failures=run.wrong,
                events=self._events,
            )
        )

    def _heard(self, event: Event) -> None:
        if event.kind not in COMMON and len(self._events) < EVENTS_MAX:
            self._events.append((event.at_s, sentence(event)))

    def _before(self, when: float) -> None:
        """Between two instants."""
        if self._run is not None and when >= self._look_at:
            self._look_at = when + LOOK_EVERY_S
            self._tape.state(self._run.loop.time(), _standing(self._run.cluster))


def lasted(struck: Iterable[tuple[float, Strike]]) -> list[Struck]:
    """What lasts without a time of its own lasts until the end, or until another strike ends it."""
    found: list[Struck] = []
    open_: dict[int, Fault] = {}
    for at_s, strike in struck:
        until: float | None = at_s
        if isinstance(fault := strike.what, Fault):
            for place, other in [*open_.items()]:
                ended_s = NEVER_S if (own := found[place].until_s) is None else own
                if ended_s <= at_s or ends(fault, _hit(fault), other, _hit(other)):
                    found[place] = replace(found[place], until_s=min(at_s, ended_s))
                    del open_[place]
            if lasts(fault):
                until = at_s + strike.for_s if strike.for_s else None
                open_[len(found)] = fault
        found.append(Struck(said(strike.what), (), at_s, until))
    return found


def _hit(fault: Fault) -> tuple[str, ...]:
    """By name, which is in the faults of a plan."""
    target: Target | None = getattr(fault, "target", None)
    return (target.name,) if target is not None else ()


def _standing(cluster: SimulatedCluster) -> dict[str, Any]:
    """As `rayplane status` tells it of a live cluster."""
    members, actors = [], []
    for instance in cluster.known:
        cell = cluster.cells[instance.name]
        if instance.role is Role.MEMBER:
            members.append({"name": instance.name, **_member(cell)})
        else:
            actors.append(_actor(instance, cell))
    return {"members": members, "actors": actors}


def _member(cell: Cell) -> dict[str, Any]:
    member = cell.component
    if not isinstance(member, Member) or cell.paused:
        return {"error": "it stands still" if cell.paused else "it is not up"}
    store = member.store
    return {
        "leader": member.is_leader,
        "term": member.term,
        "raft_index": store.applied.index,
        "revision": store.revision,
    }


def _actor(instance: Instance, cell: Cell) -> dict[str, Any]:
    return {
        "name": instance.name,
        "role": instance.role.value,
        "machine": instance.machine.id,
        "running": cell.alive and not cell.paused,
        "leader": bool(getattr(cell.component, "is_leader", False)),
        "starts": cell.starts,
        "reason": "stands still" if cell.paused else "",
    }
