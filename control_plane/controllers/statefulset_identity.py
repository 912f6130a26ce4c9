"""The identity of a StatefulSet's pod: its name, labels, host name and claims, all made from its ordinal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Event, Patch
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.history import template_of
from rayplane.control_plane.controllers.replicaset import BURST
from rayplane.control_plane.controllers.templates import pod_from

CLAIMS = "persistentvolumeclaims"
REVISION_LABEL = "controller-revision-hash"
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


def ordinal_of(sts: Object, pod: Object) -> int | None:
    """The pod's ordinal, from its name; None when it is not of this set."""
    prefix, _, tail = meta.name(pod).rpartition("-")
    return int(tail) if prefix == meta.name(sts) and tail.isdigit() else None


def is_member(sts: Object, pod: Object) -> bool:
    """Whether the pod's name is one of those that the set gives: others are not adopted."""
    return ordinal_of(sts, pod) is not None


def pod_name(sts: Object, ordinal: int) -> str:
    return f"{meta.name(sts)}-{ordinal}"


def claim_name(template: Mapping[str, Any], sts: Object, ordinal: int) -> str:
    return f"{template['metadata']['name']}-{meta.name(sts)}-{ordinal}"


def claims_for(sts: Object, ordinal: int) -> list[Object]:
    """The claims of one pod, to be created once and kept.

    A claim that is to go with the set is owned by it from birth: the set, or this controller, may be gone before there
    could be a second write.
    """
    found = []
    goes_with_set = _policy(sts).get("whenDeleted") == "Delete"
    selector = (meta.spec(sts).get("selector") or {}).get("matchLabels") or {}
    for template in meta.spec(sts).get("volumeClaimTemplates") or ():
        source = template.get("metadata") or {}
        own: dict[str, Any] = {
            "name": claim_name(template, sts, ordinal),
            "namespace": meta.namespace(sts),
            "labels": {**(source.get("labels") or {}), **selector},
        }
        if source.get("annotations"):
            own["annotations"] = dict(source["annotations"])
        if goes_with_set:
            own["ownerReferences"] = [meta.owner_reference(sts)]
        found.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": own,
                "spec": copy.deepcopy(template.get("spec") or {}),
            }
        )
    return found


def sets_of_claim(claim: Object) -> list[tuple[str, str]]:
    """(template, set) that a claim's name may have been made of; names may hold dashes too."""
    stem, _, ordinal = meta.name(claim).rpartition("-")
    if not ordinal.isdigit():
        return []
    cuts = [at for at, letter in enumerate(stem) if letter == "-"]
    return [(stem[:at], stem[at + 1 :]) for at in cuts]


def _policy(sts: Object) -> Mapping[str, Any]:
    policy: Mapping[str, Any] = meta.spec(sts).get("persistentVolumeClaimRetentionPolicy") or {}
    return policy


