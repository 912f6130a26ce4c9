"""The audit trail of one request: what is known of it while it is answered, and the events of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.audit import Decision, Level, Stage
from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.tracing.layers import AT_HAND, Layers
from rayplane.control_plane.apiserver.tracing.spans import note
from rayplane.control_plane.durations import format_duration

HEADER = "Audit-Id"
_DECISION = "authorization.k8s.io/decision"
_REASON = "authorization.k8s.io/reason"
_LATENCY = "apiserver.latency.k8s.io/"
SLOW_S = 0.5
"""Of requests that take longer is told in which layers they were for how long."""
_NAME_MAX = 512
_LENGTHS = {"uri": 16 * 1024, "path": 16 * 1024, "user_agent": 1024}
_CURRENT: ContextVar[Trail | None] = ContextVar("trail", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request itself, before it is known who asks."""

    uri: str
    verb: str
    source_ips: Sequence[str] = ()
    user_agent: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    """Empty for paths that are no resources."""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def bounded(self) -> Asked:
        """The same, with no more of each text than is worth keeping: a URL or a name may have any length."""
        cut = {
            f.name: value[: _LENGTHS.get(f.name, _NAME_MAX)]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), str)
        }
        return replace(self, **cut)

    def by(self, user: User) -> Attributes:
        """The question that the policy is asked."""
        return Attributes(
            user=user.name,
            groups=user.groups,
            verb=self.verb,
            group=self.group,
            resource=self.resource,
            subresource=self.subresource,
            namespace=self.namespace,
            name=self.name,
            path="" if self.resource else self.path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event, not yet encoded. Bodies are (bytes, media type)."""

    id: str
    stage: Stage
    decision: Decision
    asked: Asked
    user: User | None
    impersonated: User | None
    constraint: str
    received: datetime
    at: datetime
    code: int
    message: str
    annotations: Mapping[str, str]
    request: tuple[bytes, str] | None
    response: tuple[bytes, str] | None

    @property
    def weight(self) -> int:
        """About how many bytes it keeps in memory."""
        bodies = sum(len(part[0]) for part in (self.request, self.response) if part is not None)
        names = sum(len(text) for text in self.annotations.values()) + len(self.asked.uri) + len(self.message)
        return 2048 + bodies + names + (len(str(self.impersonated.info)) if self.impersonated is not None else 0)


@dataclass(slots=True)
class Trail:
    """One request's. `decide` asks the policy, `put` takes a record, `now` is the wall clock."""

    id: str
    asked: Asked
    received: datetime
    decide: Callable[[Attributes], Decision]
    put: Callable[[Record], None]
    now: Callable[[], datetime]
    user: User | None = None
    impersonated: User | None = None
    constraint: str = ""
    """The verb that let the caller be somebody else, where it was a constrained one."""
    annotations: dict[str, str] = field(default_factory=dict)
    _decision: Decision | None = None
    _request: tuple[bytes, str] | None = None
    _panic: bool = False
    layers: Layers = field(init=False)

    def __post_init__(self) -> None:
        self.layers = Layers(self.now)

    def begin(self, user: User) -> None:
        """It is known who asks: the policy decides now, and the first stage is recorded."""
        self.user = user
        self._decision = self.decide(self.asked.by(user))
        self._emit(Stage.REQUEST_RECEIVED, 0)

    def keep_request(self, data: bytes, media: str) -> None:
        decision = self._decision
        # A new object's name is only in its body.
        named = self.asked.verb == "create" and not self.asked.name
        if decision is not None and (decision.level >= Level.REQUEST or (decision.level == Level.METADATA and named)):
            self._request = data, media

    def start(self) -> None:
        """A stream begins: nobody knows when its response will be complete."""
        self._emit(Stage.RESPONSE_STARTED, 200)

    def panic(self) -> None:
        self._panic = True

    def end(self, code: int, data: bytes = b"", media: str = "", message: str = "") -> None:
        """The last stage; a body is kept as far as the policy wants it, or when it tells of a failure."""
        if self._decision is None:
            # Nobody was recognised; who asks in vain for long is to be seen.
            self._decision = self.decide(self.asked.by(User("")))
            self._emit(Stage.RESPONSE_STARTED, code, (data, media), message)
            return
        total_s = (self.now() - self.received).total_seconds()
        if total_s > SLOW_S and self.layers.seconds:
            told = {**self.layers.seconds, "total": total_s}
            self.annotations |= {_LATENCY + layer: format_duration(span_s) for layer, span_s in told.items()}
        stage = Stage.PANIC if self._panic else Stage.RESPONSE_COMPLETE
        self._emit(stage, code, (data, media) if data else None, message)

    def records(self, level: Level) -> bool:
        """Whether the policy wants that much recorded; True while it has not been asked."""
        return self._decision is None or self._decision.level >= level

    @property
    def wants_response(self) -> bool:
        return self._decision is not None and self._decision.level == Level.REQUEST_RESPONSE

    def _emit(self, stage: Stage, code: int, answer: tuple[bytes, str] | None = None, message: str = "") -> None:
        decision = self._decision
        if decision is None or decision.level == Level.NONE or stage in decision.omit_stages:
            return
        self.put(
            Record(
                id=self.id,
                stage=stage,
                decision=decision,
                asked=self.asked,
                user=self.user,
                impersonated=self.impersonated,
                constraint=self.constraint,
                received=self.received,
                at=self.now() if code else self.received,
                code=code,
                message=message,
                annotations=dict(self.annotations),
                request=self._request,
                response=answer if answer is not None and (code >= 400 or self.wants_response) else None,
            )
        )


@contextmanager
def following(trail: Trail) -> Iterator[Trail]:
    """What is answered inside is this trail's request."""
    _CURRENT.set(trail)
    AT_HAND.set(trail.layers)
    try:
        yield trail
    finally:
        _CURRENT.set(None)
        AT_HAND.set(None)


def called_by(user: User) -> None:
    """The caller has been recognised."""
    trail = _CURRENT.get()
    if trail is not None:
        trail.begin(user)


def impersonates(user: User, constraint: str) -> None:
    """The caller may act as this user, and does. `constraint`: by which verb, where that is a constrained one."""
    note(impersonated=user.name, groups=", ".join(user.groups))
    trail = _CURRENT.get()
    if trail is not None:
        trail.impersonated, trail.constraint = user, constraint


def body(data: bytes, media: str) -> None:
    """What the request carried."""
    trail = _CURRENT.get()
    if trail is not None:
        trail.keep_request(data, media)


def annotate(annotations: Mapping[str, str], level: Level = Level.METADATA) -> None:
    """What was decided on the way, where as much as `level` is recorded. Of two under one name the first is kept."""
    trail = _CURRENT.get()
    if trail is not None and trail.records(level):
        trail.annotations = {**annotations, **trail.annotations}


def allowed(reason: str = "") -> None:
    """The request was authorised."""
    note(decision="allow", reason=reason)
    trail = _CURRENT.get()
    if trail is not None:
        trail.annotations[_DECISION] = "allow"
        trail.annotations[_REASON] = reason


def denied(reason: str = "") -> None:
    note(decision="forbid", reason=reason)
    trail = _CURRENT.get()
    if trail is not None:
        trail.annotations[_DECISION] = "forbid"
        trail.annotations[_REASON] = reason


def panicked() -> None:
    """The request failed by a fault of the server's own."""
    trail = _CURRENT.get()
    if trail is not None:
        trail.panic()


def started() -> None:
    """The stream of a response begins."""
    trail = _CURRENT.get()
    if trail is not None:
        trail.start()


def response_starts(headers: MutableMapping[str, Any]) -> None:
    """A stream's headers are about to be sent."""
    trail = _CURRENT.get()
    if trail is not None:
        headers[HEADER] = trail.id
        trail.start()
