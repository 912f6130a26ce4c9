"""Fields of the kinds that make pods: their template, their selector, counts and percentages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, not_negative, validate_required_selector
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

ALWAYS = ("Always",)


def set_missing(target: dict[str, Any], name: str, value: Any) -> None:
    if target.get(name) is None:
        target[name] = value


def default_template(obj: Object) -> dict[str, Any]:
    spec: dict[str, Any] = obj.setdefault("spec", {})
    default_pod_template(spec.setdefault("template", {}))
    return spec


def template_labels(spec: Mapping[str, Any]) -> Mapping[str, str]:
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def int_or_percent(value: Any, path: str, errs: Errors) -> None:
    """A count that is not negative or a percentage such as "25%"."""
    if isinstance(value, str):
        if not names.is_percent(value):
            text = (
                "a valid percent string must be a numeric string followed by an ending '%' "
                "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
            )
            errs.append(invalid(path, value, text))
    else:
        not_negative(value, path, errs)


def is_zero(value: Any) -> bool:
    return value in (0, "0%")


def selector_and_template(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    labels = template_labels(spec)
    validate_required_selector(spec.get("selector"), labels, kind=kind, errs=errs)
    validate_template(spec.get("template"), "spec.template", errs, restart=ALWAYS)


def selector_immutable(new: Object, old: Object) -> Errors:
    """Deployments, replica sets and daemon sets keep their selector."""
    errs: Errors = []
    spec, before = meta.spec(new), meta.spec(old)
    immutable(spec.get("selector"), before.get("selector"), "spec.selector", errs)
    return errs
