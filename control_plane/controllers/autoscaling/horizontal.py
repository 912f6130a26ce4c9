"""HorizontalPodAutoscaler: sets the replicas of its target by metrics, and tells what it did and why not.

An autoscaler is looked at once in a sync period, and at once when its spec changes. Before each look the shell asks
`questions` of the metrics APIs and hands in what they said (`answered`). What was asked for and done lately is
remembered between looks (`behavior.Memory`), and begins anew with each leader: as in Kubernetes the number of replicas
that a new leader finds counts as asked for, so that it takes nothing away for a stabilization window. Whose targets
select which pods is known of all autoscalers (`rivals`), from when they are seen and as of their last look.
Source: Kubernetes tasks "Horizontal Pod Autoscaling", API reference autoscaling/v2; kube-controller-manager's messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import LabelSelector, parse_labels
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Event,
    Rescale,
    UpdateStatus,
)
from rayplane.control_plane.controllers.autoscaling.behavior import At, Bounds, Memory, choose
from rayplane.control_plane.controllers.autoscaling.metrics import Answer, Answers, MetricError, Query, scale_query
from rayplane.control_plane.controllers.autoscaling.replicas import Counting, Tolerance
from rayplane.control_plane.controllers.autoscaling.rivals import Rivals
from rayplane.control_plane.controllers.autoscaling.sources import Found, Source, sources_of
from rayplane.control_plane.controllers.config import AutoscalerTiming
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
    selected,
)
from rayplane.control_plane.controllers.scales import NoScale, Scaled, scalable

AUTOSCALERS = "horizontalpodautoscalers.autoscaling"
TOLERANCE = 0.1
_TO_ZERO = "ScaledToZero"
_LEEWAY_S = 0.001
Condition = tuple[str, str, str, str]


class CannotScale(Exception):
    """A look that ends without a number of replicas: the condition and the events that say why."""

    def __init__(self, condition: Condition, *events: tuple[str, str]) -> None:
        super().__init__(condition[3])
        self.condition, self.events = condition, events


@dataclass(slots=True)
class Kept:
    """The state of an autoscaler between two looks."""

    spec: Any = None
    next_s: float = 0.0
    memory: Memory = field(default_factory=Memory)
    begun: tuple[float, int, int] | None = None
    """When a change of the target was asked for, and from how many replicas to how many."""


class HorizontalController(BaseController):
    name = "horizontalpodautoscaling"
    component = "horizontal-pod-autoscaler"

    def __init__(self, timing: AutoscalerTiming) -> None:
        self._timing = timing
        self._kept: dict[str, Kept] = {}
        self._answers: dict[str, Answers] = {}
        self.rivals = Rivals()
        self.watches = (
            Watch(AUTOSCALERS, self._enrol, changed=lambda old, new: meta.spec(old) != meta.spec(new)),
            Watch("pods", None),
        )

    def _enrol(self, hpa: Object, view: View) -> tuple[str, ...]:
        """Have others know at once whose pods an autoscaler is about."""
        self._file(meta.key(hpa), view)
        return (meta.key(hpa),)

    def _file(self, key: str, view: View, answers: Answers | None = None) -> None:
        hpa = view.get(AUTOSCALERS, *meta.split_key(key))
        selector = None
        if hpa is not None:
            with suppress(CannotScale, BadRequest):
                selector = parse_labels(_selector_text(_target(hpa, view, answers or {})))
        self.rivals.put(key, selector)

    # --- what the shell asks for ----------------------------------------------------------------

    def questions(self, key: str, view: View, now: float, answers: Answers | None = None) -> Sequence[Query]:
        """What to ask of the metrics APIs before the next look; nothing when that is not due.

        The scale of a target that is kept elsewhere comes first: what else to ask follows from the answer.
        """
        hpa = view.get(AUTOSCALERS, *meta.split_key(key))
        if hpa is None or self._wait(hpa, now) > 0:
            return ()
        known = self._answers.get(key, {}) if answers is None else answers
        elsewhere = _elsewhere(hpa, view)
        if elsewhere is not None and elsewhere not in known:
            return (elsewhere,)
        try:
            target = _target(hpa, view, known)
            sources = sources_of(hpa, _selector_text(target))
            return tuple(source.query for source in sources if source.query is not None)
        except CannotScale:
            return ()

    def answered(self, key: str, answers: Answers) -> None:
        self._answers[key] = answers

    # --- reconcile ------------------------------------------------------------------------------

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        answers = self._answers.pop(key, {})
        hpa = view.get(AUTOSCALERS, *meta.split_key(key))
        if hpa is None:
            self._kept.pop(key, None)
            return NOTHING
        wait = self._wait(hpa, now.mono)
        if wait > 0:
            return result(requeue_after=wait)
        if any(query not in answers for query in self.questions(key, view, now.mono, answers)):
            # The target, or what is asked of it, changed while the answers were on their way.
            return result(requeue_after=_LEEWAY_S)
        self._file(key, view, answers)
        kept = self._kept.setdefault(key, Kept())
        kept.spec, kept.next_s = meta.spec(hpa), now.mono + self._timing.sync_s - _LEEWAY_S
        actions = _Look(self, hpa, kept, answers, view=view, now=now).run()
        return result(actions, requeue_after=self._timing.sync_s)

    def _wait(self, hpa: Object, now: float) -> float:
        kept = self._kept.get(meta.key(hpa))
        return 0.0 if kept is None or kept.spec != meta.spec(hpa) else max(0.0, kept.next_s - now)

    @property
    def timing(self) -> AutoscalerTiming:
        return self._timing


def _elsewhere(hpa: Object, view: View) -> Query | None:
    """What to ask for the scale of a target of a kind that is not kept here; None where it is."""
    ref = meta.spec(hpa).get("scaleTargetRef") or {}
    version, kind = ref.get("apiVersion") or "", ref.get("kind") or ""
    try:
        scalable(view, version, kind, any_version=True)
    except NoScale as e:
        return None if e.served else scale_query(meta.namespace(hpa), version, kind, ref.get("name") or "")
    return None


def _kept_elsewhere(query: Query, answer: Answer) -> Scaled | None:
    """The target by its scale; None where nobody serves its kind. Raises CannotScale."""
    if answer.error:
        raise _no_scale(answer.error)
    for scale in answer.items:
        parts = [scale.get(part) for part in ("metadata", "spec", "status")] if isinstance(scale, dict) else []
        if not parts or not all(part is None or isinstance(part, dict) for part in parts) or not parts[0]:
            raise _no_scale("the answer is no Scale")
        if type((parts[1] or {}).get("replicas", 0)) is not int:
            raise _no_scale("the answer is no Scale")
        return Scaled("", scale, scale, (query.version, query.resource))
    return None


def _target(hpa: Object, view: View, answers: Answers) -> Scaled:
    """The object whose replicas are set. Raises CannotScale."""
    ref = meta.spec(hpa).get("scaleTargetRef") or {}
    kind, name = ref.get("kind") or "", ref.get("name") or ""
    asked = _elsewhere(hpa, view)
    if asked is not None and asked in answers and (kept := _kept_elsewhere(asked, answers[asked])) is not None:
        return kept
    try:
        known = scalable(view, ref.get("apiVersion") or "", kind, any_version=True)
        found = known.find(view, meta.namespace(hpa), name)
    except NoScale as e:
        why = "the server could not find the requested resource" if e.served else str(e)
        raise _no_scale(why) from e
    if found is None:
        raise _no_scale(f'{known.name} "{name}" not found')
    return found


def _no_scale(why: str) -> CannotScale:
    text = f"the HPA controller was unable to get the target's current scale: {why}"
    return CannotScale(("AbleToScale", "False", "FailedGetScale", text), ("FailedGetScale", why))


def _selector_text(target: Scaled) -> str:
    return str(meta.status(target.scale).get("selector") or "")


class _Look:
    """One look at an autoscaler."""

    def __init__(
        self, owner: HorizontalController, hpa: Object, kept: Kept, answers: Answers, *, view: View, now: Moment
    ) -> None:
        self._timing, self._rivals = owner.timing, owner.rivals
        self._hpa, self._kept, self._answers, self._view, self._now = hpa, kept, answers, view, now
        self._status: dict[str, Any] = {**meta.status(hpa)}
        self._conditions: list[dict[str, Any]] = list(self._status.get("conditions") or ())
        self._events: list[Action] = []

    def run(self) -> list[Action]:
        try:
            target = _target(self._hpa, self._view, self._answers)
        except CannotScale as e:
            self._cannot(e)
            return self._done()
        self._condition("AbleToScale", "True", "SucceededGetScale",
                        "the HPA controller was able to get the target's current scale")  # fmt: skip
        current = target.replicas
        self._note_change(current)
        spec = meta.spec(self._hpa)
        least, most = _number(spec, "minReplicas", 1), _number(spec, "maxReplicas", 1)
        if not self._kept.memory.asked:
            self._kept.memory.asked.append(At(self._now.mono, current))
        self._status["currentReplicas"] = current
        if current and self._sleeps:  # somebody else woke it: a zero from now on is somebody's pause
            self._is_to_zero(False)
        if not current and not self._wakes(least):
            self._condition("ScalingActive", "False", "ScalingDisabled",
                            "scaling is disabled since the replica count of the target is zero")  # fmt: skip
            self._status.update(desiredReplicas=0, currentMetrics=None)
            return self._done()
        if current > most:
            return self._rescale(target, most, "Current number of replicas above Spec.MaxReplicas", None)
        if 0 < current < least:
            return self._rescale(target, least, "Current number of replicas below Spec.MinReplicas", None)
        return self._by_metrics(target, Bounds(least, most, current))

    def _wakes(self, least: int) -> bool:
        """Whether the target is at zero because an autoscaler had none wanted: another who set it to zero paused it."""
        return self._sleeps and (least > 0 or _is_seen_from_outside(self._hpa))

    @property
    def _sleeps(self) -> bool:
        """Whether it was an autoscaler that set it to zero last."""
        return any(c.get("type") == _TO_ZERO and c.get("status") == "True" for c in self._conditions)

    def _is_to_zero(self, asleep: bool) -> None:
        if asleep:
            self._condition(_TO_ZERO, "True", _TO_ZERO, "the HPA controller scaled the workload to zero")
        else:
            text = "the HPA controller did not scale the workload to zero"
            self._condition(_TO_ZERO, "False", "NotScaledToZero", text)

    def _by_metrics(self, target: Scaled, bounds: Bounds) -> list[Action]:
        statuses: list[dict[str, Any]] = []
        try:
            wanted, metric = self._wanted(target, bounds.current, statuses)
        except CannotScale as e:
            self._cannot(e)
            self._status["currentMetrics"] = statuses or None
            return self._done()
        reason = f"{metric} above target" if wanted > bounds.current else "All metrics below target"
        behavior = meta.spec(self._hpa).get("behavior")
        window_s = self._timing.downscale_stabilization_s
        memory, now = self._kept.memory, self._now.mono
        chosen = choose(wanted, bounds, memory, now, behavior=behavior, window_s=window_s)
        self._condition("AbleToScale", "True", *chosen.stabilized)
        self._condition("ScalingLimited", str(chosen.limited), *chosen.limit)
        replicas = chosen.replicas if bounds.current else max(chosen.replicas, bounds.least)
        if replicas != bounds.current:
            return self._rescale(target, replicas, reason, statuses)
        self._status.update(desiredReplicas=bounds.current, currentMetrics=statuses)
        return self._done()

    def _wanted(self, target: Scaled, current: int, statuses: list[dict[str, Any]]) -> tuple[int, str]:
        """The most replicas that any metric asks for, and which does. Raises CannotScale; fills in `statuses`."""
        selector = self._selector(target)
        pods = selected(self._view, "pods", meta.namespace(self._hpa), selector=selector)
        status_replicas = int(meta.status(target.scale).get("replicas") or 0)
        counting = Counting(pods, self._now, _tolerance(self._hpa), self._timing.cpu_initialization_s,
                            self._timing.initial_readiness_s)  # fmt: skip
        best: Found | None = None
        failures: list[tuple[Source, str]] = []
        sources = sources_of(self._hpa, _selector_text(target))
        for source in sources:
            try:
                found = source.found(self._answers, counting, current, status_replicas)
            except MetricError as e:
                statuses.append({"type": ""})
                failures.append((source, str(e)))
                self._event("Warning", source.failed, str(e))
                continue
            statuses.append(found.status)
            if best is None or found.replicas > best.replicas:
                best = found
        # What cannot be read may ask for more: nothing is taken away without it.
        if failures and (best is None or best.replicas < current):
            source, why = failures[0]
            text = f"the HPA was unable to compute the replica count: {why}"
            error = (
                f"invalid metrics ({len(failures)} invalid out of {len(sources)}), first error is: {source.told}{why}"
            )
            condition = ("ScalingActive", "False", source.failed, text)
            raise CannotScale(condition, ("FailedComputeMetricsReplicas", error))
        assert best is not None
        text = f"the HPA was able to successfully calculate a replica count from {best.name}"
        self._condition("ScalingActive", "True", "ValidMetricFound", text)
        return best.replicas, best.name

    def _selector(self, target: Scaled) -> LabelSelector:
        """Which pods are the target's. Raises CannotScale, also when another autoscaler has some of them."""
        text = _selector_text(target)
        if not text:
            why = "selector is required"
            told = "the HPA target's scale is missing a selector"
            raise _not_active("InvalidSelector", told, "SelectorRequired", why)
        try:
            selector = parse_labels(text)
        except BadRequest as e:
            why = f"couldn't convert selector into a corresponding internal selector object: {e.message}"
            raise _not_active("InvalidSelector", why, "InvalidSelector", why) from e
        pods = selected(self._view, "pods", meta.namespace(self._hpa), selector=selector)
        rivals = self._rivals.of(meta.key(self._hpa), pods)
        if rivals:
            names = " ".join(sorted([meta.key(self._hpa), *rivals]))
            why = f"pods by selector {text} are controlled by multiple HPAs: [{names}]"
            raise _not_active("AmbiguousSelector", why, "AmbiguousSelector", why)
        return selector

    # --- effects --------------------------------------------------------------------------------

    def _note_change(self, current: int) -> None:
        """Remember a change that was asked for at the last look, once the target has it."""
        begun, self._kept.begun = self._kept.begun, None
        if begun is not None and current == begun[2]:
            self._kept.memory.changed(begun[1], begun[2], begun[0])

    def _rescale(self, target: Scaled, wanted: int, reason: str, statuses: list[dict[str, Any]] | None) -> list[Action]:
        """Set the replicas; the status tells whether that worked."""
        now = self._now
        self._kept.begun = (now.mono, target.replicas, wanted)
        failed = self._whole({**self._status}, [*self._conditions])
        text = "the HPA controller was unable to update the target scale: {error}"
        _set(failed["status"]["conditions"], "AbleToScale", "False", "FailedUpdateScale", text, now)
        text = f"the HPA controller was able to update the target scale to {wanted}"
        self._condition("AbleToScale", "True", "SucceededRescale", text)
        self._is_to_zero(not wanted and _is_seen_from_outside(self._hpa))
        self._status.update(desiredReplicas=wanted, currentMetrics=statuses, lastScaleTime=now.stamp)
        size = f"New size: {wanted}; reason: {reason}"
        rescale = Rescale(
            target.resource,
            target.obj,
            target.replicas,
            wanted,
            done=UpdateStatus(AUTOSCALERS, self._whole(self._status, self._conditions),
                              done=Event(self._hpa, "Normal", "SuccessfulRescale", size)),
            failed=UpdateStatus(AUTOSCALERS, failed,
                                done=Event(self._hpa, "Warning", "FailedRescale", f"{size}; error: {{error}}")),
            elsewhere=target.elsewhere,
        )  # fmt: skip
        return [*self._events, rescale]

    def _cannot(self, e: CannotScale) -> None:
        self._condition(*e.condition)
        for reason, text in e.events:
            self._event("Warning", reason, text)

    def _event(self, kind: str, reason: str, text: str) -> None:
        self._events.append(Event(self._hpa, kind, reason, text))

    def _condition(self, kind: str, value: str, reason: str, text: str) -> None:
        _set(self._conditions, kind, value, reason, text, self._now)

    def _whole(self, status: Mapping[str, Any], conditions: list[dict[str, Any]]) -> Object:
        return {**self._hpa, "status": {**status, "conditions": conditions}}

    def _done(self) -> list[Action]:
        new = self._whole(self._status, self._conditions)
        if new["status"] == meta.status(self._hpa):
            return self._events
        return [*self._events, UpdateStatus(AUTOSCALERS, new)]


def _not_active(reason: str, text: str, event: str, why: str) -> CannotScale:
    error = ("FailedComputeMetricsReplicas", why)
    return CannotScale(("ScalingActive", "False", reason, text), (event, why), error)


def _set(conditions: list[dict[str, Any]], kind: str, value: str, reason: str, text: str, now: Moment) -> None:
    meta.set_condition(conditions, {"type": kind, "status": value, "reason": reason, "message": text}, now.stamp)


def _number(spec: Mapping[str, Any], name: str, default: int) -> int:
    found = spec.get(name)
    return default if found is None else int(found)


def _is_seen_from_outside(hpa: Object) -> bool:
    """Whether some metric is there without pods."""
    return any(metric.get("type") in ("Object", "External") for metric in meta.spec(hpa).get("metrics") or ())


def _tolerance(hpa: Object) -> Tolerance:
    behavior = meta.spec(hpa).get("behavior") or {}
    own = [(behavior.get(way) or {}).get("tolerance") for way in ("scaleDown", "scaleUp")]
    return Tolerance(*(TOLERANCE if t is None else quantity.parse(t).nano / quantity.NANO for t in own))
