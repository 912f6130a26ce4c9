"""The one form of faults in files, and as commands. Pure.

    kill: leader                            # TARGET, TARGET NAME, TARGET random [COUNT], or an actor's name
    kill: {target: node node-1, back: 10m}  # also {node: node-1, ...}; back: never keeps it away
    kill: replica-in-use data               # of a claim's volume: CLAIM, CLAIM@NODE or random; `replica`: another
    stop: {target: apiserver-1, for: 3s}    # it goes on then; without `for` at `continue`
    lose_machine: {target: node random, for: 1m}  # the machine of that actor, with all that runs there
    partition: {hosts: [[member-0, apiserver-0]], for: 20s}
    slow_network: {delay: 50ms}
    jumble: {target: leader, twice: 0.1, late: 0.1, for: 10s}
    clock_jump: {target: node node-0, by: -30s, for: 1m}
    slow_cpu: {target: apiserver-0, share: 0.2, for: 10s}
    expire_certificate: {target: apiserver-0, in: 6s, for: 20s}  # renewed before; without `in` it has expired already
    flood: {rate: 300, for: 10s}            # of requests to API servers, a second
    heal: {}

A verb stands for a fault, its mapping for that fault's fields. A target alone may be written in short.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import yaml

from rayplane.control_plane.durations import parse_span
from rayplane.control_plane.faults import reading
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import (
    NAME,
    NEVER_S,
    TARGETS,
    BadTarget,
    ClockJump,
    Continue,
    CorruptDisk,
    Cut,
    ExpireCertificate,
    Failpoint,
    Fault,
    Flood,
    FullDisk,
    Heal,
    Jumble,
    Kill,
    LoseMachine,
    Partition,
    PowerLoss,
    Reset,
    SlowCpu,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)

VERBS: Mapping[str, type[Fault]] = {
    "kill": Kill,
    "power_loss": PowerLoss,
    "lose_machine": LoseMachine,
    "stop": Stop,
    "continue": Continue,
    "partition": Partition,
    "cut": Cut,
    "heal": Heal,
    "reset": Reset,
    "slow_network": SlowNetwork,
    "jumble": Jumble,
    "full_disk": FullDisk,
    "stalled_disk": StalledDisk,
    "slow_disk": SlowDisk,
    "corrupt_disk": CorruptDisk,
    "slow_cpu": SlowCpu,
    "clock_jump": ClockJump,
    "expire_certificate": ExpireCertificate,
    "flood": Flood,
    "failpoint": Failpoint,
}
NEVER = "never"
COMMAND = "rayplane chaos"
_WORDS: Mapping[type[Fault], str] = {kind: verb for verb, kind in VERBS.items()}
_COMMANDS = (Kill, Stop, Continue)
_ACTION = re.compile(r"kill|stop|count|error\([A-Z0-9]+\)")
_POINT = re.compile(r"[a-z_]+\.[a-z_]+")
_HOSTS_MAX = 1000
_RATE_MAX = 1000
TEXT_CHARS_MAX = 64 * 1024
"""Of one fault."""
_EXAMPLES: Mapping[str, Any] = {
    "target": Target("member", count=1),
    "groups": (("member-0",),),
    "sources": ("member-0",),
    "sinks": ("member-1",),
    "for_s": 1.0,
    "delay_s": 1.0,
    "by_s": 1.0,
    "share": 0.5,
    "rate": 10,
    "point": "wal.before_sync",
}


def read_fault(verb: str, body: Any, at: str) -> Fault:
    """A fault from what stands under its verb. Raises FormError that names the place."""
    kind = VERBS[verb]
    own = {_FIELDS[f.name][0]: f for f in fields(kind)}
    data = _long(body, own, at)
    reading.only(data, own, at)
    missing = [word for word, f in own.items() if word not in data and f.default is MISSING]
    if missing:
        raise FormError(f"{at}.{missing[0]}", f"a {verb} needs it")
    values = {own[word].name: _FIELDS[own[word].name][1](value, f"{at}.{word}") for word, value in data.items()}
    return kind(**values)


def parse_fault(text: str) -> Fault:
    """The fault of one step, YAML or JSON, that somebody elsewhere has written. Raises FormError."""
    if len(text) > TEXT_CHARS_MAX:
        raise FormError("the fault", f"give at most {TEXT_CHARS_MAX} characters")
    if "&" in text or "*" in text:
        # With names for its parts a short text may stand for a document without an end.
        raise FormError("the fault", "write it without anchors")
    return reading.read(text, _step)


def _step(found: Any) -> Fault:
    if not isinstance(found, dict) or len(found) != 1 or (verb := next(iter(found))) not in VERBS:
        raise FormError("the fault", f"write `VERB: ...` as in scenario files; verbs are {', '.join(VERBS)}")
    return read_fault(verb, found[verb], verb)


def example(kind: type[Fault]) -> Fault:
    """A fault of a kind, with as little said as there may be."""
    return kind(**{f.name: _EXAMPLES[f.name] for f in fields(kind) if f.default is MISSING})


def _long(body: Any, own: Mapping[str, Any], at: str) -> dict[str, Any]:
    """The mapping that a short form stands for."""
    if "target" not in own:
        return reading.mapping(body, at)
    if not isinstance(body, dict):
        return {"target": body}
    chosen = [word for word in body if word == "target" or word in TARGETS]
    if len(chosen) != 1:
        raise FormError(at, "name one target")
    word = chosen[0]
    if word == "target":
        return body
    name = "" if body[word] is None else str(body[word])
    return {"target": f"{word} {name}".rstrip(), **{k: v for k, v in body.items() if k != word}}


def write_fault(fault: Fault) -> dict[str, Any]:
    """The step of a file that `read_fault` reads as this fault: its verb, and what stands under it."""
    body: dict[str, Any] = {}
    for field in fields(fault):
        word, _, write = _FIELDS[field.name]
        value = getattr(fault, field.name)
        if value != field.default:
            body[word] = write(value)
    return {_WORDS[type(fault)]: body["target"] if list(body) == ["target"] else body}


def word_of(field: str) -> str:
    """The word in files for a field of a fault."""
    return _FIELDS[field][0]


def as_step(fault: Fault) -> str:
    """One line that can be pasted into the steps of a file, after `- `."""
    text = yaml.safe_dump(write_fault(fault), default_flow_style=True, sort_keys=False, width=1 << 20)
    return text.strip()[1:-1]


def as_command(fault: Fault) -> str:
    """The command line that does this to a live cluster; empty when none does."""
    if not isinstance(fault, _COMMANDS) or isinstance(getattr(fault, "back_s", None), float):
        return ""
    held = f" --for {_write_span(fault.for_s)}" if isinstance(fault, Stop) and fault.for_s else ""
    return f"{COMMAND} {_WORDS[type(fault)]} {fault.target}{held}"


def _target(value: Any, at: str) -> Target:
    try:
        return Target.parse(str(value))
    except BadTarget as e:
        raise FormError(at.removesuffix(".target"), str(e)) from e


def _back(value: Any, at: str) -> float:
    return NEVER_S if value == NEVER else reading.span(value, at)


def _write_span(span_s: float) -> str | float:
    if span_s == NEVER_S:
        return NEVER
    text = f"{span_s:g}s"
    return text if "e" not in text and parse_span(text) == span_s else span_s


def _signed(value: Any, at: str) -> float:
    text = str(value)
    return -reading.span(text[1:], at) if text.startswith("-") else reading.span(value, at)


def _write_signed(span_s: float) -> str | float:
    if span_s >= 0:
        return _write_span(span_s)
    written = _write_span(-span_s)
    return f"-{written}" if isinstance(written, str) else -written


def _part(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise FormError(at, f"give a part from 0 to 1, not {reading.shown(value)}")
    return float(value)


def _hosts(value: Any, at: str) -> tuple[str, ...]:
    hosts = reading.items(value, at)
    for host in hosts:
        if not isinstance(host, str) or not NAME.fullmatch(host):
            raise FormError(at, f"{reading.shown(host)} is no actor's name")
    if not 0 < len(hosts) <= _HOSTS_MAX:
        raise FormError(at, f"give from 1 to {_HOSTS_MAX} actors")
    return tuple(hosts)


def _groups(value: Any, at: str) -> tuple[tuple[str, ...], ...]:
    groups = tuple(_hosts(group, f"{at}[{i}]") for i, group in enumerate(reading.items(value, at)))
    if not groups:
        raise FormError(at, "give lists of actors that are cut off from all others")
    return groups


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any, str], str]:
    def read(value: Any, at: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise FormError(at, f"give {what}, not {reading.shown(value)}")
        return value

    return read


_Read = Callable[[Any, str], Any]
# Field -> its word in files, who reads and who writes its value.
_FIELDS: Mapping[str, tuple[str, _Read, Callable[[Any], Any]]] = {
    "target": ("target", _target, str),
    "for_s": ("for", reading.span, _write_span),
    "back_s": ("back", _back, _write_span),
    "delay_s": ("delay", reading.span, _write_span),
    "in_s": ("in", reading.span, _write_span),
    "by_s": ("by", _signed, _write_signed),
    "share": ("share", _part, float),
    "rate": ("rate", lambda value, at: reading.whole(value, at, 1, _RATE_MAX), int),
    "twice": ("twice", _part, float),
    "late": ("late", _part, float),
    "groups": ("hosts", _groups, lambda groups: [list(group) for group in groups]),
    "sources": ("from", _hosts, list),
    "sinks": ("to", _hosts, list),
    "point": ("point", _matching(_POINT, "a failpoint such as wal.before_sync"), str),
    "action": ("action", _matching(_ACTION, "kill, stop, count or error(ERRNO)"), str),
    "hit": ("hit", lambda value, at: reading.whole(value, at, 1, 10**6), int),
}
