"""Streams to what runs in pods, as both faces open them: rights, the container, the node host that runs it.

The node host is found by its Node's annotation. The buffers of a stream are those of the transports on both sides, so a
slow reader slows its writer.
"""

from collections.abc import AsyncGenerator, Sequence

from rayplane.control_plane.api.errors import BadRequest, Invalid, forbidden, invalid
from rayplane.control_plane.api.meta import Object, annotations
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.apiserver.outgoing.node_hosts import host_of
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.rpc import Network, Stub
from rayplane.proto.rayplane.v1 import node_pb2

_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
#: Numbers in a LogsRequest, and how the API names them.
LOG_NUMBERS = {"tail_lines": "tailLines", "since_seconds": "sinceSeconds", "limit_bytes": "limitBytes"}


class PodStreams:
    """The opener of `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`. All methods raise ApiError."""

    def __init__(self, registry: ObjectRegistry, network: Network) -> None:
        self._registry = registry
        self._network = network

    async def pod(self, user: User, target: Target, verb: str, options: Object | None = None) -> Object:
        """The pod of a subresource that the user may use; `options`: what for, where that is a connection."""
        await self._registry.allow(user, verb, target)
        if target.subresource != "log" and verb != "create":
            # A WebSocket begins with GET, whatever it does in the pod: who may only look may not, as in Kubernetes.
            await self._registry.allow(user, "create", target)
        if options is not None:
            await self._registry.connect(user, target, options)
        plain = Target(target.info, target.namespace, target.name)
        return (await self._registry.reader.get(plain)).object

    async def logs(
        self, pod: Object, container: str, request: node_pb2.LogsRequest
    ) -> AsyncGenerator[node_pb2.LogChunk, None]:
        """The log of a container; `request` says which part of it. What the node host refuses comes as RpcError."""
        containers = (pod.get("spec") or {}).get("containers") or ()
        if not container and len(containers) > 1 and not annotations(pod).get(_DEFAULT_CONTAINER):
            names = " ".join(c["name"] for c in containers)
            raise BadRequest(
                f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{names}]"
            )
        _check_numbers(request, pod["metadata"]["name"])
        stub, node = await host_of(pod, self._registry.lookup, self._network)
        request.ref.CopyFrom(_ref(pod, node, container))
        opened: AsyncGenerator[node_pb2.LogChunk, None] = stub.Logs(request)
        return opened

    async def command(
        self, pod: Object, container: str, command: Sequence[str], *, attach: bool, tty: bool, stdin: bool
    ) -> tuple[Stub, node_pb2.ExecRequest]:
        """The node host, and the first of the requests of its Exec."""
        if not command and not attach:
            raise BadRequest("you must specify at least one command for the container")
        stub, node = await host_of(pod, self._registry.lookup, self._network)
        ref = _ref(pod, node, container)
        opening = node_pb2.ExecRequest(ref=ref, command=() if attach else command, tty=tty, stdin_open=stdin)
        return stub, opening

    async def port_forward(self, pod: Object) -> tuple[Stub, node_pb2.ContainerRef]:
        """The node host, and whom to ask it for."""
        stub, node = await host_of(pod, self._registry.lookup, self._network)
        return stub, _ref(pod, node, "")


def _ref(pod: Object, node: str, container: str) -> node_pb2.ContainerRef:
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    names = [c["name"] for c in every(spec)]
    if not container:
        # kubectl reads the same annotation before it asks.
        container = annotations(pod).get(_DEFAULT_CONTAINER, "")
        container = container if container in names else spec["containers"][0]["name"]
    if container not in names:
        raise BadRequest(f"container {container} is not valid for pod {meta['name']}")
    return node_pb2.ContainerRef(node=node, namespace=meta["namespace"], pod=meta["name"], container=container)


def _check_numbers(request: node_pb2.LogsRequest, pod: str) -> None:
    problems = []
    for field, name in LOG_NUMBERS.items():
        value, least = getattr(request, field), 0 if field == "tail_lines" else 1
        if request.HasField(field) and value < least:
            text = "must be greater than 0" if least else "must be greater than or equal to 0"
            problems.append(invalid(name, value, text))
    if request.HasField("since_seconds") and request.since_time:
        problems.append(forbidden("sinceSeconds", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    if problems:
        raise Invalid.of("PodLogOptions", pod, problems)
