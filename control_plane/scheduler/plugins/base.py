"""A plug-in, that is a filter, a score or both, over all nodes at once.

A plug-in is a class with a name; a profile lists by name which are asked as filters, and which as scores with what
weight. One instance serves one profile, made with the profile's arguments for it.

`scope` says what its answers depend on, and so how long they hold:
- NODE: the pod's shape and the node itself. Asked once for each shape and version of a node.
- USE: besides, the pods that run on that very node. Asked again for a node whose pods changed.
- CLUSTER: anything. Asked for every decision.

Answers are arrays over `rows` of the snapshot (an array of row numbers, or a slice), None where the plug-in has nothing
to say about the pod. A plug-in that only overrides `refusal` and `score_node` works too, node by node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.scheduler.budgets import BudgetIndex
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.groups import GroupIndex
from rayplane.control_plane.scheduler.owners import OwnerIndex
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot
from rayplane.control_plane.scheduler.volumes import VolumeIndex

SCORE_MAX = 100
ALL = slice(None)


class Scope(IntEnum):
    """The things that a plug-in's answers depend on."""

    NODE = 0
    USE = 1
    CLUSTER = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why a node does not do. `resolvable`: removing pods from it might help."""

    plugin: str
    reasons: tuple[str, ...]
    resolvable: bool
    detail: str = ""
    """What of this node it is, for who asks about it alone: sentences about many nodes leave it out."""

    @property
    def told(self) -> tuple[str, ...]:
        """The reasons with what they are on this node."""
        return tuple(f"{reason} {self.detail}" for reason in self.reasons) if self.detail else self.reasons


@dataclass(slots=True)
class Cluster:
    """All that plug-ins look at; kept current by its owner."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    volumes: VolumeIndex = field(default_factory=VolumeIndex)
    owners: OwnerIndex = field(default_factory=OwnerIndex)
    budgets: BudgetIndex = field(default_factory=BudgetIndex)
    devices: DeviceIndex = field(default_factory=DeviceIndex)
    groups: GroupIndex = field(default_factory=GroupIndex)
    node_objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The API's objects, by name, for plug-ins that are not part of the scheduler."""

    def __post_init__(self) -> None:
        self.snapshot.claim_use = self.volumes.use
        self.devices.tell_resources = self.snapshot.set_delegated


@dataclass(slots=True)
class PodView:
    """One pod against the cluster as it is now: made for one decision, thrown away after it.

    `memo` holds what a plug-in has worked out for this decision, by the plug-in's name.
    """

    pod: PodInfo
    cluster: Cluster
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        return self.cluster.snapshot


class Plugin:
    """A plug-in that has nothing to say; others override what they have an opinion on."""

    name: ClassVar[str] = ""
    scope: ClassVar[Scope] = Scope.CLUSTER
    #: Whether it says the same of every node that it refuses a pod.
    has_one_reason: ClassVar[bool] = False

    def __init__(self, args: Any = None) -> None:
        self.args = args
        #: Whether it looks at the Services and owners of pods.
        self.needs_owners = False

    # -- filter --------------------------------------------------------------------------------------------

    def problem(self, view: PodView) -> str:
        """What stands against all nodes at once; empty when nothing does."""
        return ""

    def concerns(self, view: PodView) -> bool:
        """Whether the filter can refuse any node for this pod; False spares the rest."""
        return True

    def only(self, view: PodView) -> frozenset[str] | None:
        """The names of the nodes that filters are asked about at all; None where they are about every node."""
        return None

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        """True for the rows that the pod may go to."""
        snapshot = view.snapshot
        numbers = snapshot.numbers(rows)
        found = np.zeros(len(numbers), dtype=np.bool_)
        for at, row in enumerate(numbers.tolist()):
            found[at] = snapshot.valid[row] and self.refusal(view, row) is None
        return found

    def allows(self, view: PodView, row: int) -> bool:
        """As `allowed`, of one row; a plug-in of scope USE that counts with plain numbers is faster so."""
        found = self.allowed(view, slice(row, row + 1))
        return found is None or bool(found[0])

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        """Why the pod may not go to a node. Must agree with `allowed`."""
        return None

    def refusals(self, view: PodView, rows: Ints) -> Iterable[tuple[Refusal, Ints]]:
        """(reason, the rows that it keeps the pod off), of `rows`, all of which it keeps off."""
        groups: dict[Refusal, list[int]] = {}
        for row in rows.tolist():
            found = self.refusal(view, row)
            if found is not None:
                groups.setdefault(found, []).append(row)
                if self.has_one_reason:
                    return [(found, rows)]
        return [(refusal, np.array(of_it, dtype=np.int64)) for refusal, of_it in groups.items()]

    # -- score ---------------------------------------------------------------------------------------------

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        """A whole number for each of the rows. CLUSTER plug-ins get the allowed rows of all as `among`."""
        snapshot = view.snapshot
        numbers = snapshot.numbers(rows)
        return np.array(
            [self.score_node(view, row) if snapshot.valid[row] else 0 for row in numbers.tolist()], np.int64
        )

    def score_at(self, view: PodView, row: int) -> int:
        """As `score`, of one row, for plug-ins whose scores are comparable as they are."""
        found = self.score(view, slice(row, row + 1), None)
        return 0 if found is None else int(found[0])

    def score_node(self, view: PodView, row: int) -> int:
        """The score of one node."""
        return 0

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        """Scores of all rows as numbers from 0 to 100, knowing those of the allowed rows."""
        return raw

    @cached_property
    def normalizes(self) -> bool:
        """Whether scores are only comparable once the others are known."""
        return type(self).normalized is not Plugin.normalized

    # -- reserve -------------------------------------------------------------------------------------------

    def waiting(self, view: PodView) -> tuple[str, ...]:
        """Keys of the claims whose node must be selected before the pod is bound."""
        return ()

    def promised(self, view: PodView, row: int) -> tuple[str, ...]:
        """Keys of the claims to devices that are written before the pod is bound to a node."""
        return ()

    def reserve(self, view: PodView, row: int) -> None:
        """The pod is placed on a node: what it takes there is taken."""

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        """A placement came to nothing: give back what `reserve` took."""


