"""Disturbances that experiments want of packets of this host's pods, as packet rules. Pure.

Packets are lost, are no more than so many, are copied, or go by a queue in which they wait (`holding`). The rules meet
all packets between pods, those of connections that are known too. A pod and its node always reach each other. The rules
are there only while a pod is marked.
"""

import math
import sys
from collections.abc import Iterable
from itertools import islice

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import LOSES, Loss, Netem, losses
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.node.nftables.expressions import (
    DROP,
    Duplicate,
    Field,
    In,
    Is,
    Over,
    Part,
    Queue,
    Random,
    Rule,
    Statement,
    key,
)
from rayplane.node.nftables.ruleset import FORWARD, NOTHING, Chain, Data, Element, Fragment, Hook, Set

OF_POD_MAX, TOGETHER_MAX = 25_000, 100_000
"""Elements that the losses by chance of one pod take, and those of all pods of a host."""
LIMITS_MAX = 10
"""Rates of one pod; and marks of it that copy or hold packets, as each of them judges each packet."""
Way = tuple[str, bytes]
"""Packets from one address to another, or "-from" and "-to" one of any others'."""
_ALL = 100
_JUDGED, _HELD = 5, 30
"""Before policies; and behind them, as copies and what was held meet none."""
_CHANCE = Random(_ALL)
_BOTH, _FROM, _TO = (Field.SOURCE, Field.DESTINATION), (Field.SOURCE,), (Field.DESTINATION,)
_WAYS: dict[str, tuple[Field, ...]] = {"": _BOTH, "-from": _FROM, "-to": _TO}


def _shared(priority: int, of_sets: dict[str, Statement]) -> Fragment:
    """Sets of ways, each with what becomes of its packets; those by chance have a number before."""
    sets: dict[str, Set] = {}
    rules: list[Rule] = []
    for name, done in of_sets.items():
        for kind, fields in _WAYS.items():
            parts: tuple[Part, ...] = (_CHANCE, *fields) if name in _BY_CHANCE else fields
            sets[f"{name}{kind}"] = Set((4,) * len(parts))
            rules.append((In(parts, f"{name}{kind}"), done))
    return Fragment(sets, {f"on-disturbed-{priority}": Chain(tuple(rules), Hook("filter", FORWARD, priority))})


_BY_CHANCE = ("lossy", "copied")
_LOSING = _shared(_JUDGED, {"cut": DROP, "lossy": DROP})


def of_pod(pod: Object, queue: int = 0) -> Fragment:
    """What the marks of a pod do to its packets; NOTHING where it has no marks, or no address that is its own.

    `queue`: the one in which packets wait; 0 while there is none, and then none is copied either.
    """
    ip = _own_address(pod)
    if not ip:
        return NOTHING
    elements: dict[Element, Data] = {}
    limits = Fragment({}, {}, {})
    found = [*losses(meta.annotations(pod))]
    for n, loss in enumerate([one for one in found if one.over][:LIMITS_MAX]):
        limits = _with(limits, _limit(f"on-slow-{key(ip).hex()}-{n}", ip, loss))
    for loss in [one for one in found if not one.over]:
        for way in _ways(ip, loss):
            if loss.percent == _ALL:
                _mark(elements, "cut", way)
            else:
                _by_chance(elements, "lossy", loss.percent, way)
    lossy = Fragment(_LOSING.sets, _LOSING.chains, elements) if elements else NOTHING
    return _with(_with(lossy, limits), _netem(ip, found, queue) if queue else NOTHING)


def _netem(ip: str, found: list[Loss], queue: int) -> Fragment:
    elements: dict[Element, Data] = {}
    for way, netems in _held(ip, found).items():
        for netem in netems:
            _by_chance(elements, "copied", math.ceil(netem.duplicate), way)
        if any(netem.waits for netem in netems):
            _mark(elements, "held", way)
    if not elements:
        return NOTHING
    frame = _shared(_HELD, {"copied": Duplicate(), "held": Queue(queue)})
    return Fragment(frame.sets, frame.chains, elements)


