"""The shape of a controller: a pure function from caches and the moment to actions.

A controller names the resources it watches, how an object maps to keys, and `reconcile(key, view, now) -> Result`.
Keys are strings the controller chooses, mostly `namespace/name`. Actions are data; the shell executes them in stages
and calls the controller again when the caches show them, so a reconcile does one step and returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Action


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


def never(_old: Object, _new: Object) -> bool:
    """Only that objects come and go matters."""
    return False


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
