"""Services as packet rules: what the kernel does for pods instead of the sockets of the proxy. Pure.

One map says for an address, protocol and port how many places there are, and one where each of them is, so that a
service is a few elements and no rule of its own. A client's place is remembered in a third, as long as the service
asks for, and counts while the service still has it. What a pod sends to itself through a service comes to it from the
machine; so does what another machine's pods send to a port of this node and that goes on to a third one.

Services with an endpoint outside of the pods' network are left to the proxy's sockets (`relayed`); all else that is
sent to an address of a service is refused. Source: Kubernetes documentation, "Virtual IPs and Service Proxies".
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping

from rayplane.node.nftables.conntrack import Flow
from rayplane.node.nftables.expressions import (
    ACCEPT,
    DROP,
    ESTABLISHED,
    NEW,
    PROTOCOLS,
    RESET,
    SOCKET,
    TCP,
    WIRE,
    Choose,
    Exceeds,
    Field,
    Has,
    In,
    Mark,
    Masquerade,
    Place,
    Random,
    Recall,
    Reject,
    Rule,
    Settle,
    TranslateBy,
    Verdict,
    Within,
    address,
    comes_by,
    goto,
    is_protocol,
    key,
    port,
)
from rayplane.node.nftables.ruleset import (
    INPUT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    Chain,
    Data,
    Element,
    Fragment,
    Gives,
    Hook,
    Set,
    range_elements,
)
from rayplane.node.proxy.rules import UDP, Endpoint, Socket, Target

_MASQUERADED = 0x1
_REMEMBERED_MAX = 65_536
_COUNTED, _TRANSLATED, _LEAVING, _JUDGED = -140, -100, 100, 0
CONNECTIONS_OF_POD_MAX = 16_384
"""That a pod begins; those that have ended do not count."""
_NEAR, _FAR = "", "far-"


def frame(services: str) -> Fragment:
    """The rules that all services share. `services`: the network of their addresses."""
    sets = {"relayed": Set((4, 4, 4)), "answered": Set((4, 4, 4)), "loops": Set((4, 4))}
    sets["connections"] = Set((4,), counts=True, room=_REMEMBERED_MAX)
    for who in (_NEAR, _FAR):
        sets[f"{who}services"] = Set((4, 4, 4), Gives.VERDICT)
        sets[f"{who}places"] = Set((4, 4, 4, 4), Gives.PLACE)
        sets[f"{who}live"] = Set((4, 4, 4, 4, 4))
        sets[f"{who}affinity"] = Set((4, 4, 4, 4), Gives.PLACE, forgets=True, room=_REMEMBERED_MAX)
    translated: tuple[Rule, ...] = ((Choose(SOCKET, "services"),),)
    from_elsewhere: tuple[Rule, ...] = ((comes_by(WIRE), goto("from-machines")),)
    leaving: tuple[Rule, ...] = (
        (Has(Field.MARK, _MASQUERADED), Masquerade()),
        (In((Field.SOURCE, Field.DESTINATION), "loops"), Masquerade()),
        # A program of the machine has the service's own address for its own before it is told otherwise.
        (Within(Field.SOURCE, services), Masquerade()),
    )
    unknown = (
        Within(Field.DESTINATION, services),
        *(In(SOCKET, name, unless=True) for name in ("relayed", "answered")),
    )
    refused: tuple[Rule, ...] = (
        (Has(Field.STATE, ESTABLISHED), ACCEPT),
        (is_protocol(TCP), *unknown, Reject(RESET)),
        (*unknown, Reject()),
    )
    # The kernel knows so many connections and no more: no pod may have them all.
    counted = Exceeds((Field.SOURCE,), "connections", CONNECTIONS_OF_POD_MAX)
    new: tuple[Rule, ...] = ((comes_by("pod"), Has(Field.STATE, NEW), counted, DROP),)
    chains = {
        "on-new": Chain(new, Hook("filter", PREROUTING, _COUNTED)),
        "from-machines": Chain(((Choose(SOCKET, "far-services"),),)),
        "on-prerouting": Chain((*from_elsewhere, *translated), Hook("nat", PREROUTING, _TRANSLATED)),
        "on-output": Chain(translated, Hook("nat", OUTPUT, _TRANSLATED)),
        "on-postrouting": Chain(leaving, Hook("nat", POSTROUTING, _LEAVING)),
        "on-input": Chain(refused, Hook("filter", INPUT, _JUDGED)),
    }
    return Fragment(sets, chains)


def answered(sockets: Iterable[Socket]) -> Fragment:
    """Sockets of services that this machine answers itself."""
    return Fragment(elements={("answered", socket_key(one)): None for one in sockets})


def of_service(plan: Mapping[Socket, Target], nodes: Mapping[str, str], is_pod: Callable[[Endpoint], bool]) -> Fragment:
    """The elements of one service. `nodes`: addresses of this host's; `is_pod`: whether the network leads there.

    Raises ValueError where the API let something through that is no address.
    """
    chains: dict[str, Chain] = {}
    sets: dict[str, Set] = {}
    elements: dict[Element, Data] = {}
    for socket, target in plan.items():
        if target.health is not None:
            continue
        where = socket_key(socket)
        if not is_in_kernel(target, is_pod):
            elements["relayed", where] = None
            continue
        verdict = _serve(_NEAR, where, target, target.for_pods, chains, elements)
        if target.sources:
            verdict = _guard(target.sources, verdict, sets, chains, elements)
        elements["services", where] = verdict
        if socket.ip in nodes.values():
            elements["far-services", where] = _serve(_FAR, where, target, target.endpoints, chains, elements, nodes)
        for endpoint in target.for_pods:
            if endpoint.node in nodes:
                elements["loops", key(endpoint.ip, endpoint.ip)] = None
    return Fragment(sets, chains, elements)


def is_in_kernel(target: Target, is_pod: Callable[[Endpoint], bool]) -> bool:
    return all(is_pod(one) for one in (*target.endpoints, *target.for_pods))


def socket_key(socket: Socket) -> bytes:
    return key(socket.ip, PROTOCOLS[socket.protocol], port(socket.port))


def _serve(
    who: str,
    where: bytes,
    target: Target,
    endpoints: tuple[Endpoint, ...],
    chains: dict[str, Chain],
    elements: dict[Element, Data],
    nodes: Mapping[str, str] | None = None,
) -> Verdict:
    """What becomes of packets to a socket: where they may go. `nodes`: others' answers come back through this one."""
    if not endpoints:
        return DROP
    places = [Place(one.ip, one.port) for one in endpoints]
    for number, place in enumerate(places):
        elements[f"{who}places", where + number.to_bytes(4, sys.byteorder)] = place
        if target.affinity_s:
            elements[f"{who}live", where + key(place.ip, port(place.port))] = None
    masked = nodes is not None and any(one.node not in nodes for one in endpoints)
    marking: Rule = (Mark(_MASQUERADED),) if masked else ()
    name = f"{who}{'masked-' if masked else ''}"
    if not target.affinity_s:
        name += f"pick-{len(places)}"
        pick = TranslateBy((*SOCKET, Random(len(places))), f"{who}places")
        chains[name] = Chain(((*marking, pick),))
    else:
        name += f"keep-{len(places)}-{target.affinity_s}"
        recall = Recall(f"{who}affinity", f"{who}live", target.affinity_s)
        settle = Settle(f"{who}affinity", f"{who}places", len(places), target.affinity_s)
        chains[name] = Chain(((*marking, recall), (*marking, settle)))
    return goto(name)


