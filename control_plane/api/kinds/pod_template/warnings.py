"""Warnings about pods and templates of pods: what works, but is deprecated, ignored or hardly meant.

Source: Kubernetes reference "Deprecated API Migration Guide", API reference of Pod; texts as its API server sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import quote
from rayplane.control_plane.api.kinds.pod_template.alike import judged_once
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse
from rayplane.control_plane.api.meta import Object

_NODE_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
_SECCOMP = 'non-functional in v1.27+; use the "seccompProfile" field instead'
_SECCOMP_OF_CONTAINERS = "container.seccomp.security.alpha.kubernetes.io/"
_APPARMOR_OF_CONTAINERS = "container.apparmor.security.beta.kubernetes.io/"
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "seccomp.security.alpha.kubernetes.io/pod": _SECCOMP,
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
VOLUMES = {
    "photonPersistentDisk": "non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageOS": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
"""Sources of volumes that do nothing any more, or soon."""
_NULL_SELECTOR = "a null labelSelector results in matching no pod"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
Warnings = Callable[[Object, Object | None], list[str]]


def warn_of_pod(pod: Object, old: Object | None) -> list[str]:
    """Warnings about a new pod; updates are mostly made by programs."""
    if old is not None:
        return []
    what = "this is used in the Pod's hostname, which can result in surprising behavior"
    return [*_of_name(pod, what), *_of_content(pod)]


@judged_once
def _of_content(pod: Object) -> list[str]:
    return [*_of_template(pod, "")]


def warn_of_template(*path: str, name: bool = True) -> Warnings:
    """Warnings about an object that makes pods of the template at `path`, and about its name where that goes on."""

    def warnings(obj: Object, old: Object | None) -> list[str]:
        if old is not None and old.get("spec") == obj.get("spec"):
            return []
        what = "this is used in Pod names and hostnames, which can result in surprising behavior"
        template: Any = obj
        for part in path:
            template = template.get(part) or {}
        found = list(_of_name(obj, what)) if name and old is None else []
        return [*found, *_of_template(template, ".".join(path) + ".")]

    return warnings


_BYTES = ("memory", "ephemeral-storage", "storage")


def fractional_bytes(resources: Mapping[str, Any], path: str, of: Sequence[str] = _BYTES) -> Iterator[str]:
    """Warnings about memory and storage that are no whole number of bytes."""
    for resource in of:
        value = resources.get(resource)
        if value is None:
            continue
        try:
            fraction = parse(value).nano % 1_000_000_000
        except QuantityError:
            continue
        if fraction:
            yield f"{path}[{resource}]: fractional byte value {quote(str(value))} is invalid, must be an integer"


def _of_name(obj: Object, what: str) -> Iterator[str]:
    own = (obj.get("metadata") or {}).get("name") or ""
    problems = names.label_errors(own) if own else []
    if problems:
        yield f"metadata.name: {what}; a DNS label is recommended: [{' '.join(problems)}]"


def _of_template(template: Mapping[str, Any], at: str) -> Iterator[str]:
    spec, annotations = template.get("spec") or {}, (template.get("metadata") or {}).get("annotations") or {}
    containers = [
        (f"{at}spec.{field}[{index}]", one)
        for field in _CONTAINERS
        for index, one in enumerate(spec.get(field) or ())
    ]  # fmt: skip
    yield from _of_node_labels(spec, f"{at}spec")
    yield from _of_annotations(annotations, f"{at}metadata.annotations")
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from old_sources(volume, f"{at}spec.volumes[{index}]")
    yield from _of_lists(spec, f"{at}spec")
    yield from fractional_bytes(spec.get("overhead") or {}, f"{at}spec.overhead")
    for path, container in containers:
        if at:
            yield from _of_profile(container, annotations, f"{at}metadata.annotations")
        yield from _of_container(container, path)
    yield from _of_ports(containers)
    seconds = spec.get("terminationGracePeriodSeconds")
    if seconds is not None and seconds < 0:
        text = "must be >= 0; negative values are invalid and will be treated as 1"
        yield f"{at}spec.terminationGracePeriodSeconds: {text}"
    yield from _of_pod_affinity(spec.get("affinity") or {}, f"{at}spec.affinity")


def _of_node_labels(spec: Mapping[str, Any], at: str) -> Iterator[str]:
    for key in spec.get("nodeSelector") or ():
        if key in _NODE_LABELS:
            yield f"{at}.nodeSelector[{key}]: {_NODE_LABELS[key]}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    where = f"{at}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    for index, term in enumerate(required.get("nodeSelectorTerms") or ()):
        yield from node_term(term, f"{where}[{index}]")
    where = f"{at}.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
    for index, one in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        yield from node_term(one.get("preference") or {}, f"{where}[{index}].preference")
    for index, spread in enumerate(spec.get("topologySpreadConstraints") or ()):
        where, key = f"{at}.topologySpreadConstraints[{index}]", spread.get("topologyKey")
        if key in _NODE_LABELS:
            yield f"{where}.topologyKey: {key} is {_NODE_LABELS[key]}"
        if spread.get("labelSelector") is None:
            yield f"{where}.labelSelector: {_NULL_SELECTOR}"


def node_term(term: Mapping[str, Any], path: str) -> Iterator[str]:
    """Warnings about labels of nodes that a node selector's term names."""
    for index, expression in enumerate(term.get("matchExpressions") or ()):
        key = expression.get("key")
        if key in _NODE_LABELS:
            yield f"{path}.matchExpressions[{index}].key: {key} is {_NODE_LABELS[key]}"


