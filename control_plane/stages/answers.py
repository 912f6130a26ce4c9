"""Answers of simulated containers: logs, commands, attached output, forwarded ports and usage, as objects say. Pure.

They are KWOK's kinds `Logs`, `Exec`, `Attach`, `PortForward`, `ResourceUsage`, and `Cluster...` of each.

The object of a pod's own namespace and name goes before those of the cluster, which go by name. What KWOK would do on
the machine is not done: commands are answered by a script (`answers`), files are read from one directory, and only an
administrator's `ClusterPortForward` leads anywhere.
Source: the documentation of KWOK.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import re2

from rayplane.control_plane import cel
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid, invalid_without_value, required, too_many
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import named
from rayplane.control_plane.cel.library import FUNCTIONS, by_name
from rayplane.control_plane.cel.library.quantities import QuantityValue, quantity_of
from rayplane.control_plane.durations import DurationError, parse_span
from rayplane.control_plane.stages.errors import Failed, Unreadable
from rayplane.control_plane.stages.expressions import BUDGET, Errors
from rayplane.control_plane.stages.templates import Template

FIELDS: Final = {
    "Logs": "logs",
    "Exec": "execs",
    "Attach": "attaches",
    "PortForward": "forwards",
    "ResourceUsage": "usages",
}
"""The field of each kind that has its parts; of `Cluster...` as well."""
CLUSTER: Final = "Cluster"
PARTS_MAX: Final = 100
PATTERN_MAX: Final = 1024
_DECLARED: Final = cel.Declarations(
    {
        "pod": cel.DYN,
        "container": cel.DYN,
        "now": cel.TIMESTAMP,
        "elapsed": cel.DOUBLE,
        "age": cel.DOUBLE,
        "random": cel.DOUBLE,
    }
)
_NAMES: Final = (
    (re.compile(r"\bNow\(\)"), "now"),
    (re.compile(r"\bRand\(\)"), "random"),
    (re.compile(r"\bpod\.SinceSecond\(\)|\bSinceSecond\(pod\)"), "age"),
)
"""What KWOK calls them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a command: what it says and how it ends."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment on which usage may depend: seconds since the container started, and a number from 0 up to 1."""

    now: datetime
    elapsed_s: float
    chance: float


# --- which part is meant --------------------------------------------------------------------------


def part_of(kind: str, pod: Object, container: str, own: Object | None, cluster: Iterable[Object]) -> Object | None:
    """The part that answers for a container; None where nobody has said any."""
    field = FIELDS[kind]
    candidates = [own] if own is not None else []
    candidates += [one for one in sorted(cluster, key=meta.name) if _selects(one, pod)]
    for one in candidates:
        for part in _parts(one, field):
            if not part.get("containers") or container in part["containers"]:
                return part
    return None


def forward_of(pod: Object, port: int, cluster: Iterable[Object]) -> tuple[str, int] | None:
    """Where a port of a pod leads, by what an administrator says."""
    for one in sorted(cluster, key=meta.name):
        for part in _parts(one, FIELDS["PortForward"]) if _selects(one, pod) else ():
            target = part.get("target") or {}
            if (not part.get("ports") or port in part["ports"]) and target:
                return str(target.get("address") or ""), int(target.get("port") or 0)
    return None


def _selects(o: Object, pod: Object) -> bool:
    selector = meta.spec(o).get("selector") or {}
    pairs = (("matchNamespaces", meta.namespace(pod)), ("matchNames", meta.name(pod)))
    return all(not selector.get(field) or own in selector[field] for field, own in pairs)


def _parts(o: Object, field: str) -> Sequence[Any]:
    return [part for part in (meta.spec(o).get(field) or ())[:PARTS_MAX] if isinstance(part, dict)]


# --- commands -------------------------------------------------------------------------------------


