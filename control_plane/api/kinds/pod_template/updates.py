"""Changes of a pod after it was made: by clients, by those who debug it, by those who resize it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.pod_template.affinity import REQUIRED
from rayplane.control_plane.api.kinds.pod_template.annotations import validate_annotations_update
from rayplane.control_plane.api.kinds.pod_template.containers import validate_image_of_pod
from rayplane.control_plane.api.kinds.pod_template.validation import validate_made_pod
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import is_sidecar
from rayplane.control_plane.api.pods.qos import computed_qos_class, qos_class
from rayplane.control_plane.api.pods.state import is_mirror

UPDATE_TEXT: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative),"
    "`spec.schedulingGates` (only deletions of existing scheduling gates),"
    "`spec.nodeSelector` (only additions, and only while the pod has scheduling gates),"
    "`spec.affinity.nodeAffinity` (only while the pod has scheduling gates)"
)
_MAX_INT32: Final = 2**31 - 1
_KINDS: Final = ("containers", "initContainers")
_FREE: Final = frozenset({"activeDeadlineSeconds", "tolerations", "schedulingGates"})
"""Fields with rules of their own."""
_RESIZABLE: Final = frozenset({"cpu", "memory"})
_RESIZED: Final = frozenset({"resources", "resizePolicy"})
_Spec = Mapping[str, Any]


def validate_pod_update(new: Object, old: Object) -> Errors:
    """An update by a client."""
    errs: Errors = []
    validate_annotations_update(meta.annotations(new), meta.annotations(old), "metadata.annotations", errs)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if spec == before and meta.annotations(new) == meta.annotations(old):
        return errs
    errs += _news(new, old)
    for kind in _KINDS:
        if not _same_containers(spec.get(kind) or (), before.get(kind) or (), f"spec.{kind}", errs):
            return errs
    if not _deadline(spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"), errs):
        return errs
    _tolerations_added(spec, before, errs)
    known = [gate.get("name") for gate in before.get("schedulingGates") or ()]
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        if gate.get("name") not in known:
            text = f"only deletion is allowed, but found new scheduling gate '{gate.get('name') or ''}'"
            errs.append(forbidden(f"spec.schedulingGates[{index}].name", text))
    changed = _changed_fields(spec, before, errs)
    if changed:
        listed = "".join(f"\n  spec.{field}" for field in changed)
        errs.append(forbidden("spec", f"{UPDATE_TEXT}{listed}"))
    return errs


def _news(new: Object, old: Object) -> Errors:
    """What is wrong with a changed pod, and was not before: rules that came later do not hold up older pods."""
    found = validate_made_pod(new)
    known = validate_made_pod(old) if found else []
    return [error for error in found if error not in known]


def _same_containers(
    new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], path: str, errs: Errors
) -> bool:
    if len(new) != len(old):
        errs.append(forbidden(path, "pod updates may not add or remove containers"))
        return False
    for index, container in enumerate(new):
        if not container.get("image"):
            errs.append(required(f"{path}[{index}].image"))
        validate_image_of_pod(container, f"{path}[{index}]", errs)
    return True


def _deadline(deadline: int | None, earlier: int | None, errs: Errors) -> bool:
    """A deadline may be set, and come nearer; whether the rest is still worth a look."""
    path = "spec.activeDeadlineSeconds"
    if deadline is None:
        if earlier is not None:
            errs.append(invalid(path, None, "must not update from a positive integer to nil value"))
        return True
    if not 0 <= deadline <= _MAX_INT32:
        errs.append(invalid(path, deadline, f"must be between 0 and {_MAX_INT32}, inclusive"))
    elif earlier is not None and earlier < deadline:
        errs.append(invalid(path, deadline, "must be less than or equal to previous value"))
    else:
        return True
    return False


def _tolerations_added(spec: _Spec, before: _Spec, errs: Errors) -> None:
    kept = [_without_seconds(toleration) for toleration in spec.get("tolerations") or ()]
    if any(_without_seconds(toleration) not in kept for toleration in before.get("tolerations") or ()):
        text = "existing toleration can not be modified except its tolerationSeconds"
        errs.append(forbidden("spec.tolerations", text))


def _without_seconds(toleration: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in toleration.items() if field != "tolerationSeconds"}


def _changed_fields(spec: _Spec, before: _Spec, errs: Errors) -> list[str]:
    """The fields that differ and may not; where a gated pod may be narrowed down, it is."""
    differing = [f for f in sorted(spec.keys() | before.keys()) if f not in _FREE and spec.get(f) != before.get(f)]
    gated = bool(before.get("schedulingGates"))
    changed: list[str] = []
    for field in differing:
        if field in _KINDS:
            changed += _changed_containers(spec.get(field) or (), before.get(field) or (), field)
        elif field == "terminationGracePeriodSeconds":
            changed += [] if (before.get(field) or 0) < 0 and spec.get(field) == 1 else [field]
        elif gated and field == "nodeSelector":
            _narrowed_selector(spec.get(field) or {}, before.get(field) or {}, errs)
        elif gated and field == "affinity":
            changed += _changed_affinity(spec.get(field) or {}, before.get(field) or {}, errs)
        else:
            changed.append(field)
    return changed


def _changed_containers(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return [
        f"{field}[{index}].{part}"
        for index, (one, other) in enumerate(zip(new, old, strict=True))
        for part in sorted(one.keys() | other.keys())
        if part != "image" and one.get(part) != other.get(part)
    ]


def _narrowed_selector(selector: Mapping[str, str], before: Mapping[str, str], errs: Errors) -> None:
    if not before.items() <= selector.items():
        text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        errs.append(invalid("spec.nodeSelector", dict(selector), text))


def _changed_affinity(affinity: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> list[str]:
    new, old = ((one.get("nodeAffinity") or {}).get(REQUIRED) or {} for one in (affinity, before))
    terms, known = new.get("nodeSelectorTerms") or (), old.get("nodeSelectorTerms") or ()
    path = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"
    if known and len(terms) != len(known):
        text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        errs.append(invalid(path, list(terms), text))
    elif known:
        for index, (term, earlier) in enumerate(zip(terms, known, strict=True)):
            if not _only_adds(term, earlier):
                text = "only additions are allowed (no mutations or deletions)"
                errs.append(invalid(f"{path}[{index}]", dict(term), text))
    kinds = ("podAffinity", "podAntiAffinity")
    return [f"affinity.{kind}" for kind in kinds if affinity.get(kind) != before.get(kind)]


def _only_adds(term: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """An empty term matches nothing, and one with more rules less: it must not become more."""
    new, old = ([list(one.get(f) or ()) for f in ("matchExpressions", "matchFields")] for one in (term, before))
    if not any(old):
        return not any(new)
    return all(rules[: len(known)] == known for rules, known in zip(new, old, strict=True))


# --- ephemeral containers -----------------------------------------------------------------------


def validate_ephemeral_update(new: Object, old: Object) -> Errors:
    """Ephemeral containers are added, and stay as they are."""
    if is_mirror(old):
        return [forbidden("", "static pods do not support ephemeral containers")]
    errs = _news(new, old)
    wanted = {one.get("name"): one for one in (new.get("spec") or {}).get("ephemeralContainers") or ()}
    for container in (old.get("spec") or {}).get("ephemeralContainers") or ():
        own = container.get("name")
        if own not in wanted:
            text = f'existing ephemeral containers "{own}" may not be removed\n'
            errs.append(forbidden("spec.ephemeralContainers", text))
        elif wanted[own] != container:
            changed = sorted(f for f in container.keys() | wanted[own].keys() if container.get(f) != wanted[own].get(f))
            listed = "".join(f"\n  {field}" for field in changed)
            text = f'existing ephemeral containers "{own}" may not be changed{listed}'
            errs.append(forbidden("spec.ephemeralContainers", text))
    return errs


# --- resize -------------------------------------------------------------------------------------


def resized_spec(wanted: _Spec, spec: _Spec) -> dict[str, Any]:
    """The spec of a pod with the resources that are wanted, of it and of its containers, if those are the same ones."""
    made = {**spec}
    for kind in _KINDS:
        new, old = wanted.get(kind) or (), spec.get(kind) or ()
        if [one.get("name") for one in new] != [one.get("name") for one in old]:
            made[kind] = new
        elif old:
            made[kind] = [_resized(container, kept) for container, kept in zip(new, old, strict=True)]
    if wanted.get("resources") is not None:
        made["resources"] = wanted["resources"]
    return made


def _resized(container: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    taken = {field: container[field] for field in _RESIZED if field in container}
    return {field: value for field, value in kept.items() if field not in _RESIZED} | taken


def validate_resize(new: Object, old: Object) -> Errors:
    """Amounts of cpu and memory change, not whether there are any, nor the class of service."""
    spec, before = new["spec"], old["spec"]
    if is_mirror(old):
        return [forbidden("", "static pods cannot be resized")]
    if (before.get("os") or {}).get("name") == "windows":
        return [forbidden("", "windows pods cannot be resized")]
    errs = _news(new, old)
    if qos_class(old) != computed_qos_class(spec):
        text = "Pod QOS Class may not change as a result of resizing"
        errs.append(invalid("spec", qos_class(old), text))
    if before.get("resources") is not None:
        _none_removed(spec.get("resources") or {}, before["resources"], "spec.resources", errs, of="pod-level resource")
    if (spec.get("resources") or before.get("resources")) and not _same_but_amounts(
        spec.get("resources") or {}, before.get("resources") or {}
    ):
        errs.append(forbidden("spec", "only cpu and memory resources are mutable at pod-level"))
    if not _same_order(spec, before, errs):
        return errs
    for kind in ("initContainers", "containers"):
        for index, (container, known) in enumerate(zip(spec.get(kind) or (), before.get(kind) or (), strict=True)):
            at = f"spec.{kind}[{index}].resources"
            _none_removed(container.get("resources") or {}, known.get("resources") or {}, at, errs)
    for kind in _KINDS:
        for index, (container, known) in enumerate(zip(spec.get(kind) or (), before.get(kind) or (), strict=True)):
            if container != known:
                _resize_of(container, known, kind, index, errs)
    return errs


def _resize_of(new: Mapping[str, Any], old: Mapping[str, Any], kind: str, index: int, errs: Errors) -> None:
    others = {f: v for f, v in new.items() if f != "resources"} == {f: v for f, v in old.items() if f != "resources"}
    same = others and _same_but_amounts(new.get("resources") or {}, old.get("resources") or {})
    if not same and kind == "containers":
        errs.append(forbidden("spec", "only cpu and memory resources are mutable"))
    elif not same:
        text = "only cpu and memory resources for init or sidecar containers are mutable"
        errs.append(forbidden(f"spec.{kind}[{index}]", text))
    if kind == "initContainers" and not is_sidecar(new):
        text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
        policies = [policy.get("restartPolicy") for policy in new.get("resizePolicy") or ()]
        errs += [forbidden(f"spec.{kind}[{index}]", text) for policy in policies if policy == "RestartContainer"]


def _same_order(spec: _Spec, before: _Spec, errs: Errors) -> bool:
    """No container is added, removed, renamed or moved."""
    count = len(errs)
    for kind in _KINDS:
        new, old = spec.get(kind) or (), before.get(kind) or ()
        if len(new) != len(old):
            errs.append(forbidden(f"spec.{kind}", f"{kind} may not be added or removed on resize"))
            continue
        for index, (container, known) in enumerate(zip(new, old, strict=True)):
            if container.get("name") != known.get("name"):
                text = f"{kind} may not be renamed or reordered on resize"
                errs.append(forbidden(f"spec.{kind}[{index}].name", text))
    return len(errs) == count


def _none_removed(
    new: Mapping[str, Any], old: Mapping[str, Any], path: str, errs: Errors, *, of: str = "resource"
) -> None:
    for section in ("requests", "limits"):
        if not (old.get(section) or {}).keys() <= (new.get(section) or {}).keys():
            errs.append(forbidden(f"{path}.{section}", f"{of} {section} cannot be removed"))


def _same_but_amounts(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether resources differ in no more than amounts of what can be resized."""
    kept = (
        {
            section: {name: amount for name, amount in (one.get(section) or {}).items() if name not in _RESIZABLE}
            for section in ("requests", "limits")
        }
        for one in (new, old)
    )
    first, second = kept
    return first == second and (new.get("claims") or ()) == (old.get("claims") or ())
