"""The gateway: the door of a running cluster, which lends whoever has its key the identity of a kubeconfig.

A token of the cluster opens it too: it is handed on. Who has the key opens ports of pods and Services, see `forwards`.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api.errors import ApiError, BadRequest
from rayplane.control_plane.apiserver.outgoing.supervisors import FAULTS, GROUP, refusal
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.views import Views
from rayplane.control_plane.dashboard.door import VIEWS, Door, answer, asked, body_of
from rayplane.control_plane.dashboard.forwards import Forwards
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.json_lines import streamed
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.proto.rayplane.v1 import chaos_pb2

FAULT_S = 60.0
_VIEWS = ("changes", "control-plane", "explain", "history", "why")


class Gateway(Door):
    """The dashboard of one cluster: whoever has the key acts with the kubeconfig's certificate.

    How the control plane stands, and its faults, need no API server: they may be what is broken.
    """

    def __init__(self, directory: StateDir, sockets: Sockets | None = None) -> None:
        super().__init__(sockets)
        self._directory = directory
        self._kube = KubeApi(directory)
        self._forwards = Forwards()
        self._views = Views(lambda: access(directory), directory.clock.now)
        self._routes = {
            **{("GET", f"{VIEWS}{view}"): self._view for view in _VIEWS},
            ("GET", f"{VIEWS}packing"): self._packed,
            ("GET", f"{VIEWS}faults"): self._faults,
            ("POST", f"{VIEWS}faults"): self._begin,
            ("DELETE", f"{VIEWS}faults"): self._end_fault,
            ("GET", f"{VIEWS}forwards"): self._open_ports,
            ("POST", f"{VIEWS}forwards"): self._open_port,
            ("DELETE", f"{VIEWS}forwards"): self._close_port,
        }

    async def close(self) -> None:
        await super().close()
        await self._kube.close()

    async def _end(self) -> None:
        await self._views.stop()

    async def _api(self, request: web.BaseRequest, token: str) -> web.StreamResponse:
        return await self._kube.forward(request, await body_of(request), token=token)

    async def _packed(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._api(request, "")

    async def _view(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == f"{VIEWS}control-plane" and "at" in request.query:
            # It is the supervisor that remembers.
            return await self._api(request, "")

        async def values() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._views.look(request.path.removeprefix(VIEWS), request.query)) as found:
                async for one in found:
                    yield orjson.dumps(one)

        return await streamed(request, values(), (ClusterError, ApiError, RpcError))

    # --- ports ------------------------------------------------------------------------------------

    async def _open_ports(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(self._forwards.to_json())

    async def _open_port(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(self._forwards.open(_document(await body_of(request)), self.port).to_json())

    async def _close_port(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(self._forwards.end(asked(request, "url")).to_json())

    async def _elsewhere(self, request: web.BaseRequest) -> web.StreamResponse:
        if (forward := self._forwards.of(request)) is None:
            return await super()._elsewhere(request)
        body = request.content if request.can_read_body else None
        with self._forwards.answering(forward):
            return await self._kube.forward(request, body, token="", below=forward.below)

    # --- faults -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _supervisor(self, *, id_: str = "", reads: bool = False) -> AsyncGenerator[Access, None]:
        """The way to who begins and ends faults. Raises ApiError as API servers do."""
        try:
            async with access(self._directory) as admin:
                yield admin
        except RpcError as e:
            raise refusal(e, of=(GROUP, FAULTS, id_), reads=reads) from e

    async def _faults(self, request: web.BaseRequest) -> web.StreamResponse:
        async with self._supervisor(reads=True) as admin:
            targets = await admin.faults.Targets(chaos_pb2.TargetsRequest(), timeout=FAULT_S)
            found = await admin.faults.List(chaos_pb2.ListFaultsRequest(), timeout=FAULT_S)
        return answer(MessageToDict(targets) | {"faults": MessageToDict(found).get("faults", [])})

    async def _begin(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = _document(await body_of(request)).get("fault")
        if not isinstance(fault, str):
            raise BadRequest('say which fault: {"fault": "stop: {target: leader, for: 10s}"}')
        async with self._supervisor() as admin:
            begun = await admin.faults.Begin(chaos_pb2.BeginRequest(fault=fault, by="dashboard"), timeout=FAULT_S)
        return answer(MessageToDict(begun))

    async def _end_fault(self, request: web.BaseRequest) -> web.StreamResponse:
        id_ = asked(request, "id")
        async with self._supervisor(id_=id_) as admin:
            ended = await admin.faults.End(chaos_pb2.EndRequest(id=id_), timeout=FAULT_S)
        return answer(MessageToDict(ended.fault))


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the body is no JSON: {e}") from e
    if not isinstance(found, dict):
        raise BadRequest("the body is no object")
    return found
