"""One operation, carried out over REST or over gRPC, with an outcome that can be compared."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.apiserver.conftest import Stack

PATCHES: dict[str, tuple[Any, str]] = {
    "merge": (pb.MERGE, "application/merge-patch+json"),
    "json": (pb.JSON, "application/json-patch+json"),
    "strategic": (pb.STRATEGIC, "application/strategic-merge-patch+json"),
    "apply": (pb.APPLY, "application/apply-patch+yaml"),
    "unknown": (99, "text/plain"),
}
METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH"}
CHANGING = frozenset({
    *("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "time", "continue", "lastTransitionTime"),
})  # fmt: skip


@dataclass(frozen=True)
class Op:
    """An operation; `options` are named as the query of a URL names them."""

    verb: str
    name: str = ""
    body: Any = None
    resource: str = "configmaps"
    group: str = ""
    namespace: str = "default"
    sub: str = ""
    patch: str = "merge"
    user: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def path(self) -> str:
        base = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        namespace = f"/namespaces/{self.namespace}" if self.namespace else ""
        return base + namespace + "".join(f"/{p}" for p in (self.resource, self.name, self.sub) if p)


class Face:
    """A server of its own, with the same beginnings as its twin."""

    def __init__(self, stack: Stack, session: aiohttp.ClientSession) -> None:
        server = stack.servers[0]
        self._session = session
        self._base = f"http://{server.https_address}"
        channel = stack.network.channel(server.grpc_address)
        self._stub = Stub(channel, pb.DESCRIPTOR.services_by_name["Objects"])

    async def rest(self, op: Op) -> Any:
        headers = {"User-Agent": "twin/1", "Content-Type": "application/json"}
        if op.user:
            headers["Impersonate-User"] = op.user
        if op.verb == "patch":
            headers["Content-Type"] = PATCHES[op.patch][1]
        query = {"watch": "1"} if op.verb == "watch" else {}
        query |= {k: str(v).lower() if isinstance(v, bool) else v for k, v in op.options.items()}
        method = METHODS.get(op.verb, "DELETE")
        url = f"{self._base}{op.path}?{urlencode(query)}"
        async with self._session.request(method, url, data=None if op.body is None else op.data, headers=headers) as a:
            raw = await a.read()
            if op.verb == "watch" and a.status == 200:
                lines = [orjson.loads(line) for line in raw.splitlines()]
                failed = [line["object"] for line in lines if line["type"] == "ERROR"]
                return failed[0] if failed else [(line["type"], line["object"]) for line in lines]
            if "json" not in a.content_type:
                return {"reason": "NotFound", "code": a.status}
            found = orjson.loads(raw)
            told = [w.split('"')[1] for w in a.headers.getall("Warning", ())]
            if isinstance(found, dict) and found.get("status") == "Failure":
                return found
            if op.verb in ("list", "deletecollection"):
                return {
                    "items": bare(found["items"]),
                    "continue": bool(found["metadata"].get("continue")),
                    "told": told,
                }
            return {"object": found, "created": a.status == 201, "accepted": a.status == 202, "told": told}

    async def grpc(self, op: Op) -> Any:
        metadata = {"user-agent": "twin/1"} | ({"impersonate-user": op.user} if op.user else {})
        method = "DeleteCollection" if op.verb == "deletecollection" else op.verb.title()
        try:
            if op.verb == "watch":
                groups = [g async for g in self._stub.Watch(self._request(op), metadata=metadata)]
                return [(e.type, orjson.loads(e.json)) for g in groups for e in g.events]
            answer = await getattr(self._stub, method)(self._request(op), metadata=metadata)
        except RpcError as e:
            return orjson.loads(e.details)
        # As headers have them, up to the first quotation mark in them.
        told = [w.replace("\\", "\\\\").replace('"', '\\"').split('"')[0] for w in answer.warnings]
        if op.verb in ("list", "deletecollection"):
            items = bare([orjson.loads(i) for i in answer.items])
            return {"items": items, "continue": bool(getattr(answer, "continue")), "told": told}
        return {
            "object": orjson.loads(answer.json),
            "created": answer.created,
            "accepted": answer.accepted,
            "told": told,
        }

    def _request(self, op: Op) -> Any:
        o = op.options
        ref = pb.ResourceRef(
            group=op.group, version="v1", resource=op.resource, namespace=op.namespace, name=op.name, subresource=op.sub
        )
        write = pb.WriteOptions(
            dry_run="dryRun" in o,
            field_manager=o.get("fieldManager", ""),
            field_validation=o.get("fieldValidation", ""),
            force=o.get("force", False),
        )
        listed = {
            "label_selector": o.get("labelSelector", ""),
            "field_selector": o.get("fieldSelector", ""),
            "limit": int(o.get("limit", 0)),
            "resource_version": o.get("resourceVersion", ""),
            "resource_version_match": o.get("resourceVersionMatch", ""),
            "continue": o.get("continue", ""),
        }
        delete = {
            "grace_period_seconds": o.get("gracePeriodSeconds"),
            "propagation_policy": o.get("propagationPolicy", ""),
            "orphan_dependents": o.get("orphanDependents"),
            "dry_run": "dryRun" in o,
        }
        match op.verb:
            case "get":
                return pb.GetRequest(ref=ref, resource_version=o.get("resourceVersion", ""))
            case "list":
                return pb.ListRequest(ref=ref, **listed)
            case "watch":
                return pb.WatchRequest(
                    ref=ref,
                    label_selector=o.get("labelSelector", ""),
                    field_selector=o.get("fieldSelector", ""),
                    resource_version=o.get("resourceVersion", ""),
                    allow_bookmarks=o.get("allowWatchBookmarks", False),
                    send_initial_events=o.get("sendInitialEvents", False),
                    timeout_seconds=int(o["timeoutSeconds"]),
                )
            case "create":
                return pb.CreateRequest(ref=ref, json=op.data, options=write)
            case "update":
                return pb.UpdateRequest(ref=ref, json=op.data, options=write)
            case "patch":
                return pb.PatchRequest(ref=ref, type=PATCHES[op.patch][0], patch=op.data, options=write)
            case "delete":
                version = o.get("resourceVersion", "")
                return pb.DeleteRequest(ref=ref, uid=o.get("uid", ""), resource_version=version, **delete)
            case _:
                return pb.DeleteCollectionRequest(ref=ref, **listed, **delete)


def bare(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of a list, which say of which kind they are or leave that to the list."""
    return [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in items]


def settled(value: Any) -> Any:
    """The same without what differs from run to run."""
    if isinstance(value, dict):
        return {k: "..." if k in CHANGING and isinstance(v, str) else settled(v) for k, v in value.items()}
    return [settled(v) for v in value] if isinstance(value, list | tuple) else value


@asynccontextmanager
async def faces() -> AsyncIterator[tuple[Face, Face]]:
    """Two servers that know nothing of each other."""
    stacks = [Stack(), Stack()]
    async with aiohttp.ClientSession() as session:
        for stack in stacks:
            await stack.add_server(https_address="127.0.0.1:0")
            account = {"metadata": {"name": "default", "namespace": "default"}}
            await stack.client().create("serviceaccounts", account)
        try:
            yield Face(stacks[0], session), Face(stacks[1], session)
        finally:
            for stack in stacks:
                await stack.stop()
