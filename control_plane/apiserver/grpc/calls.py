"""Common ground of all calls: who asks, in whose turn, for how long, with what outcome."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from rayplane.control_plane.api.errors import ApiError, NotFound, Timeout
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.authentication.impersonation import PREFIX
from rayplane.control_plane.apiserver.authorization.authorizer import MAY_COME_FIRST
from rayplane.control_plane.apiserver.grpc.auditing import CALLER, CallAudit
from rayplane.control_plane.apiserver.grpc.errors import rpc_error
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User, check_scope
from rayplane.control_plane.apiserver.storage import leadership
from rayplane.control_plane.apiserver.tracing.recent import About
from rayplane.control_plane.apiserver.tracing.spans import Trace, following
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

T = TypeVar("T")

# They end as their callers please.
_STREAMS = frozenset({"log", "exec", "attach", "portforward"})
# Metadata has one value a name: several are separated by commas.
_LISTS = ("impersonate-group", "impersonate-extra-")
# KEY=VALUE, both percent-encoded: names of metadata can hold few keys.
_EXTRA = "impersonate-extra"


class Calls:
    """The common part of the services of this face."""

    def __init__(self, registry: ObjectRegistry, *, timeout_s: float) -> None:
        self.registry = registry
        self.audit = CallAudit(registry.auditor, registry.kinds)
        self._timeout_s = timeout_s

    async def user(self, context: Context) -> User:
        """Who asks, or whom it acts as. Unauthorized, Forbidden."""
        try:
            return await self._user(context)
        except ApiError as e:
            self.audit.refused(context, e)
            raise

    async def _user(self, context: Context) -> User:
        user = await self.registry.authenticator.of_call(context)
        metadata = context.metadata
        leadership.CLAIMED.set(leadership.Claim.of(metadata))
        asked = [(name, value) for name, value in metadata.items() if name.startswith(PREFIX)]
        if not asked:
            return user
        headers = [header for name, value in asked for header in _headers(name, value)]
        acting = await self.registry.authorizer.acting(user, headers)
        if acting is not user:
            CALLER.set(user)
        return acting

    async def answered(self, context: Context, run: Callable[[User], Awaitable[T]]) -> T:
        """What `run` returns, as a call that is no stream."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await run(await self.user(context))
        except ApiError as e:
            raise rpc_error(e) from e
        except TimeoutError as e:
            text = "request did not complete within the allotted timeout"
            raise rpc_error(Timeout(text, details={})) from e

    @contextlib.asynccontextmanager
    async def stream(self, context: Context, verb: str, request: Any) -> AsyncIterator[tuple[User, Target]]:
        """Who asks and what for, for as long as a stream of answers lasts."""
        try:
            user = await self.user(context)
            with self.measured(verb, request.ref, user), self.audit.follow(user, context, verb, request) as trail:
                try:
                    target = await self.target(verb, request.ref)
                except ApiError as e:
                    await self.may_be_told(e, user, verb, request.ref)
                    raise
                yield user, target
                if trail is not None:
                    trail.end(200)
        except ApiError as e:
            raise rpc_error(e) from e

    def measured(self, verb: str, ref: pb.ResourceRef, user: User) -> "Measured":
        return Measured(self.registry, verb, ref, user)

    def known_target(self, verb: str, ref: pb.ResourceRef) -> Target | None:
        """As `target`; None for what is not known to be served."""
        target = self.registry.known_target(
            ref.group, ref.version, ref.resource, namespace=ref.namespace, name=ref.name, subresource=ref.subresource
        )
        if target is not None:
            check_scope(target, verb)
        return target

    async def target(self, verb: str, ref: pb.ResourceRef) -> Target:
        target = await self.registry.target(
            ref.group,
            ref.version,
            ref.resource,
            namespace=ref.namespace,
            name=ref.name,
            subresource=ref.subresource,
        )
        check_scope(target, verb)
        return target

    async def may_be_told(self, error: ApiError, user: User, verb: str, ref: pb.ResourceRef) -> None:
        """Forbidden in place of `error` where the user may not ask for this at all."""
        if error.code in MAY_COME_FIRST and not user.all_powerful:
            await self.registry.authorizer.check_written(
                user,
                verb,
                group=ref.group,
                resource=ref.resource,
                subresource=ref.subresource,
                namespace=ref.namespace,
                name=ref.name,
            )


class Measured:
    """The time and the outcome of one operation; its steps, too, while somebody follows."""

    __slots__ = ("_began", "_following", "_ref", "_registry", "_trace", "_user", "_verb", "info")

    def __init__(self, registry: ObjectRegistry, verb: str, ref: pb.ResourceRef, user: User) -> None:
        self._registry, self._verb, self._ref, self._user = registry, verb, ref, user
        self._trace: Trace | None = None
        self.info: ResourceInfo | None = None
        """What it is about, once that is known."""

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._registry.recent.followed:
            self._trace = Trace(loop.time)
            self._following = following(self._trace, "request")
            self._following.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        ref, verb = self._ref, self._verb
        info = self.info
        if info is None:
            with contextlib.suppress(NotFound):
                info = self._registry.kinds.find(ref.group, ref.version, ref.resource)
        seconds = asyncio.get_running_loop().time() - self._began
        streams = verb == "watch" or ref.subresource in _STREAMS
        code = _code(verb, error, streams=streams)
        method = verb if info is not None else "POST"  # what all of gRPC is
        self._registry.requests.add(method, info, code, seconds, ref.subresource)
        if self._trace is not None:
            self._following.__exit__(kind, error, None)
        if self._trace is not None or self._registry.recent.interesting(code, 0.0 if streams else seconds):
            about = About("gRPC", verb, _path(ref), self._user.name, code=code)
            about.message = error.message if isinstance(error, ApiError) else ""
            self._registry.recent.over(about, seconds, self._trace)


def _path(ref: pb.ResourceRef) -> str:
    """As the REST face has it."""
    root = ("/apis", ref.group, ref.version) if ref.group else ("/api", ref.version or "v1")
    namespace = ("namespaces", ref.namespace) if ref.namespace else ()
    return "/".join(part for part in (*root, *namespace, ref.resource, ref.name, ref.subresource) if part)


def _code(verb: str, error: BaseException | None, *, streams: bool) -> int:
    if error is None or (streams and not isinstance(error, Exception)):
        return 201 if verb == "create" and not streams else 200
    if isinstance(error, ApiError):
        return error.code
    return 500 if isinstance(error, Exception) else 504  # given up by the client, or too late


def _headers(name: str, value: str) -> list[tuple[str, str]]:
    """The headers that metadata of impersonation stands for."""
    if name == _EXTRA:
        pairs = [part.partition("=") for part in value.split(",")]
        return [(f"{_EXTRA}-{key}", unquote(text)) for key, _, text in pairs]
    return [(name, part) for part in (value.split(",") if name.startswith(_LISTS) else (value,))]
