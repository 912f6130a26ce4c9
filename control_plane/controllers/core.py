"""The shape of a controller: a pure function from caches and the moment to actions.

A controller names the resources it watches, how an object maps to keys, and `reconcile(key, view, now) -> Result`.
Keys are strings the controller chooses, mostly `namespace/name`. Actions are data; the shell executes them in stages
and calls the controller again when the caches show them, so a reconcile does one step and returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.api.meta import Object


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a reconcile: the wall clock for stamps, the loop's time (seconds) for spans."""

    wall: datetime
    mono: float

    @property
    def stamp(self) -> str:
        """RFC 3339, whole seconds."""
        return meta.format_time(self.wall)

    def seconds_since(self, stamp: str | None) -> float:
        """Seconds since an RFC 3339 time; infinite where there is none."""
        if not stamp:
            return float("inf")
        return (self.wall - meta.parse_time(stamp)).total_seconds()


# --- actions ------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a reconcile: the actions it wants done.

    `stages` run one after the other; the actions of a stage run together, in no order. A failed stage ends the
    run and the key is tried again with back-off. `requeue_after` (seconds) asks for another look when nothing
    else happens.
    """

    stages: tuple[tuple[Action, ...], ...] = ()
    requeue_after: float | None = None
    refused: Callable[[str], Iterable[Action]] | None = None
    """What to do when the API server refused to create or delete something, from the first refusal's text: mostly a
    status that says so."""

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(action for stage in self.stages for action in stage)


NOTHING = Result()


def result(
    *stages: Iterable[Action],
    requeue_after: float | None = None,
    refused: Callable[[str], Iterable[Action]] | None = None,
) -> Result:
    """A Result of the stages that are not empty."""
    kept = tuple(actions for stage in stages if (actions := tuple(stage)))
    return Result(kept, requeue_after, refused)


def slow_start(actions: Sequence[Action], *, first: int = 1) -> list[Sequence[Action]]:
    """Stages that double in size: what is refused once, for want of quota say, is not asked for many times."""
    stages, at, size = [], 0, first
    while at < len(actions):
        stages.append(actions[at : at + size])
        at, size = at + size, size * 2
    return stages


def soonest(*spans: float | None) -> float | None:
    """The least of the spans that are not None."""
    return min((span for span in spans if span is not None), default=None)


# --- reading ------------------------------------------------------------------------------------


class View(Protocol):
    """A view of the caches. Objects are shared: never change them. Lists are in no particular order."""

    def get(self, resource: str, namespace: str, name: str) -> Object | None: ...

    def list(self, resource: str) -> Sequence[Object]: ...

    def indexed(self, resource: str, index: str, value: str) -> Sequence[Object]:
        """Objects an index (see `indexes`) files under `value`."""

    def values(self, resource: str, index: str) -> Collection[str]:
        """All that an index files objects under; not to be kept."""


def in_namespace(view: View, resource: str, namespace: str) -> Sequence[Object]:
    return view.indexed(resource, "namespace", namespace)


def controlled(view: View, resource: str, owner: Object) -> Sequence[Object]:
    """Objects whose controller reference carries the owner's uid."""
    return view.indexed(resource, "controller", meta.uid(owner))


def selected(view: View, resource: str, namespace: str, *, selector: LabelSelector) -> list[Object]:
    """Objects of a namespace that a selector matches, by the index over labels where it fixes any label."""
    if selector.nothing:
        return []
    exact = selector.exact
    if not exact:
        pool = in_namespace(view, resource, namespace)
    else:
        pools = [view.indexed(resource, "label", f"{namespace}/{k}={v}") for k, v in exact.items()]
        pool = min(pools, key=len)
        if len(selector.requirements) == 1:
            return list(pool)  # the index has answered it all
    return [o for o in pool if selector.matches(meta.labels(o))]


# --- controllers --------------------------------------------------------------------------------

Keys = Callable[[Object, View], Iterable[str]]


def own_key(o: Object, _view: View) -> Iterable[str]:
    return (meta.key(o),)


def controller_key(kind: str, group: str) -> Keys:
    """Maps an object to the key of its controller, when that is of the given kind."""

    def keys(o: Object, _view: View) -> Iterable[str]:
        ref = meta.controller_of(o)
        if ref is None or ref.get("kind") != kind or meta.group_of(ref) != group:
            return ()
        space = meta.namespace(o)
        return (f"{space}/{ref['name']}" if space else ref["name"],)

    return keys


def always(_old: Object, _new: Object) -> bool:
    return True


def spec_or_meta_changed(old: Object, new: Object) -> bool:
    """Ignores writes that only touch the status."""
    return (
        meta.spec(old) != meta.spec(new)
        or meta.labels(old) != meta.labels(new)
        or meta.annotations(old) != meta.annotations(new)
        or meta.metadata(old).get("deletionTimestamp") != meta.metadata(new).get("deletionTimestamp")
        or meta.metadata(old).get("ownerReferences") != meta.metadata(new).get("ownerReferences")
        or meta.finalizers(old) != meta.finalizers(new)
    )


@dataclass(frozen=True, slots=True)
class Watch:
    """A watched resource: which keys an object's change concerns.

    `delay_s` gathers changes before the reconcile (many pods change at once); `changed(old, new)` says whether a
    modification matters at all.
    """

    resource: str
    keys: Keys | None = own_key
    """None: watched only to be read."""
    delay_s: float = 0.0
    changed: Callable[[Object, Object], bool] = always
    observe: Callable[[Object, float], None] | None = None
    """Called at once with every added or modified object and the loop's time, before any key is queued."""


class Controller(Protocol):
    """One controller. `component` is the source of its events."""

    @property
    def name(self) -> str: ...

    @property
    def component(self) -> str: ...

    @property
    def watches(self) -> Sequence[Watch]: ...

    @property
    def resync_keys(self) -> Sequence[str]:
        """Keys to reconcile once at the start, whatever the caches hold (periodic work)."""

    def reconcile(self, key: str, view: View, now: Moment) -> Result: ...


class BaseController:
    """The parts of a controller that seldom differ."""

    name: str = ""
    component: str = ""
    watches: Sequence[Watch] = ()
    resync_keys: Sequence[str] = ()


class CustomController(BaseController):
    """A controller that also watches custom resources, from when they are served until they are not."""

    custom: Sequence[Watch] = ()
    """Watches of custom resources, by plural and group."""

    def follow(self, resource: str, *, served: bool) -> bool:
        """A custom resource is served from now on, or is not; whether that changes what is watched."""
        others = tuple(watch for watch in self.watches if watch.resource != resource)
        begun = tuple(watch for watch in self.custom if watch.resource == resource)
        if not begun or served == (len(others) < len(self.watches)):
            return False
        self.watches = (*others, *begun) if served else others
        return True
