"""Commands on containers, `logs` and `exec`: they call the pod's node host. Each returns its exit code."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, BadRequest, ServiceUnavailable
from rayplane.control_plane.api.errors import NotFound as Missing
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.api.pods.state import pod_phase
from rayplane.control_plane.cli.kinds import resource_of
from rayplane.control_plane.cli.session import Session
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.rayplane.v1 import node_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Flags of `logs`."""

    container: str = ""
    follow: bool = False
    tail: int = -1
    """Lines from the end; all when negative."""
    previous: bool = False
    timestamps: bool = False
    since_s: int = 0
    """Only what is not older; everything when 0."""


@dataclass(frozen=True, slots=True)
class Input:
    """Input that is typed: `chunks` ends with it. `size` is (columns, rows) of the terminal, if it is one."""

    chunks: AsyncIterator[bytes]
    size: tuple[int, int] | None = None


async def logs(session: Session, what: str, options: LogOptions) -> int:
    """Print what a container has written."""
    async with aclosing(written(session, what, options)) as chunks:
        async for chunk in chunks:
            session.terminal.write(chunk)
    return 0


async def written(session: Session, what: str, options: LogOptions) -> AsyncGenerator[bytes, None]:
    """What a container has written, and with `follow` what it writes."""
    pod = await _pod(session, what)
    request = pb.LogsRequest(
        ref=_ref(pod, options.container),
        follow=options.follow,
        previous=options.previous,
        timestamps=options.timestamps,
        tail_lines=options.tail if options.tail >= 0 else None,
        since_seconds=options.since_s or None,
    )
    stub = await _node(session, pod)
    try:
        async with aclosing(stub.Logs(request)) as chunks:
            async for chunk in chunks:
                yield chunk.data
    except RpcError as e:
        raise _said(e, pod) from e


async def execute(
    session: Session, what: str, command: Sequence[str], *, container: str = "", typed: Input | None = None
) -> int:
    """Run a command in a container; its exit code."""
    if not command:
        raise UsageError("say what to run: exec POD -- COMMAND")
    pod = await _pod(session, what)
    tty = typed is not None and typed.size is not None
    first = pb.ExecRequest(ref=_ref(pod, container), command=command, tty=tty, stdin_open=typed is not None)
    if typed is not None and typed.size is not None:
        first.width, first.height = typed.size
    stub = await _node(session, pod)
    try:
        async with aclosing(stub.Exec(_requests(first, typed))) as answers:
            async for answer in answers:
                if answer.stdout:
                    session.terminal.write(answer.stdout)
                if answer.stderr:
                    session.terminal.write_error(answer.stderr)
                if answer.HasField("exit_code"):
                    return int(answer.exit_code)
    except RpcError as e:
        raise _said(e, pod) from e
    raise ClusterError("the node ended the session without saying how the command ended")


async def _requests(first: pb.ExecRequest, typed: Input | None) -> AsyncIterator[pb.ExecRequest]:
    yield first
    if typed is not None:
        async for chunk in typed.chunks:
            yield pb.ExecRequest(stdin=chunk)
        yield pb.ExecRequest(stdin_closed=True)


async def _pod(session: Session, what: str) -> Object:
    """The pod `NAME` or `pod/NAME`, or the first that `KIND/NAME` selects."""
    kind, _, name = what.rpartition("/")
    info = (await session.kinds.resolve(kind or "pods"))[0]
    obj = await session.api.get(resource_of(info), name, session.namespace_of(info))
    if info.name == "pods":
        return obj
    selector = meta.spec(obj).get("selector")
    if not selector:
        raise ClusterError(f"{what} selects no pods")
    text = label_selector_text(
        selector if "matchLabels" in selector or "matchExpressions" in selector else {"matchLabels": selector}
    )
    pods = (await session.api.list("pods", meta.namespace(obj), label_selector=text)).items
    if not pods:
        raise ClusterError(f"{what} has no pods now")
    # One that runs before one that does not; else the order of names.
    return min(pods, key=lambda p: (pod_phase(p) != "Running", meta.name(p)))


def _ref(pod: Object, container: str) -> pb.ContainerRef:
    return pb.ContainerRef(
        node=meta.node_name(pod), namespace=meta.namespace(pod), pod=meta.name(pod), container=container
    )


async def _node(session: Session, pod: Object) -> Stub:
    name = meta.node_name(pod)
    if not name:
        raise ClusterError(f"pod {meta.name(pod)} is on no node yet; see `rayplane describe pod {meta.name(pod)}`")
    node = await session.api.get("nodes", name)
    address = meta.annotations(node).get(HOST_ADDRESS)
    if not address:
        raise ClusterError(f"node {name} does not say where its host is (annotation {HOST_ADDRESS})")
    return Stub(session.network.channel(address), pb.DESCRIPTOR.services_by_name["Node"])


def _said(error: RpcError, pod: Object) -> ApiError:
    """A node's error as the API server would tell it."""
    if error.retryable:
        return ServiceUnavailable(f"node {meta.node_name(pod)} does not answer: {error.message}")
    return (Missing if error.code.name == "NOT_FOUND" else BadRequest)(error.message)
