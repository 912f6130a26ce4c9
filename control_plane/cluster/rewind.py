"""Rewinding of a running cluster: what people wish is written again as it was; what the cluster makes of it follows.

History stays: these are new revisions. Objects are written one by one by the API, so it is no transaction, and what
others write meanwhile wins.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rayplane.control_plane.api import chaos_mesh, meta
from rayplane.control_plane.api.authorization.bootstrap_policy import BOOTSTRAPPING
from rayplane.control_plane.api.bootstrap import OF_EACH_CLUSTER, bootstrap_objects
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, NotFound
from rayplane.control_plane.api.machinery.changes import Key, key_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.history import Resource

FIELD_MANAGER = "rayplane-rewind"
TRIES, PAUSE_S = 15, 1.0
_SYSTEM: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
CLAIMS: Final = Resource("persistentvolumeclaims.v1", True)
_BYTES: Final = "hold bytes, which have no past"
_RUNNING: Final = {
    ("", "Node"): "belong to machines",
    ("storage.k8s.io", "CSINode"): "belong to machines",
    ("resource.k8s.io", "ResourceSlice"): "belong to machines",
    ("storage.k8s.io", "CSIStorageCapacity"): "belong to machines",
    ("", "PersistentVolume"): _BYTES,
    ("", "PersistentVolumeClaim"): _BYTES,
    ("storage.k8s.io", "VolumeAttachment"): _BYTES,
    ("", "Endpoints"): "are made by controllers",
    ("discovery.k8s.io", "EndpointSlice"): "are made by controllers",
    ("apps", "ControllerRevision"): "are made by controllers",
    ("networking.k8s.io", "IPAddress"): "are made by controllers",
    ("certificates.k8s.io", "CertificateSigningRequest"): "were asked for once",
    ("certificates.k8s.io", "PodCertificateRequest"): "were asked for once",
    ("storagemigration.k8s.io", "StorageVersionMigration"): "were asked for once",
}
"""Kinds that tell what is, not what somebody wants."""
_MADE: Final = frozenset({("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")})
_COUNTED: Final = ("deployment.kubernetes.io/", "deprecated.daemonset.template.generation")
"""Beginnings of the annotations in which controllers count what they have done."""
_FIXED: Final = {
    ("", "Secret"): ("type",),
    ("apps", "DaemonSet"): ("spec.selector",),
    ("apps", "Deployment"): ("spec.selector",),
    ("apps", "ReplicaSet"): ("spec.selector",),
    ("apps", "StatefulSet"): (
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
        "spec.podManagementPolicy",
    ),
    ("batch", "Job"): (
        "spec.selector",
        "spec.template",
        "spec.completions",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.successPolicy",
        "spec.backoffLimitPerIndex",
        "spec.managedBy",
    ),
    ("certificates.k8s.io", "ClusterTrustBundle"): ("spec.signerName",),
    ("networking.k8s.io", "IngressClass"): ("spec.controller",),
    ("networking.k8s.io", "ServiceCIDR"): ("spec.cidrs",),
    ("node.k8s.io", "RuntimeClass"): ("handler",),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): ("roleRef",),
    ("rbac.authorization.k8s.io", "RoleBinding"): ("roleRef",),
    ("resource.k8s.io", "ResourceClaim"): ("spec",),
    ("resource.k8s.io", "ResourceClaimTemplate"): ("spec",),
    ("scheduling.k8s.io", "PriorityClass"): ("value", "preemptionPolicy"),
    ("storage.k8s.io", "CSIDriver"): ("spec.attachRequired", "spec.volumeLifecycleModes"),
    ("storage.k8s.io", "StorageClass"): ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
    ("storage.k8s.io", "VolumeAttributesClass"): ("driverName", "parameters"),
}
"""Fields that no update changes: those of another object of the name may differ."""
_GIVEN: Final = ("clusterIP", "clusterIPs", "ipFamilies", "healthCheckNodePort")
"""Fields of services that the server fills in, each time anew, and that stay."""
# What others need comes first; what could refuse others' writes last. All else is between.
_ORDER: Final = {"Namespace": 0, "CustomResourceDefinition": 1, "ServiceAccount": 2, "Secret": 2, "ConfigMap": 2}
_REFUSING: Final = "admissionregistration.k8s.io"
_BETWEEN, _WORK, _LAST = 3, 4, 5

Deed = Literal["create", "update", "delete", "replace"]


@dataclass(frozen=True, slots=True)
class Step:
    """One write. `obj` is as written, or for a delete as it is now; `present` is what has to go before a replace."""

    deed: Deed
    resource: Resource
    obj: Object
    present: Object = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """The writes in their order, and how many objects differ that are left as they are, by kind and reason."""

    steps: list[Step] = field(default_factory=list)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)


Found = Iterable[tuple[Resource, Sequence[Object]]]


def owners(then: Found) -> list[tuple[str, str]]:
    """The versions and kinds of objects that others, which no controller made, belonged to."""
    owned = (o for _, objs in then for o in objs if meta.controller_of(o) is None)
    found = (one for o in owned for one in meta.metadata(o).get("ownerReferences") or ())
    return sorted({(str(one["apiVersion"]), str(one["kind"])) for one in found})


def holders(claims: Iterable[Object], now: Found) -> set[str]:
    """The uids of what claims, and with them their volumes, would go with: owners, namespaces, definitions of kinds."""
    objs = {meta.uid(o): o for _, found in now for o in found}
    spaces = {meta.name(o): uid for uid, o in objs.items() if o["kind"] == "Namespace"}
    defined = {uid: meta.spec(o) for uid, o in objs.items() if o["kind"] == "CustomResourceDefinition"}
    definitions = {(spec.get("group"), (spec.get("names") or {}).get("kind")): uid for uid, spec in defined.items()}
    held, waiting = set[str](), list(claims)
    while waiting:
        obj = waiting.pop()
        above = {str(one.get("uid")) for one in meta.metadata(obj).get("ownerReferences") or ()}
        above |= {spaces.get(meta.namespace(obj), ""), definitions.get((meta.group_of(obj), obj["kind"]), "")}
        waiting += [objs[uid] for uid in above - held if uid in objs]
        held |= above
    return held - {""}


def plan(
    then: Found,
    now: Found,
    *,
    system: bool = False,
    held: AbstractSet[str] = frozenset(),
    alive: AbstractSet[str] = frozenset(),
) -> Plan:
    """What to write so that the objects are again as they were. `system`: those of the cluster's own namespaces too.

    `held`: the uids of `holders`. `alive`: the uids of `owners` that there are now and that need not be among `now`;
    what belonged to others belongs to nobody then.
    """
    olds, news = _by_key(then), _by_key(now)
    alive = alive | {meta.uid(obj) for _, obj in news.values()}
    made = Plan()
    for key in {**olds, **news}:
        resource, old, new = (olds.get(key) or news[key])[0], olds.get(key), news.get(key)
        step = _step(resource, old[1] if old else None, new[1] if new else None, alive)
        if step is None:
            continue
        reason = _left(step, old[1] if old else None, system=system)
        if not reason and step.deed != "update" and new is not None and meta.uid(new[1]) in held:
            reason = _BYTES
        if reason:
            made.left[str(step.obj["kind"]), reason] += 1
        else:
            made.steps.append(step)
    made.steps.sort(key=_rank)
    return made


def _by_key(found: Found) -> dict[Key, tuple[Resource, Object]]:
    return {key_of(o): (resource, o) for resource, objs in found for o in objs}


def _step(resource: Resource, old: Object | None, new: Object | None, alive: AbstractSet[str]) -> Step | None:
    if old is not None and meta.is_deleting(old):
        old = None  # it was on its way out
    if old is None:
        return Step("delete", resource, new) if new is not None and not meta.is_deleting(new) else None
    if new is None or meta.is_deleting(new):
        return Step("create", resource, _afresh(old, alive))
    if _is_fixed(old, new):
        return Step("replace", resource, _afresh(old, alive), new)
    wanted = _again(old, new)
    return Step("update", resource, wanted) if _wish(wanted) != _wish(new) else None


def _is_fixed(old: Object, new: Object) -> bool:
    """Whether an update would be refused, so that what there is has to go first."""
    if new["kind"] in ("ConfigMap", "Secret") and new.get("immutable"):
        return any(old.get(part) != new.get(part) for part in ("data", "binaryData", "immutable"))
    if meta.uid(old) == meta.uid(new):
        return False
    if _is_service(new):
        return _is_headless(old) != _is_headless(new)
    paths = _FIXED.get((meta.group_of(new), str(new["kind"])), ())
    return any(_at(old, path) != _at(new, path) for path in paths)


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for part in path.split("."):
        value = (value or {}).get(part)
    return value


def _is_service(obj: Object) -> bool:
    return key_of(obj)[:2] == ("", "Service")


def _is_headless(service: Object) -> bool:
    return bool(meta.spec(service).get("clusterIP") == "None")


@functools.cache
def _bootstrapped() -> frozenset[Key]:
    # Imported here: with it come CEL and its library of regular expressions.
    from rayplane.control_plane.stages.definitions import definitions

    return OF_EACH_CLUSTER.union(map(key_of, (*bootstrap_objects(), *definitions(), *chaos_mesh.definitions())))


def _is_own(step: Step) -> bool:
    """Whether the cluster began with the object: nobody would make it again, and its roles change with upgrades."""
    known = key_of(step.obj) in _bootstrapped()
    labelled = BOOTSTRAPPING in meta.labels(step.obj) and (known or meta.name(step.obj).startswith("system:"))
    return labelled or (step.deed == "delete" and known)


def _left(step: Step, old: Object | None, *, system: bool) -> str:
    """Why an object is left as it is; empty where it is not."""
    obj = step.obj
    kind, group = str(obj["kind"]), meta.group_of(obj)
    if reason := _RUNNING.get((group, kind)):
        return reason
    if (kind, meta.name(obj)) in _MADE or meta.controller_of(old if old is not None else obj) is not None:
        return "are made by controllers"
    outside = not system and (meta.namespace(obj) in _SYSTEM or (kind == "Namespace" and meta.name(obj) in _SYSTEM))
    if outside or _is_own(step):
        return "belong to the cluster itself"
    if obj.get("type") == "kubernetes.io/service-account-token":
        return "are made by controllers"
    if old is not None and not meta.uid(obj) and _has_ended(old):
        return "had ended"
    return ""


def _has_ended(obj: Object) -> bool:
    """Whether a pod or a job has done what it was for; another of it would do it again."""
    if obj["kind"] == "Pod":
        return pod_is_terminated(obj)
    return obj["kind"] == "Job" and any(meta.condition_is(obj, done) for done in ("Complete", "Failed"))


def _afresh(old: Object, alive: AbstractSet[str]) -> Object:
    """An object to make anew: without what a server or another component had told of the one before."""
    metadata = meta.metadata(old)
    kept: Object = {
        k: metadata[k] for k in ("name", "namespace", "labels", "annotations", "finalizers") if k in metadata
    }
    if owners := [one for one in metadata.get("ownerReferences") or () if one.get("uid") in alive]:
        kept["ownerReferences"] = owners
    made = {**meta.without(old, ("status",)), "metadata": kept}
    if old["kind"] == "Pod":
        made["spec"] = meta.without(meta.spec(old), ("nodeName",))
    if old["kind"] == "Job" and not meta.spec(old).get("manualSelector"):
        made["spec"] = _job_spec(meta.spec(old))
    return made


def _job_spec(spec: Object) -> Object:
    """A job's without the labels of the one before, by which it would look for its pods."""
    template = spec.get("template") or {}
    metadata = meta.metadata(template)
    kept = {
        k: v for k, v in meta.labels(template).items() if k.rpartition("/")[2] not in ("controller-uid", "job-name")
    }
    return {**meta.without(spec, ("selector",)), "template": {**template, "metadata": {**metadata, "labels": kept}}}


