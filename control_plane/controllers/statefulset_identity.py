"""The identity of a StatefulSet's pod: its name, labels, host name and claims, all made from its ordinal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Patch, View
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
            own["ownerReferences"] = [meta.owner_reference(sts, controller=False, block=False)]
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
    template = dict(((revision.get("data") or {}).get("spec") or {}).get("template") or {})
    template.pop("$patch", None)
    name = f"{meta.name(sts)}-{ordinal}"
    pod = pod_from(template, sts, name=name)
    pod["metadata"]["labels"] = {
        **(pod["metadata"].get("labels") or {}),
        POD_NAME: name,
        POD_INDEX: str(ordinal),
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


def retention_patches(sts: Object, pods: Mapping[int, Object], ordinals: range, *, view: View) -> list[Patch]:
    """Bring owner references of claims in line with spec.persistentVolumeClaimRetentionPolicy.

    A claim that is to go with the set is owned by the set, one that is to go when scaled down is owned by the pod
    that leaves; the garbage collector does the rest.
    """
    policy = _policy(sts)
    on_delete, on_scale = policy.get("whenDeleted") == "Delete", policy.get("whenScaled") == "Delete"
    templates = meta.spec(sts).get("volumeClaimTemplates") or ()
    patches = []
    # Where pods are still to be made, their claims are looked at when they are: there may be any number of them.
    near = islice(ordinals, len(pods) + BURST)
    for ordinal in sorted({*pods, *near}) if templates else ():
        pod = pods.get(ordinal)
        for template in templates:
            found = view.get(CLAIMS, meta.namespace(sts), claim_name(template, sts, ordinal))
            if found is None or meta.is_deleting(found):
                continue
            refs = meta.metadata(found).get("ownerReferences") or []
            ours = {meta.uid(sts), meta.uid(pod) if pod is not None else ""}
            kept = [ref for ref in refs if ref.get("uid") not in ours]
            if pod is not None and ordinal not in ordinals and on_scale:
                kept.append(meta.owner_reference(pod, controller=False, block=False))
            elif on_delete:
                kept.append(meta.owner_reference(sts, controller=False, block=False))
            if kept != refs:
                guard = {"uid": meta.uid(found), "resourceVersion": meta.resource_version(found)}
                body = {"metadata": {**guard, "ownerReferences": kept or None}}
                patches.append(Patch(CLAIMS, meta.namespace(found), meta.name(found), body))
    return patches