def _of_annotations(annotations: Mapping[str, str], at: str) -> Iterator[str]:
    for key, text in _ANNOTATIONS.items():
        if key in annotations:
            yield f"{at}[{key}]: {text}"
        if text is _SECCOMP:
            found = next((k for k in annotations if k.startswith(_SECCOMP_OF_CONTAINERS)), None)
            if found:
                yield f"{at}[{found}]: {text}"


def old_sources(volume: Mapping[str, Any], path: str) -> Iterator[str]:
    """Warnings about the source of a volume."""
    for source, text in VOLUMES.items():
        if volume.get(source) is not None:
            yield f"{path}.{source}: {text}"
    claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec")
    if claim:
        yield from of_claim(claim, f"{path}.ephemeral.volumeClaimTemplate.spec")


def of_claim(spec: Mapping[str, Any], path: str) -> Iterator[str]:
    """Warnings about the spec of a claim."""
    resources = spec.get("resources") or {}
    for section in ("requests", "limits"):
        yield from fractional_bytes(resources.get(section) or {}, f"{path}.resources.{section}")


def _of_lists(spec: Mapping[str, Any], at: str) -> Iterator[str]:
    yield from _repeated(spec.get("hostAliases") or (), "ip", f"{at}.hostAliases")
    secrets = spec.get("imagePullSecrets") or ()
    yield from _repeated(secrets, "name", f"{at}.imagePullSecrets")
    for index, secret in enumerate(secrets):
        if not secret.get("name"):
            yield f'{at}.imagePullSecrets[{index}].name: invalid empty name ""'


def _repeated(items: Sequence[Mapping[str, Any]], field: str, at: str) -> Iterator[str]:
    seen = set()
    for index, item in enumerate(items):
        value = item.get(field) or ""
        if value in seen:
            yield f"{at}[{index}].{field}: duplicate {field} {quote(value)}"
        seen.add(value)


def _of_profile(container: Mapping[str, Any], annotations: Mapping[str, str], at: str) -> Iterator[str]:
    key = f"{_APPARMOR_OF_CONTAINERS}{container.get('name')}"
    if key in annotations and not (container.get("securityContext") or {}).get("appArmorProfile"):
        yield f'{at}[{key}]: deprecated since v1.30; use the "appArmorProfile" field instead'


def _of_container(container: Mapping[str, Any], at: str) -> Iterator[str]:
    resources = container.get("resources") or {}
    for resource in _BYTES:
        for section in ("limits", "requests"):
            yield from fractional_bytes(resources.get(section) or {}, f"{at}.resources.{section}", (resource,))
    seen: set[str] = set()
    for index, variable in enumerate(container.get("env") or ()):
        name, value = variable.get("name") or "", variable.get("value") or ""
        reference = f"$({name})"
        hides = variable.get("valueFrom") is not None or value == reference or reference not in value
        if name in seen and hides:
            text = f"hides previous definition of {quote(name)}, which may be dropped when using apply"
            yield f"{at}.env[{index}]: {text}"
        seen.add(name)


def _of_ports(containers: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    seen: dict[tuple[Any, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for path, container in containers:
        for index, port in enumerate(container.get("ports") or ()):
            at = f"{path}.ports[{index}]"
            others = seen.setdefault((port.get("containerPort"), port.get("protocol") or "TCP"), [])
            for other_at, other in others:
                how = _clash(port, other)
                if how:
                    yield f"{at}: {how} port definition with {other_at}"
            others.append((at, port))


def _clash(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    addresses = one.get("hostIP") or "", other.get("hostIP") or ""
    ports = one.get("hostPort") or 0, other.get("hostPort") or 0
    if addresses[0] == addresses[1] and ports[0] == ports[1]:
        return "duplicate"
    if 0 in ports:
        return "overlapping"
    return "dangerously ambiguous" if ports[0] == ports[1] and "" in addresses else ""


def _of_pod_affinity(affinity: Mapping[str, Any], at: str) -> Iterator[str]:
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        field = "requiredDuringSchedulingIgnoredDuringExecution"
        for index, term in enumerate(terms.get(field) or ()):
            if term.get("labelSelector") is None:
                yield f"{at}.{kind}.{field}[{index}].labelSelector: {_NULL_SELECTOR}"
        field = "preferredDuringSchedulingIgnoredDuringExecution"
        for index, weighted in enumerate(terms.get(field) or ()):
            if (weighted.get("podAffinityTerm") or {}).get("labelSelector") is None:
                yield f"{at}.{kind}.{field}[{index}].podAffinityTerm.labelSelector: {_NULL_SELECTOR}"
