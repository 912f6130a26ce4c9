"""The plugin ValidatingAdmissionPolicy: which policies a request meets, with which parameters, and what comes of it.

A request that no policy is about pays for one look-up by operation and resource.
Source: apiserver's plugin/policy/validating (`dispatcher.go`) and plugin/policy/generic (`policy_dispatcher.go`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from rayplane.control_plane.api.admission.matching import GROUP, NAMESPACES, labels
from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.api.errors import REASONS, ApiError, Forbidden
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.expressions import bindings as bound_names
from rayplane.control_plane.apiserver.admission.policies import Binding, Denial, Judgement, Policy
from rayplane.control_plane.apiserver.admission.questions import Questions, asked_of, exempt
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.watch_cache.following import Follower
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

POLICIES: Final = f"validatingadmissionpolicies.{GROUP}"
BINDINGS: Final = f"validatingadmissionpolicybindings.{GROUP}"
FAILURE: Final = "validation.policy.admission.k8s.io/validation_failure"
#: Kinds of requests whose policies are remembered: more of them are looked up anew.
REMEMBERED_MAX: Final = 4096
_ANNOTATION_CHARS_MAX: Final = 10 * 1024
_CODES: Final = {row.reason: row.code for row in REASONS}

Bound = tuple[Policy, Sequence[Binding]]


class Misconfigured(ValueError):
    """A policy or a binding that cannot be applied; it says why."""


class InForce:
    """The policies that are bound, with their bindings, by the requests they may be about."""

    def __init__(self, kinds: Kinds, hub: WatchHub, policies: str, bindings: str) -> None:
        self._policies: dict[str, Policy] = {}
        self._bindings: dict[str, Binding] = {}
        self._remembered: dict[tuple[str, str, str, str], Sequence[Bound]] = {}
        self._bindings_resource = bindings
        self._follower = Follower(
            kinds, hub, (policies, bindings), clear=self._clear, put=self._put, remove=self._remove
        )

    async def load(self) -> None:
        """Bring it in step with the caches. Cheap when it is."""
        await self._follower.load()

    def about(self, request: AdmissionRequest) -> Sequence[Bound]:
        """Those that may be about a request, in the order of their names."""
        asked = request.asked or request.info
        key = (request.operation, asked.group, asked.plural, request.subresource)
        found = self._remembered.get(key)
        if found is None:
            found = [
                (policy, bound)
                for _, policy in sorted(self._policies.items())
                if policy.matching.concerns(*key) and (bound := self._bound(policy.name))
            ]
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def _bound(self, policy: str) -> list[Binding]:
        return [binding for _, binding in sorted(self._bindings.items()) if binding.policy == policy]

    def _clear(self) -> None:
        self._policies.clear()
        self._bindings.clear()
        self._remembered.clear()

    def _put(self, resource: str, o: Object) -> None:
        self._remembered.clear()
        if resource == self._bindings_resource:
            binding = Binding(o)
            self._bindings[binding.name] = binding
            return
        policy = Policy(o)
        known = self._policies.get(policy.name)
        # A status that was written changes nothing that was compiled.
        if known is None or known.spec != policy.spec:
            self._policies[policy.name] = policy

    def _remove(self, resource: str, o: Object) -> None:
        self._remembered.clear()
        held = self._bindings if resource == self._bindings_resource else self._policies
        held.pop(o["metadata"]["name"], None)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A denial and whose it is."""

    policy: str
    binding: str
    denial: Denial


