"""Pods from templates: the pod itself, hashes of templates, and how surplus pods are ranked.

Hashes are 32-bit FNV-1a over canonical JSON, written in the alphabet Kubernetes uses for safe names; they are
deterministic, but not equal to those of kube-controller-manager (which hashes Go structures).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.pod_template.annotations import DELETION_COST, is_int32
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import sidecars
from rayplane.control_plane.api.pods.state import available_in, pod_phase, ready_since
from rayplane.control_plane.controllers.core import Moment

_SAFE = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words by accident


def safe_hash(value: Any, collisions: int = 0) -> str:
    """A short name-safe hash of a JSON value; `collisions` gives another one for the same value."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if collisions:
        data += str(collisions).encode()
    digest = 0x811C9DC5
    for byte in data:
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(digest))


def normalized(template: Mapping[str, Any]) -> dict[str, Any]:
    """A pod template without empty parts of its metadata, for comparison and hashing."""
    found = dict(template)
    found["metadata"] = {k: v for k, v in (template.get("metadata") or {}).items() if v}
    return found


def without_label(template: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A normalized template that lacks one label."""
    found = normalized(template)
    labels = found["metadata"].get("labels") or {}
    if label in labels:
        kept = {k: v for k, v in labels.items() if k != label}
        found["metadata"] = {k: v for k, v in found["metadata"].items() if k != "labels"}
        if kept:
            found["metadata"]["labels"] = kept
    return found


def with_labels(template: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a template with labels added."""
    found = copy.deepcopy(normalized(template))
    found["metadata"]["labels"] = {**(found["metadata"].get("labels") or {}), **labels}
    return found


def pod_from(template: Mapping[str, Any], owner: Object, *, name: str = "") -> Object:
    """A pod to create for `owner`; without a name the API server makes one from `<owner>-`."""
    source = template.get("metadata") or {}
    own: dict[str, Any] = {"namespace": meta.namespace(owner)}
    if name:
        own["name"] = name
    else:
        own["generateName"] = generate_prefix(meta.name(owner))
    for part in ("labels", "annotations"):
        if source.get(part):
            own[part] = dict(source[part])
    if source.get("finalizers"):
        own["finalizers"] = list(source["finalizers"])
    own["ownerReferences"] = [meta.owner_reference(owner)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": own,
        "spec": copy.deepcopy(template.get("spec") or {}),
    }


def generate_prefix(name: str) -> str:
    """`<name>-`, cut so that a generated name fits a label value of 63 characters."""
    return name[:57] + "-"


# --- state of pods ------------------------------------------------------------------------------


def next_available(pods: Iterable[Object], min_ready_seconds: int, now: Moment) -> float | None:
    """Seconds until the next ready pod becomes available; None when none will."""
    waits = (available_in(pod, min_ready_seconds, now.wall) for pod in pods)
    return min((wait for wait in waits if wait), default=None)


def replica_changed(old: Object, new: Object) -> bool:
    """True when a change of a pod can matter to whoever counts it as a replica."""
    return (
        pod_phase(old) != pod_phase(new)
        or meta.get_condition(old, "Ready") != meta.get_condition(new, "Ready")
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.labels(old) != meta.labels(new)
        or meta.metadata(old).get("ownerReferences") != meta.metadata(new).get("ownerReferences")
        or meta.uid(old) != meta.uid(new)
    )


def restarts(pod: Object) -> tuple[int, int]:
    """The most restarts of one of its containers, and of one of its sidecars."""
    status, beside = meta.status(pod), {container["name"] for container in sidecars(meta.spec(pod))}
    others = [s for s in status.get("initContainerStatuses") or () if s.get("name") in beside]
    return _most(status.get("containerStatuses") or ()), _most(others)


def _most(statuses: Iterable[Mapping[str, Any]]) -> int:
    return max((s.get("restartCount") or 0 for s in statuses), default=0)


_PHASE_ORDER = {"Pending": 0, "": 1, "Unknown": 1, "Running": 2}


def _age(stamp: str | None, now: Moment) -> tuple[int, int]:
    """Sorts the younger first, in classes of age that double: what came in one wave is not told apart. No time at all
    comes first."""
    if not stamp:
        return (0, 0)
    seconds = now.seconds_since(stamp)
    return (1, math.floor(math.log2(seconds * 1e9)) if seconds > 0 else -1)


def ranked_for_deletion(pods: Sequence[Object], *, companions: Callable[[Object], int], now: Moment) -> list[Object]:
    """Pods in the order in which surplus ones go.

    Kubernetes' ranking: unassigned, then by phase, not ready, lower deletion cost, more companions (pods of the same
    group on the same node), ready for less long, more restarts, younger; at last by uid.
    """

    def rank(pod: Object) -> tuple[Any, ...]:
        since = ready_since(pod)
        return (
            bool(meta.node_name(pod)),
            _PHASE_ORDER.get(pod_phase(pod), 1),
            since is not None,
            _deletion_cost(pod),
            -companions(pod),
            _age(since, now),
            tuple(-n for n in restarts(pod)),
            _age(meta.metadata(pod).get("creationTimestamp"), now),
            meta.uid(pod),
        )

    return sorted(pods, key=rank)


def _deletion_cost(pod: Object) -> int:
    cost = meta.annotations(pod).get(DELETION_COST) or ""
    return int(cost) if is_int32(cost) else 0
