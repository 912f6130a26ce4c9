"""Whom an experiment hits: the pods that its selector means, and of these as many as its mode says. Pure.

Chance is drawn from the experiment's uid: asked again, the same pods are meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.field_selectors import FieldSelector, FieldTerm
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector, from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated, pod_phase
from rayplane.control_plane.controllers.core import View, in_namespace

Selector = Mapping[str, Any]


def chosen(experiment: Object, selected: Mapping[str, Any], view: View) -> list[Object]:
    """The pods that are hit: of those that the selector means, by name. BadRequest for labels that make no sense.

    `selected`: has selector, mode and value.
    """
    pods = sorted(meant(experiment, selected.get("selector") or {}, view), key=meta.key)
    count = _count(selected, len(pods), meta.uid(experiment))
    by_lot = sorted(pods, key=lambda pod: _lot(meta.uid(experiment), meta.uid(pod)))[:count]
    return sorted(by_lot, key=meta.key)


def meant(experiment: Object, selector: Selector, view: View) -> Iterator[Object]:
    """Pods that run or are going to, and have all that the selector asks for."""
    named = selector.get("pods") or {}
    wanted = {f"{space}/{name}" for space, names in named.items() for name in names}
    spaces = selector.get("namespaces") or ([*named] if named else [meta.namespace(experiment)])
    labels, exact = from_map(selector.get("labelSelectors")), from_map(selector.get("annotationSelectors"))
    expressions = from_label_selector({"matchExpressions": selector.get("expressionSelectors") or []})
    fields = FieldSelector(FieldTerm(path, True, value) for path, value in _pairs(selector, "fieldSelectors"))
    phases, nodes = selector.get("podPhaseSelectors") or (), _nodes(selector, view)
    for pod in (pod for space in dict.fromkeys(spaces) for pod in in_namespace(view, "pods", space)):
        if meta.is_deleting(pod) or (pod_is_terminated(pod) and not phases):
            continue
        if wanted and meta.key(pod) not in wanted:
            continue
        if nodes is not None and meta.node_name(pod) not in nodes:
            continue
        if phases and pod_phase(pod) not in phases:
            continue
        if not _all_match((labels, expressions), meta.labels(pod)):
            continue
        if exact.matches(meta.annotations(pod)) and fields.matches(pod):
            yield pod


def _all_match(selectors: Iterable[LabelSelector], labels: Mapping[str, str]) -> bool:
    return all(selector.matches(labels) for selector in selectors)


def _pairs(selector: Selector, field: str) -> list[tuple[str, str]]:
    return [*(selector.get(field) or {}).items()]


def _nodes(selector: Selector, view: View) -> set[str] | None:
    """Names of the nodes whose pods are meant; None for all."""
    by_label = from_map(selector.get("nodeSelectors"))
    found = set(selector.get("nodes") or ())
    if not by_label.everything:
        labelled = {meta.name(node) for node in view.list("nodes") if by_label.matches(meta.labels(node))}
        return found & labelled if found else labelled
    return found or None


def _count(selected: Mapping[str, Any], there: int, uid: str) -> int:
    mode, value = selected.get("mode") or mesh.ONE, int(selected.get("value") or 0)
    match mode:
        case mesh.ALL:
            return there
        case mesh.FIXED:
            return value
        case mesh.FIXED_PERCENT:
            return there * value // 100
        case mesh.RANDOM_MAX_PERCENT:
            return there * (int(_lot(uid, "percent"), 16) % (value + 1)) // 100
    return 1


def _lot(uid: str, other: str) -> str:
    return hashlib.sha256(f"{uid} {other}".encode()).hexdigest()