def _again(old: Object, new: Object) -> Object:
    """What there is now, with the wishes of before. What a pod runs stays: nobody can change it."""
    notes = {k: v for k, v in meta.annotations(old).items() if not k.startswith(_COUNTED)}
    notes |= {k: v for k, v in meta.annotations(new).items() if k.startswith(_COUNTED)}
    metadata = {**meta.metadata(new), "labels": meta.labels(old), "annotations": notes}
    again = {**(new if new["kind"] == "Pod" else old), "metadata": meta.without(metadata, ("managedFields",))}
    if "status" in new:
        again["status"] = new["status"]
    if _is_service(new) and meta.uid(old) != meta.uid(new):
        again["spec"] = _service_spec(meta.spec(old), meta.spec(new))
    return again


def _service_spec(old: Object, new: Object) -> Object:
    """A service's of then with the addresses and ports of nodes that the one of now was given."""
    given: Object = {name: new[name] for name in _GIVEN if name in old and name in new}
    opened = {(p.get("protocol"), p.get("port")): p["nodePort"] for p in new.get("ports") or () if p.get("nodePort")}
    ports = [
        {**p, "nodePort": opened.get((p.get("protocol"), p.get("port")), p["nodePort"])} if p.get("nodePort") else p
        for p in old.get("ports") or ()
    ]
    return {**old, **given, **({"ports": ports} if ports else {})}