class ValidatingPolicies:
    """The plugin."""

    def __init__(self, kinds: Kinds, hub: WatchHub, lookup: Lookup, questions: Questions) -> None:
        self._kinds = kinds
        self._lookup = lookup
        self._questions = questions
        self._in_force = InForce(kinds, hub, POLICIES, BINDINGS)

    async def validate(self, request: AdmissionRequest) -> None:
        """Judge the object as it would be stored. Raises the first refusal of all."""
        await self._in_force.load()
        candidates = self._in_force.about(request)
        if not candidates or exempt(request):
            return
        refusals: list[_Refusal] = []
        for policy, bindings in candidates:
            refusals += await self._apply(policy, bindings, request)
        if refusals:
            raise _refused(refusals[0], request)

    async def _apply(self, policy: Policy, bindings: Sequence[Binding], request: AdmissionRequest) -> list[_Refusal]:
        """What one policy has against a request; warnings and annotations are put into it."""
        info = await self._questions.meant(policy.matching, request)
        if info is None:
            return []
        if policy.param_kind is not None and self._kinds.registry.by_kind(*policy.param_kind) is None:
            unknown = f"failed to find resource referenced by paramKind: '{_written(*policy.param_kind)}'"
            text = f"failed to configure policy: {unknown}"
            return [_Refusal(policy.name, "", Denial(text))] if policy.fails else []
        question = await self._questions.put(request, info)
        refusals: list[_Refusal] = []
        notes: dict[str, list[str]] = {}
        namespace = await self._namespace(policy, question)
        for binding in bindings:
            if await self._questions.meant(binding.matching, request) is None:
                continue
            try:
                params = await self._params(policy, binding, question)
            except Misconfigured as e:
                if policy.fails:
                    refusals.append(_Refusal(policy.name, binding.name, Denial(f"failed to configure binding: {e}")))
                continue
            for one in params:
                judgement = await self._questions.decided(policy.judge, bound_names(question, one, namespace))
                refusals += _outcome(policy, binding, judgement, request)
                _note(notes, judgement)
        for key, values in notes.items():
            request.annotations.setdefault(f"{policy.name}/{key}", ", ".join(values))
        return refusals

    async def _namespace(self, policy: Policy, question: Question) -> Object | None:
        """The request's namespace, where an expression looks at it; a namespace is in none."""
        if not question.namespace or question.asked.name == NAMESPACES or not policy.compiled.needs_namespace:
            return None
        return await self._questions.namespace(question.namespace)

    # --- parameters ---------------------------------------------------------------------------

    async def _params(self, policy: Policy, binding: Binding, question: Question) -> Sequence[Object | None]:
        """The objects for each of which a policy judges; None: it has no parameters. Raises Misconfigured."""
        ref = binding.param_ref
        if policy.param_kind is None or ref is None:
            return [None]
        found = await self._referred(policy.param_kind, ref, question.namespace)
        if not found and ref.get("parameterNotFoundAction") == "Deny":
            raise Misconfigured("no params found for policy binding with `Deny` parameterNotFoundAction")
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


def _written(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    return f"{group}/{version}, Kind={kind}"


def _outcome(policy: Policy, binding: Binding, judgement: Judgement, request: AdmissionRequest) -> list[_Refusal]:
    """What a binding makes of a judgement: refusals, and what clients and the audit log are told."""
    refusals = []
    for denial in judgement.denials:
        for action in binding.actions:
            if action == "Deny":
                refusals.append(_Refusal(policy.name, binding.name, denial))
            elif action == "Warn":
                request.warnings.append(
                    f"Validation failed for ValidatingAdmissionPolicy '{policy.name}' with binding '{binding.name}':"
                    f" {denial.message}"
                )
            elif action == "Audit":
                request.annotations.setdefault(FAILURE, _failure(binding, denial))
    return refusals + [_Refusal(policy.name, binding.name, Denial(message)) for message in judgement.failures]


def _failure(binding: Binding, denial: Denial) -> str:
    failure = {
        "message": denial.message,
        "policy": binding.policy,
        "binding": binding.name,
        "expressionIndex": denial.index,
        "validationActions": binding.actions,
    }
    return orjson.dumps([failure]).decode()


def _note(notes: dict[str, list[str]], judgement: Judgement) -> None:
    """Several parameters and bindings may say something of one key, and each thing is said once."""
    for key, value in judgement.annotations:
        value, said = value[:_ANNOTATION_CHARS_MAX], notes.setdefault(key, [])
        if value not in said:
            said.append(value)


def _refused(refusal: _Refusal, request: AdmissionRequest) -> ApiError:
    asked, who = asked_of(request), f"ValidatingAdmissionPolicy '{refusal.policy}'"
    if refusal.binding:
        who += f" with binding '{refusal.binding}'"
    text = f"{who} denied request: {refusal.denial.message}"
    meta = request.object.get("metadata") or {}
    named = request.name or meta.get("name") or meta.get("generateName") or "Unknown"
    forbidden = Forbidden.of(asked.plural, named, text, group=asked.group)
    reason = refusal.denial.reason or "Invalid"
    details = {**(forbidden.details or {}), "causes": [{"message": text}]}
    return ApiError(forbidden.message, reason=reason, code=_CODES.get(reason, 422), details=details)
