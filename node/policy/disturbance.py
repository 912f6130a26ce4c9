"""Packets that experiments have pods of this host lose, or have no more than so many of, as packet rules. Pure.

They meet all packets between pods, those of connections that are known too. A pod and its node always reach each other.
The rules are there only while a pod is marked.
"""

import sys

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import LOSES, Loss, losses
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.node.nftables.expressions import DROP, Field, In, Is, Over, Part, Random, Rule, Statement, key
from rayplane.node.nftables.ruleset import FORWARD, NOTHING, Chain, Data, Element, Fragment, Hook, Set

OF_POD_MAX, TOGETHER_MAX = 25_000, 100_000
"""Elements that the losses by chance of one pod take, and those of all pods of a host."""
LIMITS_MAX = 10
"""Rates of one pod."""
_ALL = 100
_JUDGED = 5
"""Before policies."""
_CHANCE = Random(_ALL)
_BOTH, _FROM, _TO = (Field.SOURCE, Field.DESTINATION), (Field.SOURCE,), (Field.DESTINATION,)
_SETS: dict[str, tuple[Part, ...]] = {
    "cut": _BOTH,
    "cut-from": _FROM,
    "cut-to": _TO,
    "lossy": (_CHANCE, *_BOTH),
    "lossy-from": (_CHANCE, *_FROM),
    "lossy-to": (_CHANCE, *_TO),
}
_SHARED = Fragment(
    {name: Set((4,) * len(parts)) for name, parts in _SETS.items()},
    {
        "on-disturbed": Chain(
            tuple((In(parts, name), DROP) for name, parts in _SETS.items()), Hook("filter", FORWARD, _JUDGED)
        )
    },
)


def of_pod(pod: Object) -> Fragment:
    """What the marks of a pod have it lose; NOTHING where it has no marks, or no address that is its own."""
    ip = _own_address(pod)
    if not ip:
        return NOTHING
    elements: dict[Element, Data] = {}
    limits = Fragment({}, {}, {})
    found = [*losses(meta.annotations(pod))]
    for n, loss in enumerate([one for one in found if one.over][:LIMITS_MAX]):
        limits = _with(limits, _limit(f"on-slow-{key(ip).hex()}-{n}", ip, loss))
    for loss in [one for one in found if not one.over]:
        ways = [("-from", key(ip))] if loss.to is None else [("", key(ip, one)) for one in loss.to]
        ways += [("-to", key(ip))] if loss.sources is None else [("", key(one, ip)) for one in loss.sources]
        for kind, where in ways:
            if loss.percent == _ALL:
                elements[f"cut{kind}", where] = None
            elif len(elements) < OF_POD_MAX:
                elements |= {(f"lossy{kind}", n.to_bytes(4, sys.byteorder) + where): None for n in range(loss.percent)}
    lossy = Fragment(_SHARED.sets, _SHARED.chains, elements) if elements else NOTHING
    return _with(lossy, limits)


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
