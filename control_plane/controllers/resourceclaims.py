"""Claims to devices: those that pods want made from templates, and whom claims are reserved for.

Keys are `pod/<namespace>/<name>` (make what it wants, tell it the names) and `claim/<namespace>/<name>` (forget
consumers that are gone; a claim that nobody uses any more is free for others, or goes with the pod it was made for).
Source: Kubernetes concepts "Dynamic Resource Allocation"; kubernetes/pkg/controller/resourceclaim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS, FINALIZER, RESERVED_MAX, consumer, consumers
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    IfAbsent,
    Patch,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    controlled,
    in_namespace,
    result,
)

TEMPLATES = "resourceclaimtemplates.resource.k8s.io"
MADE_FOR = "resource.kubernetes.io/pod-claim-name"
"""Annotation of a claim that was made from a template: the name of the pod's claim."""
_BASE_CHARS_MAX = 57
Entry = Mapping[str, Any]


def pod_claims(pod: Object) -> Sequence[Entry]:
    return meta.spec(pod).get("resourceClaims") or ()


def claim_of(pod: Object, entry: Entry) -> str | None:
    """The name of the claim that stands for an entry of the pod; empty if none is needed, None if none is made yet."""
    if entry.get("resourceClaimName"):
        return str(entry["resourceClaimName"])
    for made in meta.status(pod).get("resourceClaimStatuses") or ():
        if made.get("name") == entry.get("name"):
            return str(made.get("resourceClaimName") or "")
    return None


def of_resources(pod: Object) -> str:
    """The name of the claim that the scheduler made for the pod's extended resources; empty for none."""
    return (meta.status(pod).get("extendedResourceClaimStatus") or {}).get("resourceClaimName") or ""


def _is_done(pod: Object) -> bool:
    """True when no container of the pod runs or is going to."""
    return pod_is_terminated(pod) or (meta.is_deleting(pod) and not meta.node_name(pod))


def _pod_keys(pod: Object, _: View) -> Iterable[str]:
    entries = pod_claims(pod)
    names = [name for entry in entries if (name := claim_of(pod, entry))]
    names += [name] if (name := of_resources(pod)) else []
    if not (entries or names):
        return ()
    return [f"pod/{meta.key(pod)}", *(f"claim/{meta.namespace(pod)}/{name}" for name in names)]


def _pod_changed(old: Object, new: Object) -> bool:
    return (
        meta.node_name(old) != meta.node_name(new)
        or _is_done(old) != _is_done(new)
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.status(old).get("resourceClaimStatuses") != meta.status(new).get("resourceClaimStatuses")
        or of_resources(old) != of_resources(new)
        or meta.uid(old) != meta.uid(new)
    )


def _claim_keys(claim: Object, _: View) -> Iterable[str]:
    owner = meta.controller_of(claim)
    keys = [f"claim/{meta.key(claim)}"]
    if owner is not None and owner.get("kind") == "Pod":
        keys.append(f"pod/{meta.namespace(claim)}/{owner['name']}")
    keys += [f"pod/{meta.namespace(claim)}/{one.get('name')}" for one in consumers(claim)]
    return keys


def _waiting_pods(template: Object, view: View) -> Iterable[str]:
    """Pods that a template is there for now."""
    space, name = meta.namespace(template), meta.name(template)
    return [
        f"pod/{meta.key(pod)}"
        for pod in in_namespace(view, "pods", space)
        if any(e.get("resourceClaimTemplateName") == name and claim_of(pod, e) is None for e in pod_claims(pod))
    ]


class ResourceClaimController(BaseController):
    name = "resourceclaim"
    component = "resource_claim"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch("pods", _pod_keys, changed=_pod_changed),
            Watch(CLAIMS, _claim_keys, delay_s=coalesce_s),
            Watch(TEMPLATES, _waiting_pods),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, rest = key.partition("/")
        place = meta.split_key(rest)
        if what == "claim":
            claim = view.get(CLAIMS, *place)
            return NOTHING if claim is None else _of_claim(claim, view)
        pod = view.get("pods", *place)
        return NOTHING if pod is None or meta.is_deleting(pod) or _is_done(pod) else _of_pod(pod, view)


# --- pods ---------------------------------------------------------------------------------------


def _of_pod(pod: Object, view: View) -> Result:
    steps: list[Action] = []
    named: dict[str, str] = {}
    for entry in pod_claims(pod):
        known = claim_of(pod, entry)
        if known == "" or not entry.get("resourceClaimTemplateName") or _is_its(known, pod, view):
            continue
        claim = _made_for(pod, entry, view)
        if claim is None:
            steps.append(_make(pod, entry, view))
        else:
            named[entry["name"]] = meta.name(claim)
    if named:
        others = [one for one in meta.status(pod).get("resourceClaimStatuses") or () if one.get("name") not in named]
        statuses = [*others, *({"name": entry, "resourceClaimName": claim} for entry, claim in named.items())]
        steps.append(UpdateStatus("pods", {**pod, "status": {**meta.status(pod), "resourceClaimStatuses": statuses}}))
    return result(steps or _reserved(pod, view))


def _is_its(name: str | None, pod: Object, view: View) -> bool:
    """True for a claim that is there and was made for this very pod."""
    claim = view.get(CLAIMS, meta.namespace(pod), name) if name else None
    return claim is not None and meta.is_controlled_by(claim, pod)


