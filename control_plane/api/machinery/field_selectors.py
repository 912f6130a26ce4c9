"""Field selectors (`spec.nodeName=n1,status.phase!=Failed`), parsed once into fast matchers for objects of a kind.

Errors are `BadRequest`, in Kubernetes' words.
Source: Kubernetes concepts "Field Selectors".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rayplane.control_plane.api.errors import BadRequest, quote
from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.api.meta import Object

_CACHE = 8_192
METADATA_FIELDS = ("metadata.name", "metadata.namespace")
"""What may be selected by in every kind."""
_ABSENT = {
    "spec.unschedulable": "false",
    "spec.hostNetwork": "false",
    "status.replicas": "0",
    "status.successful": "0",
}


class FieldTerm(NamedTuple):
    """One comparison of a field with a text."""

    path: str
    equal: bool
    value: str


def _text(found: Any) -> str:
    if isinstance(found, bool):
        return "true" if found else "false"
    return "" if found is None else str(found)


def _walk(o: Object, path: tuple[str, ...]) -> Any:
    found: Any = o
    for part in path:
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _source(o: Object) -> str:
    source = o.get("source") or {}
    return source.get("component") or o.get("reportingComponent") or ""


def _reader(path: str) -> Callable[[Object], str]:
    if path == "source":
        return _source
    if path == "status.podIPs":
        return lambda o: ",".join(one.get("ip") or "" for one in (o.get("status") or {}).get("podIPs") or ())
    real = {"status.successful": "status.succeeded"}.get(path, path)
    parts = tuple(real.lstrip(".").split("."))
    absent = _ABSENT.get(path, "")
    if absent:
        return lambda o: _text(_walk(o, parts)) or absent
    if len(parts) == 2:
        first, second = parts
        return lambda o: _text((o.get(first) or {}).get(second))
    return lambda o: _text(_walk(o, parts))


class FieldSet(NamedTuple):
    """A field that has to be one of some texts."""

    path: str
    values: frozenset[str]


class FieldSelector:
    """A conjunction of field comparisons for objects of one kind."""

    __slots__ = ("_readers", "_sets", "sets", "terms")

    def __init__(self, terms: Iterable[FieldTerm] = (), sets: Iterable[FieldSet] = ()) -> None:
        self.terms = tuple(terms)
        self.sets = tuple(sets)
        self._readers = tuple((_reader(t.path), t.equal, t.value) for t in self.terms)
        self._sets = tuple((_reader(s.path), s.values) for s in self.sets)

    @property
    def everything(self) -> bool:
        return not self.terms and not self.sets

    @property
    def paths(self) -> frozenset[str]:
        """The fields that are looked at."""
        return frozenset([t.path for t in self.terms] + [s.path for s in self.sets])

    def of(self, wanted: Callable[[str], bool]) -> FieldSelector:
        """The part that looks at some fields."""
        return FieldSelector((t for t in self.terms if wanted(t.path)), (s for s in self.sets if wanted(s.path)))

    def requires(self, path: str) -> str | None:
        """The value `path` is required to equal, if any (for direct look-ups and indexes)."""
        for term in self.terms:
            if term.path == path and term.equal:
                return term.value
        return None

    def allowed(self, path: str) -> frozenset[str] | None:
        """The values that `path` is limited to, None where it is not."""
        value = self.requires(path)
        if value is not None:
            return frozenset((value,))
        return next((one.values for one in self.sets if one.path == path), None)

    def matches(self, o: Object) -> bool:
        return all((read(o) == value) is equal for read, equal, value in self._readers) and all(
            read(o) in values for read, values in self._sets
        )

    def __str__(self) -> str:
        texts = [f"{t.path}{'=' if t.equal else '!='}{_escape(t.value)}" for t in self.terms]
        return ",".join([*texts, *(f"{s.path} in ({','.join(sorted(s.values))})" for s in self.sets)])


ALL_FIELDS = FieldSelector()
_ESCAPED = re.compile(r"\\([\\,=])")
_SET = re.compile(r"(?:^|(?<=,))([\w.]+) in \(([^()\\]*)\)(?:,|$)")


def _escape(text: str) -> str:
    return re.sub(r"([\\,=])", r"\\\1", text)


def _split_terms(text: str) -> list[str]:
    return [part for part in re.split(r"(?<!\\),", text) if part]


@remembered(_CACHE)
def parse_fields(
    text: str, known: tuple[str, ...] | None = METADATA_FIELDS, *, selectable: tuple[str, ...] = ()
) -> FieldSelector:
    """The selector of a `fieldSelector` query parameter for objects of a kind whose selectable paths are `known` (None:
    any).

    `selectable` are the extra paths a custom resource declares (`.spec.color` or `spec.color`). Beside the comparisons
    of Kubernetes, `path in (a,b)` is known: hosts of many nodes watch the pods of all of them with it.
    BadRequest for a path this kind does not know.
    """
    if not text:
        return ALL_FIELDS
    sets = [FieldSet(path, frozenset(values.split(","))) for path, values in _SET.findall(text)]
    for one in sets:
        _check_field(one.path, known, selectable)
    terms = []
    parts = _split_terms(_SET.sub("", text) if sets else text)
    budget.check_requirements(len(parts) + len(sets))
    for part in parts:
        found = re.search(r"(?<!\\)(!=|==|=)", part)
        if found is None:
            raise BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")
        path = part[: found.start()]
        _check_field(path, known, selectable)
        value = _ESCAPED.sub(r"\1", part[found.end() :])
        terms.append(FieldTerm(path, found.group(1) != "!=", value))
    return FieldSelector(terms, sets)


def _check_field(path: str, known: tuple[str, ...] | None, selectable: tuple[str, ...]) -> None:
    if known is None:
        return
    if path in known or path in selectable or f".{path}" in selectable:
        return
    if selectable or known != METADATA_FIELDS:
        raise BadRequest(f"field label not supported: {path}")
    only = ", ".join(quote(one) for one in METADATA_FIELDS)
    raise BadRequest(f"{quote(path)} is not a known field selector: only {only}")
