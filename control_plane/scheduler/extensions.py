"""Extensions: the plug-ins in Python of all profiles, and what is asked of them beside filters and scores.

Owns the instances. A plug-in's error is one of the pod that it was asked about: it never leaves this module as anything
but a PluginError or a refusal. What may wait is waited for in a task of that pod's own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rayplane.control_plane.scheduler import adapters
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.cycle import Explanation, Placement
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.framework import (
    METHODS,
    PluginError,
    PodPlugin,
    State,
    called,
    failed,
    told,
    words_of,
)
from rayplane.control_plane.scheduler.gates import Gates
from rayplane.control_plane.scheduler.hints import ADDED_AFFINITY, DELEGATED, Hint
from rayplane.control_plane.scheduler.plugin_threads import PluginThreads
from rayplane.control_plane.scheduler.plugin_watch import PluginCalls, PluginWatch
from rayplane.control_plane.scheduler.plugins import Registry
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.queue import Gate, by_priority
from rayplane.control_plane.scheduler.snapshot import Snapshot

log = logging.getLogger(__name__)
_BEFORE_BINDING = ("permit", "preBind")
_ALONE = ("reserve", *_BEFORE_BINDING, "bind", "postBind")


class _Broken(PodPlugin):
    """A stand-in for a plug-in that could not be made: whatever it is asked fails."""

    def __init__(self, error: PluginError) -> None:
        self._error = error

    def pre_filter(self, state: State, pod: Any) -> str | None:
        raise self._error


@dataclass(frozen=True, slots=True)
class Rejection(Exception):
    """A plug-in said no to a pod that had its node."""

    plugin: str
    message: str


class SortKey:
    """A pod's place as a plug-in has it; pods whose places cannot be compared go by their priority."""

    __slots__ = ("_key", "_pod")

    def __init__(self, key: Any, pod: PodInfo) -> None:
        self._key = key
        self._pod = pod

    def __lt__(self, other: SortKey) -> bool:
        try:
            return bool(self._key < other._key)
        except BaseException:  # of a plug-in's own making, it may raise anything
            return by_priority(self._pod) < by_priority(other._pod)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SortKey) and not self < other and not other < self

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class _Reserved:
    uid: str
    state: State = field(default_factory=dict)