def _mark(elements: dict[Element, Data], name: str, way: Way) -> None:
    elements[f"{name}{way[0]}", way[1]] = None


def _by_chance(elements: dict[Element, Data], name: str, percent: int, way: Way) -> None:
    if len(elements) < OF_POD_MAX:
        kind, where = way
        elements |= {(f"{name}{kind}", n.to_bytes(4, sys.byteorder) + where): None for n in range(percent)}


def held(pod: Object) -> dict[Way, list[Netem]]:
    """The ways of a pod whose packets are copied or held, and by what."""
    ip = _own_address(pod)
    return _held(ip, losses(meta.annotations(pod))) if ip else {}


def _held(ip: str, found: Iterable[Loss]) -> dict[Way, list[Netem]]:
    ways: dict[Way, list[Netem]] = {}
    disturbing = ((loss, loss.netem) for loss in found if loss.netem is not None and loss.netem.disturbs)
    for loss, netem in islice(disturbing, LIMITS_MAX):
        for way in dict.fromkeys(_ways(ip, loss)):
            ways.setdefault(way, []).append(netem)
    return ways


def ways_of(packet: bytes) -> tuple[Way, ...]:
    """All ways that a packet of IPv4 goes."""
    source, destination = packet[12:16], packet[16:20]
    return ("", source + destination), ("-from", source), ("-to", destination)


def _ways(ip: str, loss: Loss) -> list[Way]:
    ways = [("-from", key(ip))] if loss.to is None else [("", key(ip, one)) for one in loss.to]
    return ways + ([("-to", key(ip))] if loss.sources is None else [("", key(one, ip)) for one in loss.sources])


def _with(one: Fragment, other: Fragment) -> Fragment:
    return Fragment({**one.sets, **other.sets}, {**one.chains, **other.chains}, {**one.elements, **other.elements})


def _limit(name: str, ip: str, loss: Loss) -> Fragment:
    """Each way has a rate of its own. What is too much does not wait, as it would in a queue: it is lost."""
    sets: dict[str, Set] = {}
    rules: list[Rule] = []
    elements: dict[Element, Data] = {}
    for way, own, peers in (("to", Field.SOURCE, loss.to), ("from", Field.DESTINATION, loss.sources)):
        meant: Statement = Is(own, key(ip))
        if peers is not None:
            pairs = f"{name}-{way}"
            sets[pairs] = Set((4, 4))
            meant = In(_BOTH, pairs)
            elements |= {(pairs, key(ip, one) if way == "to" else key(one, ip)): None for one in peers}
        if peers is None or peers:
            rules.append((meant, Over(loss.over, loss.burst), DROP))
    return Fragment(sets, {name: Chain(tuple(rules), Hook("filter", FORWARD, _JUDGED))}, elements)


def told(pod: Object) -> tuple[str, str, dict[str, str]]:
    """All that its rules are made from: they change with that alone."""
    notes = {name: value for name, value in meta.annotations(pod).items() if name.startswith(LOSES)}
    return meta.uid(pod), _own_address(pod), notes


def _own_address(pod: Object) -> str:
    """Its IPv4 address; empty where it is its node's, and when the pod has ended, as another may get it."""
    ip = meta.status(pod).get("podIP") or ""
    return "" if ":" in ip or meta.spec(pod).get("hostNetwork") or pod_is_terminated(pod) else ip


class Budget:
    """The elements that pods of a host take, by uid: so many together and no more."""

    def __init__(self, most: int = TOGETHER_MAX) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    @property
    def left(self) -> int:
        return self._most - sum(self._taken.values())

    def take(self, uid: str, wanted: Fragment) -> bool:
        """Whether a pod gets these instead of those that it had; it has none otherwise."""
        self._taken.pop(uid, None)
        fits = len(wanted.elements) <= self.left
        if fits and wanted != NOTHING:
            self._taken[uid] = len(wanted.elements)
        return fits
