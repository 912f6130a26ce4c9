"""The gateway: the door of a running cluster, which lends whoever has its key the identity of a kubeconfig.

A token of the cluster opens it too: it is handed on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Expired,
)
from rayplane.control_plane.client.informer import Informer
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.asking import explained, story
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.history import (
    HistoryForgotten,
    Instant,
    Resource,
    changes_between,
    instant,
    objects_at,
    oldest,
    present,
    resources,
    unread_kinds,
)
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.status import glances
from rayplane.control_plane.dashboard.door import Door, answer, asked, body_of
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.dashboard.packing import Packing, packed
from rayplane.control_plane.dashboard.shared import Shared
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.rpc.static_files import HEADERS
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import chaos_pb2, controllers_pb2, scheduler_pb2

STANDING_S, PACKING_S, FAULT_S = 1.0, 0.3, 60.0
NODES, PODS = Resource("nodes", namespaced=False), Resource("pods", namespaced=True)


class Gateway(Door):
    """The dashboard of one cluster: whoever has the key acts with the kubeconfig's certificate."""

    def __init__(self, directory: StateDir, sockets: Sockets | None = None) -> None:
        super().__init__(sockets)
        self._directory = directory
        self._kube = KubeApi(directory)
        self._standing: dict[str, Any] = {}
        self._packing = Packing()
        self._standings = Shared(self._keep_standing)
        self._packings = Shared(self._keep_packing)
        self._routes = {
            ("GET", "/rayplane/v1/control-plane"): self._control_plane,
            ("GET", "/rayplane/v1/packing"): self._packed,
            ("GET", "/rayplane/v1/explain"): self._explain,
            ("GET", "/rayplane/v1/why"): self._why,
            ("GET", "/rayplane/v1/history"): self._history,
            ("GET", "/rayplane/v1/changes"): self._changes,
            ("GET", "/rayplane/v1/faults"): self._faults,
            ("POST", "/rayplane/v1/faults"): self._begin,
            ("DELETE", "/rayplane/v1/faults"): self._end_fault,
        }

    async def close(self) -> None:
        await super().close()
        await self._kube.close()

    async def _end(self) -> None:
        await self._standings.stop()
        await self._packings.stop()

    async def _api(self, request: web.BaseRequest, token: str) -> web.StreamResponse:
        return await self._kube.forward(request, await body_of(request), token=token)

    # --- views that go on -------------------------------------------------------------------------

    async def _control_plane(self, request: web.BaseRequest) -> web.StreamResponse:
        async def lines() -> AsyncIterator[Any]:
            async for _ in self._standings.turns(STANDING_S):
                yield self._standing

        return await _stream(request, lines())

    async def _packed(self, request: web.BaseRequest) -> web.StreamResponse:
        if "at" in request.query:
            return await self._packed_at(request.query["at"])

        async def lines() -> AsyncIterator[Any]:
            serial = 0
            async for _ in self._packings.turns(PACKING_S):
                news = self._packing.since(serial)
                serial = news["serial"]
                yield news

        return await _stream(request, lines())

    async def _keep_standing(self, tell: Callable[[], None]) -> None:
        async with aclosing(glances(self._directory, STANDING_S)) as found:
            async for self._standing in found:
                tell()

    async def _keep_packing(self, tell: Callable[[], None]) -> None:
        self._packing = packing = Packing()
        async with access(self._directory) as admin:
            nodes, pods = Informer(admin.api, "nodes"), Informer(admin.api, "pods")
            for informer, handler in ((nodes, packing.node_event), (pods, packing.pod_event)):
                informer.add_handler(handler)
                informer.start()
            try:
                for informer in (nodes, pods):
                    await self._while_up(admin, informer.synced())
                    informer.add_handler(lambda *_: tell())
                tell()
                await self._while_up(admin, asyncio.Event().wait())
            finally:
                await nodes.stop()
                await pods.stop()

    async def _while_up(self, admin: Access, waited: Coroutine[Any, Any, object]) -> None:
        """Wait, as long as it is the same run of the cluster. Raises NotUp, or ClusterError for another run."""
        task = asyncio.ensure_future(waited)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=STANDING_S)
                if self._directory.read_running().topology.run != admin.state.topology.run:
                    raise ClusterError("the cluster was started anew")
        finally:
            await cancel_and_wait(task)

    # --- single answers ---------------------------------------------------------------------------

    async def _explain(self, request: web.BaseRequest) -> web.StreamResponse:
        query = scheduler_pb2.ExplainRequest(namespace=asked(request, "namespace"), name=asked(request, "name"))
        async with access(self._directory) as admin:
            return answer(MessageToDict(await explained(admin, query), always_print_fields_with_no_presence=True))

    async def _why(self, request: web.BaseRequest) -> web.StreamResponse:
        query = controllers_pb2.WhyRequest(
            resource=asked(request, "resource"),
            namespace=request.query.get("namespace", ""),
            name=asked(request, "name"),
        )
        async with access(self._directory) as admin:
            found = await story(admin, query)
        answers = [MessageToDict(one, always_print_fields_with_no_presence=True) for one in found.answers]
        return answer({"replicas": answers, "silent": dict(found.silent)})

    async def _history(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            first, last = await oldest(admin.etcd), await present(admin.etcd)
            at = await self._instant(admin, request.query["at"]) if "at" in request.query else last
        return answer({"oldest": first.to_json(), "newest": last.to_json(), "at": at.to_json()})

    async def _packed_at(self, text: str) -> web.StreamResponse:
        async with access(self._directory) as admin:
            at = await self._instant(admin, text)
            (_, nodes), (_, pods) = await objects_at(admin.api, (NODES, PODS), at.revision)
        return answer(packed(nodes, pods))

    async def _changes(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            old, new = [await self._instant(admin, asked(request, name)) for name in ("from", "to")]
            namespace = request.query.get("namespace", "")
            found = await changes_between(admin.api, await resources(admin.api), old, new, namespace)
            unread = await unread_kinds(admin.api, old, new)
        span = {"from": old.to_json(), "to": new.to_json()}
        return answer({**span, "changes": [one.to_json() for one in found], "unread": unread})

    async def _instant(self, admin: Access, text: str) -> Instant:
        try:
            return await instant(admin.etcd, text, admin.directory.clock.now())
        except UsageError as e:
            raise BadRequest(str(e)) from e
        except HistoryForgotten as e:
            raise Expired(str(e)) from e

    async def _faults(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            targets = await admin.faults.Targets(chaos_pb2.TargetsRequest(), timeout=FAULT_S)
            found = await admin.faults.List(chaos_pb2.ListFaultsRequest(), timeout=FAULT_S)
        return answer(MessageToDict(targets) | {"faults": MessageToDict(found).get("faults", [])})

    async def _begin(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = _document(await body_of(request)).get("fault")
        if not isinstance(fault, str):
            raise BadRequest('say which fault: {"fault": "stop: {target: leader, for: 10s}"}')
        async with access(self._directory) as admin:
            begun = await admin.faults.Begin(chaos_pb2.BeginRequest(fault=fault, by="dashboard"), timeout=FAULT_S)
        return answer(MessageToDict(begun))

    async def _end_fault(self, request: web.BaseRequest) -> web.StreamResponse:
        async with access(self._directory) as admin:
            ended = await admin.faults.End(chaos_pb2.EndRequest(id=asked(request, "id")), timeout=FAULT_S)
        return answer(MessageToDict(ended.fault))


async def _stream(request: web.BaseRequest, lines: AsyncIterator[Any]) -> web.StreamResponse:
    """One JSON value a line, as long as the client listens; the last says why it ends, where it was not the client."""
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    try:
        async for line in lines:
            await response.write(orjson.dumps(line) + b"\n")
    except (ClusterError, ApiError, RpcError) as e:
        await response.write(orjson.dumps({"error": str(getattr(e, "message", "") or e)}) + b"\n")
    await response.write_eof()
    return response


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the body is no JSON: {e}") from e
    if not isinstance(found, dict):
        raise BadRequest("the body is no object")
    return found
