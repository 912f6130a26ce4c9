"""Admission webhooks: programs of users that complete or refuse what is written.

Mutating ones are asked one after the other, and once more when a later one changed what they had seen and they want
that; validating ones all at once, after the object is complete. Configurations are in force in the order of their
names, those from manifests before those of the API. Webhooks are asked within the try of a write: after a race they are
asked again, as in Kubernetes.

Source: apiserver's plugin/webhook/mutating and plugin/webhook/validating.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.control_plane.api.admission.matching import GROUP, Matching
from rayplane.control_plane.api.admission.reviews import VERSIONS, BadReview, Question, Verdict, parse_verdict
from rayplane.control_plane.api.errors import ApiError, BadRequest, Forbidden, InternalError
from rayplane.control_plane.api.machinery import patching
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.conditions import Conditions, Undecided
from rayplane.control_plane.apiserver.admission.expressions import bindings
from rayplane.control_plane.apiserver.admission.invocations import Invocation
from rayplane.control_plane.apiserver.admission.questions import Questions, exempt
from rayplane.control_plane.apiserver.admission.request import CONNECT, AdmissionRequest
from rayplane.control_plane.apiserver.flowcontrol.fairness import elsewhere
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.tracing.layers import within
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.apiserver.watch_cache.following import Follower
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.webhook_calls import Caller, CallFailed

log = logging.getLogger(__name__)

MUTATING = f"mutatingwebhookconfigurations.{GROUP}"
VALIDATING = f"validatingwebhookconfigurations.{GROUP}"
_WITHOUT_SIDE_EFFECTS = ("None", "NoneOnDryRun")


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """One webhook of a configuration."""

    name: str
    configuration: str
    client: dict[str, Any]
    matching: Matching
    conditions: Conditions
    version: str
    ignores_failures: bool
    has_side_effects: bool
    timeout_s: float
    again: bool
    """Asked once more when the object changed after it was asked."""

    def invoked(self, index: int, *, mutating: bool, again: bool = False) -> Invocation:
        return Invocation(self.name, self.configuration, mutating, int(again), index)

    @staticmethod
    def of(configuration: Object, webhook: dict[str, Any]) -> "Hook":
        wanted = webhook.get("admissionReviewVersions") or ()
        return Hook(
            name=webhook["name"],
            configuration=name(configuration),
            client=webhook.get("clientConfig") or {},
            matching=Matching.of(webhook),
            conditions=Conditions.of(webhook.get("matchConditions") or ()),
            version=next((v for v in wanted if v in VERSIONS), VERSIONS[0]),
            ignores_failures=webhook.get("failurePolicy") == "Ignore",
            has_side_effects=webhook.get("sideEffects") not in _WITHOUT_SIDE_EFFECTS,
            timeout_s=float(webhook.get("timeoutSeconds") or 10),
            again=webhook.get("reinvocationPolicy") == "IfNeeded",
        )


class Configured:
    """The webhooks of all configurations of one kind, in the order in which they are asked."""

    def __init__(self, kinds: Kinds, hub: WatchHub, resource: str) -> None:
        self._hooks: dict[str, list[Hook]] = {}
        self._ordered: list[Hook] = []
        self._static: list[Hook] = []
        self._follower = Follower(kinds, hub, (resource,), clear=self._clear, put=self._put, remove=self._remove)

    @property
    def none(self) -> bool:
        """Whether it is known that there are none."""
        return not self._static and not self._ordered and self._follower.in_step

    def take(self, manifests: Iterable[Object]) -> None:
        """Have these configurations in force beside those of the API. ValueError."""
        ordered = sorted(manifests, key=name)
        self._static = [Hook.of(o, webhook) for o in ordered for webhook in o.get("webhooks") or ()]

    async def hooks(self, request: AdmissionRequest) -> Sequence[Hook]:
        """Those that have a say: about changes of webhooks and policies only those from manifests."""
        if exempt(request):
            return self._static
        await self._follower.load()
        return [*self._static, *self._ordered]

    def _clear(self) -> None:
        self._hooks.clear()
        self._ordered = []

    def _put(self, resource: str, o: Object) -> None:
        try:
            self._hooks[name(o)] = [Hook.of(o, webhook) for webhook in o.get("webhooks") or ()]
        except (ApiError, AttributeError, KeyError, TypeError, ValueError) as e:
            # No server has let it in: somebody wrote it into etcd.
            self._hooks.pop(name(o), None)
            log.error("%s %s cannot be read and is not in force: %s: %s", resource, name(o), type(e).__name__, e)
        self._order()

    def _remove(self, resource: str, o: Object) -> None:
        self._hooks.pop(name(o), None)
        self._order()

    def _order(self) -> None:
        self._ordered = [hook for key in sorted(self._hooks) for hook in self._hooks[key]]


def _told(_: object, hook: Hook, invocation: Invocation, *__: object) -> dict[str, object]:
    kind = "mutating" if invocation.mutating else "validating"
    return {"name": hook.name, "configuration": hook.configuration, "kind": kind}


def _said(verdict: Verdict | None) -> dict[str, object]:
    if verdict is None:
        return {"allowed": "failed, which is to be ignored"}
    patched = sorted({str(one.get("path")) for one in verdict.patch if isinstance(one, dict)}) if verdict.patch else ()
    return {"allowed": True, "patched": ", ".join(patched), "warnings": "; ".join(verdict.warnings)}


class Webhooks:
    """The plugins MutatingAdmissionWebhook and ValidatingAdmissionWebhook."""

    def __init__(self, kinds: Kinds, hub: WatchHub, questions: Questions, *, caller: Caller) -> None:
        self._questions = questions
        self._caller = caller
        self._mutating = Configured(kinds, hub, MUTATING)
        self._validating = Configured(kinds, hub, VALIDATING)

    @property
    def mutate_none(self) -> bool:
        """Whether it is known that no webhook completes objects."""
        return self._mutating.none

    @property
    def judge_none(self) -> bool:
        """Whether it is known that no webhook judges them."""
        return self._validating.none

    def take(self, mutating: Iterable[Object], validating: Iterable[Object]) -> None:
        """Have these configurations in force beside those of the API. ValueError."""
        self._mutating.take(mutating)
        self._validating.take(validating)

    async def mutate(self, request: AdmissionRequest) -> "Mutation":
        """Have the mutating webhooks complete the object. Raises ApiError when one refuses or fails."""
        mutation = Mutation(await self._mutating.hooks(request))
        await self._mutate(request, mutation, again=False)
        if mutation.invoked:
            mutation.seen = orjson.dumps(request.object)
        return mutation

    async def mutate_again(self, request: AdmissionRequest, mutation: "Mutation") -> None:
        """Ask those again that want it, since the object is not what they saw."""
        if mutation.seen and orjson.dumps(request.object) != mutation.seen:
            mutation.change()
        if mutation.again:
            await self._mutate(request, mutation, again=True)

    async def _mutate(self, request: AdmissionRequest, mutation: "Mutation", *, again: bool) -> None:
        for index, hook in enumerate(mutation.hooks):
            if again and hook not in mutation.again:
                continue
            question = await self._question(hook, request)
            if question is None:
                continue
            if await self._mutated(hook, hook.invoked(index, mutating=True, again=again), question, request):
                mutation.changed = True
                mutation.change()
            if hook.again:
                mutation.invoked[hook] = None

    async def _mutated(self, hook: Hook, invocation: Invocation, question: Question, request: AdmissionRequest) -> bool:
        """Whether a webhook changed the object."""
        changed = False
        try:
            verdict = await self._ask(hook, invocation, question, request)
            if verdict is not None and verdict.patch:
                changed = await self._patched(hook, question, verdict, request)
                invocation.patched(verdict.patch)
        finally:
            invocation.mutated(changed)
        return changed

    async def validate(self, request: AdmissionRequest) -> None:
        """Ask the validating webhooks. Raises the first refusal or failure, in their order."""
        hooks = await self._validating.hooks(request)
        questions = [(hook, q) for hook in hooks if (q := await self._question(hook, request)) is not None]
        asked = (
            self._ask(hook, hook.invoked(index, mutating=False), question, request)
            for index, (hook, question) in enumerate(questions)
        )
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    # --- questions ----------------------------------------------------------------------------

    async def _question(self, hook: Hook, request: AdmissionRequest) -> Question | None:
        """What to ask of a request; None when it is none of the webhook's business."""
        info = await self._questions.meant(hook.matching, request)
        if info is None:
            return None
        question = await self._questions.put(request, info)
        return question if await self._meets(hook, question, request) else None

    async def _meets(self, hook: Hook, question: Question, request: AdmissionRequest) -> bool:
        if not hook.conditions.expressions:
            return True
        try:
            return await self._questions.decided(hook.conditions.hold, bindings(question), request.user)
        except Undecided as e:
            if hook.ignores_failures:
                log.warning("match conditions of webhook %s: %s", hook.name, e)
                return False
            raise Forbidden.of(question.asked.plural, question.name, str(e), group=question.asked.group) from e

    # --- answers ------------------------------------------------------------------------------

    @spanned("webhook", about=_told, answered=_said)
    async def _ask(
        self, hook: Hook, invocation: Invocation, question: Question, request: AdmissionRequest
    ) -> Verdict | None:
        """Its verdict; None when it failed and that is to be ignored."""
        if question.dry_run and hook.has_side_effects:
            raise BadRequest(f'admission webhook "{hook.name}" does not support dry run')
        body = orjson.dumps(question.review(hook.version))
        try:
            layer = "mutating-webhook" if invocation.mutating else "validating-webhook"
            with elsewhere(), within(layer, side_by_side=not invocation.mutating):
                answer = await self._caller.post(hook.client, body, hook.timeout_s)
            verdict = parse_verdict(answer, version=hook.version, uid=question.uid, mutating=invocation.mutating)
        except (CallFailed, BadReview) as e:
            _fail(hook, invocation, str(e))
            return None
        request.warnings += verdict.warnings
        invocation.said(verdict.annotations)
        if not verdict.allowed:
            raise verdict.refusal(hook.name)
        return verdict

    async def _patched(self, hook: Hook, question: Question, verdict: Verdict, request: AdmissionRequest) -> bool:
        """Apply a webhook's patch; whether it changed anything."""
        before = question.new
        if before is None or question.operation == CONNECT:
            text = f'admission webhook "{hook.name}" attempted to modify the object'
            raise InternalError(f"Internal error occurred: {text}, which is not supported for this operation")
        try:
            new = patching.apply_patch("json", before, verdict.patch, self._questions.definition(question))
            await self._questions.take(request, question, new)
        except ApiError as e:
            text = f"Internal error occurred: the patch of admission webhook {hook.name}: {e.message}"
            raise InternalError(text) from e
        return new != before


class Mutation:
    """The work of mutating webhooks on a request so far."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks
        self.changed = False
        self.invoked: dict[Hook, None] = {}
        """Those that want to see the object again when it changes."""
        self.again: set[Hook] = set()
        self.seen = b""
        """The object as they left it."""

    def change(self) -> None:
        """The object is not what those that were asked saw."""
        self.again |= set(self.invoked)
        self.invoked.clear()


def _fail(hook: Hook, invocation: Invocation, why: str) -> None:
    text = f'failed calling webhook "{hook.name}": {why}'
    if not hook.ignores_failures:
        raise InternalError(f"Internal error occurred: {text}")
    log.warning("%s, which is to be ignored", text)
    invocation.failed_open()