def answer_to(part: Mapping[str, Any], command: Sequence[str], pod: Object) -> Answer | None:
    """The first answer that is for a command; None where there is none. Raises Failed."""
    for one in part.get("answers") or ():
        if _is_for(one, command):
            return Answer(
                rendered(one.get("stdout") or "", pod),
                rendered(one.get("stderr") or "", pod),
                int(one.get("exitCode") or 0),
                (one.get("delayMilliseconds") or 0) / 1000,
            )
    return None


def _is_for(answer: Mapping[str, Any], command: Sequence[str]) -> bool:
    wanted, pattern = answer.get("command"), answer.get("match")
    if wanted is not None:
        return list(command[: len(wanted)]) == list(wanted)
    return not pattern or bool(_pattern(pattern).search(" ".join(command)))


@functools.lru_cache(256)
def _pattern(text: str) -> Any:
    return re2.compile(text)


@functools.lru_cache(256)
def _template(text: str) -> Template:
    return Template(text)


def rendered(text: str, pod: Object) -> str:
    """A text in which the pod's fields may be named. Raises Failed."""
    if "{{" not in text:
        return text
    try:
        return _template(text).render(pod, {})
    except Unreadable as e:
        raise Failed(str(e)) from None


# --- usage ----------------------------------------------------------------------------------------


def usage_of(part: Mapping[str, Any], resource: str, pod: Object, container: str, moment: Moment) -> float | None:
    """Cores or bytes that a container uses; None where it is not said, or the expression fails."""
    given = (part.get("usage") or {}).get(resource)
    if not isinstance(given, dict):
        return None
    if given.get("value") is not None:
        return _amount(str(given["value"]))
    if given.get("expression"):
        return _evaluated(given["expression"], pod, container, moment)
    return _traced(given.get("trace") or (), moment.elapsed_s)


def _amount(text: str) -> float | None:
    return quantity.parse(text).nano / quantity.NANO if quantity.is_quantity(text) else None


@functools.lru_cache(256)
def _program(text: str) -> cel.Program:
    for pattern, name in _NAMES:
        text = pattern.sub(name, text)
    return cel.compile(text, _DECLARED, functions=_FUNCTIONS)


_FUNCTIONS: Final = {
    **FUNCTIONS,
    **by_name(
        [
            cel.overload("Quantity", "(string) kubernetes.Quantity", quantity_of),
            cel.overload("UnixSecond", "(timestamp) double", lambda moment: moment.timestamp()),
        ]
    ),
}


