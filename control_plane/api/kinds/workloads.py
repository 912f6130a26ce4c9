"""Fields of the kinds that make pods: their template, their selector, counts and percentages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, not_negative, validate_required_selector
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_template
from rayplane.control_plane.api.kinds.pod_template.validation import validate_template
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

ALWAYS = ("Always",)
_DIGITS_MAX = 9


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


def not_over_hundred(value: Any, path: str, errs: Errors) -> None:
    """A percentage is a part of the whole."""
    if isinstance(value, str) and names.is_percent(value) and _amount(value) > 100:
        errs.append(invalid(path, value, "must not be greater than 100%"))


def is_zero(value: Any) -> bool:
    """Whether a count or percentage is none of anything; text that is neither is."""
    return not (_amount(value) if isinstance(value, str) else value)


def _amount(text: str) -> int:
    digits = text.removesuffix("%").lstrip("0")
    return int(digits[:_DIGITS_MAX] or 0) if digits.isascii() and digits.isdigit() else 0


def validate_owned_template(spec: Mapping[str, Any], owner: str, errs: Errors) -> None:
    """The template of pods that run for as long as their owner wants them."""
    template = spec.get("template")
    validate_template(template, "spec.template", errs, restart=ALWAYS)
    if ((template or {}).get("spec") or {}).get("activeDeadlineSeconds") is not None:
        text = f"activeDeadlineSeconds in {owner} is not Supported"
        errs.append(forbidden("spec.template.spec.activeDeadlineSeconds", text))


def selector_and_template(spec: Mapping[str, Any], errs: Errors) -> None:
    """Selector and template of replica sets, and of deployments, which have them of the same words."""
    labels = template_labels(spec)
    unreadable = "invalid label selector"
    if validate_required_selector(spec.get("selector"), labels, kind="deployment", unreadable=unreadable, errs=errs):
        validate_owned_template(spec, "ReplicaSet", errs)


def selector_immutable(new: Object, old: Object) -> Errors:
    """Deployments, replica sets and daemon sets keep their selector."""
    errs: Errors = []
    spec, before = meta.spec(new), meta.spec(old)
    immutable(spec.get("selector"), before.get("selector"), "spec.selector", errs)
    return errs


# --- status -------------------------------------------------------------------------------------


def counts_not_negative(status: Mapping[str, Any], fields: Sequence[str], errs: Errors) -> None:
    for field in fields:
        not_negative(status.get(field), f"status.{field}", errs)


def counts_at_most_replicas(
    status: Mapping[str, Any], fields: Sequence[str], errs: Errors, *, ready: str = "readyReplicas"
) -> None:
    """What is counted is some of the replicas, and what is available is ready; `ready` is how that field is called."""
    for field in fields:
        value = status.get(field) or 0
        if value > (status.get("replicas") or 0):
            errs.append(invalid(f"status.{field}", value, "cannot be greater than status.replicas"))
    available = status.get("availableReplicas") or 0
    if available > (status.get("readyReplicas") or 0):
        errs.append(invalid("status.availableReplicas", available, f"cannot be greater than {ready}"))


def collisions_only_grow(new: Object, old: Object, errs: Errors) -> None:
    now, then = ((one.get("status") or {}).get("collisionCount") for one in (new, old))
    if then is not None and (now is None or now < then):
        errs.append(invalid("status.collisionCount", now or 0, "cannot be decremented"))


def validate_replicas_status(new: Object, old: Object) -> Errors:
    """The status of replica sets and replication controllers."""
    errs: Errors = []
    status, some = new.get("status") or {}, ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    counts_not_negative(status, ("replicas", *some, "observedGeneration"), errs)
    counts_at_most_replicas(status, some, errs)
    return errs
