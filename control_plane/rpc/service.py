"""Services as data: a protobuf service descriptor and an object whose methods answer its calls."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from rayplane.control_plane.rpc.callers import Callers, Identity


@dataclass(frozen=True, slots=True)
class Context:
    """The facts of a call besides its request that a handler may know. Calls that look alike may share one."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None
    peer: str = ""
    path: str = ""
    """The method's: /package.Service/Method."""


#: Largest message either side takes, unless a service says less of its requests.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024


class Encoded:
    """A response that a handler has serialized already: large or shared answers need no message object."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of a service."""

    name: str
    path: str
    request_type: type[Message]
    response_type: type[Message]
    client_streaming: bool
    server_streaming: bool


@functools.cache
def methods_of(descriptor: ServiceDescriptor) -> tuple[Method, ...]:
    """The RPCs of a service, in the order of its .proto file."""
    return tuple(
        Method(
            name=m.name,
            path=f"/{descriptor.full_name}/{m.name}",
            request_type=message_factory.GetMessageClass(m.input_type),
            response_type=message_factory.GetMessageClass(m.output_type),
            client_streaming=m.client_streaming,
            server_streaming=m.server_streaming,
        )
        for m in descriptor.methods
    )


class Service:
    """A descriptor and its handler.

    The handler has one method per RPC: `async def Name(request, context) -> response` where the answer is one
    message, an async generator `Name(request, context)` where it is a stream. For client streams `request` is an
    async iterator. An RPC the handler has no method for is answered UNIMPLEMENTED, a request above
    `request_bytes_max` RESOURCE_EXHAUSTED, a caller who is not among the method's `callers` UNAUTHENTICATED or
    PERMISSION_DENIED.

    Raises ValueError unless `callers` names every RPC that the handler answers and none that does not exist.
    """

    def __init__(
        self,
        descriptor: ServiceDescriptor,
        handler: object,
        *,
        callers: Mapping[str, Callers],
        request_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self.name: str = descriptor.full_name
        self.request_bytes_max = request_bytes_max
        methods = methods_of(descriptor)
        self.handlers: dict[str, tuple[Method, Callable[..., Any]]] = {
            m.path: (m, getattr(handler, m.name)) for m in methods if hasattr(handler, m.name)
        }
        unnamed = {m.name for m, _ in self.handlers.values()} - callers.keys()
        unknown = callers.keys() - {m.name for m in methods}
        if unnamed or unknown:
            raise ValueError(
                f"the callers of {self.name} do not match its methods: say who may call {sorted(unnamed)}"
                f" and nothing of {sorted(unknown)}"
            )
        self.callers: Mapping[str, Callers] = {m.path: callers[m.name] for m, _ in self.handlers.values()}
        """Who may call, by path."""
