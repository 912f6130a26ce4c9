"""One write on its way through admission."""

from dataclasses import dataclass, field

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.podsecurity.levels import PREFIX
from rayplane.control_plane.apiserver.requests import User
from rayplane.proto.etcd import rpc_pb2

CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"
#: A connection to a pod, node or service; the object says what for.
CONNECT = "CONNECT"


@dataclass(slots=True)
class AdmissionRequest:
    """A write on its way through the plugins.

    `object` may be changed in place by plugins; `old` is shared and may not.
    """

    operation: str
    info: ResourceInfo
    user: User
    namespace: str
    name: str
    object: Object
    old: Object | None = None
    subresource: str = ""
    dry_run: bool = False
    patches: bool = False
    """A change that took the right to patch, not the one to update."""
    manager: str = ""
    """Who is recorded as the manager of changed fields; empty: nobody."""
    asked: ResourceInfo | None = None
    """The resource in the version that the client named; None: as it is stored."""
    size: int = 0
    """Bytes of the document, where it is known to be large."""
    guards: list[rpc_pb2.Compare] = field(default_factory=list)
    effects: list[rpc_pb2.RequestOp] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    """What the audit log is told of the decisions."""

    @property
    def shown_name(self) -> str:
        """The name that a refusal tells: the request's, or the object's as far as there is one."""
        metadata = self.object.get("metadata") or {}
        return self.name or metadata.get("name") or metadata.get("generateName") or "Unknown"

    def creates(self, resource: str) -> bool:
        """A new object of this resource (`pods`, `services`)."""
        return self.operation == CREATE and not self.subresource and self.info.name == resource

    def updates(self, resource: str) -> bool:
        """A change of an object of this resource itself, not of a subresource."""
        return self.operation == UPDATE and not self.subresource and self.info.name == resource

    def annotate(self, name: str, value: str) -> None:
        """Tell the audit log something of Pod Security."""
        self.annotations[PREFIX + name] = value