def _guard(
    sources: tuple[str, ...],
    verdict: Verdict,
    sets: dict[str, Set],
    chains: dict[str, Chain],
    elements: dict[Element, Data],
) -> Verdict:
    """Only who is in one of some networks gets through."""
    name = f"from-{hashlib.blake2s(repr((sources, verdict)).encode(), digest_size=8).hexdigest()}"
    ranges = f"{name}-ranges"
    sets[ranges] = Set((4,), ranges=True)
    elements |= range_elements(ranges, sources)
    chains[name] = Chain(((In((Field.SOURCE,), ranges), verdict), (DROP,)))
    return goto(name)


Datagrams = dict[bytes, frozenset[tuple[bytes, int]]]
"""Address and port of the places behind a socket, by its key."""


def datagram_places(plan: Mapping[Socket, Target]) -> Datagrams:
    """The places of sockets of UDP."""
    return {
        socket_key(one): frozenset((address(e.ip), e.port) for e in (*target.endpoints, *target.for_pods))
        for one, target in plan.items()
        if one.protocol == UDP and target.health is None
    }


def is_lost(flow: Flow, lost: Datagrams) -> bool:
    """Whether a flow to a socket goes where that has no place any more."""
    if flow.protocol != PROTOCOLS[UDP]:
        return False
    places = lost.get(key(flow.destination, flow.protocol, port(flow.port)))
    return places is not None and (flow.to, flow.to_port) not in places
