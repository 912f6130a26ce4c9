"""EndpointSlices of Services with a selector.

One set of slices for each address family of the service. `trafficDistribution` puts hints on ready endpoints: their own
zone, and for PreferSameNode their node too; with the annotation `service.kubernetes.io/topology-mode: Auto` zones share
endpoints out instead (`zone_shares`). Slices of others (by label) are never touched.

State: the CPUs of zones, from the nodes seen; and the hints that zones have of which service, so that those are looked
at again whose hints the nodes have outgrown. Both are made anew from the first look at everything.
Source: Kubernetes API reference discovery/v1 EndpointSlice; KEP-752, KEP-2433, KEP-4444, KEP-3015.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, Event
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
    spec_or_meta_changed,
)
from rayplane.control_plane.controllers.service_targets import (
    HEADLESS,
    Target,
    families_of,
    is_headless,
    is_managed,
    pod_target_changed,
    services_of_pod,
    targets_of,
)
from rayplane.control_plane.controllers.slice_packing import (
    MANAGED_BY,
    SERVICE_NAME,
    SLICES,
    Endpoint,
    Group,
    Packing,
    group_of,
    is_told_otherwise,
    pack,
    writes,
)
from rayplane.control_plane.controllers.zone_shares import (
    NoShares,
    Slices,
    ZoneCpus,
    is_overloaded,
    part_of,
    share_out,
)

MANAGER = "endpointslice-controller.k8s.io"
MOST_ENDPOINTS = 100
MISSING_NODE_RETRY_S = 1.0
_RESERVED = frozenset({SERVICE_NAME, MANAGED_BY, HEADLESS})
_DISTRIBUTIONS = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})
# Either annotation set to "Auto" has zones share endpoints out, whatever the service says of its traffic else.
_TOPOLOGY_MODES = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")


def slice_keys(o: Object, _view: View) -> Iterable[str]:
    """The service that a slice says it is of."""
    name = meta.labels(o).get(SERVICE_NAME)
    return (f"{meta.namespace(o)}/{name}",) if name else ()


def slices_of(view: View, namespace: str, service: str, manager: str) -> list[Object]:
    """Slices of a service that `manager` keeps, in the order of their names."""
    labelled = view.indexed(SLICES, "label", f"{namespace}/{SERVICE_NAME}={service}")
    ours = [s for s in labelled if meta.labels(s).get(MANAGED_BY) == manager and not meta.is_deleting(s)]
    return sorted(ours, key=meta.name)


class EndpointSliceController(BaseController):
    name = "endpointslice"
    component = "endpoint-slice-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self._zones = ZoneCpus()
        self._hinted: dict[str, dict[str, dict[str, int]]] = {}
        """By service and address family: how many hints there are for each zone."""
        self.watches = (
            Watch("services", own_key, changed=spec_or_meta_changed),
            Watch("pods", services_of_pod, delay_s=coalesce_s, changed=pod_target_changed),
            Watch(SLICES, slice_keys, delay_s=coalesce_s),
            Watch("nodes", self._outgrown, changed=lambda old, new: part_of(old) != part_of(new)),
        )

    def _outgrown(self, node: Object, view: View) -> Iterable[str]:
        """Services whose hints leave a zone too few endpoints, as nodes are now."""
        self._zones.put(meta.name(node), view.get("nodes", "", meta.name(node)))
        if not self._hinted:
            return ()
        shares = self._zones.shares()
        return [k for k, families in self._hinted.items() if any(is_overloaded(h, shares) for h in families.values())]

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        space, name = meta.split_key(key)
        service = view.get("services", space, name)
        slices = slices_of(view, space, name, MANAGER)
        if service is None:
            self._hinted.pop(key, None)
            return result([Delete(SLICES, s) for s in slices])
        # Who takes a service's selector away keeps the endpoints, to write them by hand from there on.
        if not is_managed(service) or meta.is_deleting(service):
            return NOTHING
        ours = [s for s in slices if _is_owned(s, service)]
        strangers = [Delete(SLICES, s) for s in slices if not _is_owned(s, service)]
        labels = _labels(service)
        packings: dict[Group, Packing] = {}
        waits = False
        events: list[Event] = []
        for family in families_of(service):
            targets = targets_of(service, view, family)
            known = [t for t in targets if t.placed or meta.spec(service).get("publishNotReadyAddresses")]
            waits = waits or len(known) < len(targets)
            packed = _packed(service, family, known, slices=ours, labels=labels)
            events += self._share_out(service, family, packed.values(), labels)
            packings |= packed
        self._forget(key, families_of(service))
        # Groups of ports that no pod has now, families that the service has no more.
        for one in ours:
            if group_of(one) not in packings:
                packings.setdefault(group_of(one), Packing()).emptied.append(one)
        text = f"Error updating Endpoint Slices for Service {key}: {{error}}"
        failed = Event(service, "Warning", "FailedToUpdateEndpointSlices", text)
        steps = writes(service, packings, labels=labels, failed=failed)
        return result([*strangers, *steps, *events], requeue_after=MISSING_NODE_RETRY_S if waits else None)

    def _forget(self, key: str, families: Sequence[str]) -> None:
        """Leave out families that a service has no more."""
        hinted = self._hinted.get(key, {})
        for family in hinted.keys() - set(families):
            del hinted[family]
        if key in self._hinted and not hinted:
            del self._hinted[key]

    def _share_out(
        self, service: Object, family: str, packings: Iterable[Packing], labels: dict[str, str]
    ) -> Iterable[Event]:
        """Put hints on endpoints as zones share them out, if the service wants that; what its users are told."""
        key = meta.key(service)
        hinted = self._hinted.get(key, {})
        if not _shares_by_zone(service):
            if self._hinted.pop(key, None):
                yield _told(service, family, "Topology Aware Hints has been disabled", enabled=False)
            return
        slices = Slices()
        for packing in packings:
            slices.written += packing.fresh
            for one, members in packing.kept:
                changes = members != (one.get("endpoints") or []) or is_told_otherwise(one, labels)
                (slices.written if changes else slices.untouched).append(members)
        try:
            found = share_out(slices, self._zones.shares())
        except NoShares as e:
            hinted.pop(family, None)
            if not hinted:
                self._hinted.pop(key, None)
            yield _told(service, family, str(e), enabled=False)
            return
        if not hinted:
            yield _told(service, family, "Topology Aware Hints has been enabled", enabled=True)
        self._hinted.setdefault(key, {})[family] = found


def _told(service: Object, family: str, text: str, *, enabled: bool) -> Event:
    kind, reason = ("Normal", "TopologyAwareHintsEnabled") if enabled else ("Warning", "TopologyAwareHintsDisabled")
    return Event(service, kind, reason, f"{text}, addressType: {family}")


def _packed(
    service: Object, family: str, targets: Sequence[Target], *, slices: Sequence[Object], labels: dict[str, str]
) -> dict[Group, Packing]:
    wanted: dict[Group, dict[str, Endpoint]] = {}
    before = {}
    if _shares_by_zone(service):
        before = {_pod_of(e): e for s in slices if group_of(s)[0] == family for e in s.get("endpoints") or ()}
    for target in targets:
        if target.ports or is_headless(service):
            uid = meta.uid(target.pod)
            wanted.setdefault((family, target.ports), {})[uid] = _endpoint(service, target, before.get(uid))
    if not wanted:
        # A service without endpoints still shows one (empty) slice of each family.
        empty = [s for s in slices if group_of(s)[0] == family]
        return {(family, ()): Packing(emptied=empty, fresh=[[]])}
    return {
        group: pack(
            [s for s in slices if group_of(s) == group],
            endpoints,
            identity=_pod_of,
            is_stale=lambda s: is_told_otherwise(s, labels),
            most=MOST_ENDPOINTS,
        )
        for group, endpoints in wanted.items()
    }


def _pod_of(endpoint: Endpoint) -> str:
    return (endpoint.get("targetRef") or {}).get("uid") or ""


def _is_owned(one: Object, service: Object) -> bool:
    """Not so for those that an earlier service of the same name has left."""
    return any(ref.get("uid") == meta.uid(service) for ref in meta.metadata(one).get("ownerReferences") or ())


def _endpoint(service: Object, target: Target, before: Endpoint | None = None) -> Endpoint:
    """`before`: the same as it was, whose hints it has for now."""
    found: Endpoint = {
        "addresses": [target.address],
        "conditions": {
            "ready": target.ready,
            "serving": target.serving,
            "terminating": target.terminating,
        },
        "targetRef": target.reference,
    }
    if target.hostname:
        found["hostname"] = target.hostname
    if target.node:
        found["nodeName"] = target.node
    if target.zone:
        found["zone"] = target.zone
    hints = (before or {}).get("hints") if target.ready else None
    hints = hints or _hints(service, target)
    if hints:
        found["hints"] = hints
    return found


def _hints(service: Object, target: Target) -> dict[str, list[dict[str, str]]]:
    """Where the endpoint's traffic should come from."""
    distribution = meta.spec(service).get("trafficDistribution")
    if not target.ready or distribution not in _DISTRIBUTIONS or _shares_by_zone(service):
        return {}
    hints = {}
    if target.zone:
        hints["forZones"] = [{"name": target.zone}]
    if target.node and distribution == "PreferSameNode":
        hints["forNodes"] = [{"name": target.node}]
    return hints


def _shares_by_zone(service: Object) -> bool:
    notes = meta.annotations(service)
    mode = next((notes[name] for name in _TOPOLOGY_MODES if name in notes), "")
    return mode in ("Auto", "auto")


def _labels(service: Object) -> dict[str, str]:
    labels = {k: v for k, v in meta.labels(service).items() if k not in _RESERVED}
    labels |= {SERVICE_NAME: meta.name(service), MANAGED_BY: MANAGER}
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels
