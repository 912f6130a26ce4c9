"""Evictions of pods whose devices have NoExecute taints that the pods' claims do not tolerate, or not for longer.

Taints stand in ResourceSlices, where drivers say them, and in DeviceTaintRules, where administrators do. A claim's time
runs from when the taint was added. A key is one claim.
A key of the form `/NAME` is a rule, whose status says how far the evictions are.
Source: Kubernetes concepts "Dynamic Resource Allocation" (device taints and tolerations, KEP-5055).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active
from rayplane.control_plane.api.taints import NO_EXECUTE, tolerates
from rayplane.control_plane.controllers.actions import (
    Action,
    Delete,
    Event,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
    soonest,
)
from rayplane.control_plane.controllers.devicetaintrules import IN_PROGRESS, NO_EFFECT, PERIOD_S, condition, selects
from rayplane.control_plane.controllers.tainteviction import disrupted

SLICES, RULES = "resourceslices.resource.k8s.io", "devicetaintrules.resource.k8s.io"
EVICTION = "DeviceTaintManagerEviction"
EVICTED_MAX = 1 << 16
"""Pods that are counted for one rule."""
_MARK = "Device Taint manager: deleting due to NoExecute taint"
Taint = Mapping[str, Any]
Device = Mapping[str, Any]


def _results(claim: Object) -> list[Device]:
    """The devices that a claim has."""
    devices = (meta.status(claim).get("allocation") or {}).get("devices") or {}
    return list(devices.get("results") or ())


def _allocation_changed(old: Object, new: Object) -> bool:
    before, after = meta.status(old), meta.status(new)
    return any(before.get(field) != after.get(field) for field in ("allocation", "reservedFor"))


def _claims_of_slice(pool: Object, view: View) -> Iterable[str]:
    """Claims with a device of the slice's pool: also those that lose a taint."""
    spec = meta.spec(pool)
    where = (spec.get("driver"), (spec.get("pool") or {}).get("name"))
    return [
        meta.key(claim)
        for claim in view.list(CLAIMS)
        if any((one.get("driver"), one.get("pool")) == where for one in _results(claim))
    ]


def _of_rule(rule: Object, view: View) -> Iterable[str]:
    """The rule, and all that it may be about."""
    return [f"/{meta.name(rule)}", *(meta.key(claim) for claim in view.list(CLAIMS) if _results(claim))]


def _of_claim(claim: Object, view: View) -> Iterable[str]:
    """The claim, and the rules on account of which its pods have to go."""
    rules = [rule for rule in view.list(RULES) if _effect(rule) == NO_EXECUTE]
    return [
        meta.key(claim),
        *(f"/{meta.name(rule)}" for rule in rules if any(selects(rule, d) for d in _results(claim))),
    ]


def _effect(rule: Object) -> Any:
    return (meta.spec(rule).get("taint") or {}).get("effect")


