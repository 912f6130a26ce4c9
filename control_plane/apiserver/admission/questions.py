"""Questions to webhooks and policies: whether a request is their business, and what it looks like to them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rayplane.control_plane.api.admission.matching import GROUP, NAMESPACES, Matching, labels
from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.api.errors import ApiError, BadRequest, InternalError, NotFound
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale, set_scale
from rayplane.control_plane.api.machinery import decoding
from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS, parse_fields
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.schema import Definition, definition_of
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.expressions import INLINE, KUBERNETES, Limits, TooDear
from rayplane.control_plane.apiserver.admission.request import CONNECT, CREATE, DELETE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.cel import Check, Decision, Unanswered
from rayplane.control_plane.identities import SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS
from rayplane.storage.env import Env

_OPTIONS = {CREATE: "CreateOptions", UPDATE: "UpdateOptions", DELETE: "DeleteOptions"}

#: Questions to the authorizer for one look at a request; what they cost bounds them, too.
_CHECKS_MAX = 64
_PARTS = ("path", "group", "resource", "subresource", "namespace", "name")

_SELECTED = ("metadata.name", "metadata.namespace", "spec.nodeName")

Default = Callable[[ResourceInfo, Object], None]
"""Sets a kind's defaults in place."""
_T = TypeVar("_T")