def _made_for(pod: Object, entry: Entry, view: View) -> Object | None:
    """A claim that was made for an entry of the pod, which the pod does not know yet."""
    found = [
        claim
        for claim in controlled(view, CLAIMS, pod)
        if meta.annotations(claim).get(MADE_FOR) == entry["name"] and not meta.is_deleting(claim)
    ]
    return min(found, key=meta.name, default=None)


def _make(pod: Object, entry: Entry, view: View) -> Action:
    space, name = meta.namespace(pod), str(entry["resourceClaimTemplateName"])
    template = view.get(TEMPLATES, space, name)
    what = f"PodResourceClaim {entry['name']}"
    if template is None:
        text = f'resource claim template "{name}": resourceclaimtemplate.resource.k8s.io "{name}" not found'
        return Event(pod, "Warning", "FailedResourceClaimCreation", f"{what}: {text}")
    wanted = meta.spec(template)
    given = wanted.get("metadata") or {}
    own: dict[str, Any] = {
        "generateName": _base(meta.name(pod), str(entry["name"])),
        "namespace": space,
        "ownerReferences": [meta.owner_reference(pod)],
        "annotations": {**(given.get("annotations") or {}), MADE_FOR: entry["name"]},
    }
    if given.get("labels"):
        own["labels"] = dict(given["labels"])
    api_version = template.get("apiVersion") or "resource.k8s.io/v1"
    claim = {"apiVersion": api_version, "kind": "ResourceClaim", "metadata": own, "spec": wanted.get("spec") or {}}
    text = f"{what}: create ResourceClaim : {{error}}"
    return Create(CLAIMS, claim, failed=Event(pod, "Warning", "FailedResourceClaimCreation", text))


def _base(pod: str, entry: str) -> str:
    """The beginning of a claim's name: both names, shortened alike where they are too long."""
    base = f"{pod}-{entry}-"
    if len(base) <= _BASE_CHARS_MAX:
        return base
    return f"{pod[: len(pod) * _BASE_CHARS_MAX // len(base)]}-{entry[: len(entry) * _BASE_CHARS_MAX // len(base)]}"


def _reserved(pod: Object, view: View) -> list[Action]:
    """Reservations for a pod that came to its node by no scheduler, of claims that have their devices."""
    if not meta.node_name(pod):
        return []
    steps: list[Action] = []
    for entry in pod_claims(pod):
        claim = view.get(CLAIMS, meta.namespace(pod), claim_of(pod, entry) or "")
        status = meta.status(claim) if claim is not None else {}
        users = list(status.get("reservedFor") or ())
        mine = any(one.get("uid") == meta.uid(pod) for one in users)
        if claim is None or mine or not status.get("allocation") or len(users) >= RESERVED_MAX:
            continue
        if meta.is_deleting(claim):
            continue  # nobody new may have it
        users.append(consumer(pod))
        steps.append(UpdateStatus(CLAIMS, {**claim, "status": {**status, "reservedFor": users}}))
    return steps


# --- claims -------------------------------------------------------------------------------------


def _of_claim(claim: Object, view: View) -> Result:
    status = meta.status(claim)
    users = consumers(claim)
    valid, absent = [], []
    for one in users:
        if one.get("apiGroup") or one.get("resource") != "pods":
            return NOTHING  # nobody knows what that is
        pod = view.get("pods", meta.namespace(claim), one.get("name") or "")
        if pod is None:
            absent.append(("pods", meta.namespace(claim), one.get("name") or "", one.get("uid") or ""))
        elif meta.uid(pod) == one.get("uid") and not _is_done(pod):
            valid.append(one)
    if len(valid) < len(users):
        return _released(claim, valid, absent)
    if valid:
        return NOTHING
    if FINALIZER in meta.finalizers(claim) and meta.is_deleting(claim):
        if status.get("allocation"):
            return result([_status_patch(claim, {"allocation": None})])
        return result([_unprotected(claim)])
    owner = meta.controller_of(claim)
    if owner is None or owner.get("kind") != "Pod" or meta.is_deleting(claim):
        return NOTHING
    pod = view.get("pods", meta.namespace(claim), owner["name"])
    if pod is None or (meta.uid(pod) == owner.get("uid") and not _is_done(pod)):
        return NOTHING  # the garbage collector looks after those whose pod is gone
    return result([Delete(CLAIMS, claim)])


def _released(claim: Object, valid: Sequence[Entry], absent: Sequence[tuple[str, str, str, str]]) -> Result:
    """Forget consumers that are gone; with the last of them go the devices, so that others can have them."""
    changes: dict[str, Any] = {"reservedFor": list(valid) or None}
    freed = not valid and FINALIZER in meta.finalizers(claim)
    if freed:
        changes["allocation"] = None
    write = _status_patch(claim, changes)
    first: Action = IfAbsent(tuple(absent), (write,)) if absent else write
    return result([first], [_unprotected(claim)] if freed else [])


def _status_patch(claim: Object, status: dict[str, Any]) -> Patch:
    guard = {"uid": meta.uid(claim), "resourceVersion": meta.resource_version(claim)}
    body = {"metadata": guard, "status": status}
    return Patch(CLAIMS, meta.namespace(claim), meta.name(claim), body, subresource="status")


def _unprotected(claim: Object) -> Patch:
    """The claim has no devices that its deletion could lose; its other finalizers are others' and stay."""
    held = meta.finalizers(claim)
    kept = [one for one in held if one != FINALIZER]
    steps = [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid(claim)},
        {"op": "test", "path": "/metadata/finalizers", "value": held},
        {"op": "replace", "path": "/metadata/finalizers", "value": kept},
    ]
    return Patch(CLAIMS, meta.namespace(claim), meta.name(claim), steps, kind="json")