class DeviceTaintEvictionController(BaseController):
    name = "device-taint-eviction"
    component = "device-taint-eviction"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self._doomed: dict[str, dict[str, Object]] = {}
        """Pods whose time runs, by their claim and key: they are told when it does no longer."""
        self._evicted: dict[str, set[str]] = {}
        """Uids of pods that went on account of a rule, by its uid."""
        self.watches = (
            Watch(CLAIMS, _of_claim, changed=_allocation_changed),
            Watch(SLICES, _claims_of_slice, delay_s=coalesce_s, changed=_tainted_otherwise),
            Watch(RULES, _of_rule, changed=lambda old, new: meta.spec(old) != meta.spec(new)),
            Watch("pods", None),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        if key.startswith("/"):
            return self._of_rule(key.removeprefix("/"), view, now)
        before = self._doomed.pop(key, {})
        claim = view.get(CLAIMS, *meta.split_key(key))
        left = _time_left(claim, view, now) if claim is not None else None
        pods = _consumers(claim, view) if claim is not None and left is not None else []
        steps: list[Action] = []
        deletes: list[Action] = []
        for pod in pods if left == 0 else ():
            text = f"Marking for deletion Pod {meta.key(pod)}"
            steps.append(disrupted(pod, "DeletionByDeviceTaintManager", _MARK, now))
            deletes.append(Delete("pods", pod, done=Event(pod, "Normal", EVICTION, text)))
        if left == 0 and claim is not None:
            self._count(claim, pods, view, now)
        if left:
            self._doomed[key] = {meta.key(pod): pod for pod in pods}
        going = {meta.key(pod) for pod in pods}
        for name, pod in before.items():
            current = view.get("pods", meta.namespace(pod), meta.name(pod))
            if name not in going and current is not None and meta.uid(current) == meta.uid(pod):
                steps.append(Event(pod, "Normal", EVICTION, f"Cancelling deletion of Pod {name}"))
        if not steps and not deletes and left is None:
            return NOTHING
        return result(steps, deletes, requeue_after=soonest(left or None))

    def _count(self, claim: Object, pods: Iterable[Object], view: View, now: Moment) -> None:
        """These pods go on account of the rules whose time is over."""
        for rule in view.list(RULES):
            if _effect(rule) == NO_EXECUTE and _rule_left(rule, claim, now) == 0:
                went = self._evicted.setdefault(meta.uid(rule), set())
                if len(went) < EVICTED_MAX:
                    went.update(map(meta.uid, pods))

    def _of_rule(self, name: str, view: View, now: Moment) -> Result:
        rule = view.get(RULES, "", name)
        known = {meta.uid(one) for one in view.list(RULES)}
        self._evicted = {uid: pods for uid, pods in self._evicted.items() if uid in known}
        if rule is None:
            return NOTHING
        old: Mapping[str, Any] = meta.get_condition(rule, IN_PROGRESS) or {}
        is_current = old.get("observedGeneration") == meta.metadata(rule).get("generation")
        wait = PERIOD_S - now.seconds_since(old.get("lastTransitionTime"))
        if is_current and _effect(rule) == NO_EFFECT:
            return NOTHING
        if is_current and wait > 0:
            return result(requeue_after=wait)
        pods, allocated = _pending(rule, view, now)
        told = condition(rule, pods, len(self._evicted.get(meta.uid(rule), ())), _published(rule, view), allocated)
        if all(old.get(field) == value for field, value in told.items()):
            return result(requeue_after=PERIOD_S if pods else None)
        others = [one for one in meta.status(rule).get("conditions") or () if one.get("type") != IN_PROGRESS]
        status = {**meta.status(rule), "conditions": [*others, {**told, "lastTransitionTime": now.stamp}]}
        return result([UpdateStatus(RULES, {**rule, "status": status})], requeue_after=PERIOD_S if pods else None)


def _rule_left(rule: Object, claim: Object, now: Moment) -> float | None:
    """Seconds until a claim's pods would have to go, were the rule's effect NoExecute; None for never."""
    taint = {**(meta.spec(rule).get("taint") or {}), "effect": NO_EXECUTE}
    return soonest(*(_tolerated(device, taint, now) for device in _results(claim) if selects(rule, device)))


def _pending(rule: Object, view: View, now: Moment) -> tuple[list[Object], int]:
    """Pods that have to go on account of a rule, or would, and the devices of claims that it selects."""
    pods: dict[str, Object] = {}
    devices = 0
    for claim in view.list(CLAIMS):
        selected = sum(selects(rule, device) for device in _results(claim))
        devices += selected
        if selected and _rule_left(rule, claim, now) is not None:
            pods |= {meta.key(pod): pod for pod in _consumers(claim, view) if not meta.is_deleting(pod)}
    return [*pods.values()], devices


def _published(rule: Object, view: View) -> int:
    """Devices of slices that a rule selects."""
    found = 0
    for one in view.list(SLICES):
        spec = meta.spec(one)
        where = {"driver": spec.get("driver"), "pool": (spec.get("pool") or {}).get("name")}
        found += sum(selects(rule, {**where, "device": device.get("name")}) for device in spec.get("devices") or ())
    return found


def _tainted_otherwise(old: Object, new: Object) -> bool:
    return meta.spec(old) != meta.spec(new)


def _consumers(claim: Object, view: View) -> list[Object]:
    """The pods that use a claim now."""
    found = []
    for one in meta.status(claim).get("reservedFor") or ():
        pod = view.get("pods", meta.namespace(claim), one.get("name") or "")
        if one.get("resource") == "pods" and pod is not None and meta.uid(pod) == one.get("uid") and pod_is_active(pod):
            found.append(pod)
    return sorted(found, key=meta.key)


def _time_left(claim: Object, view: View, now: Moment) -> float | None:
    """Seconds until the claim's pods have to go; None for never."""
    left: float | None = None
    for device in _results(claim):
        for taint in _taints(device, view):
            if taint.get("effect") == NO_EXECUTE:
                left = soonest(left, _tolerated(device, taint, now))
    return left


def _tolerated(device: Device, taint: Taint, now: Moment) -> float | None:
    """Seconds for which a claim bears a taint of its device; None for ever."""
    fitting = [one for one in device.get("tolerations") or () if tolerates(one, taint)]
    if not fitting:
        return 0.0
    spans = [float(one["tolerationSeconds"]) for one in fitting if one.get("tolerationSeconds") is not None]
    if not spans:
        return None
    return max(0.0, min(spans) - now.seconds_since(taint.get("timeAdded") or now.stamp))


def _taints(device: Device, view: View) -> Iterator[Taint]:
    """All that is said against a device: by its driver, and by administrators."""
    driver, pool, name = (device.get(field) for field in ("driver", "pool", "device"))
    for one in view.list(SLICES):
        spec = meta.spec(one)
        if (spec.get("driver"), (spec.get("pool") or {}).get("name")) == (driver, pool):
            for known in spec.get("devices") or ():
                if known.get("name") == name:
                    yield from known.get("taints") or ()
    for rule in view.list(RULES):
        if meta.spec(rule).get("taint") and selects(rule, device):
            yield meta.spec(rule)["taint"]
