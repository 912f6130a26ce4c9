"""HTTP/1.1 servers that no client can hold: aiohttp's, with bounds on what a connection may take.

    server = http1.server(handler, HttpLimits(header_s=10))

`server()` is the protocol factory of a listening socket, as aiohttp's `web.Server` is. A connection is ended when its
headers don't come in time or are too large, when a body of known length comes too slowly, when nobody takes what it is
answered, or when it idles; a port takes so many connections. When it is full, who has asked nothing yet makes room for
who comes. Bodies are handed on as they come: none is decompressed. CONNECT is never answered with a tunnel.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import format_datetime
from typing import Any, cast

from aiohttp import web
from aiohttp.hdrs import SERVER
from aiohttp.http import SERVER_SOFTWARE, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from rayplane.control_plane.rpc.callers import Identity
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.control_plane.rpc.gate import Gate, HttpLimits, fitting
from rayplane.control_plane.rpc.sockets import INTRODUCTION_S
from rayplane.control_plane.rpc.tls import identity_of_transport
from rayplane.storage.env.leaps import keep_pace, machine_time

log = logging.getLogger(__name__)
_faults = FaultLog(log)

_END = b"\r\n\r\n"
# As Go's servers say it.
_HEAD_TOO_LARGE = "431 Request Header Fields Too Large"
_REFUSAL = (
    f"HTTP/1.1 {_HEAD_TOO_LARGE}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    f"{_HEAD_TOO_LARGE}"
).encode()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Answer = Callable[[bytes | None], None]
"""Called with what is written as the answer, or with None for a request that goes to the handler."""
GiveUp = Callable[[], object]
Quick = Callable[[Identity | None, bytes, Answer], GiveUp | None]
"""Gets who asks, the bytes of what may be a request, and `answer`, which it calls later and once; then what it returns
ends that early. None, and no call, for a request that it leaves to the handler.
"""


def server(
    handler: Handler,
    limits: HttpLimits | None = None,
    *,
    now: Callable[[], datetime] | None = None,
    quick: Quick | None = None,
    **options: Any,
) -> "GuardedServer":
    """`now`: the clock of the answers' Date (RFC 9110, section 6.6.1); a handler that begins its answer itself writes
    that header itself, see `date`. `quick` may answer what needs no more than its bytes. `options`: aiohttp's, of its
    RequestHandler.
    """
    answer = handler if now is None else _dated(handler, now)
    return GuardedServer(answer, limits or HttpLimits(), quick=quick, **options)


def date(now: datetime) -> str:
    """A Date header's text."""
    return _date(now.replace(microsecond=0))


@functools.lru_cache(maxsize=1)
def _date(second: datetime) -> str:
    return format_datetime(second, usegmt=True)


def identity_of(request: web.BaseRequest) -> Identity | None:
    """Who is at the other end of the request's connection, see `identity_of_transport`."""
    protocol = request.protocol
    return protocol.identity if isinstance(protocol, Guard) else identity_of_transport(request.transport)


def _dated(handler: Handler, now: Callable[[], datetime]) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = await handler(request)
        if not response.prepared:
            response.headers["Date"] = date(now())
        return response

    return answer


