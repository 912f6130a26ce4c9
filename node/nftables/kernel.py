"""The kernel's end: a table that is kept as wanted through a netlink socket of the namespace that it is in."""

import asyncio
import errno
import itertools
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

from rayplane.node.netlink import CAP_ACK, DONE, ERROR, SOL_NETLINK, attribute_values, error_number, parsed
from rayplane.node.nftables import conntrack
from rayplane.node.nftables.conntrack import Flow
from rayplane.node.nftables.expressions import Rule
from rayplane.node.nftables.messages import (
    HOOKED,
    Message,
    delete_table,
    list_tables,
    new_table,
    transaction,
    transactions,
    units,
)
from rayplane.node.nftables.ruleset import FORWARD, Chain, Changes, Hook, Table
from rayplane.node.runtime.isolation.members import started

log = logging.getLogger(__name__)

PREFIX = "rayplane-"
"""Names of tables begin so; what follows is who keeps one, and how often it was made anew."""
ANSWER_S = 30.0
TRANSACTION_BYTES = 4 * 1024 * 1024
_SO_SNDBUFFORCE = 32
_TABLE = 0x0A00
_numbers = itertools.count(1)


class KernelTable:
    """One table of the kernel. `open_socket`: gives a descriptor of a netlink socket in the namespace; raises OSError.

    What is put into `table` is in force when the next `apply` has returned.
    """

    def __init__(self, open_socket: Callable[[], Awaitable[int]]) -> None:
        self.table = Table()
        self._open_socket = open_socket
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        pid = os.getpid()
        self._keeper = f"{PREFIX}{pid}-{started(pid)}-"
        self._prefix = f"{self._keeper}{next(_numbers)}-"
        self._turn = 0
        self._stale = True
        """Whether the kernel's table is not what was applied last."""
        self._networks = 0
        """How many namespaces have gone."""
        self._of_network = 0

    def reopen(self) -> None:
        """The namespace that the table was in is gone: the next `apply` makes it anew in another."""
        self._networks += 1

    async def close(self) -> None:
        """End the table."""
        async with self._lock:
            if self._socket is not None:
                await asyncio.get_running_loop().run_in_executor(None, _try, self._socket, [delete_table(self._name)])
                self._close_socket()

    def _close_socket(self) -> None:
        self._stale = True
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def apply(self) -> None:
        """Have the kernel take what has changed. Raises OSError; then the next call makes all anew."""
        async with self._lock:
            if self._of_network != self._networks:
                self._of_network = self._networks
                self._close_socket()
            if not self._stale:
                try:
                    await self._run(transactions(units(self._name, self.table.changes()), self._limit))
                    return
                except OSError as e:
                    log.warning("packet rules are made anew: %s", e)
            self._stale = True
            await self._make_anew()
            self._stale = False

    async def try_out(self, *rules: Rule) -> None:
        """Raises OSError where the kernel does not have what rules ask for. They are never in force."""
        name, chain = f"{self._prefix}tried", Chain(rules, Hook("filter", FORWARD, 0))
        made = [one for piece in units(name, Changes(chains={f"{HOOKED}tried": chain})) for one in piece]
        async with self._lock:
            if self._socket is None:
                self._socket = _prepared(await self._open_socket())
            await self._run(iter([[new_table(name), *made, delete_table(name)]]))

    async def flows(self, concerns: Callable[[Flow], bool]) -> list[Flow]:
        """The connections for which `concerns` holds, which is asked in a thread. Raises OSError."""
        async with self._lock:
            if self._socket is None:
                return []
            return await asyncio.get_running_loop().run_in_executor(None, _flows, self._socket, concerns)

    async def end_flows(self, flows: Sequence[Flow]) -> None:
        """Forget connections. What comes of them next is a new one. Raises OSError."""
        await self._tell_each(flows, conntrack.end_flow)

    async def mark_flows(self, flows: Sequence[Flow], mark: int, mask: int) -> None:
        """Mark connections (see `conntrack.mark_flow`). Raises OSError."""
        await self._tell_each(flows, lambda flow, number: conntrack.mark_flow(flow, mark, mask, number))

    async def _tell_each(self, flows: Sequence[Flow], message: Callable[[Flow, int], bytes]) -> None:
        async with self._lock:
            if self._socket is not None and flows:
                messages = [message(flow, number) for number, flow in enumerate(flows, 1)]
                await asyncio.get_running_loop().run_in_executor(None, _tell_each, self._socket, messages)

    async def _make_anew(self) -> None:
        if self._socket is None:
            self._socket = _prepared(await self._open_socket())
        loop = asyncio.get_running_loop()
        others = [name for name in await loop.run_in_executor(None, _tables, self._socket) if self._is_left(name)]
        self._turn += 1
        pieces = [*units(self._name, self.table.everything())]
        pieces.insert(0, [new_table(self._name)])
        if pieces[1:]:
            # With the last of the new one, so that packets never meet both nor none.
            pieces[-1] += [delete_table(name) for name in others]
        else:
            pieces.append([delete_table(name) for name in others])
        try:
            await self._run(transactions(pieces, self._limit))
        except OSError:
            if self._socket is not None:
                await loop.run_in_executor(None, _try, self._socket, [delete_table(self._name)])
            raise

    async def _run(self, batches: Iterator[list[Message]]) -> None:
        loop = asyncio.get_running_loop()
        for batch in batches:
            if self._socket is None:
                raise OSError(errno.ENODEV, "the network that the rules are for is gone")
            await loop.run_in_executor(None, _exchange, self._socket, batch)

    @property
    def _name(self) -> str:
        return f"{self._prefix}{self._turn}"

    def _is_left(self, name: str) -> bool:
        """Whether a table is this one as it was before, or of a keeper that is gone."""
        if name.startswith(self._keeper):
            return name.startswith(self._prefix)
        pid, _, rest = name.removeprefix(PREFIX).partition("-")
        known = name.startswith(PREFIX) and pid.isdigit()
        return known and started(int(pid)) != rest.partition("-")[0]

    @property
    def _limit(self) -> int:
        if self._socket is None:
            return TRANSACTION_BYTES
        return min(TRANSACTION_BYTES, self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096)


