"""The session of a command on objects: its clients, kinds, terminal."""

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.options import console
from rayplane.control_plane.cli.printing import PLAIN, advised
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.history import Instant
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.rpc import Network
from rayplane.storage.env import Clock

# Control characters but for the end of a line and the tabulator.
_SHOWN = {c: f"^{chr(c ^ 0x40)}" for c in (*range(0x20), 0x7F) if chr(c) not in "\n\t"} | {
    c: f"\\u{c:04x}" for c in range(0x80, 0xA0)
}


@dataclass(frozen=True, slots=True)
class Terminal:
    """Standard output and error; everything is seen at once.

    Lines are harmless whatever objects hold: what would command the terminal is shown, as by kubectl. Bytes are not
    looked at: they are for programs, or what a container wrote.
    """

    out: BinaryIO
    err: BinaryIO

    colours: bool = False

    def line(self, text: str, style: str = "") -> None:
        """`style`: how a terminal is told to show it, where it shows colours."""
        shown = text.translate(_SHOWN)
        self.write(f"{style}{shown}{PLAIN}\n".encode() if style and self.colours else f"{shown}\n".encode())

    def error(self, text: str) -> None:
        self.write_error(f"{text.translate(_SHOWN)}\n".encode())

    def write(self, data: bytes) -> None:
        self.out.write(data)
        self.out.flush()

    def write_error(self, data: bytes) -> None:
        self.err.write(data)
        self.err.flush()


@dataclass(frozen=True, slots=True)
class Stopped:
    """A clock that shows one moment."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment


@dataclass(frozen=True, slots=True)
class Session:
    """A caller's connections. Valid inside `session`."""

    api: ApiClient
    etcd: EtcdClient
    network: Network
    kinds: Kinds
    clock: Clock
    terminal: Terminal
    namespace: str = ""
    """The one asked for; empty is `default`."""
    revision: str = ""
    """The one that objects are read at; empty is now."""
    changes: list[dict[str, str]] | None = None
    """What was changed, for programs, which are told at the end; None for people, who see a line for each."""

    def changed(self, kind: str, namespace: str, name: str, change: str, line: str) -> None:
        """Tell of an object that was changed: to programs as `rayplane diff` does."""
        if self.changes is None:
            self.terminal.line(line)
        else:
            self.changes.append({"kind": kind, "namespace": namespace, "name": name, "change": change})

    def at(self, then: Instant) -> "Session":
        """The same, looking at the past: ages are what they were."""
        clock = Stopped(then.time) if then.time else self.clock
        return replace(self, revision=str(then.revision), clock=clock)

    def namespace_of(self, info: ResourceInfo) -> str:
        """Where objects of a kind are looked for; empty for those outside of namespaces."""
        return (self.namespace or "default") if info.namespaced else ""

    def within(self, namespace: str) -> "Session":
        """The same in another namespace."""
        return replace(self, namespace=namespace)

    def failed(self, error: ApiError) -> None:
        """Tell of an error and go on."""
        self.terminal.error(advised(error))


@contextlib.asynccontextmanager
async def session(directory: StateDir, namespace: str = "") -> AsyncIterator[Session]:
    """Raises NotUp when no cluster runs there."""
    async with access(directory) as admin:
        yield of_access(admin, namespace)


def of_access(admin: Access, namespace: str = "") -> Session:
    terminal = Terminal(sys.stdout.buffer, sys.stderr.buffer, colours=console.is_terminal and not console.no_color)
    return Session(admin.api, admin.etcd, admin.network, Kinds(admin.api), admin.directory.clock, terminal, namespace)