class _Request(web.BaseRequest):
    """A request whose answer does not say which Python and which library made it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if response.headers.get(SERVER) == SERVER_SOFTWARE:
            del response.headers[SERVER]


class GuardedServer(web.Server):
    """An HTTP/1.1 server with bounds, see the module."""

    def __init__(self, handler: Handler, limits: HttpLimits, *, quick: Quick | None = None, **options: Any) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.method != "CONNECT":
                return await handler(request)
            response = web.Response(status=405, text="Method Not Allowed\n")
            response.force_close()
            return response

        super().__init__(
            answer,
            # A request whose client leaves ends: an idle watch would stay for ever otherwise.
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=limits.idle_s,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=limits.headers,
            request_factory=self._request,
            **options,
        )
        self.limits = limits
        self.quick = quick
        self.gate = Gate(fitting(limits.gate))
        self.newcomers: dict[Guard, None] = {}
        """Connections that have not sent a request's headers yet, the oldest first."""
        self._guards: dict[Guard, None] = {}
        self._checking: asyncio.TimerHandle | None = None
        self._stopping = False

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)

    def __call__(self) -> "Guard":
        return Guard(self, loop=self._loop, **self._kwargs)

    def pre_shutdown(self) -> None:
        self._stopping = True
        super().pre_shutdown()

    def arrived(self, guard: "Guard", address: str) -> bool:
        """False where there is no room, and for who was still in its TLS handshake when the server stopped."""
        if self._stopping:
            return False
        if self.gate.full and self.newcomers:
            next(iter(self.newcomers)).cut()
        if not self.gate.enter(address):
            return False
        self.newcomers[guard] = self._guards[guard] = None
        if self._checking is None:
            self._checking = self._loop.call_later(self.limits.check_s, self._check)
        return True

    def left(self, guard: "Guard", address: str) -> None:
        self.newcomers.pop(guard, None)
        if self._guards.pop(guard, guard) is None:
            self.gate.leave(address)

    def _check(self) -> None:
        now = machine_time(self._loop)
        try:
            for guard in list(self._guards):
                guard.check(now)
        finally:
            self._checking = self._loop.call_later(self.limits.check_s, self._check) if self._guards else None