class Extensions:
    """The plug-ins in Python that profiles name."""

    def __init__(self, profiles: tuple[Profile, ...], classes: Mapping[str, type[PodPlugin]]) -> None:
        """ValueError for a profile that names a plug-in that is not there."""
        self.watch = PluginWatch(_now)
        self._made: dict[str, dict[str, PluginCalls]] = {}
        self._threads: defaultdict[str, PluginThreads] = defaultdict(PluginThreads)
        self._by_point: dict[str, Mapping[str, tuple[str, ...]]] = {p.name: p.others for p in profiles}
        self._binds = {profile.name: profile.binds for profile in profiles}
        self._gates = Gates(profiles)
        self._reserved: dict[str, _Reserved] = {}
        self.profiles = tuple(self._with_instances(profile, classes) for profile in profiles)
        self.registry: Registry = adapters.registry({name for made in self._made.values() for name in made})

    def _with_instances(self, profile: Profile, classes: Mapping[str, type[PodPlugin]]) -> Profile:
        names = {name for plugins in profile.others.values() for name in plugins}
        for name in names - set(classes):
            raise ValueError(f"profile {profile.name}: there is no scheduler plug-in {name} on this machine")
        made = self._made[profile.name] = {
            name: PluginCalls(name, _instance(name, classes[name], profile.args.get(name) or {}), self.watch)
            for name in sorted(names)
        }
        filters = tuple(dict.fromkeys((*profile.filters, *self._of(profile.name, "preFilter"), *_broken(made))))
        return replace(profile, filters=filters, args={**profile.args, **made})

    def _of(self, profile: str, point: str) -> tuple[str, ...]:
        return self._by_point.get(profile, {}).get(point, ())

    def _asked(self, pod: PodInfo, point: str) -> list[PluginCalls]:
        made = self._made.get(pod.scheduler, {})
        return [made[name] for name in self._of(pod.scheduler, point)]

    # -- the queue -----------------------------------------------------------------------------------------

    def hints(self) -> dict[str, tuple[Hint, ...]]:
        """Hints of the plug-ins that declare what they wait for, and of what the profiles' arguments change."""
        found: dict[str, tuple[Hint, ...]] = {}
        given = (profile.args.get("NodeAffinity") for profile in self.profiles)
        if any(args is not None and args.added_affinity for args in given):
            found["NodeAffinity"] = ADDED_AFFINITY
        if any({"NodeResourcesFit", "DynamicResources"} <= {*profile.filters} for profile in self.profiles):
            found["NodeResourcesFit"] = DELEGATED
        for made in self._made.values():
            for name, one in made.items():
                kinds = one.plugin.wakes_on
                resources = [r for r in Resource if kinds is None or r.value in kinds]
                found[name] = tuple(Hint(resource, ~Action(0), _helps(one)) for resource in resources)
        return found

    def gate(self, pod: PodInfo) -> Gate | None:
        """Kubernetes' own gates, then those of plug-ins; a plug-in that fails keeps its gate closed."""
        own = self._gates(pod)
        if own is not None:
            return own
        for one in self._asked(pod, "preEnqueue"):
            try:
                said = one.told("preEnqueue", pod.obj, one.plugin.pre_enqueue, pod.obj)
            except PluginError as e:
                return Gate(one.name, str(e))
            if said:
                return Gate(one.name, said)
        return None

    def order(self, pod: PodInfo) -> Any:
        """The key that pods are sorted by."""
        for one in self._asked(pod, "queueSort"):
            try:
                return SortKey(one.called("queueSort", pod.obj, one.plugin.sort_key, pod.obj), pod)
            except PluginError as e:
                log.debug("pod %s: %s", pod.key, e)
                return SortKey(None, pod)
        return by_priority(pod)

    # -- a pod without a node ------------------------------------------------------------------------------

    def post_filter(self, pod: PodInfo, found: Explanation) -> str:
        """The node that a plug-in has found a way to; empty when none has."""
        refusals = {n.node: ", ".join(n.refusal.reasons) for n in found.nodes if n.refusal is not None}
        for one in self._asked(pod, "postFilter"):
            node = one.told("postFilter", pod.obj, one.plugin.post_filter, {}, pod.obj, refusals)
            if node in refusals:
                return node
        return ""

    def has_post_filter(self, pod: PodInfo) -> bool:
        return bool(self._of(pod.scheduler, "postFilter"))

    # -- a pod that has one ------------------------------------------------------------------------------

    def concern(self, pod: PodInfo) -> bool:
        """Whether the pod is bound by itself, as plug-ins have to do with it."""
        points = self._by_point.get(pod.scheduler, {})
        return any(point in points for point in _ALONE)

    def may_wait(self, pod: PodInfo) -> bool:
        """Whether plug-ins have something to do before the pod is bound."""
        return any(self._of(pod.scheduler, point) for point in _BEFORE_BINDING)

    def reserve(self, placement: Placement) -> None:
        """Rejection, PluginError: the pod cannot have its node; nothing is held."""
        pod = placement.pod
        held = self._reserved[pod.key] = _Reserved(pod.uid)
        try:
            for one in self._asked(pod, "reserve"):
                said = one.told("reserve", pod.obj, one.plugin.reserve, held.state, pod.obj, placement.node)
                if said:
                    raise Rejection(one.name, said)
        except (PluginError, Rejection):
            self.unreserve(placement)
            raise

    def unreserve(self, placement: Placement) -> None:
        """Give back what the pod has, if anything."""
        pod = placement.pod
        held = self._reserved.get(pod.key)
        if held is None or held.uid != pod.uid:
            return
        del self._reserved[pod.key]
        for one in reversed(self._asked(pod, "reserve")):
            try:
                one.called("reserve", pod.obj, one.plugin.unreserve, held.state, pod.obj, placement.node)
            except PluginError as e:
                log.error("pod %s: giving back: %s", pod.key, e)

    def state(self, pod: PodInfo) -> State:
        held = self._reserved.get(pod.key)
        return held.state if held is not None else {}

    async def prepare(self, placement: Placement) -> None:
        """All that comes before binding. Rejection, PluginError."""
        pod, state = placement.pod, self.state(placement.pod)
        for point in _BEFORE_BINDING:
            for one in self._asked(pod, point):
                said = await self._waited(one, point, state, placement)
                if said:
                    raise Rejection(one.name, said)

    async def bind(self, placement: Placement) -> bool:
        """Whether a plug-in bound the pod. PluginError."""
        pod, state = placement.pod, self.state(placement.pod)
        for one in self._asked(pod, "bind"):
            if await self._waited(one, "bind", state, placement):
                return True
        if not self._binds.get(pod.scheduler, True):
            raise PluginError("no Bind plugin of the profile bound the pod")
        return False

    async def bound(self, placement: Placement) -> None:
        """The pod is bound: what was reserved is used, and plug-ins hear of it."""
        pod, state = placement.pod, self.state(placement.pod)
        self._reserved.pop(pod.key, None)
        for one in self._asked(pod, "postBind"):
            try:
                await self._waited(one, "postBind", state, placement)
            except PluginError as e:
                log.error("pod %s: %s", pod.key, e)

    async def _waited(self, one: PluginCalls, point: str, state: State, placement: Placement) -> str:
        """What a plug-in answers, now or later, as a text; PluginError. What is not `async` runs in a thread."""
        name, plugin, pod = one.name, one.plugin, placement.pod.obj
        method = getattr(plugin, METHODS[point])
        begun, is_error = _now(), True
        try:
            if inspect.iscoroutinefunction(method):
                answer = called(name, point, method, state, pod, placement.node)
            else:
                ask = self._threads[name].run(partial(called, name, point, method, state, pod, placement.node))
                answer = await _answer(name, point, plugin, ask)
            if inspect.isawaitable(answer):
                answer = await _answer(name, point, plugin, answer)
            said = told(name, point, lambda: answer)
            is_error = False
            return said
        finally:
            self.watch.took(name, point, _now() - begun, is_error=is_error)


