"""Views of a running cluster beside its objects: how its parts stand, why it is so, and what was. Values of JSON."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api.errors import ApiError, BadRequest, Expired, NotFound, ServiceUnavailable
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.asking import explained, story
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.history import (
    Instant,
    changes_between,
    instant,
    oldest,
    present,
    resources,
    unread_kinds,
)
from rayplane.control_plane.cluster.past import EVERY_S, Past
from rayplane.control_plane.cluster.status import glance, glances
from rayplane.control_plane.cluster.stories import written
from rayplane.control_plane.shared import Shared
from rayplane.proto.rayplane.v1 import controllers_pb2, scheduler_pb2

log = logging.getLogger(__name__)

STANDING_S = 1.0

_ERRORS: Mapping[str, type[ApiError]] = {
    "INVALID_ARGUMENT": BadRequest,
    "NOT_FOUND": NotFound,
    "OUT_OF_RANGE": Expired,
    "UNAVAILABLE": ServiceUnavailable,
}
"""What a ClusterError is over HTTP, by its code."""

Way = Callable[[], AbstractAsyncContextManager[Access]]
"""The way into the cluster, found anew each time."""
Parameters = Mapping[str, str]


class Views:
    """The views of one cluster; they raise ClusterError, ApiError and RpcError. `now`: the time of day."""

    def __init__(self, way: Way, now: Callable[[], datetime]) -> None:
        self._way = way
        self._now = now
        self._standing: dict[str, Any] = {}
        self._standings = Shared(self._keep_standing)
        self._past = Past()
        self._comparing = asyncio.Lock()
        self._single = {
            "changes": self._changes,
            "control-plane": self._stood,
            "explain": self._explain,
            "history": self._history,
            "why": self._why,
        }

    async def stop(self) -> None:
        """End what somebody may still look at."""
        await self._standings.stop()

    async def look(self, view: str, parameters: Parameters) -> AsyncGenerator[Any, None]:
        """What a view shows: once, or for `control-plane` as it stands now again and again."""
        if view == "control-plane" and "at" not in parameters:
            async with aclosing(self._standings.turns(STANDING_S)) as turns:
                async for _ in turns:
                    yield self._standing
        elif (single := self._single.get(view)) is not None:
            try:
                found = await single(parameters)
            except ClusterError as e:
                if (kind := _ERRORS.get(e.code)) is None:
                    raise
                raise kind(str(e)) from e
            yield found
        else:
            raise NotFound(f"{view}: there is no such view")

    async def _keep_standing(self, tell: Callable[[], None]) -> None:
        async with aclosing(glances(self._way, STANDING_S)) as found:
            async for self._standing in found:
                tell()

    async def remember(self, leisure: float = 1.0) -> None:
        """Look again and again, for whoever asks later how the control plane stood. Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S * leisure)
            try:
                async with self._way() as admin:
                    self._past.keep(await glance(admin), self._now())
            except Exception:
                log.exception("a look at the control plane failed")

    async def _stood(self, parameters: Parameters) -> Any:
        async with self._way() as admin:
            at = await self._instant(admin, _of(parameters, "at"))
        return self._past.then(at.revision)

    async def _explain(self, parameters: Parameters) -> Any:
        query = scheduler_pb2.ExplainRequest(namespace=_of(parameters, "namespace"), name=_of(parameters, "name"))
        async with self._way() as admin:
            return MessageToDict(await explained(admin, query), always_print_fields_with_no_presence=True)

    async def _why(self, parameters: Parameters) -> Any:
        query = controllers_pb2.WhyRequest(
            resource=_of(parameters, "resource"),
            namespace=parameters.get("namespace", ""),
            name=_of(parameters, "name"),
        )
        async with self._way() as admin:
            found = await story(admin, query)
        return {"replicas": [_in_words(one) for one in found.answers], "silent": dict(found.silent)}

    async def _history(self, parameters: Parameters) -> Any:
        async with self._way() as admin:
            first, last = await asyncio.gather(oldest(admin.etcd), present(admin.etcd))
            at = await self._instant(admin, parameters["at"]) if "at" in parameters else last
        return {"oldest": first.to_json(), "newest": last.to_json(), "at": at.to_json()}

    async def _changes(self, parameters: Parameters) -> Any:
        texts = [_of(parameters, name) for name in ("from", "to")]
        # Each holds all objects twice.
        async with self._comparing, self._way() as admin:
            old, new = [await self._instant(admin, text) for text in texts]
            namespace = parameters.get("namespace", "")
            found = await changes_between(admin.api, admin.etcd, await resources(admin.api), old, new, namespace)
            unread = await unread_kinds(admin.api, old, new)
        span = {"from": old.to_json(), "to": new.to_json()}
        return {**span, "changes": [one.to_json() for one in found], "unread": unread}

    async def _instant(self, admin: Access, text: str) -> Instant:
        return await instant(admin.etcd, text, self._now())


def _in_words(answer: controllers_pb2.WhyResponse) -> dict[str, Any]:
    """A controller manager's answer as JSON; each look besides with what it did, for people."""
    told: dict[str, Any] = MessageToDict(answer, always_print_fields_with_no_presence=True)
    for look, one in zip(told["looks"], answer.looks, strict=True):
        look["did"] = [written(write) for write in one.writes]
    return told


def _of(parameters: Parameters, name: str) -> str:
    if not (value := parameters.get(name, "")):
        raise BadRequest(f"the parameter {name} is missing")
    return value