def _prepared(fd: int) -> socket.socket:
    """A socket with as much room as the machine gives."""
    sock = socket.socket(fileno=fd)
    sock.settimeout(ANSWER_S)
    try:
        sock.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, TRANSACTION_BYTES)
                break
            except PermissionError:
                continue
    except BaseException:
        sock.close()
        raise
    return sock


def _tables(sock: socket.socket) -> list[str]:
    sock.send(list_tables())
    names: list[str] = []
    while True:
        for kind, _, body in parsed(sock.recv(1 << 18)):
            if kind == DONE:
                return names
            if kind == ERROR:
                _raise(body, "tables")
            elif kind == _TABLE:
                names += [value.rstrip(b"\0").decode() for kind, value in attribute_values(body[4:]) if kind == 1]


def _exchange(sock: socket.socket, messages: Sequence[Message]) -> None:
    """Send a transaction and wait until it is done. Raises OSError with what was refused first."""
    sock.send(transaction(messages))
    failed: OSError | None = None
    while True:
        for kind, sequence, body in parsed(sock.recv(1 << 18)):
            if kind != ERROR or sequence > len(messages):
                continue
            code = error_number(body)
            about = messages[sequence - 1].about if sequence else "the whole transaction"
            if code and failed is None:
                failed = OSError(code, f"{about}: {os.strerror(code)}")
            if sequence == len(messages) or not sequence:
                _drain(sock)
                if failed is not None:
                    raise failed
                return


def _flows(sock: socket.socket, concerns: Callable[[Flow], bool]) -> list[Flow]:
    sock.send(conntrack.list_flows())
    found: list[Flow] = []
    done = False
    while not done:
        for kind, _, body in parsed(sock.recv(1 << 18)):
            if kind == ERROR:
                _raise(body, "connections")
            done = done or kind in (DONE, ERROR)
            flow = conntrack.read_flow(body) if kind & 0xFF00 == conntrack.KIND else None
            if flow is not None and concerns(flow):
                found.append(flow)
    return found


def _tell_each(sock: socket.socket, messages: Sequence[bytes]) -> None:
    for message in messages:
        sock.send(message)
        sock.recv(1 << 16)  # that it is done, or that the connection went by itself before


def _try(sock: socket.socket, messages: Sequence[Message]) -> None:
    try:
        _exchange(sock, messages)
    except OSError as e:
        log.debug("not done: %s", e)


def _drain(sock: socket.socket) -> None:
    """What else came of a transaction that failed."""
    while select.select([sock], [], [], 0)[0]:
        sock.recv(1 << 18)


def _raise(body: bytes, about: str) -> None:
    code = error_number(body)
    if code:
        raise OSError(code, f"{about}: {os.strerror(code)}")
