"""Calls of a container runtime, each with a time limit, and its failures as this project's errors.

The runtime is another's program: it may be away, hang, or answer with more than anybody wants. Bounds: how long each
call may take, and how large an answer may be.
"""

from typing import Any

import grpc
from google.protobuf.message import Message

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.unix import unix_channel
from rayplane.node.errors import NodeError, NotHere, RuntimeAway, RuntimeFailed, RuntimeUnfit
from rayplane.node.runtime import Features
from rayplane.proto.cri import cri_pb2 as pb

#: As kubelets take them.
ANSWER_BYTES_MAX = 16 * 1024 * 1024
CHECK_S = 5.0
CALL_S = 20.0
#: Networks and images of sandboxes take their time; so do pulls, of which nothing is heard before they are done.
SANDBOX_S = 240.0
PULL_S = 900.0
API_VERSION = "v1"
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_SERVICES = pb.DESCRIPTOR.services_by_name


class CriClient:
    """The runtime at a socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._channel = unix_channel(path, limit=ANSWER_BYTES_MAX)
        self._runtime = Stub(self._channel, _SERVICES["RuntimeService"])
        self._images = Stub(self._channel, _SERVICES["ImageService"])

    async def call(self, name: str, request: Message, *, timeout: float = CALL_S) -> Any:
        """The answer of RuntimeService's method `name`. Raises NodeError."""
        try:
            return await getattr(self._runtime, name)(request, timeout=timeout)
        except RpcError as e:
            raise self._told(name, e) from e

    async def image_call(self, name: str, request: Message, *, timeout: float = CALL_S) -> Any:
        """The same of ImageService."""
        try:
            return await getattr(self._images, name)(request, timeout=timeout)
        except RpcError as e:
            raise self._told(name, e) from e

    def events(self) -> Any:
        """Changes of containers, until the runtime ends the stream. Raises RpcError."""
        return self._runtime.GetContainerEvents(pb.GetEventsRequest())

    def _told(self, name: str, error: RpcError) -> NodeError:
        if error.code in _AWAY:
            return RuntimeAway(f"the runtime at {self.path} does not answer {name}: {error.message}")
        if error.code is grpc.StatusCode.NOT_FOUND:
            return NotHere(error.message)
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            return RuntimeUnfit(f"the runtime at {self.path} has no {name} of CRI {API_VERSION}: {error.message}")
        return RuntimeFailed(error.message)

    async def check(self) -> tuple[pb.VersionResponse, Features]:
        """What runtime it is and can do, if it can be used. Raises RuntimeAway, RuntimeUnfit, RuntimeFailed."""
        version = await self.call("Version", pb.VersionRequest(version=API_VERSION), timeout=CHECK_S)
        # Older ones of CRI v1 leave it empty.
        if version.runtime_api_version not in ("", API_VERSION):
            found = version.runtime_api_version
            raise RuntimeUnfit(f"the runtime at {self.path} speaks CRI {found}: use one that speaks {API_VERSION}")
        answer = await self.call("Status", pb.StatusRequest(), timeout=CHECK_S)
        known = {condition.type: condition for condition in answer.status.conditions}
        for name in ("RuntimeReady", "NetworkReady"):
            condition = known.get(name)
            if condition is None or not condition.status:
                why = f"{condition.reason}: {condition.message}" if condition is not None else "it does not say why"
                raise RuntimeFailed(f"{version.runtime_name} at {self.path} is not ready: {name} is false: {why}")
        recursive = {one.name: one.features.recursive_read_only_mounts for one in answer.runtime_handlers}
        # Older ones do not tell of ways to run a pod: there is the usual one all the same.
        return version, Features({"": False} | recursive, answer.features.supplemental_groups_policy)

    async def cgroup_driver(self) -> int:
        """How it wants cgroups named; as files where it does not say."""
        try:
            answer = await self.call("RuntimeConfig", pb.RuntimeConfigRequest(), timeout=CHECK_S)
        except RuntimeUnfit:
            return pb.CgroupDriver.CGROUPFS
        return int(answer.linux.cgroup_driver) if answer.HasField("linux") else pb.CgroupDriver.CGROUPFS

    async def close(self) -> None:
        await self._channel.close()