async def _answer(name: str, point: str, plugin: PodPlugin, answer: Awaitable[Any]) -> Any:
    """PluginError for whatever it raises, but for the end of the task that waits for it."""
    try:
        async with asyncio.timeout(plugin.timeout_s):
            return await answer
    except (GeneratorExit, PluginError):
        raise
    except BaseException as e:
        task = asyncio.current_task()
        if isinstance(e, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise failed(name, point, e) from e


def _now() -> float:
    return asyncio.get_running_loop().time()


def _instance(name: str, plugin: type[PodPlugin], args: Mapping[str, Any]) -> PodPlugin:
    try:
        return plugin(args)
    except PluginError as e:
        return _Broken(e)
    except BaseException as e:
        log.error("the scheduler plug-in %s cannot be made", name, exc_info=e)
        return _Broken(PluginError(f'plugin "{name}" cannot be made: {words_of(e)}'))


def _broken(made: Mapping[str, PluginCalls]) -> list[str]:
    return [name for name, one in made.items() if isinstance(one.plugin, _Broken)]


def _helps(one: PluginCalls) -> Any:
    def helps(pod: PodInfo, event: Event, _snapshot: Snapshot) -> bool:
        old, new = (getattr(side, "obj", side) for side in (event.old, event.new))
        return bool(one.told("enqueue", pod.obj, one.plugin.helps, pod.obj, event.resource.value, old, new))

    return helps
