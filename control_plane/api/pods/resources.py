"""Effective requests and limits of a pod.

What a pod needs is what its containers and sidecars need together, or what one init container needs beside the sidecars
before it, if that is more. Amounts given for the pod as a whole (spec.resources) stand in place of that sum, the
overhead of its runtime class comes on top. While a pod is being resized in place, what counts is the most of what is
asked for (spec), what the node has set aside (allocated) and what is in force (actuated), so that a node is never
overcommitted in between; what the node has called infeasible is not asked for.

Source: KEP-753 (sidecar containers: resources), KEP-2837 (pod-level resources), KEP-1287 and KEP-5419 (in-place resize
of containers and of pods), concepts "Pod Overhead".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import Quantity, QuantityLike, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import Container, Spec, is_sidecar

Amounts = dict[str, Quantity]
"""Quantities by the name of their resource."""
_Of = Callable[[Container], Mapping[str, QuantityLike]]

HUGE_PAGES = "hugepages-"
COMPUTE = frozenset({"cpu", "memory"})
"""What every container uses, and a pod as a whole can be given."""


def container_requests(container: Container) -> Mapping[str, QuantityLike]:
    """What one container asks for, as written."""
    return (container.get("resources") or {}).get("requests") or {}


def container_limits(container: Container) -> Mapping[str, QuantityLike]:
    """What one container may use at most, as written."""
    return (container.get("resources") or {}).get("limits") or {}


def pod_requests(
    pod: Object,
    *,
    absent: Mapping[str, Quantity] | None = None,
    overhead: bool = True,
    reported: bool = True,
) -> Amounts:
    """What the pod needs of a node. Raises QuantityError when an amount is none.

    `absent` stands for what a container does not ask for. Without `reported` the status has no say (KEP-1287).
    """
    spec = pod.get("spec") or {}
    report = _Report.of(pod) if reported else None
    total = _together(spec, _filled(container_requests, absent))
    if report is not None:
        total = report.requests(spec, total, absent)
    if pod_level := _pod_level(spec, "requests"):
        if report is not None:
            pod_level = report.pod_requests(spec, pod_level)
        total.update(pod_level)
    if overhead and spec.get("overhead"):
        _add(total, spec["overhead"])
    return total


def pod_limits(pod: Object, *, overhead: bool = True, reported: bool = True) -> Amounts:
    """What the pod may use at most, for the resources that are limited. Overhead adds to limits that are not zero."""
    spec = pod.get("spec") or {}
    report = _Report.of(pod) if reported else None
    total = _together(spec, container_limits)
    if report is not None:
        total = report.limits(spec, total)
    if has_pod_level(spec):
        pod_level = _pod_level(spec, "limits")
        if report is not None:
            pod_level = report.pod_limits(spec, pod_level)
        total.update(pod_level)
    if overhead and spec.get("overhead"):
        _add(total, {name: more for name, more in spec["overhead"].items() if name in total and total[name].nano})
    return total


def resource_facts(pod: Object) -> tuple[Any, ...]:
    """All that requests and limits follow from, comparable and made of JSON."""
    spec = pod.get("spec") or {}
    return (
        [one.get("resources") for one in spec.get("containers") or ()],
        [(one.get("resources"), one.get("restartPolicy")) for one in spec.get("initContainers") or ()],
        spec.get("resources"),
        spec.get("overhead"),
        report_of(pod),
    )


def resources_changed(old: Object, new: Object) -> bool:
    """True when a change of a pod can matter to its effective requests."""
    return resource_facts(old) != resource_facts(new)


# --- pod-level resources ------------------------------------------------------------------------


def is_pod_level(resource: str) -> bool:
    """Whether a pod as a whole can be given an amount of it (KEP-2837)."""
    return resource in COMPUTE or resource.startswith(HUGE_PAGES)


def has_pod_level(spec: Spec) -> bool:
    """Whether the pod as a whole has requests or limits of its own."""
    resources = spec.get("resources") or {}
    return any(is_pod_level(name) for section in ("requests", "limits") for name in resources.get(section) or ())


def pod_level_requests(spec: Spec) -> Mapping[str, QuantityLike]:
    """What the pod as a whole requests of its own."""
    return (spec.get("resources") or {}).get("requests") or {}


def has_pod_level_requests(spec: Spec) -> bool:
    return any(is_pod_level(name) for name in pod_level_requests(spec))


def _pod_level(spec: Spec, section: str) -> Amounts:
    resources = spec.get("resources")
    if not resources:
        return {}
    return _supported(resources.get(section))


def _supported(amounts: Mapping[str, QuantityLike] | None) -> Amounts:
    return {name: parse(amount) for name, amount in (amounts or {}).items() if is_pod_level(name)}


# --- containers together ------------------------------------------------------------------------


def _together(spec: Spec, of: _Of) -> Amounts:
    """The sum over containers and sidecars, at least what each init container needs in its turn."""
    total: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, of(container))
    inits = spec.get("initContainers")
    if not inits:
        return total
    started: Amounts = {}  # the sidecars that run by now
    most: Amounts = {}
    for container in inits:
        needs = of(container)
        if is_sidecar(container):
            _add(total, needs)
            _add(started, needs)
            _raise(most, started)
        else:
            turn: Amounts = {}
            _add(turn, needs)
            _add(turn, started)
            _raise(most, turn)
    _raise(total, most)
    return total


def _filled(read: _Of, absent: Mapping[str, Quantity] | None) -> _Of:
    return read if not absent else lambda container: {**absent, **read(container)}


def _parsed(amounts: Mapping[str, QuantityLike]) -> Amounts:
    return {name: parse(amount) for name, amount in amounts.items()}


def _add(into: Amounts, more: Mapping[str, QuantityLike]) -> None:
    for name, written in more.items():
        amount, known = parse(written), into.get(name)
        into[name] = amount if known is None else known + amount


def _raise(into: Amounts, other: Mapping[str, Quantity]) -> None:
    """Each amount becomes the greater one."""
    for name, amount in other.items():
        known = into.get(name)
        if known is None or amount.nano > known.nano:
            into[name] = amount


# --- in-place resize ----------------------------------------------------------------------------


def report_of(pod: Object) -> tuple[Any, ...] | None:
    """What the status says that matters to effective requests and limits, comparable; None when nothing.

    Nodes report the resources of every pod; those that are what the spec says matter to nobody.
    """
    status = pod.get("status")
    if not status:
        return None
    pending = meta.get_condition(status.get("conditions"), "PodResizePending")
    infeasible = pending is not None and pending.get("reason") == "Infeasible"
    containers = [
        (one.get("name"), one.get("allocatedResources"), one.get("resources"))
        for field in ("initContainerStatuses", "containerStatuses")
        for one in status.get(field) or ()
        if "allocatedResources" in one or "resources" in one
    ]
    allocated, actuated = status.get("allocatedResources"), status.get("resources")
    if not infeasible and _is_as_asked(meta.spec(pod), allocated, actuated, containers):
        return None
    return infeasible, allocated, actuated, containers


def _is_as_asked(spec: Spec, allocated: Any, actuated: Any, containers: list[tuple[Any, Any, Any]]) -> bool:
    if not (containers or allocated is not None or actuated is not None):
        return True
    asked = {c.get("name"): c.get("resources") for f in ("containers", "initContainers") for c in spec.get(f) or ()}
    asked[None] = spec.get("resources")
    for name, set_aside, in_force in (*containers, (None, allocated, actuated)):
        own, now = asked.get(name) or {}, in_force or {}
        told = (("requests", set_aside), ("requests", now.get("requests")), ("limits", now.get("limits")))
        if any(amounts is not None and amounts != (own.get(part) or {}) for part, amounts in told):
            return False
    return True


def reported(set_aside: Mapping[str, Any] | None, in_force: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a container's status says of its resources: those set aside for it on its node, and those of its run."""
    requests = (set_aside or {}).get("requests")
    found = {part: amounts for part, amounts in (in_force or {}).items() if part in ("limits", "requests") and amounts}
    return ({"allocatedResources": requests} if requests else {}) | ({"resources": found} if found else {})


