"""Requests as values, whichever face they came through."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.api.authorization.node_identity import nodes_of, without_nodes
from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.api.errors import MethodNotAllowed, NotFound
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import API_SERVER, MASTERS

ANONYMOUS = "system:anonymous"
UNAUTHENTICATED = "system:unauthenticated"
AUTHENTICATED = "system:authenticated"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class User:
    """The user who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    nodes: frozenset[str] | None = field(init=False, repr=False)
    """The nodes that it is; None for who is no node. Of several the groups tell no more."""

    def __post_init__(self) -> None:
        nodes = nodes_of(self.name, self.groups)
        object.__setattr__(self, "nodes", nodes)
        if nodes is not None and len(nodes) > 1:
            # They are who it is. What it belongs to is looked through for each request, and a host has many nodes.
            object.__setattr__(self, "groups", without_nodes(self.groups))

    def asks(self, verb: str, **rest: Any) -> Attributes:
        """A question to the authorizer; `rest` are fields of Attributes."""
        extra = tuple(self.extra.items()) if self.extra else ()
        return Attributes(
            user=self.name, groups=self.groups, nodes=self.nodes, uid=self.uid, extra=extra, verb=verb, **rest
        )

    @property
    def all_powerful(self) -> bool:
        return MASTERS in self.groups

    @property
    def info(self) -> dict[str, Any]:
        """As `authentication.k8s.io` UserInfo."""
        out: dict[str, Any] = {"username": self.name}
        if self.uid:
            out["uid"] = self.uid
        if self.groups:
            out["groups"] = list(self.groups)
        if self.extra:
            out["extra"] = {key: list(values) for key, values in self.extra.items()}
        return out


SYSTEM = User(API_SERVER, (MASTERS, AUTHENTICATED))


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request: a resource, or with a name one object, or with a subresource a part of it."""

    info: ResourceInfo
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def check_scope(target: Target, verb: str) -> None:
    """NotFound for an object that lacks its namespace, MethodNotAllowed for a write that does."""
    nowhere = target.info.namespaced and not target.namespace
    if nowhere and target.name:
        raise NotFound(details={})
    if (nowhere and verb in _WRITES) or (verb == "create" and target.name and not target.subresource):
        raise MethodNotAllowed(details={})


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Options of create, update and patch."""

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = ""
    force: bool = False
    """Server-side apply takes over fields that others own."""
    user_agent: str = ""
    """Program that asks: who manages the fields it writes, where no manager is named."""
    patches: bool = False
    """The right to patch was asked for, not the one to update."""

    @property
    def untracked(self) -> "WriteOptions":
        """The same for a write that says itself who owns what."""
        return replace(self, field_manager="", user_agent="")

    @property
    def manager(self) -> str:
        """The name to record in managedFields; empty where nothing is recorded."""
        return self.field_manager or self.user_agent


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """meta/v1 DeleteOptions."""

    grace_period_s: int | None = None
    propagation_policy: str = ""
    orphan_dependents: bool | None = None
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    ignore_read_errors: bool = False
    """Whether it is for what cannot be read alone (`ignoreStoreReadErrorWithClusterBreakingPotential`)."""


@dataclass(frozen=True, slots=True)
class ListOptions:
    """meta/v1 ListOptions, for lists and watches."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    timeout_s: float | None = None
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None


@dataclass(slots=True)
class Answer:
    """The outcome of a write: the object (or Status) as JSON, and what the client is warned of."""

    json: bytes
    created: bool = False
    accepted: bool = False
    """What was asked for goes on after the answer."""
    warnings: list[str] = field(default_factory=list)
    object: Object | None = None
    """The same, parsed, where it is at hand."""
