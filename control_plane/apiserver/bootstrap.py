"""Objects that every new cluster has: made by whichever server finds them missing.

All servers keep those of priority and fairness, and since when tokens are tracked, over and over; the others are
nobody's once they are made.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import orjson

from rayplane.control_plane.api import bootstrap_flow, chaos_mesh, legacy_tokens
from rayplane.control_plane.api.bootstrap import bootstrap_objects, extension_authentication
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, NotFound
from rayplane.control_plane.api.meta import Object, annotations
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.endpoints import SERVICE, first_address
from rayplane.control_plane.apiserver.flowcontrol.fairness import LEVELS, SCHEMAS
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import SYSTEM, DeleteOptions, Target, WriteOptions
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.stages.definitions import definitions
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

DNS_SERVICE, DNS_PORT = "kube-dns", 53
_KEEP_S = 60.0
_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_GRANTS = ("rules", "subjects")
# Others need them: objects their namespace, services the addresses that there are.
_FIRST = frozenset({"Namespace", "ServiceCIDR"})
# A round of raft takes what is under way together. More would be made in vain by servers that begin side by side.
_AT_ONCE = 32
_FLOW_CONTROL = {"PriorityLevelConfiguration": LEVELS, "FlowSchema": SCHEMAS}
# Before there was a node authorizer the first ones let every node read all secrets; the last was cluster-admin.
_TIGHTENED = frozenset(
    {
        ("ClusterRoleBinding", "system:node"),
        ("ClusterRoleBinding", "system:node-proxier"),
        ("ClusterRole", "system:node-proxier"),
        ("ClusterRole", "system:kube-controller-manager"),
    }
)


async def ensure(registry: ObjectRegistry, config: ApiServerConfig) -> None:
    """Create what is missing. Safe on all servers at once. ApiError when etcd refuses."""
    objects = [*bootstrap_objects(), *_of_this_cluster(config)]
    await _ensure_each(registry, [o for o in objects if o["kind"] in _FIRST])
    rest = [o for o in objects if o["kind"] not in _FIRST and o["kind"] not in _FLOW_CONTROL]
    # Servers that begin side by side would make each object at the same time, and all but one in vain.
    registry.env.rng.shuffle(rest)
    # Definitions wait for each other anyway, as no two may have one name.
    await _ensure_each(registry, rest, row=[*definitions(), *(chaos_mesh.definitions() if config.experiments else ())])
    await keep_flow_control(registry)
    await keep_tracking(registry)


async def keep_tracking(registry: ObjectRegistry) -> None:
    """Say since when uses of tokens in Secrets are noted: from now on, where nobody says so. Safe on all servers at
    once. ApiError when etcd refuses.
    """
    wanted = legacy_tokens.tracking(registry.env.clock.now())
    await _ensure(registry, wanted)
    place, name = legacy_tokens.TRACKING_NAMESPACE, legacy_tokens.TRACKING
    info = registry.kinds.named("configmaps")
    known = (await registry.hub.cache(registry.kinds.stored(info))).get(place, name)
    if known is not None and known.readable and legacy_tokens.tracked_since(known.object) is None:
        await _complete(registry, Target(info, place, name), known.object, wanted)


async def _ensure_each(registry: ObjectRegistry, objects: Sequence[Object], *, row: Sequence[Object] = ()) -> None:
    """Side by side, and beside them what is in the `row`, one after the other. ApiError when etcd refuses: then no more
    are begun.
    """
    waiting, row_waiting = deque(objects), deque(row)

    async def some(queue: deque[Object]) -> None:
        while queue:
            try:
                await _ensure(registry, queue.popleft())
            except BaseException:
                waiting.clear()
                row_waiting.clear()
                raise

    queues = [row_waiting, *[waiting] * min(_AT_ONCE, len(waiting))]
    for error in await asyncio.gather(*map(some, queues), return_exceptions=True):
        if error is not None:
            raise error


async def _ensure(registry: ObjectRegistry, o: Object) -> None:
    info = registry.kinds.registry.by_kind(o["apiVersion"], o["kind"])
    assert info is not None, f"{o['kind']} is no served kind"
    meta = o["metadata"]
    namespace = meta.get("namespace") or ""
    cache = await registry.hub.cache(registry.kinds.stored(info))
    known = cache.get(namespace, meta["name"])
    try:
        if known is None:
            # A copy: what is made of it stays in caches, and its parts may be others' too.
            body = orjson.dumps(o)
            made = orjson.loads(body)
            await registry.writer.create_object(SYSTEM, Target(info, namespace), made, WriteOptions(), size=len(body))
        elif known.readable and (o["kind"], meta["name"]) in _TIGHTENED:
            await _tighten(registry, Target(info, namespace, meta["name"]), known.object, o)
        elif known.readable and o["kind"] == "ConfigMap" and meta["name"] != legacy_tokens.TRACKING:
            await _complete(registry, Target(info, namespace, meta["name"]), known.object, o)
        elif known.readable and o["kind"] in _FLOW_CONTROL and bootstrap_flow.is_kept(known.object):
            await _keep(registry, Target(info, "", meta["name"]), known.object, o)
    except AlreadyExists:
        pass  # another server was faster
    except Exception as e:
        if isinstance(e, ApiError) and e.retryable:
            raise
        # A quota, a taken address, an odd object beside it: a server without this one is better than none.
        log.warning("%s %s cannot be made: %s", o["kind"], meta["name"], e)


async def keep_flow_control(registry: ObjectRegistry) -> None:
    """Make the flow schemas and levels of every cluster what they are, unless an annotation says to leave them; remove
    those that are ours no more. Safe on all servers at once. ApiError when etcd refuses.
    """
    levels, schemas = bootstrap_flow.priority_levels(), bootstrap_flow.flow_schemas()
    # A schema whose level is missing would be told so.
    await _ensure_each(registry, levels)
    await _ensure_each(registry, schemas)
    ours = [*levels, *schemas]
    for kind, resource in _FLOW_CONTROL.items():
        wanted = {o["metadata"]["name"] for o in ours if o["kind"] == kind}
        info = registry.kinds.named(resource)
        for entry in list((await registry.hub.cache(info)).readable()):
            if entry.name not in wanted and annotations(entry.object).get(bootstrap_flow.AUTOUPDATE) == "true":
                with contextlib.suppress(NotFound):
                    await registry.writer.delete(SYSTEM, Target(info, "", entry.name), DeleteOptions())


class Keeper:
    """The task that keeps a server's part of what all servers keep."""

    def __init__(self, registry: ObjectRegistry) -> None:
        self._registry = registry
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="bootstrap")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_S)
            try:
                await keep_flow_control(self._registry)
                await keep_tracking(self._registry)
            except Exception as e:
                log.info("what all servers keep is not looked after this time: %s", e)


