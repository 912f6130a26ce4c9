"""Metrics of nodes and pods (`metrics.k8s.io`): their use now, asked of the node hosts when a client asks.

Nothing is stored: each answer is as old as the call. A node that does not answer in time is left out, as Kubernetes'
metrics server leaves out what it could not scrape.
"""

import logging
from typing import Any

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, annotations, labels, name
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.apiserver.registry.reading import Listing
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.apiserver.watch_cache.watchers import Selection
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.tasks import each_of
from rayplane.proto.rayplane.v1 import node_pb2
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

_NODE = node_pb2.DESCRIPTOR.services_by_name["Node"]
_TIMEOUT_S = 3.0
_ASKED_AT_ONCE = 256
_WINDOW = "10s"


# The class below has a method `list`, which hides the type inside it.
_Objects = list[Object]


class Metrics:
    """The resources of the metrics group: `list` and `get` of the resources of the group."""

    def __init__(self, lookup: Lookup, network: Network, env: Env) -> None:
        self._lookup = lookup
        self._network = network
        self._env = env

    async def list(self, info: ResourceInfo, selection: Selection, revision: int) -> Listing:
        nodes = await self._concerned(info, selection)
        answers = await each_of(nodes, self.stats_of, at_once=_ASKED_AT_ONCE)
        made: _Objects = []
        for node, stats in zip(nodes, answers, strict=True):
            if stats is not None:
                made += [_node(node, stats)] if info.plural == "nodes" else await self._pods(stats, selection)
        now = self._env.timestamp()
        entries = []
        for o in sorted(made, key=lambda o: (o["metadata"].get("namespace", ""), name(o))):
            meta = {**o.pop("metadata"), "creationTimestamp": now}
            whole = {"kind": info.kind, "apiVersion": info.api_version, "metadata": meta, "timestamp": now}
            key = info.key(meta.get("namespace", ""), meta["name"])
            entry = Entry(info, key, orjson.dumps({**whole, "window": _WINDOW, **o}), revision)
            if selection.matches(entry):
                entries.append(entry)
        return Listing(info, entries, revision)

    async def _concerned(self, info: ResourceInfo, selection: Selection) -> _Objects:
        """The nodes that are to be asked: autoscalers want to know of a few pods, again and again."""
        nodes = await self._lookup.list("nodes")
        if info.plural == "nodes":
            return [node for node in nodes if selection.name in ("", name(node))]
        asked = Selection(selection.namespace, selection.name, selection.labels)
        if asked == Selection():
            return nodes
        there = {pod.node for pod in await self._lookup.select("pods", asked)}
        return [node for node in nodes if name(node) in there]

    async def get(self, info: ResourceInfo, namespace: str, own: str, revision: int) -> Entry:
        selection = Selection(namespace=namespace, name=own)
        found = (await self.list(info, selection, revision)).entries
        if not found:
            raise NotFound.of(info.plural, own, group=info.group)
        return found[0]

    async def stats_of(self, node: Object) -> node_pb2.StatsResponse | None:
        """What a node and its containers use now; None when its host does not tell in time."""
        address = annotations(node).get(HOST_ADDRESS)
        if not address:
            return None
        try:
            stub = Stub(self._network.channel(address), _NODE)
            stats: node_pb2.StatsResponse = await stub.Stats(node_pb2.StatsRequest(node=name(node)), timeout=_TIMEOUT_S)
        except RpcError as e:
            log.info("node %s does not tell what it uses: %s", name(node), e)
            return None
        return stats

    async def _pods(self, stats: node_pb2.StatsResponse, wanted: Selection) -> _Objects:
        by_pod: dict[tuple[str, str], _Objects] = {}
        for one in stats.containers:
            if wanted.namespace not in ("", one.namespace) or wanted.name not in ("", one.pod):
                continue
            usage = _usage(one.cpu_nanocores, one.memory_bytes)
            by_pod.setdefault((one.namespace, one.pod), []).append({"name": one.container, "usage": usage})
        made: _Objects = []
        for (namespace, own), containers in by_pod.items():
            meta: dict[str, Any] = {"name": own, "namespace": namespace}
            pod = await self._lookup.get("pods", own, namespace)
            if pod is not None and labels(pod):
                meta["labels"] = labels(pod)
            made.append({"metadata": meta, "containers": containers})
        return made


def _node(node: Object, stats: node_pb2.StatsResponse) -> Object:
    meta: dict[str, Any] = {"name": name(node), "labels": labels(node)}
    return {"metadata": meta, "usage": _usage(stats.cpu_nanocores, stats.memory_bytes)}


def _usage(nanocores: int, size: int) -> dict[str, str]:
    return {"cpu": f"{nanocores}n", "memory": f"{-(-size // 1024)}Ki"}
