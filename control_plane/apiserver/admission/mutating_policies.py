"""The plugin MutatingAdmissionPolicy: policies complete what is written, one after the other, before any webhook.

Policies are in force in the order of their names. Each sees what the one before it made of the object; those that want
it see it once more when something changed it after they did. What fails refuses the request, or is passed over, as its
policy says. Source: apiserver's plugin/policy/mutating (`dispatcher.go`, `reinvocationcontext.go`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import orjson

from rayplane.control_plane.api.admission.matching import GROUP
from rayplane.control_plane.api.errors import ApiError, Forbidden
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, name, namespace
from rayplane.control_plane.apiserver.admission.conditions import Undecided
from rayplane.control_plane.apiserver.admission.expressions import Failed, OutOfBudget, bindings
from rayplane.control_plane.apiserver.admission.in_force import InForce, Misconfigured, Parameters
from rayplane.control_plane.apiserver.admission.mutations import MutatingPolicy, Mutation
from rayplane.control_plane.apiserver.admission.policies import Binding
from rayplane.control_plane.apiserver.admission.questions import Questions, asked_of, namespace_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.extension_metrics import INVALID, NO_ERROR, PolicyChecks
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.tracing.spans import changes, note, spanned, traced
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

POLICIES: Final = f"mutatingadmissionpolicies.{GROUP}"
BINDINGS: Final = f"mutatingadmissionpolicybindings.{GROUP}"

Key = tuple[str, str, tuple[str, str]]
"""Names of a policy, a binding and a parameter."""


class Mutated:
    """The work of mutating policies on a request so far."""

    def __init__(self) -> None:
        self.changed = False
        self.invoked: dict[Key, None] = {}
        """Those that want to see the object again when it changes."""
        self.again: set[Key] = set()
        self.seen = b""
        """The object as they left it."""
        self.refusals: list[tuple[str, str]] = []
        """What is wrong, and the reason of the answer."""

    def change(self) -> None:
        """The object is not what those that were asked saw."""
        self.again |= set(self.invoked)
        self.invoked.clear()


class _Turn:
    """One policy with one parameter on its way through a request."""

    def __init__(self, policy: MutatingPolicy, binding: Binding, param: Object | None, info: ResourceInfo) -> None:
        self.policy, self.binding, self.param, self.info = policy, binding, param, info
        where = (namespace(param), name(param)) if param is not None else ("", "")
        self.key: Key = (policy.name, binding.name, where)


class MutatingPolicies:
    """The plugin."""

    def __init__(self, kinds: Kinds, hub: WatchHub, lookup: Lookup, questions: Questions) -> None:
        self._kinds = kinds
        self._questions = questions
        self._parameters = Parameters(kinds, lookup, questions)
        self._in_force = InForce(kinds, hub, POLICIES, BINDINGS, MutatingPolicy)
        self.checks = PolicyChecks("mutating", "policy", "policy_binding", "error_type")

    @property
    def none(self) -> bool:
        """Whether it is known that no policy is in force."""
        return self._in_force.none

    def take(self, manifests: Iterable[Object]) -> None:
        """Have these policies and bindings in force beside those of the API. ValueError."""
        self._in_force.take(manifests)

    async def mutate(self, request: AdmissionRequest) -> Mutated:
        """Have the policies complete the object. Raises ApiError when one fails."""
        work = Mutated()
        await self._mutate(request, work, repeated=False)
        return work

    async def mutate_again(self, request: AdmissionRequest, work: Mutated) -> None:
        """Ask those again that want it, since the object is not what they saw."""
        if work.seen and orjson.dumps(request.object) != work.seen:
            work.change()
        if work.again:
            await self._mutate(request, work, repeated=True)

    async def _mutate(self, request: AdmissionRequest, work: Mutated, *, repeated: bool) -> None:
        found = await self._in_force.about(request)
        if not found:
            return
        # What matched when the request came in is asked, whatever becomes of the object on the way.
        for turn in await self._turns(found, request, work):
            if not repeated or turn.key in work.again:
                await self._take(turn, request, work)
        work.seen = orjson.dumps(request.object)
        if work.refusals:
            raise _refused(work.refusals, request)

    async def _turns(
        self, found: Sequence[tuple[MutatingPolicy, Sequence[Binding]]], request: AdmissionRequest, work: Mutated
    ) -> list[_Turn]:
        turns: list[_Turn] = []
        for policy, bound in found:
            info = await self._questions.meant(policy.matching, request)
            if info is None:
                continue
            try:
                self._parameters.check_kind(policy)
            except Misconfigured as e:
                _refuse(work, policy, None, str(e), "Forbidden")
                continue
            for binding in bound:
                if await self._questions.meant(binding.matching, request) is None:
                    continue
                try:
                    params = await self._parameters.of(policy, binding, namespace_of(request))
                except Misconfigured as e:
                    _refuse(work, policy, binding, str(e), "Forbidden")
                    continue
                turns += [_Turn(policy, binding, param, info) for param in params]
        return turns

    @spanned("policy", about=lambda _, turn, *__: {"name": turn.policy.name, "binding": turn.binding.name})
    async def _take(self, turn: _Turn, request: AdmissionRequest, work: Mutated) -> None:
        """Have one policy see and change the object."""
        policy = turn.policy
        before = request.object
        try:
            if not await self._met(turn, request):
                return
        except Undecided as e:
            _refuse(work, policy, turn.binding, str(e), "Invalid")
            return
        loop = asyncio.get_running_loop()
        for mutation in policy.compiled.mutations:
            began, error = loop.time(), NO_ERROR
            try:
                await self._patch(turn, mutation, request)
            except (Failed, OutOfBudget) as e:
                error = INVALID
                _refuse(work, policy, turn.binding, str(e), "Invalid")
            self.checks.observe(loop.time() - began, policy.name, turn.binding.name, error)
        if request.object != before:
            if traced():
                note(changed=", ".join(changes(before, request.object)))
            work.changed = True
            work.change()
        if policy.again:
            work.invoked[turn.key] = None

    async def _met(self, turn: _Turn, request: AdmissionRequest) -> bool:
        if not turn.policy.compiled.conditions.expressions:
            return True
        question = await self._questions.put(request, turn.info)
        return await self._questions.decided(turn.policy.meets, bindings(question, turn.param), request.user)

    async def _patch(self, turn: _Turn, mutation: Mutation, request: AdmissionRequest) -> None:
        """Raises Failed, OutOfBudget."""
        question = await self._questions.put(request, turn.info)
        before = question.new
        if before is None:
            return
        compiled = turn.policy.compiled
        space = await self._parameters.namespace(question, needed=compiled.needs_namespace)
        definition = self._questions.definition(question)
        decide = compiled.patched(mutation, before, definition)
        new = await self._questions.decided(decide, bindings(question, turn.param, space), request.user)
        if new == before:
            return
        try:
            await self._questions.take(request, question, new)
        except ApiError as e:
            raise Failed(e.message) from e


def _refuse(work: Mutated, policy: MutatingPolicy, binding: Binding | None, why: str, reason: str) -> None:
    if not policy.fails:
        return
    who = f"policy '{policy.name}' with binding '{binding.name}'" if binding is not None else f'policy "{policy.name}"'
    work.refusals.append((f"{who} denied request: {why}", reason))


def _refused(refusals: Sequence[tuple[str, str]], request: AdmissionRequest) -> ApiError:
    asked = asked_of(request)
    forbidden = Forbidden.of(asked.plural, request.shown_name, "", group=asked.group)
    text, reason = refusals[0]
    details = {**(forbidden.details or {}), "causes": [{"message": message} for message, _ in refusals]}
    return ApiError(text, reason=reason, code=forbidden.code, details=details)