class Questions:
    """Requests as webhooks and policies see them."""

    def __init__(
        self, kinds: Kinds, forms: Forms, lookup: Lookup, authorizer: Authorizer, *, default: Default, env: Env
    ) -> None:
        self._kinds = kinds
        self.forms = forms
        self._authorizer = authorizer
        self._default = default
        self._lookup = lookup
        self._env = env
        self._heavy = Heavy(env)

    async def meant(self, matching: Matching, request: AdmissionRequest) -> ResourceInfo | None:
        """The form in which a request is some webhook's or policy's business; None when it is none of it."""
        asked, namespace = asked_of(request), namespace_of(request)
        # Most requests are none of its business: that is to cost them little.
        if not matching.concerns(request.operation, asked.group, asked.plural, request.subresource):
            return None
        others = self.other_forms(asked) if matching.equivalent else ()
        info = matching.resource(request.operation, asked, others, request.subresource, namespace, request.name)
        if info is None or not matching.selects_objects(new_of(request), request.old):
            return None
        return info if await self._in_selected_namespace(matching, request, namespace) else None

    def other_forms(self, asked: ResourceInfo) -> list[ResourceInfo]:
        """The same resource in its other versions."""
        return [v for v in self._kinds.in_group(asked.group) if v.plural == asked.plural and v != asked]

    async def _in_selected_namespace(self, matching: Matching, request: AdmissionRequest, namespace: str) -> bool:
        if not namespace or matching.namespaces.everything:
            return True
        if request.info.name == NAMESPACES and request.operation != DELETE:
            return matching.namespaces.matches(labels(request.object))
        return matching.namespaces.matches(labels(await self.namespace(namespace)))

    async def namespace(self, namespace: str) -> Object:
        """Raises NotFound."""
        found = await self._lookup.get(NAMESPACES, namespace)
        if found is None:
            raise NotFound.of(NAMESPACES, namespace)
        return found

    async def put(self, request: AdmissionRequest, info: ResourceInfo) -> Question:
        """The request in the form of `info`."""
        new = new_of(request)
        return Question(
            uid=self._env.uuid(),
            operation=request.operation,
            info=info,
            asked=asked_of(request),
            subresource=request.subresource,
            namespace=namespace_of(request),
            name=request.name or (name(new) if new is not None else ""),
            user=request.user.info,
            new=await self._shown(info, request.subresource, new),
            old=await self._shown(info, request.subresource, request.old),
            dry_run=request.dry_run,
            options=_options(request),
        )

    async def decided(
        self, decide: Callable[[Mapping[str, Any], Limits], _T], names: Mapping[str, Any], user: User
    ) -> _T:
        """What expressions say of a request of a user; they are evaluated again with each answer that they need."""
        answers: dict[Check, Decision] = {}
        names = {**names, "authorizer": names["authorizer"].with_answers(answers)}
        for _ in range(_CHECKS_MAX):
            try:
                return await self._evaluated(decide, names)
            except Unanswered as e:
                answers[e.check] = await self._answer(e.check, user)
        raise InternalError(f"Internal error occurred: expressions ask more than {_CHECKS_MAX} questions")

    async def _evaluated(self, decide: Callable[[Mapping[str, Any], Limits], _T], names: Mapping[str, Any]) -> _T:
        """Where expressions are dear, nobody else waits for them."""
        try:
            return decide(names, INLINE)
        except TooDear:
            return await self._heavy.apart(decide, names, KUBERNETES)

    async def _answer(self, check: Check, user: User) -> Decision:
        """What the authorizer says of a user, or of a service account."""
        if check.account is not None:
            space, own = check.account
            groups = (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{space}")
            user = User(f"{SERVICE_ACCOUNT_PREFIX}{space}:{own}", groups)
        fields = ALL_FIELDS
        # A selector that cannot be read limits nothing.
        with contextlib.suppress(BadRequest):
            fields = parse_fields(check.fields, _SELECTED)
        parts = {part: getattr(check, part) for part in _PARTS}
        try:
            decision = await self._authorizer.decide(user.asks(check.verb, fields=fields, **parts))
        except ApiError as e:
            return Decision(False, error=e.message)
        return Decision(decision.allowed, decision.reason)

    def definition(self, question: Question) -> Definition | None:
        """The schema of the object that a question is about."""
        o = question.new or {}
        if o.get("kind") == question.info.kind:
            return self._kinds.definition(question.info)
        return definition_of(str(o.get("apiVersion") or ""), str(o.get("kind") or ""))

    async def take(self, request: AdmissionRequest, question: Question, new: Object) -> None:
        """Make what was made of a question's object that of the request. BadRequest for what cannot be one."""
        before, info = question.new, question.info
        assert before is not None
        decoding.conform_patched(new, self.definition(question), field_validation="Ignore")
        _check_is_still(before, new)
        if question.subresource == "scale" and before["kind"] != info.kind:
            set_scale(request.object, new, self._kinds.scale_paths(request.info))
        elif before["kind"] == info.kind:
            self._default(info, new)
            request.object = await self.forms.to_stored(info, new)
        else:
            request.object = new

    async def _shown(self, info: ResourceInfo, subresource: str, o: Object | None) -> Object | None:
        """A stored object, or the body of a subresource, as clients see it."""
        if o is None or o.get("kind") != info.kind:
            return o
        shown = await self.forms.from_stored(info, o)
        return get_scale(shown, self._kinds.scale_paths(info)) if subresource == "scale" else shown


def _check_is_still(before: Object, new: Object) -> None:
    """BadRequest for a patch that leaves an object of another kind, or one that cannot have a name."""
    if any(new.get(field) != before[field] for field in ("apiVersion", "kind")):
        raise BadRequest("it changes apiVersion or kind")
    if not isinstance(new.get("metadata"), dict):
        raise BadRequest("it leaves no metadata")


def exempt(request: AdmissionRequest) -> bool:
    """Whether no webhook and no policy of the API has a say: whoever breaks the cluster by one can take it back."""
    return request.info.group == GROUP


def asked_of(request: AdmissionRequest) -> ResourceInfo:
    return request.asked or request.info


def namespace_of(request: AdmissionRequest) -> str:
    """A namespace is its own."""
    return request.name if request.info.name == NAMESPACES else request.namespace


def new_of(request: AdmissionRequest) -> Object | None:
    return None if request.operation == DELETE else request.object


def _options(request: AdmissionRequest) -> Object:
    if request.operation == CONNECT:
        return {}
    options: Object = {"kind": _OPTIONS[request.operation], "apiVersion": "meta.k8s.io/v1"}
    if request.dry_run:
        options["dryRun"] = ["All"]
    if request.manager and request.operation != DELETE:
        options["fieldManager"] = request.manager
    return options