def _evaluated(text: str, pod: Object, container: str, moment: Moment) -> float | None:
    own: Object = named(meta.spec(pod), container) or {}
    since = meta.metadata(pod).get("creationTimestamp")
    bindings = {
        "pod": {**pod, "metadata": {"annotations": {}, "labels": {}, **meta.metadata(pod)}},
        "container": own,
        "now": moment.now,
        "elapsed": moment.elapsed_s,
        "age": (moment.now - meta.parse_time(since)).total_seconds() if since else 0.0,
        "random": moment.chance,
    }
    try:
        outcome = cel.evaluate(_program(text), bindings, BUDGET)
    except cel.CompileError:
        return None
    value = outcome.value if outcome.error is None else None
    if isinstance(value, QuantityValue):
        return value.amount.nano / quantity.NANO
    if isinstance(value, str):
        return _amount(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _traced(trace: Sequence[Mapping[str, Any]], elapsed_s: float) -> float | None:
    """The last value whose time has come; a trace that is over begins again."""
    points = [(parse_span(str(one.get("after") or "0")), str(one.get("value"))) for one in trace]
    if not points:
        return None
    period_s = points[-1][0]
    at = elapsed_s % period_s if period_s > 0 and elapsed_s > period_s else elapsed_s
    return _amount(next((value for after, value in reversed(points) if after <= at), points[0][1]))


# --- what is wrong with an object -----------------------------------------------------------------


def answer_errors(kind: str, o: Object) -> Errors:
    """What is wrong with an object of one of the kinds of FIELDS, or of `Cluster...`."""
    errors: Errors = []
    own = kind.removeprefix(CLUSTER)
    field = FIELDS[own]
    parts = meta.spec(o).get(field) or []
    if len(parts) > PARTS_MAX:
        errors.append(too_many(f"spec.{field}", len(parts), PARTS_MAX))
    for index, part in enumerate(parts[:PARTS_MAX]):
        at = f"spec.{field}[{index}]"
        if own == "Exec":
            _exec_errors(part, at, errors)
        elif own == "PortForward":
            _forward_errors(part, kind, at, errors)
        elif own == "ResourceUsage":
            _usage_errors(part, at, errors)
        else:
            for name in ("text", "previousText"):
                _text_errors(part.get(name) or "", f"{at}.{name}", errors)
    return errors


def _exec_errors(part: Mapping[str, Any], at: str, errors: Errors) -> None:
    if part.get("local"):
        errors.append(forbidden(f"{at}.local", "nothing runs on the machine: give `answers` to commands"))
    answers = part.get("answers") or []
    if len(answers) > PARTS_MAX:
        errors.append(too_many(f"{at}.answers", len(answers), PARTS_MAX))
    for index, one in enumerate(answers[:PARTS_MAX]):
        for name in ("stdout", "stderr"):
            _text_errors(one.get(name) or "", f"{at}.answers[{index}].{name}", errors)
        pattern = one.get("match") or ""
        if len(pattern) > PATTERN_MAX:
            errors.append(invalid_without_value(f"{at}.answers[{index}].match", f"at most {PATTERN_MAX} characters"))
            continue
        try:
            _pattern(pattern)
        except re2.error as e:
            errors.append(invalid(f"{at}.answers[{index}].match", pattern, f"is no regular expression: {e}"))


def _forward_errors(part: Mapping[str, Any], kind: str, at: str, errors: Errors) -> None:
    if part.get("command"):
        errors.append(forbidden(f"{at}.command", "nothing runs on the machine: give a `target`"))
    elif not kind.startswith(CLUSTER):
        errors.append(forbidden(at, "where a port leads is for a ClusterPortForward to say"))
    elif not part.get("target"):
        errors.append(required(f"{at}.target"))


def _usage_errors(part: Mapping[str, Any], at: str, errors: Errors) -> None:
    for resource, given in sorted((part.get("usage") or {}).items()):
        place = f"{at}.usage[{resource}]"
        if not isinstance(given, dict):
            errors.append(invalid(place, given, "must be an object"))
            continue
        if given.get("value") is not None and not quantity.is_quantity(str(given["value"])):
            errors.append(invalid(f"{place}.value", given["value"], "must be a quantity"))
        if given.get("expression"):
            try:
                _program(given["expression"])
            except cel.CompileError as e:
                errors.append(invalid_without_value(f"{place}.expression", str(e)))
        _trace_errors(given.get("trace") or (), f"{place}.trace", errors)


def _trace_errors(trace: Sequence[Mapping[str, Any]], at: str, errors: Errors) -> None:
    before_s = -1.0
    if len(trace) > 10 * PARTS_MAX:
        errors.append(too_many(at, len(trace), 10 * PARTS_MAX))
    for index, one in enumerate(trace[: 10 * PARTS_MAX]):
        try:
            after_s = parse_span(str(one.get("after") or "0"))
        except DurationError as e:
            errors.append(invalid(f"{at}[{index}].after", one.get("after"), str(e)))
            continue
        if after_s <= before_s:
            errors.append(invalid(f"{at}[{index}].after", one.get("after"), "must be later than the one before"))
        if not quantity.is_quantity(str(one.get("value"))):
            errors.append(invalid(f"{at}[{index}].value", one.get("value"), "must be a quantity"))
        before_s = after_s


def _text_errors(text: str, at: str, errors: Errors) -> None:
    if "{{" in text:
        try:
            _template(text)
        except Unreadable as e:
            errors.append(invalid_without_value(at, str(e)))
