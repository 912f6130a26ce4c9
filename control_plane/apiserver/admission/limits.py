"""LimitRanger: default requests and limits of containers, and the bounds set for a namespace."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.machinery.quantity import Quantity, QuantityLike, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import container_limits, container_requests, pod_limits, pod_requests
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

Given = Mapping[str, QuantityLike]
_ANNOTATION = "kubernetes.io/limit-ranger"


class LimitRanger:
    """Kubernetes' LimitRanger plugin for containers, pods and claims, on creation."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(creation_of("pods", "persistentvolumeclaims"))
    async def admit(self, request: AdmissionRequest) -> None:
        ranges = await self._lookup.list("limitranges", request.namespace)
        if not ranges:
            return
        limits = [limit for r in ranges for limit in (r.get("spec") or {}).get("limits") or ()]
        if request.creates("pods"):
            done = [text for r in ranges for text in _apply_defaults(request.object, r)]
            if done:
                annotations = request.object["metadata"].setdefault("annotations", {})
                annotations[_ANNOTATION] = "LimitRanger plugin set: " + "; ".join(done)
            errors = _pod_errors(request.object, limits)
        else:
            errors = _claim_errors(request.object, limits)
        if errors:
            text = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
            raise Forbidden.of(request.info.plural, request.shown_name, text)


def _containers(pod: Object) -> list[tuple[str, Object]]:
    spec = pod["spec"]
    found = [("container", c) for c in spec.get("containers") or ()]
    return found + [("init container", c) for c in spec.get("initContainers") or ()]


def _apply_defaults(pod: Object, limit_range: Object) -> list[str]:
    done = []
    for limit in (limit_range.get("spec") or {}).get("limits") or ():
        if limit.get("type") != "Container":
            continue
        for kind, container in _containers(pod):
            resources = container.setdefault("resources", {})
            for section, defaults, word in (
                ("requests", limit.get("defaultRequest") or limit.get("default"), "request"),
                ("limits", limit.get("default"), "limit"),
            ):
                for resource in sorted(defaults or ()):
                    given = resources.get(section) or {}
                    if resource in given:
                        continue
                    value = defaults[resource]
                    if section == "requests" and resource in (resources.get("limits") or {}):
                        # A limit of its own is also the container's request.
                        value = resources["limits"][resource]
                    resources[section] = {**given, resource: value}
                    done.append(f"{resource} {word} for {kind} {container.get('name')}")
    return done


def bound_errors(kind: str, limit: dict[str, Any], requests: Given, limits: Given) -> list[str]:
    """What of the requests and limits of one thing is out of bounds."""
    errors = []
    for resource, minimum in sorted((limit.get("min") or {}).items()):
        said = f"minimum {resource} usage per {kind} is {minimum}"
        errors += _within(said, resource, {"request": requests, "limit": limits}, least=parse(minimum))
    for resource, maximum in sorted((limit.get("max") or {}).items()):
        said = f"maximum {resource} usage per {kind} is {maximum}"
        errors += _within(said, resource, {"limit": limits, "request": requests}, most=parse(maximum))
    for resource, ratio in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        said = f"{resource} max limit to request ratio per {kind} is {ratio}"
        asked, bound = (parse(given.get(resource) or 0).nano for given in (requests, limits))
        if not asked:
            errors.append(f"{said}, but no request is specified or request is 0")
        elif not bound:
            errors.append(f"{said}, but no limit is specified or limit is 0")
        elif bound / asked > parse(ratio).nano / 10**9:
            errors.append(f"{said}, but provided ratio is {bound / asked:f}")
    return errors


def _within(
    said: str, resource: str, given: Mapping[str, Given], *, least: Quantity | None = None, most: Quantity | None = None
) -> list[str]:
    """What is wrong, at most one thing. Of `given` the first must be there; whatever is there must be within bounds."""
    for at, (side, quantities) in enumerate(given.items()):
        value = quantities.get(resource)
        if value is None:
            if at == 0:
                return [f"{said}.  No {side} is specified"]
        elif (least is not None and parse(value) < least) or (most is not None and parse(value) > most):
            return [f"{said}, but {side} is {value}"]
    return []


def _pod_errors(pod: Object, limits: list[dict[str, Any]]) -> list[str]:
    errors = []
    for limit in limits:
        if limit.get("type") == "Container":
            for _, container in _containers(pod):
                errors += bound_errors("Container", limit, container_requests(container), container_limits(container))
        elif limit.get("type") == "Pod":
            errors += bound_errors("Pod", limit, *_of_pod(pod))
    return errors


def _of_pod(pod: Object) -> tuple[Given, Given]:
    """Requests and limits of the pod as asked for: what its runtime adds, or a node reports, is not the user's."""
    return pod_requests(pod, overhead=False, reported=False), pod_limits(pod, overhead=False, reported=False)


def _claim_errors(claim: Object, limits: list[dict[str, Any]]) -> list[str]:
    given = {"request": (claim["spec"].get("resources") or {}).get("requests") or {}}
    errors = []
    for limit in limits:
        if limit.get("type") != "PersistentVolumeClaim":
            continue
        for resource, minimum in sorted((limit.get("min") or {}).items()):
            said = f"minimum {resource} usage per PersistentVolumeClaim is {minimum}"
            errors += _within(said, resource, given, least=parse(minimum))
        for resource, maximum in sorted((limit.get("max") or {}).items()):
            said = f"maximum {resource} usage per PersistentVolumeClaim is {maximum}"
            errors += _within(said, resource, given, most=parse(maximum))
    return errors
