"""Requests, limits and quality of service of a pod, written a second time: slowly, resource by resource.

Amounts are fractions. A time line is drawn up of who runs when, and the greatest moment of it is what counts; nothing
is shared with the code under test.

Source: KEP-753 "Resources calculation for scheduling and pod admission", KEP-2837, KEP-1287 "Resource quota" and
"Scheduler and kubelet", concepts "Pod Quality of Service Classes" and "Pod Overhead".
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

_FACTORS: dict[str, int | Fraction] = {
    "": 1,
    "m": Fraction(1, 1000),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
}
Amount = Fraction | None
"""None where nothing was said, which is not the same as zero."""
Get = Callable[[dict[str, Any]], Amount]


def number(text: Any) -> Amount:
    if text is None:
        return None
    digits = str(text).rstrip("mkMKiG")
    return Fraction(digits) * _FACTORS[str(text)[len(digits) :]]


def _plus(*amounts: Amount) -> Amount:
    said = [a for a in amounts if a is not None]
    return sum(said, Fraction(0)) if said else None


def _most(*amounts: Amount) -> Amount:
    said = [a for a in amounts if a is not None]
    return max(said) if said else None


def _moments(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Who runs together: each init container in its turn beside the sidecars before it; at last all that last."""
    found: list[list[dict[str, Any]]] = []
    running: list[dict[str, Any]] = []
    for one in spec.get("initContainers", []):
        found.append([*running, one])
        if one.get("restartPolicy") == "Always":
            running.append(one)
    return [*found, [*running, *spec["containers"]]]


def _peak(spec: dict[str, Any], get: Get) -> Amount:
    return _most(*(_plus(*map(get, together)) for together in _moments(spec)))


def _given(holder: dict[str, Any] | None, *path: str) -> Any:
    for step in path:
        holder = (holder or {}).get(step)
    return holder


def _pod_wide(resource: str) -> bool:
    return resource in ("cpu", "memory") or "hugepages" in resource


def _pod_wide_said(spec: dict[str, Any], *sections: str) -> bool:
    return any(_pod_wide(name) for s in sections for name in _given(spec, "resources", s) or {})


class Status:
    """What a node says of a pod that is being resized."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        parts = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
        self.of = {one["name"]: one for one in parts}
        pending = [c for c in status.get("conditions", []) if c["type"] == "PodResizePending"]
        self.infeasible = bool(pending) and pending[0].get("reason") == "Infeasible"

    def set_aside(self, one: dict[str, Any], resource: str) -> Amount:
        amounts = _given(self.of.get(one["name"]), "allocatedResources")
        if amounts is None:
            amounts = {} if self.infeasible else _given(one, "resources", "requests") or {}
        return number(amounts.get(resource))

    def in_force(self, one: dict[str, Any], resource: str, section: str) -> Amount:
        amounts = _given(self.of.get(one["name"]), "resources", section)
        if amounts is not None:
            return number(amounts.get(resource))
        if section == "requests":
            return self.set_aside(one, resource)
        return None if self.infeasible else number(_given(one, "resources", "limits", resource))


def requests(pod: dict[str, Any], resource: str) -> Amount:
    spec, status = pod["spec"], Status(pod.get("status") or {})
    asked = _peak(spec, lambda c: number(_given(c, "resources", "requests", resource)))
    of_pod = status.status.get("allocatedResources"), _given(status.status, "resources", "requests")
    if None not in of_pod:
        known = [number(amounts.get(resource)) for amounts in of_pod if amounts is not None]
    else:
        known = [
            _peak(spec, lambda c: status.set_aside(c, resource)),
            _peak(spec, lambda c: status.in_force(c, resource, "requests")),
        ]
    total = _most(*known) if status.infeasible else _most(asked, *known)
    if _pod_wide_said(spec, "requests") and _pod_wide(resource):
        total = _instead(pod, status, total, resource, "requests")
    return _plus(total, number(_given(spec, "overhead", resource)))


def limits(pod: dict[str, Any], resource: str) -> Amount:
    spec, status = pod["spec"], Status(pod.get("status") or {})
    asked = _peak(spec, lambda c: number(_given(c, "resources", "limits", resource)))
    of_pod = _given(status.status, "resources", "limits")
    if of_pod is not None:
        known = number(of_pod.get(resource))
    else:
        known = _peak(spec, lambda c: status.in_force(c, resource, "limits"))
    total = known if status.infeasible else _most(asked, known)
    if _pod_wide_said(spec, "requests", "limits") and _pod_wide(resource):
        total = _instead(pod, status, total, resource, "limits")
    return _plus(total, number(_given(spec, "overhead", resource))) if total else total


def _instead(pod: dict[str, Any], status: Status, total: Amount, resource: str, section: str) -> Amount:
    """What the pod as a whole has been given goes before what its containers were given."""
    asked = number(_given(pod, "spec", "resources", section, resource))
    sources = [_given(status.status, "resources")]
    reports = [_given(status.status, "resources", section)]
    if section == "requests":
        sources.append(status.status.get("allocatedResources"))
        reports.append(status.status.get("allocatedResources"))
    if any(source is not None for source in sources):
        overhead = number(_given(pod, "spec", "overhead", resource)) or Fraction(0)
        known = [number((report or {}).get(resource)) for report in reports]
        known = [None if k is None else max(Fraction(0), k - overhead) for k in known]
        asked = _most(*known) if status.infeasible else _most(asked, *known)
    return total if asked is None else asked


def quality(spec: dict[str, Any]) -> str:
    """Of a spec after defaults."""
    holders = [*spec.get("initContainers", []), *spec["containers"]]
    each = [c.get("resources") or {} for c in holders] if spec.get("resources") is None else [spec["resources"]]

    def amount(part: dict[str, Any], section: str, resource: str) -> Fraction:
        return number((part.get(section) or {}).get(resource)) or Fraction(0)

    every = [(amount(p, "requests", r), amount(p, "limits", r)) for p in each for r in ("cpu", "memory")]
    if not any(request or limit for request, limit in every):
        return "BestEffort"
    return "Guaranteed" if all(request == limit and limit for request, limit in every) else "Burstable"
