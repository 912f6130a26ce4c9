"""Actions: what controllers want done, as data. Events, writes, and what takes more than one call.

A controller only says it; the manager's executors do it (`manager/`). Those below `Write` are each one controller's, or
a few's: what has to be looked up live, or done by others, before or between writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api.meta import Object


@dataclass(frozen=True, slots=True)
class Event:
    """A core/v1 Event on `about`. In events attached to a write, `{name}` in the message becomes the written
    object's name and `{error}` the error's text."""

    about: Object
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Create:
    resource: str
    obj: Object
    done: Event | None = None
    failed: Event | None = None
    exists_ok: bool = False
    """AlreadyExists counts as done (objects whose name is their identity)."""


@dataclass(frozen=True, slots=True)
class Update:
    """The replacement of an object; its resourceVersion guards against a stale read."""

    resource: str
    obj: Object
    done: Event | None = None
    failed: Event | None = None


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """The replacement of an object's status, guarded by its resourceVersion."""

    resource: str
    obj: Object
    done: Event | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch of an object; put resourceVersion or uid into the patch's metadata where a guard is wanted."""

    resource: str
    namespace: str
    name: str
    patch: Mapping[str, Any] | Sequence[Any]
    kind: str = "merge"
    subresource: str = ""
    done: Event | None = None
    may_fail: bool = False
    """What comes after it is done even where the server refuses this."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The deletion of an object, if it still has this uid. An object that is gone already counts as done."""

    resource: str
    obj: Object
    grace_seconds: int | None = None
    propagation: str = "Background"
    done: Event | None = None
    failed: Event | None = None
    guard_version: bool = False
    """Also only if it has not changed since it was read."""


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Actions to take only after the API server itself (not a cache) has said that other objects are gone.

    `absent`: (resource, namespace, name, uid) of all that must be gone; an object of another uid counts as gone,
    an empty uid means any.
    """

    absent: tuple[tuple[str, str, str, str], ...]
    writes: tuple[Patch | Delete, ...]


@dataclass(frozen=True, slots=True)
class IfAlive:
    """Actions to take only after the API server itself has said that `owner` is there and not being deleted."""

    resource: str
    owner: Object
    writes: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class IfUnclaimed:
    """Actions to take only after the API server itself has listed no pod that uses `claim`."""

    claim: Object
    writes: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class IfUnused:
    """Actions to take only after the API server itself has said that a node has no volume of this name in use."""

    node: str
    volume: str
    writes: tuple[Delete, ...]


@dataclass(frozen=True, slots=True)
class PurgeNamespace:
    """The deletion of all objects of all resources in a namespace, found by live lists; then call reconcile again.

    Once nothing is left, the namespace's `kubernetes` finalizer is removed through the finalize subresource.
    """

    namespace: Object


@dataclass(frozen=True, slots=True)
class CollectAggregated:
    """One look of the API server for what aggregated APIs hold for owners that are gone, and its deletion."""


@dataclass(frozen=True, slots=True)
class Provision:
    """The creation of a volume by CSI, then of `volume` (a PersistentVolume) for `claim`.

    `targets`: (node, host:port of its host), tried in order until one has made the volume.
    """

    claim: Object
    volume: Object
    targets: tuple[tuple[str, str], ...]
    capacity_bytes: int
    parameters: Mapping[str, str]
    snapshot_id: str = ""
    """What it is made from: a snapshot, or a volume of the driver; empty for an empty one."""
    source_volume_id: str = ""


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    """The deletion of a volume's bytes by CSI, then of its PersistentVolume object.

    `targets` as for `Provision`. No target means that the nodes that held it are gone for good.
    """

    volume: Object
    targets: tuple[tuple[str, str], ...]
    lost_nodes: tuple[str, ...] = ()
    """Nodes that cannot say themselves that they have no more use of the volume."""
    absent: tuple[tuple[str, str, str, str], ...] = ()
    """As in `IfAbsent`: checked with the API server before any byte is deleted."""


@dataclass(frozen=True, slots=True)
class Expand:
    """The growth of a volume's bytes by CSI, then of its PersistentVolume to `storage`.

    `targets` as for `Provision`. `failed`: the claim's status then, with `{error}` for why.
    """

    volume: Object
    targets: tuple[tuple[str, str], ...]
    storage: str
    capacity_bytes: int
    failed: UpdateStatus


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """The taking of a volume's snapshot by CSI, or the look at one that is there, then the status of its content.

    `targets` as for `Provision`. One of `volume_id` and `snapshot_id` says which it is. `failed`: the status then,
    with `{error}` for why.
    """

    content: Object
    driver: str
    targets: tuple[tuple[str, str], ...]
    failed: UpdateStatus
    name: str = ""
    volume_id: str = ""
    snapshot_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeleteSnapshot:
    """The deletion of a snapshot's bytes by CSI, then the write that says so. `targets` as for `DeleteVolume`."""

    content: Object
    driver: str
    targets: tuple[tuple[str, str], ...]
    snapshot_id: str
    done: UpdateStatus


@dataclass(frozen=True, slots=True)
class Recount:
    """The counting of what is used of a quota from live lists of these resources, then of its status: whoever is
    admitted meanwhile changes the quota, and so refuses the count."""

    quota: Object
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApproveCertificate:
    """The approval of a CertificateSigningRequest, if whoever asks has one of these rights.

    `rights`: subresources of requests that they may create, each with the message of the condition; tried in order.
    """

    csr: Object
    rights: tuple[tuple[str, str], ...]
    stamp: str


@dataclass(frozen=True, slots=True)
class SignCertificate:
    """The signing of an approved CertificateSigningRequest by who holds the authority's key."""

    csr: Object
    stamp: str


@dataclass(frozen=True, slots=True)
class Migrate:
    """The writing of all objects of a resource as they are stored today, then of how a StorageVersionMigration ended.
    `form`: how to ask for them, so that few of them have to be converted."""

    migration: Object
    form: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Rescale:
    """The setting of an object's replicas through its scale, if they still are what they were.

    `done`, or `failed` with `{error}`, is the status then. `elsewhere`: apiVersion and kind in an aggregated API.
    """

    resource: str
    obj: Object
    before: int
    replicas: int
    done: UpdateStatus
    failed: UpdateStatus
    elsewhere: tuple[str, str] | None = None


Write = Create | Update | UpdateStatus | Patch | Delete
Special = (
    IfAbsent
    | IfAlive
    | IfUnclaimed
    | IfUnused
    | PurgeNamespace
    | CollectAggregated
    | Provision
    | DeleteVolume
    | Expand
    | TakeSnapshot
    | DeleteSnapshot
    | Recount
    | ApproveCertificate
    | SignCertificate
    | Migrate
    | Rescale
)
Action = Event | Write | Special
