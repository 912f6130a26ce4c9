"""LimitRanger: default requests and limits of containers, and the bounds set for a namespace."""

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.machinery.quantity import QuantityLike, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import container_limits, container_requests, pod_limits, pod_requests
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

Given = Mapping[str, QuantityLike]
_ANNOTATION = "kubernetes.io/limit-ranger"


class LimitRanger:
    """Kubernetes' LimitRanger plugin for containers, pods and claims, on creation."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def admit(self, request: AdmissionRequest) -> None:
        pod = request.creates("pods")
        if not pod and not request.creates("persistentvolumeclaims"):
            return
        ranges = await self._lookup.list("limitranges", request.namespace)
        if not ranges:
            return
        limits = [limit for r in ranges for limit in (r.get("spec") or {}).get("limits") or ()]
        if pod:
            done = [text for r in ranges for text in _apply_defaults(request.object, r)]
            if done:
                annotations = request.object["metadata"].setdefault("annotations", {})
                annotations[_ANNOTATION] = "LimitRanger plugin set: " + "; ".join(done)
            errors = _pod_errors(request.object, limits)
        else:
            errors = _claim_errors(request.object, limits)
        if errors:
            text = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
            raise Forbidden.of(request.info.plural, request.name, text)


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


def _bound_errors(kind: str, limit: dict[str, Any], requests: Given, limits: Given) -> list[str]:
    errors = []
    for resource, minimum in sorted((limit.get("min") or {}).items()):
        asked = requests.get(resource)
        if asked is None:
            errors.append(f"minimum {resource} usage per {kind} is {minimum}.  No request is specified")
        elif parse(asked) < parse(minimum):
            errors.append(f"minimum {resource} usage per {kind} is {minimum}, but request is {asked}")
    for resource, maximum in sorted((limit.get("max") or {}).items()):
        bound = limits.get(resource)
        if bound is None:
            errors.append(f"maximum {resource} usage per {kind} is {maximum}.  No limit is specified")
        elif parse(bound) > parse(maximum):
            errors.append(f"maximum {resource} usage per {kind} is {maximum}, but limit is {bound}")
    for resource, ratio in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        asked, bound = requests.get(resource), limits.get(resource)
        if asked is None or bound is None or parse(asked).nano == 0:
            errors.append(
                f"{resource} max limit to request ratio per {kind} is {ratio}, but no request or limit is given"
            )
        elif parse(bound).nano / parse(asked).nano > parse(ratio).nano / 10**9:
            actual = parse(bound).nano / parse(asked).nano
            errors.append(
                f"{resource} max limit to request ratio per {kind} is {ratio}, but provided ratio is {actual:f}"
            )
    return errors


def _pod_errors(pod: Object, limits: list[dict[str, Any]]) -> list[str]:
    errors = []
    for limit in limits:
        if limit.get("type") == "Container":
            for _, container in _containers(pod):
                errors += _bound_errors("Container", limit, container_requests(container), container_limits(container))
        elif limit.get("type") == "Pod":
            errors += _bound_errors("Pod", limit, *_of_pod(pod))
    return errors


def _of_pod(pod: Object) -> tuple[Given, Given]:
    """Requests and limits of the pod as asked for: what its runtime adds, or a node reports, is not the user's."""
    return pod_requests(pod, overhead=False, reported=False), pod_limits(pod, overhead=False, reported=False)


def _claim_errors(claim: Object, limits: list[dict[str, Any]]) -> list[str]:
    requests = (claim["spec"].get("resources") or {}).get("requests") or {}
    errors = []
    for limit in limits:
        if limit.get("type") == "PersistentVolumeClaim":
            errors += _bound_errors("PersistentVolumeClaim", {"min": limit.get("min")}, requests, {})
            bounded = {"max": limit.get("max")}
            errors += [
                e.replace("but limit is", "but request is")
                for e in _bound_errors("PersistentVolumeClaim", bounded, {}, requests)
            ]
    return errors
