"""Calls of the gateway: what HTTP requests and WebSockets have in common."""

import asyncio
import codecs
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.web.gateway.messages import fill
from rayplane.control_plane.etcd.server.web.gateway.syntax import Extent, Incomplete, JsonError, first_value, skip_space
from rayplane.control_plane.rpc import Context, Encoded, Method, RpcError, identity_of_transport
from rayplane.control_plane.rpc.errors import error_of
from rayplane.control_plane.rpc.faults import FaultLog

log = logging.getLogger(__name__)
_faults = FaultLog(log)

#: Characters of one request's JSON; more are refused. A request of etcd's 1.5 MiB is a third longer in base64.
BODY_CHARS_MAX = 8 << 20
#: A text that is longer is parsed in a thread: the loop has other things to do.
PARSED_AT_ONCE_MAX = 256 << 10
#: HTTP status and its name, by gRPC code; others are 500.
_STATUS: dict[errors.Code, tuple[int, str]] = {
    errors.Code.CANCELLED: (408, "Request Timeout"),
    errors.Code.INVALID_ARGUMENT: (400, "Bad Request"),
    errors.Code.DEADLINE_EXCEEDED: (504, "Gateway Timeout"),
    errors.Code.NOT_FOUND: (404, "Not Found"),
    errors.Code.ALREADY_EXISTS: (409, "Conflict"),
    errors.Code.PERMISSION_DENIED: (403, "Forbidden"),
    errors.Code.UNAUTHENTICATED: (401, "Unauthorized"),
    errors.Code.RESOURCE_EXHAUSTED: (429, "Too Many Requests"),
    errors.Code.FAILED_PRECONDITION: (400, "Bad Request"),
    errors.Code.ABORTED: (409, "Conflict"),
    errors.Code.OUT_OF_RANGE: (400, "Bad Request"),
    errors.Code.UNIMPLEMENTED: (501, "Not Implemented"),
    errors.Code.UNAVAILABLE: (503, "Service Unavailable"),
}
_INTERNAL = (500, "Internal Server Error")
_METADATA_HEADER = "grpc-metadata-"
_TIMEOUT = re.compile(r"(-?\d{1,18})([HMSmun])")
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Requests:
    """The messages of a request's body, read as they come."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], kind: type[Message], *, whole: bool = False) -> None:
        """`read` gives some bytes, none at the end. `whole`: read it all before anything is looked at."""
        self._read_bytes = read
        self._kind = kind
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._text = ""
        self._ended = False
        self._whole = whole
        self._extent = Extent()

    async def first(self) -> Message:
        """The only message of a call without a stream; empty without a body. Raises JsonError."""
        return await self.next() or self._kind()

    async def next(self) -> Message | None:
        """The next message; None at the end of the body. Raises JsonError, RpcError."""
        while self._whole and not self._ended:
            await self._read()
        while True:
            start = skip_space(self._text, 0)
            if start < len(self._text):
                try:
                    message, end = await self._parsed(start)
                except Incomplete:
                    if self._ended:
                        raise
                else:
                    self._text = self._text[end:]
                    self._extent = Extent(self._text)
                    return message
            elif self._ended:
                return None
            # What begins may be wrong from the start; what has begun is looked at again where it can be complete.
            begins = start == len(self._text)
            await self._read()
            while not (begins or self._ended or self._extent.closed):
                await self._read()

    async def _parsed(self, start: int) -> tuple[Message, int]:
        """The message that begins there, and where it ends. Raises Incomplete, JsonError."""
        if len(self._text) - start > PARSED_AT_ONCE_MAX:
            return await asyncio.to_thread(self._parse, self._text, start)
        return self._parse(self._text, start)

    def _parse(self, text: str, start: int) -> tuple[Message, int]:
        value, end = first_value(text, start)
        message = self._kind()
        try:
            fill(message, value)
        except RecursionError:
            raise JsonError("exceeded max depth") from None
        return message, end

    async def _read(self) -> None:
        data = await self._read_bytes()
        self._ended = not data
        new: str = self._decode(data, self._ended)
        self._text += new
        if len(self._text) > BODY_CHARS_MAX:
            size = len(self._text)
            raise RpcError(
                errors.Code.RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({size} vs. {BODY_CHARS_MAX})",
            )
        self._extent.feed(new)

    async def all(self, message: Message | None) -> AsyncIterator[Message]:
        """`message` and all that follow; what cannot be read ends them, as it does in etcd."""
        with contextlib.suppress(JsonError):
            while message is not None:
                yield message
                message = await self.next()


def message_of(response: Any, method: Method) -> Message:
    return method.response_type.FromString(response.data) if isinstance(response, Encoded) else response


def context_of(request: web.BaseRequest) -> Context:
    metadata: dict[str, str] = {}
    for name, value in request.headers.items():
        lowered = name.lower()
        if lowered == "authorization":
            metadata[lowered] = value
        elif lowered.startswith(_METADATA_HEADER):
            metadata[lowered.removeprefix(_METADATA_HEADER)] = value
    return Context(metadata=metadata, identity=identity_of_transport(request.transport), peer=request.remote or "")


def limit_of(request: web.BaseRequest) -> asyncio.Timeout:
    """The time that the client gives its call."""
    header = request.headers.get("Grpc-Timeout")
    if header is None:
        return asyncio.timeout(None)
    match = _TIMEOUT.fullmatch(header)
    if match is None:
        raise RpcError(errors.Code.INVALID_ARGUMENT, f"invalid grpc-timeout: {header}")
    return asyncio.timeout(int(match[1]) * _TIMEOUT_UNITS[match[2]])


def told(exception: Exception) -> RpcError:
    if isinstance(exception, TimeoutError):
        return RpcError(errors.Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    error = error_of(exception)
    if error.code is errors.Code.INTERNAL:
        _faults.tell("a call over HTTP failed", exception)
    # A header that is quoted may hold what is no text.
    text = error.message.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return error if text == error.message else RpcError(error.code, text, error.details)


def refusal_of(error: RpcError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a call that failed as a whole."""
    body = {"error": error.message, "code": error.code.value[0], "message": error.message}
    return _STATUS.get(error.code, _INTERNAL)[0], body


def break_of(error: RpcError) -> tuple[int, dict[str, Any]]:
    """HTTP status and last chunk of a stream that failed."""
    status, name = _STATUS.get(error.code, _INTERNAL)
    detail = {"grpc_code": error.code.value[0], "http_code": status, "message": error.message, "http_status": name}
    return status, {"error": detail}