async def _keep(registry: ObjectRegistry, target: Target, known: Object, wanted: Object) -> None:
    async def make(current: Object) -> Object:
        return bootstrap_flow.kept(current, wanted)

    if bootstrap_flow.kept(known, wanted) != known:
        await registry.writer.change(SYSTEM, target, make, WriteOptions())


async def _tighten(registry: ObjectRegistry, target: Target, known: Object, wanted: Object) -> None:
    """Take back what an earlier version granted, as long as the object is kept up automatically."""
    if annotations(known).get(_AUTOUPDATE) != "true":
        return

    async def make(current: Object) -> Object:
        kept = {part: value for part, value in current.items() if part not in _GRANTS}
        return {**kept, **{part: wanted[part] for part in _GRANTS if wanted.get(part)}}

    if any((known.get(part) or []) != (wanted.get(part) or []) for part in _GRANTS):
        await registry.writer.change(SYSTEM, target, make, WriteOptions())


async def _complete(registry: ObjectRegistry, target: Target, known: Object, wanted: Object) -> None:
    """Say what an earlier version did not, or said of other keys."""

    async def make(current: Object) -> Object:
        return {**current, "data": {**(current.get("data") or {}), **wanted["data"]}}

    if not (known.get("data") or {}).items() >= wanted["data"].items():
        await registry.writer.change(SYSTEM, target, make, WriteOptions())


def _of_this_cluster(config: ApiServerConfig) -> list[Object]:
    found = [_kubernetes_addresses(config), _kubernetes_service(config)]
    if config.dns_address:
        found.append(_dns_service(config))
    if config.tls_dir is not None:
        found.append(extension_authentication(Credentials.read(Path(config.tls_dir)).ca.decode()))
    return found


def _kubernetes_addresses(config: ApiServerConfig) -> Object:
    """The block that addresses of services are taken from, unless users add others."""
    spec = {"cidrs": [config.service_cidr]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": SERVICE}, "spec": spec}


def _kubernetes_service(config: ApiServerConfig) -> Object:
    address = (config.https_address or config.grpc_address).rpartition(":")[2]
    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": int(address) or 6443}
    labels = {"component": "apiserver", "provider": "kubernetes"}
    return _service(SERVICE, "default", labels, first_address(config), [port])


def _dns_service(config: ApiServerConfig) -> Object:
    """Nothing is behind it: each node host listens on its address, so no node asks another."""
    labels = {
        "k8s-app": DNS_SERVICE,
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "KubeDNS",
    }
    ports = [
        {"name": name, "port": DNS_PORT, "protocol": protocol, "targetPort": DNS_PORT}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    return _service(DNS_SERVICE, "kube-system", labels, config.dns_address, ports)


def _service(name: str, namespace: str, labels: dict[str, str], address: str, ports: list[Object]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports},
    }
