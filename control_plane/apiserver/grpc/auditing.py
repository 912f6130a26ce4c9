"""Calls of the gRPC face in the audit log, each operation of a batch by itself."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.decoding import JSON
from rayplane.control_plane.apiserver.audit import Auditor, Trail
from rayplane.control_plane.apiserver.audit.trail import Asked, following
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.registry.registry import error_json
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc import Context

_BODIES = {"create": "json", "update": "json", "patch": "patch"}
_PATH = "/rayplane.v1.Objects/"
_GIVEN_UP = 504
#: Who the caller of this task's call is, where it acts as somebody else.
CALLER: ContextVar[User | None] = ContextVar("caller", default=None)
_UNFOLLOWED = nullcontext()


class CallAudit:
    """An observer that follows calls where there is an auditor."""

    def __init__(self, auditor: Auditor | None, kinds: Kinds) -> None:
        self._auditor = auditor
        self._kinds = kinds

    def follow(
        self, user: User, context: Context, verb: str, request: Any
    ) -> AbstractContextManager[None] | AbstractContextManager[Trail]:
        """The trail of a call that has a `ref`, to be ended by who answers it; failures end it here."""
        if self._auditor is None:
            return _UNFOLLOWED
        trail = self._auditor.trail(self._asked(context, verb, request.ref))
        return self._followed(trail, user, verb, request)

    def refused(self, context: Context, error: ApiError) -> None:
        """Record a call whose caller was not recognised, or may not act as whom it says."""
        if self._auditor is not None:
            asked = Asked(
                uri=context.path, verb=context.path.rpartition("/")[2].lower(), path=context.path, **_by(context)
            )
            self._auditor.trail(asked).end(error.code, error_json(error), JSON)

    @contextmanager
    def _followed(self, trail: Trail, user: User, verb: str, request: Any) -> Iterator[Trail]:
        with following(trail):
            caller = CALLER.get()
            trail.begin(caller or user)
            trail.impersonated = user if caller is not None else None
            if verb in _BODIES:
                trail.keep_request(getattr(request, _BODIES[verb]), JSON)
            try:
                yield trail
            except ApiError as e:
                trail.end(e.code, error_json(e), JSON)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                # How a watch ends, and what takes too long.
                trail.end(200 if verb == "watch" else _GIVEN_UP)
                raise
            except Exception:
                trail.panic()
                trail.end(500)
                raise

    def _asked(self, context: Context, verb: str, ref: Any) -> Asked:
        try:
            info = self._kinds.find(ref.group, ref.version, ref.resource)
        except ApiError:
            uri = f"{_PATH}{verb.capitalize()}" if context.path.startswith(_PATH) else context.path
            group, version = ref.group, ref.version
            namespace = ref.namespace
        else:
            part = f"/{ref.subresource}" if ref.subresource else ""
            uri = info.path(ref.namespace, ref.name) + part
            group, version = info.group, info.version
            namespace = ref.namespace if info.namespaced else ref.name if info.name == "namespaces" else ""
        return Asked(
            uri=uri,
            verb=verb,
            group=group,
            version=version,
            resource=ref.resource,
            subresource=ref.subresource,
            namespace=namespace,
            name=ref.name,
            **_by(context),
        )


def _by(context: Context) -> dict[str, Any]:
    """From where a call comes, and by which program."""
    host = context.peer.rpartition(":")[0] or context.peer
    ips = [host.strip("[]")] if host else []
    return {"source_ips": ips, "user_agent": context.metadata.get("user-agent") or ""}
