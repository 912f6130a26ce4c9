"""Container runtimes behind one small interface.

Owns how a container runs: `simulated` (as data), `process` (real processes below one shim per host, those of
`isolation` in namespaces) and `cri` (another project's runtime). Does not own when it runs (`node.lifecycle`) or what
the pod's status says. A runtime is told to start a container and calls the
listener back: `started` or `failed` once, and after `started` `exited` once. Callbacks come on the event loop,
possibly before `start` returns. Everything is bounded: logs rotate, exec sessions are counted.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.node.images.containers import ContainerImage
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime.survivors import Survivors

if TYPE_CHECKING:
    import socket

    from rayplane.node.runtime.pod_network import PodNetwork


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container."""

    volume: str
    mount_path: str
    source: str  # real path on this machine
    sub_path: str = ""  # of the source, not yet looked at
    read_only: bool = False
    recursive: bool = False  # whether what is mounted below it is read-only, too
    scratch: bool = False  # an emptyDir of the pod
    sync_socket: str = ""  # path on this machine of the socket where its processes wait until what they wrote is safe
    layers: Sequence[str] = ()  # in place of `source`: directories laid over each other, the highest first


@dataclass(frozen=True, slots=True)
class PodPlace:
    """The place of a pod, before its containers. `directory`: on this machine; `gateway`: its node's address."""

    uid: str
    ip: str
    gateway: str
    host_name: str
    directory: str
    host_network: bool = False
    pod: Object = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Path on this machine by name, of those that are directories of this cluster's."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What every container of it has at these paths, where it has a file system of its own."""
    hosts: Callable[[str], bytes] | None = None
    """The content of /etc/hosts, for a runtime that gives the pod its address."""
    moved: Callable[[str], None] | None = None
    """Told another address, where the pod gets one while it runs."""


@dataclass(frozen=True, slots=True)
class StartOrder:
    """One run of one container."""

    pod: Object
    container: dict[str, Any]  # its part of the pod's spec
    attempt: int
    container_id: str
    pod_ip: str
    host_name: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    directory: str = ""  # the pod's own directory on this machine; empty when there is none
    stamp: str = ""  # now, RFC 3339
    survivor: str = ""  # id of a run that went on without this host, and is to be taken over
    devices: tuple[tuple[str, str], ...] = ()  # block devices: path in the container, path on this machine
    image: ContainerImage | None = None  # None: this machine stands for the image, or it is simulated


class Guard(Protocol):
    """A guard of whom pods speak with."""

    async def admit(self, place: PodPlace) -> None:
        """Have what a new pod may do in force. Raises SandboxError."""

    def forget(self, place: PodPlace) -> None:
        """The pod is no more."""

    def wake(self) -> None:
        """Pods that cannot speak wait for `IsolatedRuntime.open_pods`."""


class Listener(Protocol):
    """Receiver of a runtime's callbacks."""

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        """`container_id`: the runtime's own, where it does not take the order's; `image`: in full, and its id, where
        the runtime has looked for it; `user`: as whom it began, where it is a process.
        """

    def failed(self, reason: str, message: str) -> None: ...

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        """`reason`: what its exit code does not tell (OOMKilled)."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Part of a log that a caller wants (core/v1 PodLogOptions). `since`: RFC 3339, older lines are left out."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: str = ""
    limit_bytes: int | None = None
    previous: bool = False
    """Of the run before the one that is."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a container uses now."""

    cpu_nanocores: int = 0
    memory_bytes: int = 0
    processes: int = 0
    cpu_ns: int = 0  # since it began, where that is known


class ExecSession(Protocol):
    """A command that runs in a container beside its main process."""

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""

    def close_input(self) -> None: ...

    def resize(self, width: int, height: int) -> None: ...

    def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """(stdout, stderr) as they come, until both are closed."""

    async def wait(self) -> int:
        """The exit code."""

    def kill(self) -> None: ...


class ContainerRun(Protocol):
    """One run of a container, from `start` until its logs are dropped."""

    real: bool
    """Whether it is a process with sockets and files."""
    log_path: str
    """The file of its log, where that has the form that CRI gives logs; else empty."""

    def stop(self, grace_s: float) -> None:
        """Ask it to end and kill it after `grace_s`. Again with a shorter grace: obey that."""

    def logs(self, options: LogOptions) -> AsyncIterator[bytes]: ...

    async def exec(self, command: list[str], *, tty: bool, stdin: bool, size: tuple[int, int] = (0, 0)) -> ExecSession:
        """`size`: columns and rows that the terminal has from the beginning; zeros: unknown."""

    async def attach(self, *, stdin: bool) -> ExecSession:
        """A session on its own process."""

    async def connect(self, host: str, port: int) -> "socket.socket":
        """A TCP connection to an address of a pod or node, as this container's node reaches it. Raises OSError."""

    async def forward(self, ip: str, port: int) -> "socket.socket":
        """A TCP connection to a port of its own pod, whose address is `ip`. Raises OSError, NodeError."""

    def usage(self, pod: Object) -> Usage:
        """What it uses now; `pod` as it is now, which tells what a simulated one uses."""

    def stress(self, pod: Object) -> None:
        """Have the work done beside it that marks of the pod ask for now (`api.pods.marks`)."""

    async def resize(self, pod: Object, container: dict[str, Any]) -> None:
        """Let it have the resources that its spec says now. Raises RuntimeFailed, RuntimeAway."""

    def probe_delay(self, probe: str) -> "tuple[float, bool] | None":
        """Return (seconds until the probe gives its result, the result) for a simulated run. None: probe it really."""


@dataclass(frozen=True, slots=True)
class Features:
    """Abilities of a runtime, as nodes tell them.

    `recursive_read_only`: by the name of each way to run a pod, empty for the usual one, whether what is mounted below
    a read-only volume can be so, too; `groups_policy`: whether a container has no groups but those that its pod says,
    where that wants it so (`supplementalGroupsPolicy`).
    """

    recursive_read_only: Mapping[str, bool] = field(default_factory=dict)
    groups_policy: bool = False


class Runtime(Protocol):
    """A runtime that starts containers.

    `trouble`: why it cannot run any here; empty while it can. `version`: its name and version as nodes tell them, empty
    for one of this project. `network`: where pods have their addresses; `network_id`: its name, empty when that is this
    machine's own. `isolation`: how pods are kept apart, for people. `no_services`: why they find no services; empty
    where they do. `survivors`: what runs there from an earlier life of this host.
    """

    trouble: str
    version: str
    network_id: str
    isolation: str
    no_services: str
    features: Features
    network: "PodNetwork"
    survivors: Survivors

    async def open(self) -> None: ...

    async def close(self) -> None:
        """End every container."""

    def keep_alive(self, seconds: float) -> None:
        """The cluster has been heard: containers may live this long without another word."""

    def add_node(self, address: str, cidr: str) -> None:
        """Have the network of a node: its own address, and the network of its pods."""

    async def add_pod(self, place: PodPlace) -> str:
        """Make what the pod's containers share; its address, which is the place's where the runtime gives none itself.

        Raises SandboxError.
        """

    def resize_pod(self, pod: Object) -> None:
        """Hold all containers of a pod together to what its spec says now, each having been. Raises RuntimeFailed."""

    def remove_pod(self, uid: str) -> None:
        """All its containers have ended."""

    def handler_of(self, uid: str) -> str:
        """The way to run a pod, among those of `features`."""

    def start(self, order: StartOrder, listener: Listener) -> ContainerRun: ...