def scaled(raw: Ints, among: Bools, *, reverse: bool = False) -> Ints:
    """Scores so that the best of the rows `among` has 100 (or what has none, `reverse`)."""
    top = int(raw[among].max(initial=0))
    if top == 0:
        return np.full(len(raw), SCORE_MAX, dtype=np.int64) if reverse else raw
    found: Ints = SCORE_MAX * raw // top
    return SCORE_MAX - found if reverse else found


@dataclass(frozen=True)
class PluginSet:
    """The plug-ins of one profile: filters in order, scores with weights."""

    filters: tuple[Plugin, ...]
    scores: tuple[tuple[Plugin, int], ...]

    @cached_property
    def all(self) -> tuple[Plugin, ...]:
        """Each once; filters first."""
        return tuple(dict.fromkeys((*self.filters, *(plugin for plugin, _ in self.scores))))

    @cached_property
    def of_cluster(self) -> tuple[Plugin, ...]:
        """Filters that are asked for every decision."""
        return tuple(plugin for plugin in self.filters if plugin.scope is Scope.CLUSTER)

    @cached_property
    def of_problems(self) -> tuple[Plugin, ...]:
        """Filters that something may stand against all nodes for."""
        return tuple(plugin for plugin in self.filters if type(plugin).problem is not Plugin.problem)

    @cached_property
    def reserving(self) -> tuple[Plugin, ...]:
        """Filters that take something for a placed pod."""
        return tuple(plugin for plugin in self.filters if type(plugin).reserve is not Plugin.reserve)

    def problem(self, view: PodView) -> Refusal | None:
        """The first that stands against all nodes."""
        for plugin in self.of_problems:
            text = plugin.problem(view)
            if text:
                return Refusal(plugin.name, (text,), False)
        return None

    def refusals(self, view: PodView) -> list[tuple[Refusal, Ints]]:
        """(reason, its rows): each row once, with the first that keeps the pod off; no allowed rows."""
        found: list[tuple[Refusal, Ints]] = []
        rows = np.flatnonzero(view.snapshot.valid)
        for plugin in self.filters:
            only = plugin.only(view)
            if only is not None:
                asked = np.isin(rows, [view.snapshot.index[name] for name in only if name in view.snapshot.index])
                if not asked.all():
                    text = f"node(s) didn't satisfy plugin(s) [{plugin.name}]"
                    found.append((Refusal(plugin.name, (text,), False), rows[~asked]))
                    rows = rows[asked]
        for plugin in self.filters:
            allowed = plugin.allowed(view, rows) if len(rows) else None
            if allowed is not None and not allowed.all():
                found += plugin.refusals(view, rows[~allowed])
                rows = rows[allowed]
        return found

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        """The first reason, in the order of the filters, that keeps the pod off a node."""
        for plugin in self.filters:
            found = plugin.refusal(view, row)
            if found is not None:
                return found
        return None


Registry = Mapping[str, type[Plugin]]
