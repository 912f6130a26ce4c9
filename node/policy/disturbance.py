"""Packets that experiments have pods of this host lose, as packet rules. Pure.

They meet all packets between pods, those of connections that are known too. A pod and its node always reach each other.
The rules are there only while a pod is marked.
"""

import sys

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import PEERS_MAX, losses
from rayplane.node.nftables.expressions import DROP, Field, In, Part, Random, key
from rayplane.node.nftables.ruleset import FORWARD, NOTHING, Chain, Data, Element, Fragment, Hook, Set

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
    """What the marks of a pod, which has an address, have it lose; NOTHING where it has no marks."""
    ip = meta.status(pod).get("podIP") or ""
    if not ip or ":" in ip or meta.spec(pod).get("hostNetwork"):
        return NOTHING
    elements: dict[Element, Data] = {}
    for loss in losses(meta.annotations(pod)):
        ways = [("-from", key(ip))] if loss.to is None else [("", key(ip, one)) for one in loss.to]
        ways += [("-to", key(ip))] if loss.sources is None else [("", key(one, ip)) for one in loss.sources]
        for kind, where in ways:
            if loss.percent == _ALL:
                elements[f"cut{kind}", where] = None
            elif len(elements) < PEERS_MAX * _ALL:
                elements |= {(f"lossy{kind}", n.to_bytes(4, sys.byteorder) + where): None for n in range(loss.percent)}
    return Fragment(_SHARED.sets, _SHARED.chains, elements) if elements else NOTHING
