"""Fields that the kinds of pod groups share: policies, disruption modes, priorities, unions, templates' names.

Source: k8s.io/api scheduling/v1beta1 (declarative rules), KEP-4671, KEP-5710.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.machinery import names

HIGHEST_USER_PRIORITY: Final = 1_000_000_000
GROUPS: Final = "podgroups.scheduling.k8s.io"
_Part = Mapping[str, Any]
NameCheck = Callable[[str], Sequence[str]]


def union(value: _Part, members: Sequence[str], path: str, errs: Errors) -> None:
    """Exactly one of the members is there."""
    given = [f"`{name}`" for name in members if value.get(name) is not None]
    listed = ", ".join(f"`{name}`" for name in members)
    if not given:
        errs.append(invalid(path, "", f"must specify one of: {listed}"))
    elif len(given) > 1:
        text = f"exactly one of {listed} is required, but multiple fields are set"
        errs.append(invalid(path, f"{{{', '.join(given)}}}", text))


def named(value: str | None, check: NameCheck, path: str, errs: Errors) -> None:
    """A name that must be given."""
    if value:
        checked(check(value), value, path, errs)
    else:
        errs.append(required(path))


def validate_policy(policy: _Part, path: str, errs: Errors) -> None:
    """How the pods of a group are scheduled: each by itself, or as a gang of at least so many."""
    union(policy, ("basic", "gang"), path, errs)
    gang = policy.get("gang")
    if gang is None:
        return
    count, at = gang.get("minCount") or 0, f"{path}.gang.minCount"
    if not count:
        errs.append(required(at))
    elif count < 1:
        errs.append(invalid(at, count, "must be greater than or equal to 1"))


def validate_policy_update(new: _Part, old: _Part, path: str, errs: Errors) -> None:
    """A group keeps its policy; a gang's count may change."""
    immutable(new.get("basic"), old.get("basic"), f"{path}.basic", errs)
    was, stays = old.get("gang") is not None, new.get("gang") is not None
    if was != stays:
        text = "field cannot be cleared once set" if was else "field cannot be set once created"
        errs.append(invalid(f"{path}.gang", None, text))


def validate_group(spec: _Part, path: str, errs: Errors) -> None:
    """What a group and a template of groups have in common."""
    policy = spec.get("schedulingPolicy") or {}
    validate_policy(policy, f"{path}.schedulingPolicy", errs)
    mode = spec.get("disruptionMode")
    if mode is not None:
        union(mode, ("single", "all"), f"{path}.disruptionMode", errs)
        if mode.get("all") is not None and policy.get("gang") is None:
            text = "the disruptionMode `all` is not supported with the Basic scheduling policy"
            errs.append(invalid(f"{path}.disruptionMode.all", "", text))
    if spec.get("priorityClassName"):
        own = spec["priorityClassName"]
        checked(names.subdomain_errors(own), own, f"{path}.priorityClassName", errs)
    priority = spec.get("priority")
    if priority is not None and priority > HIGHEST_USER_PRIORITY:
        text = f"must be less than or equal to {HIGHEST_USER_PRIORITY}"
        errs.append(invalid(f"{path}.priority", priority, text))


def validate_group_update(new: _Part, old: _Part, path: str, errs: Errors) -> None:
    """What an update may not change in either: all but the count of a gang."""
    after, before = new.get("schedulingPolicy") or {}, old.get("schedulingPolicy") or {}
    validate_policy_update(after, before, f"{path}.schedulingPolicy", errs)
    for field in ("disruptionMode", "priorityClassName", "priority"):
        immutable(new.get(field), old.get(field), f"{path}.{field}", errs)
