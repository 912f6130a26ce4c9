"""A client for programs: every method blocks, and runs on an event loop in a thread of the client's own."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rayplane.control_plane.api.errors import ApiError, ServerTimeout, TooManyRequests
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.api import TIMEOUT_S, ApiClient, WatchEvent
from rayplane.control_plane.client.on_thread import OnThread
from rayplane.control_plane.client.pods import Duplex, Finished, PodClient
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.proto.rayplane.v1 import objects_pb2, pods_pb2

T = TypeVar("T")
# The class below has a method `list`, which hides the type inside it.
_Objects = list[Object]
_Answers = list[Object | ApiError]
_RETRY_S = 1


class Client(OnThread):
    """A client of the gRPC API `rayplane.v1`. Use it in a `with` block, from any thread.

        with cluster.client() as client:
            client.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}, "data": {"x": "1"}})
            client.get("configmaps", "a", "default")

    `endpoints` are host:port of API servers' gRPC ports (`rayplane endpoints`); servers that come and go are followed.
    `ca`, `cert` and `key` are paths of PEM files; without `ca` nothing is encrypted, without `cert` a `token` says who
    asks. `timeout` bounds each call that is no stream, in seconds.

    `resource` is "pods", "deployments.apps" or "deployments.v1.apps". Objects are dicts as in JSON. `options` are those
    of the request that the method makes: `dry_run`, `field_manager`, `field_validation`, `subresource`.

    Raises the API's errors (`rayplane.errors`): NotFound, Conflict, Invalid with what validation found in
    `details["causes"]`, and so on. What cannot have had an effect is tried again, on another server; so are reads that
    the servers are too busy for. A write that got no answer raises Timeout, and may have been done.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: str | Path = "",
        cert: str | Path = "",
        key: str | Path = "",
        token: str = "",
        user_agent: str = "rayplane-python",
        timeout: float = TIMEOUT_S,
    ) -> None:
        shown, trusted = None, b""
        if ca:
            trusted = Path(ca).read_bytes()
            if cert:
                shown = Credentials(trusted, Path(cert).read_bytes(), Path(key).read_bytes())
        super().__init__(asyncio.new_event_loop())
        self._timeout_s = timeout
        self._network: Network = GrpcNetwork(shown, ca=trusted)
        self._api = ApiClient(self._network, endpoints, token=token, user_agent=user_agent, timeout=timeout)
        self._pods = PodClient(self._api)

    # --- objects ------------------------------------------------------------------------------

    def get(self, resource: str, name: str, namespace: str = "", **options: Any) -> Object:
        return self._read(lambda: self._api.get(resource, name, namespace, **options))

    def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> _Objects:
        """Everything that is selected, of all namespaces where none is named."""
        selectors: dict[str, Any] = {"label_selector": label_selector, "field_selector": field_selector}
        return self._read(lambda: self._api.list(resource, namespace, **selectors)).items

    def pages(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
    ) -> Iterator[_Objects]:
        """The same in parts as they come, of `limit` objects at most: never everything in memory."""
        selectors: dict[str, Any] = {"label_selector": label_selector, "field_selector": field_selector}
        return self._each(self._api.pages(resource, namespace, limit=limit, **selectors))

    def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        send_initial_events: bool = False,
    ) -> Iterator[WatchEvent]:
        """Changes as they come: from a version on, or of what there is first. Close the iterator to end it.

        The server ends it after some time, or where this program is too slow: watch again from the last version seen.
        Expired: that is too old; list, and watch from there.
        """
        groups = self._each(
            self._api.watch(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                resource_version=resource_version,
                send_initial_events=send_initial_events,
            )
        )
        try:
            for events in groups:
                yield from events
        finally:
            groups.close()

    def create(self, resource: str, obj: Object, **options: Any) -> Object:
        """`subresource` (binding, eviction, token) is of the object that `obj` names."""
        return self._do(self._api.create(resource, obj, **options))

    def update(self, resource: str, obj: Object, **options: Any) -> Object:
        """Conflict when somebody changed it since `obj` was read."""
        return self._do(self._api.update(resource, obj, **options))

    def patch(self, resource: str, name: str, namespace: str, body: Any, **options: Any) -> Object:
        """`kind`: merge (where nothing is said), json or strategic."""
        return self._do(self._api.patch(resource, name, namespace, body, **options))

    def apply(self, resource: str, obj: Object, *, field_manager: str, force: bool = False, **options: Any) -> Object:
        """Server-side apply: the object becomes as far as `obj` says so, and is made where there is none."""
        return self._do(self._api.apply(resource, obj, field_manager=field_manager, force=force, **options))

    def scale(self, resource: str, name: str, namespace: str, replicas: int) -> Object:
        """The Scale with so many replicas."""
        body = {"spec": {"replicas": replicas}}
        return self._do(self._api.patch(resource, name, namespace, body, subresource="scale"))

    def delete(self, resource: str, name: str, namespace: str = "", **options: Any) -> Object:
        """The object as it is being deleted, or a Status when it is gone.

        `options`: `uid` and `resource_version` as preconditions, `grace_period_s`, `propagation` (Background,
        Foreground, Orphan).
        """
        return self._do(self._api.delete(resource, name, namespace, **options))

    def delete_collection(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = "", **options: Any
    ) -> _Objects:
        """What was deleted."""
        selectors: dict[str, Any] = {"label_selector": label_selector, "field_selector": field_selector}
        return self._do(self._api.delete_collection(resource, namespace, **selectors, **options))

    def batch(self, operations: Sequence[objects_pb2.Operation]) -> _Answers:
        """An answer or an error for each of `rayplane.operations`, which are independent of each other."""
        return self._do(self._api.batch(operations, timeout=self._timeout_s))

    # --- pods ---------------------------------------------------------------------------------

    def logs(self, name: str, namespace: str, **options: Any) -> Iterator[bytes]:
        """A log in pieces. `options`: container, follow, previous, timestamps, tail_lines, since_seconds, limit_bytes,
        since_time.
        """
        return self._each(self._pods.logs(pods_pb2.PodLogsRequest(namespace=namespace, name=name, **options)))

    def run(
        self, name: str, namespace: str, command: Sequence[str], *, container: str = "", stdin: bytes = b""
    ) -> Finished:
        """Run a command in a container to its end, however long that takes."""
        asked = pods_pb2.PodCommand(
            namespace=namespace, name=name, container=container, command=command, stdin=bool(stdin)
        )
        return self._do(self._pods.run(asked, stdin))

    def exec(self, name: str, namespace: str, command: Sequence[str], **options: Any) -> "Command":
        """A command to talk to. `options`: container, tty, stdin (whether input is going to come)."""
        asked = pods_pb2.PodCommand(namespace=namespace, name=name, command=command, **options)
        return Command(self._do, self._do(self._pods.command(asked)))

    def attach(self, name: str, namespace: str, **options: Any) -> "Command":
        """The container's own process. `options` as of `exec`."""
        asked = pods_pb2.PodCommand(namespace=namespace, name=name, **options)
        return Command(self._do, self._do(self._pods.command(asked, attach=True)))

    def connect(self, name: str, namespace: str, port: int) -> "Connection":
        """A connection to a port of a pod, as by port-forward."""
        asked = pods_pb2.PodConnection(namespace=namespace, name=name, port=port)
        return Connection(self._do, self._do(self._pods.connection(asked)))

    # --- common -------------------------------------------------------------------------------

    def _read(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `_do`, again where the servers are too busy: reading twice does no harm."""

        async def patiently() -> T:
            end = self._loop.time() + self._timeout_s
            while True:
                try:
                    return await ask()
                except (TooManyRequests, ServerTimeout) as e:
                    pause_s = e.retry_after or _RETRY_S
                    if self._loop.time() + pause_s >= end:
                        raise
                    await asyncio.sleep(pause_s)

        return self._do(patiently())

    async def _end(self) -> None:
        await super()._end()
        await self._network.close()


class _Session:
    """A stream in two directions. Use it in a `with` block: what it runs ends with that."""

    def __init__(self, do: Callable[[Coroutine[Any, Any, Any]], Any], stream: Duplex) -> None:
        self._do = do
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # it has ended with the client
            self._do(self._stream.close())

    def close_input(self) -> None:
        """Say that nothing more will be written."""
        self._do(self._stream.send(None))

    def _answers(self) -> Iterator[Any]:
        while (answer := self._do(self._stream.receive())) is not None:
            yield answer


class Command(_Session):
    """A command in a container: iterate over (standard output, standard error) as they come."""

    exit_code: int | None = None
    """None until the iteration has ended."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for answer in self._answers():
            if answer.HasField("exit_code"):
                self.exit_code = answer.exit_code
            if answer.stdout or answer.stderr:
                yield answer.stdout, answer.stderr

    def write(self, data: bytes) -> None:
        """Type this in."""
        self._do(self._stream.send(pods_pb2.PodCommandRequest(stdin=data)))

    def resize(self, width: int, height: int) -> None:
        """Give the terminal this size, in characters."""
        size = pods_pb2.TerminalSize(width=width, height=height)
        self._do(self._stream.send(pods_pb2.PodCommandRequest(size=size)))


class Connection(_Session):
    """A connection to a port of a pod: iterate over what comes from there."""

    def __iter__(self) -> Iterator[bytes]:
        for answer in self._answers():
            if answer.data:
                yield answer.data

    def write(self, data: bytes) -> None:
        self._do(self._stream.send(pods_pb2.PodForwardRequest(data=data)))