class _Report:
    """A node's word on a pod that is or was being resized."""

    __slots__ = ("_actuated", "_allocated", "_containers", "_infeasible")

    def __init__(self, infeasible: bool, allocated: Any, actuated: Any, containers: list[tuple[Any, Any, Any]]) -> None:
        self._infeasible = infeasible
        self._allocated: Mapping[str, QuantityLike] | None = allocated
        self._actuated: Mapping[str, Any] | None = actuated
        self._containers = {name: (set_aside, in_force) for name, set_aside, in_force in containers}

    @staticmethod
    def of(pod: Object) -> _Report | None:
        found = report_of(pod)
        return None if found is None else _Report(*found)

    def requests(self, spec: Spec, asked: Amounts, absent: Mapping[str, Quantity] | None) -> Amounts:
        in_force = (self._actuated or {}).get("requests")
        if self._allocated is not None and in_force is not None:
            return self._most(asked, _parsed(self._allocated), _parsed(in_force))
        allocated = _together(spec, _filled(self._container_allocated, absent))
        return self._most(asked, allocated, _together(spec, _filled(self._container_actuated, absent)))

    def limits(self, spec: Spec, asked: Amounts) -> Amounts:
        in_force = (self._actuated or {}).get("limits")
        if in_force is not None:
            return self._most(asked, _parsed(in_force))
        return self._most(asked, _together(spec, self._container_limits))

    def pod_requests(self, spec: Spec, asked: Amounts) -> Amounts:
        if self._allocated is None and self._actuated is None:
            return asked
        allocated, in_force = self._allocated or {}, (self._actuated or {}).get("requests") or {}
        return self._most_of_pod(spec, asked, allocated, in_force)

    def pod_limits(self, spec: Spec, asked: Amounts) -> Amounts:
        if self._actuated is None:
            return asked
        return self._most_of_pod(spec, asked, self._actuated.get("limits") or {})

    def _most_of_pod(self, spec: Spec, asked: Amounts, *known: Mapping[str, QuantityLike]) -> Amounts:
        """What nodes report of a pod holds its overhead, what is asked for does not."""
        over = _parsed(spec.get("overhead") or {})
        return self._most(asked, *({n: _without(q, over.get(n)) for n, q in _supported(k).items()} for k in known))

    def _most(self, asked: Amounts, *known: Amounts) -> Amounts:
        total = {} if self._infeasible else dict(asked)
        for amounts in known:
            _raise(total, amounts)
        return total

    def _container_allocated(self, container: Container) -> Mapping[str, QuantityLike]:
        allocated, _ = self._containers.get(container.get("name"), (None, None))
        return self._asked(container_requests(container)) if allocated is None else allocated

    def _container_actuated(self, container: Container) -> Mapping[str, QuantityLike]:
        _, in_force = self._containers.get(container.get("name"), (None, None))
        requests = (in_force or {}).get("requests")
        return self._container_allocated(container) if requests is None else requests

    def _container_limits(self, container: Container) -> Mapping[str, QuantityLike]:
        _, in_force = self._containers.get(container.get("name"), (None, None))
        limits = (in_force or {}).get("limits")
        return self._asked(container_limits(container)) if limits is None else limits

    def _asked(self, amounts: Mapping[str, QuantityLike]) -> Mapping[str, QuantityLike]:
        return {} if self._infeasible else amounts


def _without(amount: Quantity, overhead: Quantity | None) -> Quantity:
    if overhead is None:
        return amount
    return Quantity(max(0, amount.nano - overhead.nano), amount.format)


# --- whole numbers ------------------------------------------------------------------------------


def whole(resource: str, amount: QuantityLike) -> int:
    """Thousandths of a core for cpu, whole units for all else, rounded up."""
    found = parse(amount)
    return found.milli if resource == "cpu" else found.value