class Guard(web.RequestHandler):
    """One connection. Everything is looked at when the server checks, not by timers of its own."""

    __slots__ = (
        "_address",
        "_answering_at",
        "_asked_at",
        "_between",
        "_body_at",
        "_body_bytes",
        "_give_up",
        "_head_bytes",
        "_leap_again",
        "_quick",
        "_refused",
        "_server",
        "_taken_at",
        "_untaken",
        "_wire",
        "identity",
    )

    def __init__(self, manager: GuardedServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._leap_again = keep_pace(INTRODUCTION_S)
        self._address = ""
        self.identity: Identity | None = None
        """Who is at the other end, by its certificate: a connection is one caller's."""
        self._wire: asyncio.Transport | None = None
        self._asked_at: float | None = None  # since when headers are awaited that have begun or are the first
        self._answering_at: float | None = None  # since when an answer of known length is written
        self._body_at = self._taken_at = 0.0
        self._body_bytes = self._head_bytes = self._untaken = 0
        self._refused = False
        self._between = True  # nothing of a request has come that is not taken
        self._quick: bytes | None = None  # the request that is answered without the handler just now
        self._give_up: GiveUp | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._server.arrived(self, self._address):
            cast(asyncio.Transport, transport).abort()
            return
        self._wire = cast(asyncio.Transport, transport)
        self.identity = identity_of_transport(transport)
        self._asked_at = machine_time(self._loop)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._leap_again()
        self._server.left(self, self._address)
        if self._wire is not None:
            self._wire = None
            if self._quick is not None:
                self._leave_quick()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._wire is None or self._refused:
            return
        if self._quick is not None:
            # It was not all: what has come is for the parser.
            self._take(self._leave_quick() + data)
        elif not (self._server.quick is not None and self._is_idle() and self._begin_quick(self._server.quick, data)):
            self._take(data)

    def resume_reading(self, *args: Any, **named: Any) -> None:
        """Read on. aiohttp's bodies ask for it with each piece that is taken, whether reading was paused or not."""
        if self._reading_paused:
            super().resume_reading(*args, **named)

    def _is_idle(self) -> bool:
        """Whether what comes now begins a request, and nobody is busy with another."""
        return self._between and self._waiter is not None and not self._waiter.done() and not self._messages

    def _begin_quick(self, quick: Quick, data: bytes) -> bool:
        self._give_up = quick(self.identity, data, functools.partial(self._answered, data))
        if self._give_up is None:
            return False
        self._quick, self._asked_at = data, None
        self._body_at = machine_time(self._loop)
        self._has_asked()
        self._stays_open()
        return True

    def _has_asked(self) -> None:
        self._server.newcomers.pop(self, None)
        self._leap_again()

    def _leave_quick(self) -> bytes:
        """The request that was to be answered without the handler, which is not any more."""
        asked, give_up = self._quick, self._give_up
        assert asked is not None and give_up is not None
        self._quick = self._give_up = None
        give_up()
        return asked

    def _answered(self, asked: bytes, answer: bytes | None) -> None:
        if self._quick is not asked or self._wire is None:
            return
        self._quick = self._give_up = None
        if answer is None or self._wire.is_closing():
            self._take(asked)
        else:
            self._stays_open()
            self._wire.write(answer)

    def _stays_open(self) -> None:
        """As aiohttp does after each request."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _take(self, data: bytes) -> None:
        """Give the parser what has come."""
        before, is_head = self._request_count, self._awaits_head()
        super().data_received(data)
        self._between = False
        if self._request_count != before:
            self._between = self._request_count == before + 1 and data.endswith(_END) and self._awaits_head()
            self._asked_at = None
            self._has_asked()
            self._body_at, self._body_bytes, self._head_bytes = machine_time(self._loop), len(data), 0
            return
        if self._waiter is not None and self._asked_at is None:
            self._asked_at = machine_time(self._loop)
            # aiohttp ends connections that are kept alive by the loop's time, whatever has come of another request.
            self._leap_again = keep_pace(INTRODUCTION_S)
        if not is_head:
            self._body_bytes += len(data)
            return
        self._head_bytes += len(data)
        if self._head_bytes > self._server.limits.head_bytes:
            self._refuse()

    def _awaits_head(self) -> bool:
        """Whether what comes next belongs to the line and the headers of a request, which may be a pipelined one."""
        if self._messages:
            message, payload = self._messages[-1]
        elif (request := self._current_request) is not None:
            message, payload = request._message, request.content
        else:
            return True
        # After what is no request nothing is read any more.
        return payload.is_eof() and isinstance(message, RawRequestMessage) and not message.upgrade

    def _refuse(self) -> None:
        """Say that a request's head is too large. What still comes is not looked at, until the next check."""
        self._refused = True
        if self._asked_at is None or self._wire is None:
            self.cut()  # in the middle of another answer
            return
        self._wire.write(_REFUSAL)
        self._asked_at = -math.inf

    def check(self, now: float) -> None:
        """End the connection where the client does not do its part."""
        limits, wire = self._server.limits, self._wire
        if wire is None:
            return
        if self._quick is not None and now - self._body_at > limits.check_s:
            self._take(self._leave_quick())
        late = self._asked_at is not None and now - self._asked_at > limits.header_s
        if self._answering_at is not None:
            late = late or now - self._answering_at > limits.answer_s
        if late or self._is_slow(now) or self._is_untaken(wire, now):
            self.cut()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        # Streams have begun before.
        self._answering_at = None if resp.prepared else machine_time(self._loop)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answering_at = None

    def _is_slow(self, now: float) -> bool:
        request, limits = self._current_request, self._server.limits
        if request is None or request.content.is_eof():
            return False
        least = limits.body_bytes_per_s if request.content_length is not None else limits.chunked_bytes_per_s
        # It waits for us. Until 3.14.3 aiohttp had one pause for both reasons.
        if self._reading_paused or getattr(self, "_buffer_paused", False):
            self._body_at, self._body_bytes = now, 0
            return False
        due = (now - self._body_at - limits.body_grace_s) * least
        return self._body_bytes < due

    def _is_untaken(self, wire: asyncio.Transport, now: float) -> bool:
        waiting = wire.get_write_buffer_size()
        if not waiting or waiting != self._untaken:
            self._untaken, self._taken_at = waiting, now
        return now - self._taken_at > self._server.limits.untaken_s

    def cut(self) -> None:
        if self._wire is not None:
            self._wire.abort()
        self._server.left(self, self._address)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, LineTooLong):
            status, message = 431, _HEAD_TOO_LARGE
        return super().handle_error(request, status, exc, message)

    def log_exception(self, *args: Any, **named: Any) -> None:
        """aiohttp's own findings: a request that is no HTTP, or whose client left, is no fault of ours."""
        error = named.get("exc_info")
        if isinstance(error, web.HTTPException | ValueError | ConnectionError) or getattr(error, "code", None) == 400:
            return
        _faults.tell("a request over HTTP failed", error if isinstance(error, BaseException) else None)