def pod_for(sts: Object, revision: Object, ordinal: int) -> Object:
    """The pod of an ordinal, from the template that a revision recorded."""
    name = pod_name(sts, ordinal)
    pod = pod_from(template_of(revision), sts, name=name)
    pod["metadata"]["labels"] = {
        **(pod["metadata"].get("labels") or {}),
        **_identity(sts, ordinal),
        REVISION_LABEL: meta.name(revision),
    }
    pod["spec"]["hostname"] = name
    if service := meta.spec(sts).get("serviceName"):
        pod["spec"]["subdomain"] = service
    claimed = [
        {
            "name": t["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim_name(t, sts, ordinal)},
        }
        for t in meta.spec(sts).get("volumeClaimTemplates") or ()
    ]
    if claimed:
        names = {volume["name"] for volume in claimed}
        others = [v for v in pod["spec"].get("volumes") or () if v.get("name") not in names]
        pod["spec"]["volumes"] = [*claimed, *others]
    return pod


def _identity(sts: Object, ordinal: int) -> dict[str, str]:
    return {POD_NAME: pod_name(sts, ordinal), POD_INDEX: str(ordinal)}


def identity_patches(sts: Object, pods: Mapping[int, Object]) -> list[Patch]:
    """Give pods back the labels that say who they are: services may select by them."""
    patches = []
    for ordinal, pod in sorted(pods.items()):
        labels = _identity(sts, ordinal)
        if not meta.is_deleting(pod) and not labels.items() <= meta.labels(pod).items():
            body = {"metadata": {"uid": meta.uid(pod), "labels": labels}}
            text = f"update Pod {meta.name(pod)} in StatefulSet {meta.name(sts)} successful"
            done = Event(sts, "Normal", "SuccessfulUpdate", text)
            patches.append(Patch("pods", meta.namespace(pod), meta.name(pod), body, done=done))
    return patches


def claims_of(sts: Object, ordinal: int, view: View) -> list[Object]:
    """The claims of an ordinal that are there."""
    names = [claim_name(t, sts, ordinal) for t in meta.spec(sts).get("volumeClaimTemplates") or ()]
    found = (view.get(CLAIMS, meta.namespace(sts), name) for name in names)
    return [claim for claim in found if claim is not None]


def goes_with_another(sts: Object, ordinal: int, claim: Object) -> bool:
    """Whether a claim, of an ordinal without a pod, is being deleted or will be with the pod that was scaled away."""
    if meta.is_deleting(claim):
        return True
    refs = meta.metadata(claim).get("ownerReferences") or ()
    pods = [ref for ref in refs if _names(ref, "v1", "Pod", pod_name(sts, ordinal))]
    return bool(pods) and _policy(sts).get("whenScaled") == "Delete"


def _names(ref: Mapping[str, Any], version: str, kind: str, name: str) -> bool:
    return (ref.get("apiVersion"), ref.get("kind"), ref.get("name")) == (version, kind, name)


def retention_patches(sts: Object, pods: Mapping[int, Object], ordinals: range, *, view: View) -> list[Patch]:
    """Bring owner references of claims in line with spec.persistentVolumeClaimRetentionPolicy.

    A claim that is to go with the set is owned by the set, one that is to go when scaled down is owned by the pod
    that leaves; the garbage collector does the rest.
    """
    patches = []
    templates = meta.spec(sts).get("volumeClaimTemplates") or ()
    # Where pods are still to be made, their claims are looked at when they are: there may be any number of them.
    near = islice(ordinals, len(pods) + BURST)
    for ordinal in sorted({*pods, *near}) if templates else ():
        owner = _owner_of_claims(sts, pods.get(ordinal), within=ordinal in ordinals)
        for found in claims_of(sts, ordinal, view):
            if meta.is_deleting(found):
                continue
            refs = list(meta.metadata(found).get("ownerReferences") or ())
            wanted = _owners(sts, ordinal, pods.get(ordinal), refs, owner)
            if wanted != refs:
                guard = {"uid": meta.uid(found), "resourceVersion": meta.resource_version(found)}
                body = {"metadata": {**guard, "ownerReferences": wanted or None}}
                patches.append(Patch(CLAIMS, meta.namespace(found), meta.name(found), body))
    return patches


def _owner_of_claims(sts: Object, pod: Object | None, *, within: bool) -> Object | None:
    policy = _policy(sts)
    if policy.get("whenScaled") == "Delete" and not within:
        return pod
    return sts if policy.get("whenDeleted") == "Delete" else None


def _owners(
    sts: Object, ordinal: int, pod: Object | None, refs: list[dict[str, Any]], owner: Object | None
) -> list[dict[str, Any]]:
    """The owner references a claim should have: without ours where somebody else controls it.

    Where an earlier set or pod of the name owns it, it goes with that and is left alone.
    """
    kept, uids = [], {meta.uid(sts), meta.uid(pod) if pod is not None else ""}
    for ref in refs:
        ours = _names(ref, "apps/v1", "StatefulSet", meta.name(sts)) or _names(ref, "v1", "Pod", pod_name(sts, ordinal))
        if not ours:
            kept.append(ref)
        elif ref.get("uid") not in uids:
            return refs
    if owner is not None and not any(ref.get("controller") for ref in kept):
        kept.append(meta.owner_reference(owner))
    return kept
