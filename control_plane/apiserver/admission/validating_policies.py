"""The plugin ValidatingAdmissionPolicy: which policies a request meets, and what comes of it.

Source: apiserver's plugin/policy/validating (`dispatcher.go`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from rayplane.control_plane.api.admission.matching import GROUP
from rayplane.control_plane.api.errors import REASONS, ApiError, Forbidden
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.expressions import bindings as bound_names
from rayplane.control_plane.apiserver.admission.in_force import InForce, Misconfigured, Parameters
from rayplane.control_plane.apiserver.admission.policies import Binding, Denial, Judgement, Policy
from rayplane.control_plane.apiserver.admission.questions import Questions, asked_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.extension_metrics import INVALID, NO_ERROR, PolicyChecks
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

POLICIES: Final = f"validatingadmissionpolicies.{GROUP}"
BINDINGS: Final = f"validatingadmissionpolicybindings.{GROUP}"
FAILURE: Final = "validation.policy.admission.k8s.io/validation_failure"
_ANNOTATION_CHARS_MAX: Final = 10 * 1024
_CODES: Final = {row.reason: row.code for row in REASONS}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A denial and whose it is."""

    policy: str
    binding: str
    denial: Denial


def _told(_: object, policy: Policy, bindings: Sequence[Binding], __: object) -> dict[str, object]:
    return {"name": policy.name, "bindings": ", ".join(binding.name for binding in bindings)}


def _said(refusals: list[_Refusal]) -> dict[str, object]:
    return {"refused": "; ".join(refusal.denial.message for refusal in refusals)}


class ValidatingPolicies:
    """The plugin."""

    def __init__(self, kinds: Kinds, hub: WatchHub, lookup: Lookup, questions: Questions) -> None:
        self._questions = questions
        self._parameters = Parameters(kinds, lookup, questions)
        self._in_force = InForce(kinds, hub, POLICIES, BINDINGS, Policy)
        self.checks = PolicyChecks("validating", "policy", "policy_binding", "error_type", "enforcement_action")

    @property
    def none(self) -> bool:
        """Whether it is known that no policy is in force."""
        return self._in_force.none

    def take(self, manifests: Iterable[Object]) -> None:
        """Have these policies and bindings in force beside those of the API. ValueError."""
        self._in_force.take(manifests)

    async def validate(self, request: AdmissionRequest) -> None:
        """Judge the object as it would be stored. Raises the first refusal of all."""
        candidates = await self._in_force.about(request)
        if not candidates:
            return
        refusals: list[_Refusal] = []
        for policy, bindings in candidates:
            refusals += await self._apply(policy, bindings, request)
        if refusals:
            raise _refused(refusals[0], request)

    @spanned("policy", about=_told, answered=_said)
    async def _apply(self, policy: Policy, bindings: Sequence[Binding], request: AdmissionRequest) -> list[_Refusal]:
        """What one policy has against a request; warnings and annotations are put into it."""
        info = await self._questions.meant(policy.matching, request)
        if info is None:
            return []
        try:
            self._parameters.check_kind(policy)
        except Misconfigured as e:
            return [_Refusal(policy.name, "", Denial(str(e)))] if policy.fails else []
        question, loop = await self._questions.put(request, info), asyncio.get_running_loop()
        refusals: list[_Refusal] = []
        notes: dict[str, list[str]] = {}
        namespace = await self._parameters.namespace(question, needed=policy.compiled.needs_namespace)
        for binding in bindings:
            if await self._questions.meant(binding.matching, request) is None:
                continue
            try:
                params = await self._parameters.of(policy, binding, question.namespace)
            except Misconfigured as e:
                if policy.fails:
                    refusals.append(_Refusal(policy.name, binding.name, Denial(str(e))))
                continue
            for one in params:
                names = bound_names(question, one, namespace)
                began = loop.time()
                judgement = await self._questions.decided(policy.judge, names, request.user)
                self._count(policy, binding, judgement, loop.time() - began)
                refusals += _outcome(policy, binding, judgement, request)
                _note(notes, judgement)
        for key, values in notes.items():
            request.annotations.setdefault(f"{policy.name}/{key}", ", ".join(values))
        return refusals

    def _count(self, policy: Policy, binding: Binding, judgement: Judgement, seconds: float) -> None:
        error = INVALID if judgement.failures else NO_ERROR
        refused = [action.lower() for action in binding.actions] if judgement.denials else ["deny"]
        for action in refused if judgement.denials or judgement.failures else ["allow"]:
            self.checks.observe(seconds, policy.name, binding.name, error, action)


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
    forbidden = Forbidden.of(asked.plural, request.shown_name, text, group=asked.group)
    reason = refusal.denial.reason or "Invalid"
    details = {**(forbidden.details or {}), "causes": [{"message": text}]}
    return ApiError(forbidden.message, reason=reason, code=_CODES.get(reason, 422), details=details)
