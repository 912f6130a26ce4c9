"""Packets that experiments have pods of this host lose, as packet rules. Pure.

They meet all packets between pods, those of connections that are known too. A pod and its node always reach each other.
The rules are there only while a pod is marked.
"""

import sys

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import LOSES, losses
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.node.nftables.expressions import DROP, Field, In, Part, Random, key
from rayplane.node.nftables.ruleset import FORWARD, NOTHING, Chain, Data, Element, Fragment, Hook, Set

OF_POD_MAX, TOGETHER_MAX = 25_000, 100_000
"""Elements that the losses by chance of one pod take, and those of all pods of a host."""
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
    for loss in losses(meta.annotations(pod)):
        ways = [("-from", key(ip))] if loss.to is None else [("", key(ip, one)) for one in loss.to]
        ways += [("-to", key(ip))] if loss.sources is None else [("", key(one, ip)) for one in loss.sources]
        for kind, where in ways:
            if loss.percent == _ALL:
                elements[f"cut{kind}", where] = None
            elif len(elements) < OF_POD_MAX:
                elements |= {(f"lossy{kind}", n.to_bytes(4, sys.byteorder) + where): None for n in range(loss.percent)}
    return Fragment(_SHARED.sets, _SHARED.chains, elements) if elements else NOTHING


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

    def __contains__(self, uid: str) -> bool:
        return uid in self._taken

    def take(self, uid: str, wanted: Fragment) -> bool:
        """Whether a pod gets these instead of those that it had; it has none otherwise."""
        self._taken.pop(uid, None)
        fits = sum(self._taken.values()) + len(wanted.elements) <= self._most
        if fits and wanted.elements:
            self._taken[uid] = len(wanted.elements)
        return fits