def _wish(obj: Object) -> Object:
    told = {"labels": meta.labels(obj), "annotations": meta.annotations(obj)}
    return {**meta.without(obj, ("status", "apiVersion")), "metadata": told}


def _rank(step: Step) -> tuple[bool, int, Key]:
    """First what goes, so that its names, addresses and quota are free."""
    obj = step.obj
    rank = _ORDER.get(str(obj["kind"]), _WORK if meta.group_of(obj) in ("apps", "batch") else _BETWEEN)
    rank = _WORK if obj["kind"] == "Pod" else _LAST if meta.group_of(obj) == _REFUSING else rank
    going = step.deed == "delete"
    return not going, -rank if going else rank, key_of(obj)


Outcome = tuple[Step, ApiError | None]


async def carry_out(api: ApiClient, steps: Iterable[Step]) -> AsyncGenerator[Outcome]:
    """Write; what became of each step, once that is known. What waits for others is tried again for some seconds."""
    waiting = list(steps)
    for tries_left in reversed(range(TRIES)):
        again: list[Step] = []
        for step in waiting:
            error = await (_replaced(api, step) if step.deed == "replace" else _done(api, step))
            if step.deed == "create" and tries_left and _passes(error):
                again.append(step)
            else:
                yield step, error
        if not again:
            return
        waiting = again
        await asyncio.sleep(PAUSE_S)


