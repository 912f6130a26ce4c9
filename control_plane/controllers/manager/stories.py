"""The gRPC service `rayplane.v1.Controllers`: why an object is as it is, by what this replica's controllers did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import Controller, View, own_key
from rayplane.control_plane.controllers.manager.runner import ControllerRunner
from rayplane.control_plane.controllers.story import Look, Story
from rayplane.control_plane.rpc import ADMINISTRATORS, Context, Service, each
from rayplane.proto.rayplane.v1 import controllers_pb2 as pb

log = logging.getLogger(__name__)
_SERVICE = pb.DESCRIPTOR.services_by_name["Controllers"]
REQUEST_BYTES_MAX = 4096
KEYS_MAX = 64  # of one controller that an object concerns


@dataclass(frozen=True, slots=True)
class _Term:
    view: View
    runners: Sequence[ControllerRunner]
    since: datetime


class Stories:
    """The methods. `begin` and `end` tell it of the terms in which this replica leads."""

    def __init__(self, replica: str, story: Story, *, is_leader: Callable[[], bool]) -> None:
        self._replica, self._story, self._is_leader = replica, story, is_leader
        self._term: _Term | None = None
        self._controllers: Sequence[Controller] = ()

    def begin(self, view: View, runners: Sequence[ControllerRunner], now: datetime) -> None:
        self._term = _Term(view, runners, now)
        self._controllers = [runner.controller for runner in runners]

    def end(self) -> None:
        self._term = None

    def service(self) -> Service:
        # What controllers do tells of all objects, secret ones too.
        callers = each(ADMINISTRATORS, "Why")
        return Service(_SERVICE, self, callers=callers, request_bytes_max=REQUEST_BYTES_MAX)

    async def Why(self, request: pb.WhyRequest, context: Context) -> pb.WhyResponse:
        name = f"{request.namespace}/{request.name}" if request.namespace else request.name
        response = pb.WhyResponse(replica=self._replica, leads=self._is_leader(), forgotten=self._story.forgotten)
        owners = frozenset(c.name for c in self._controllers if _owns(c, request.resource))
        term = self._term
        if term is not None:
            obj = term.view.get(request.resource, request.namespace, request.name)
            response.since = meta.format_micro_time(term.since)
            response.watchers.extend(c.name for c in self._controllers if _watches(c, request.resource))
            if obj is not None:
                response.cached = meta.resource_version(obj)
            response.standings.extend(self._standings(term, request.resource, name, obj))
        response.looks.extend(map(_look, self._story.about(request.resource, name, owners)))
        return response

    def _standings(self, term: _Term, resource: str, name: str, obj: Object | None) -> Iterable[pb.Standing]:
        for runner in term.runners:
            keys = _keys(runner.controller, resource, term.view, obj) if obj is not None else []
            if not keys and _owns(runner.controller, resource):
                keys = [name]
            for key in keys[:KEYS_MAX]:
                yield self._standing(term, runner, key)

    def _standing(self, term: _Term, runner: ControllerRunner, key: str) -> pb.Standing:
        standing, held_s = runner.standing(key)
        looks = self._story.of_key(runner.controller.name, key)
        return pb.Standing(
            controller=runner.controller.name,
            key=key,
            looked=bool(looks) and looks[-1].at >= term.since,
            queued_s=standing.queued_s,
            working_s=standing.working_s,
            due_in_s=standing.due_in_s,
            held_for_s=held_s or None,
            failures=standing.failures,
        )


def _watches(controller: Controller, resource: str) -> bool:
    return any(watch.resource == resource and watch.keys is not None for watch in controller.watches)


def _owns(controller: Controller, resource: str) -> bool:
    """Whether a controller's keys are the names of such objects."""
    return any(watch.resource == resource and watch.keys is own_key for watch in controller.watches)


def _keys(controller: Controller, resource: str, view: View, obj: Object) -> list[str]:
    """Under which keys a controller looks at an object."""
    found: dict[str, None] = {}
    for watch in controller.watches:
        if watch.resource == resource and watch.keys is not None:
            try:
                found.update(dict.fromkeys(watch.keys(obj, view)))
            except Exception:
                # As when its changes come: an object that cannot be mapped has no key.
                log.debug("%s: cannot map %s to keys", controller.name, resource, exc_info=True)
    return list(found)


def _look(look: Look) -> pb.Look:
    return pb.Look(
        controller=look.controller,
        key=look.key,
        at=meta.format_micro_time(look.at),
        seconds=look.seconds,
        times=look.times,
        changes=[
            pb.Change(resource=c.resource, object=c.object, kind=c.kind, resource_version=c.version)
            for c in look.changes
        ],
        changes_left_out=look.changes_left_out,
        writes=[
            pb.Write(verb=w.verb, resource=w.resource, object=w.object, resource_version=w.version, error=w.error)
            for w in look.writes
        ],
        writes_left_out=look.writes_left_out,
        error=look.error,
        requeue_after_s=look.requeue_after_s,
    )
