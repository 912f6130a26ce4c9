"""The policies of one kind that are in force, and the objects that they judge by.

A request that no policy is about pays for one look-up by operation and resource. Policies from manifests come before
those of the API, and alone say something of changes to webhooks and policies.
Source: apiserver's plugin/policy/generic (`policy_source.go`, `policy_dispatcher.go`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from rayplane.control_plane.api.admission.matching import NAMESPACES, labels
from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.policies import AnyPolicy, Binding
from rayplane.control_plane.apiserver.admission.questions import Questions, exempt
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.watch_cache.following import Follower
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

log = logging.getLogger(__name__)

#: Kinds of requests whose policies are remembered: more of them are looked up anew.
REMEMBERED_MAX: Final = 4096

P = TypeVar("P", bound=AnyPolicy)


class Misconfigured(ValueError):
    """A policy or a binding that cannot be applied; it says why."""


@dataclass(frozen=True, slots=True)
class _Bound(Generic[P]):
    """Policies and bindings of one origin by name."""

    policies: dict[str, P] = field(default_factory=dict)
    bindings: dict[str, Binding] = field(default_factory=dict)

    def about(self, request: tuple[str, str, str, str]) -> Iterator[tuple[P, Sequence[Binding]]]:
        """Those that may be about a request (operation, group, plural, subresource), in the order of their names."""
        for _, policy in sorted(self.policies.items()):
            if policy.matching.concerns(*request):
                bound = [one for _, one in sorted(self.bindings.items()) if one.policy == policy.name]
                if bound:
                    yield policy, bound


class InForce(Generic[P]):
    """The policies that are bound, with their bindings, by the requests they may be about."""

    def __init__(self, kinds: Kinds, hub: WatchHub, policies: str, bindings: str, read: Callable[[Object], P]) -> None:
        """`read` makes a policy of what is stored."""
        self._api: _Bound[P] = _Bound()
        self._static: _Bound[P] = _Bound()
        self._remembered: dict[tuple[str, str, str, str], Sequence[tuple[P, Sequence[Binding]]]] = {}
        self._bindings_resource = bindings
        self._read = read
        self._follower = Follower(
            kinds, hub, (policies, bindings), clear=self._clear, put=self._put, remove=self._remove
        )

    @property
    def none(self) -> bool:
        """Whether it is known that there are none: no policy is in force without a binding."""
        return not self._static.bindings and not self._api.bindings and self._follower.in_step

    def take(self, manifests: Iterable[Object]) -> None:
        """Have these policies and bindings in force beside those of the API, and no others. ValueError."""
        found: _Bound[P] = _Bound()
        for o in manifests:
            if "policyName" in o["spec"]:
                found.bindings[name(o)] = Binding(o)
            else:
                found.policies[name(o)] = self._read(o)
        self._static = found
        self._remembered.clear()

    async def about(self, request: AdmissionRequest) -> Sequence[tuple[P, Sequence[Binding]]]:
        """Those that may be about a request, in their order."""
        alone = exempt(request)
        if not alone:
            await self._follower.load()
        asked = request.asked or request.info
        key = (request.operation, asked.group, asked.plural, request.subresource)
        found = self._remembered.get(key)
        if found is None:
            found = [*self._static.about(key), *(() if alone else self._api.about(key))]
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def _clear(self) -> None:
        self._api.policies.clear()
        self._api.bindings.clear()
        self._remembered.clear()

    def _put(self, resource: str, o: Object) -> None:
        self._remembered.clear()
        if resource == self._bindings_resource:
            binding = Binding(o)
            self._api.bindings[binding.name] = binding
            return
        try:
            policy = self._read(o)
        except (ApiError, AttributeError, KeyError, TypeError, ValueError) as e:
            # No server has let it in: somebody wrote it into etcd.
            self._api.policies.pop(name(o), None)
            log.error("%s %s cannot be read and is not in force: %s: %s", resource, name(o), type(e).__name__, e)
            return
        known = self._api.policies.get(policy.name)
        # A status that was written changes nothing that was compiled.
        if known is None or known.spec != policy.spec:
            self._api.policies[policy.name] = policy

    def _remove(self, resource: str, o: Object) -> None:
        self._remembered.clear()
        held: dict[str, Any] = self._api.bindings if resource == self._bindings_resource else self._api.policies
        held.pop(name(o), None)


class Parameters:
    """Parameters and namespaces, by which policies judge beside the request."""

    def __init__(self, kinds: Kinds, lookup: Lookup, questions: Questions) -> None:
        self._kinds = kinds
        self._lookup = lookup
        self._questions = questions

    def check_kind(self, policy: AnyPolicy) -> None:
        """Raises Misconfigured for a kind of parameters that is not served."""
        kind = policy.param_kind
        if kind is not None and self._kinds.registry.by_kind(*kind) is None:
            group, _, version = kind[0].rpartition("/")
            where = f"'{group}/{version}, Kind={kind[1]}'"
            raise Misconfigured(f"failed to configure policy: failed to find resource referenced by paramKind: {where}")

    async def namespace(self, question: Question, *, needed: bool) -> Object | None:
        """The request's namespace, where an expression looks at it; a namespace is in none."""
        if not needed or not question.namespace or question.asked.name == NAMESPACES:
            return None
        return await self._questions.namespace(question.namespace)

    async def of(self, policy: AnyPolicy, binding: Binding, namespace: str) -> Sequence[Object | None]:
        """The objects for each of which a policy judges; None: it has no parameters. Raises Misconfigured."""
        ref = binding.param_ref
        if policy.param_kind is None or ref is None:
            return [None]
        try:
            found = await self._referred(policy.param_kind, ref, namespace)
            if not found and ref.get("parameterNotFoundAction") == "Deny":
                raise Misconfigured("no params found for policy binding with `Deny` parameterNotFoundAction")
        except Misconfigured as e:
            raise Misconfigured(f"failed to configure binding: {e}") from e
        return found

    async def _referred(self, kind: tuple[str, str], ref: Mapping[str, Any], namespace: str) -> list[Object]:
        info = self._kinds.registry.by_kind(*kind)
        if info is None:
            # It has gone this very moment.
            return []
        if info.namespaced:
            namespace = ref.get("namespace") or namespace
            if not namespace:
                raise Misconfigured(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                )
        elif ref.get("namespace"):
            raise Misconfigured("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
        else:
            namespace = ""
        found: Iterable[Object]
        if ref.get("name"):
            one = await self._lookup.get(info.name, ref["name"], namespace)
            found = [one] if one is not None else []
        else:
            selector = from_label_selector(ref.get("selector") or {})
            found = (o for o in await self._lookup.list(info.name, namespace) if selector.matches(labels(o)))
        return [await self._questions.forms.from_stored(info, o) for o in found]