async def _replaced(api: ApiClient, step: Step) -> ApiError | None:
    """Delete, and create once that is gone; where this is refused, what there was is made anew."""
    if error := await _done(api, Step("delete", step.resource, step.present)):
        return error
    error = await _created(api, step)
    if error is None:
        return None
    alive = {str(one.get("uid")) for one in meta.metadata(step.present).get("ownerReferences") or ()}
    back = await _created(api, Step("create", step.resource, _afresh(step.present, alive)), whatever=True)
    told = "what there was is made anew" if back is None else f"and what there was is deleted: {back.message}"
    return ApiError(f"{error.message}; {told}", details=error.details, reason=error.reason, code=error.code)


async def _created(api: ApiClient, step: Step, *, whatever: bool = False) -> ApiError | None:
    """Create, tried again for some seconds where it may be otherwise soon, or `whatever` is said."""
    for tries_left in reversed(range(TRIES)):
        error = await _done(api, Step("create", step.resource, step.obj))
        if error is None or not (tries_left and (whatever or _passes(error))):
            return error
        await asyncio.sleep(PAUSE_S)
    return None


def _passes(error: ApiError | None) -> bool:
    """Whether it may be otherwise soon: what stands in the way is going, or what is missing is coming."""
    causes = (error.details or {}).get("causes") or () if error is not None else ()
    ending = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
    return ending or isinstance(error, AlreadyExists | NotFound)


async def _done(api: ApiClient, step: Step) -> ApiError | None:
    obj, resource = step.obj, step.resource.name
    try:
        if step.deed == "create":
            await api.create(resource, obj, field_manager=FIELD_MANAGER)
        elif step.deed == "update":
            await api.update(resource, obj, field_manager=FIELD_MANAGER)
        else:
            name, namespace = meta.name(obj), meta.namespace(obj)
            if obj["kind"] == "Namespace" and (await api.list(CLAIMS.name, name)).items:
                return Conflict(f"it has claims since the plan was made, which {_BYTES}")
            await api.delete(resource, name, namespace, uid=meta.uid(obj), propagation="Background")
    except NotFound as e:
        return None if step.deed == "delete" else e
    except ApiError as e:
        return e
    return None
