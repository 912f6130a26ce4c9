"""The flags of `rayplane join`: what whoever joins decides."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from rayplane.control_plane.api.machinery.names import subdomain_errors
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.join.rest import checked_url

LABEL_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """One node on this machine. Everything that is written lies below `directory`:

    data/NODE          the host's disk
    data/NODE-tls      the certificate with which it calls, and the authority that it trusts
    data/NODE-serving  the one that it shows
    logs/NODE.log
    """

    url: str
    node: str
    directory: Path
    token: str = ""
    """Needed where there is no certificate yet."""
    pins: tuple[str, ...] = ()
    """Hashes of the authority's key."""
    unsafe: bool = False
    """Whether the token alone may tell the cluster."""
    address: str = ""
    """Of this machine, as others reach it; empty: the one from which it reaches the cluster."""
    port: int = 0
    """Where the host listens; 0: any free one."""
    runtime: str = ""
    """Empty: as the cluster's nodes have it."""
    cpu: str = ""
    """Capacity; empty: the machine's."""
    memory: str = ""

    def validate(self) -> None:
        """Raises UsageError."""
        checked_url(self.url)
        if subdomain_errors(self.node) or max(map(len, self.node.split("."))) > LABEL_MAX:
            raise UsageError(f"--node-name {self.node!r}: use lower-case letters, digits, '-' and '.'")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port {self.port}: use 0 (any free one) to 65535")
        try:
            IPv4Address(self.address or "127.0.0.1")
        except ValueError as e:
            raise UsageError(f"--node-ip: {e}") from e

    @property
    def data(self) -> Path:
        return self.directory / "data" / self.node

    @property
    def tls(self) -> Path:
        return self.data.with_name(f"{self.node}-tls")

    @property
    def serving(self) -> Path:
        return self.data.with_name(f"{self.node}-serving")
