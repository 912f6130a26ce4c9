"""Findings on the expressions that select devices, in claims, templates of claims and classes to be stored. Pure.

Source: Kubernetes' `pkg/apis/resource/validation`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid
from rayplane.control_plane.api.kinds.resource.fields import EXPRESSION_MAX_BYTES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cel import CompileError, compile
from rayplane.control_plane.device_selectors import COST_MAX, DECLARATIONS

GROUP: Final = "resource.k8s.io"
_CLASS: Final = "DeviceClass"
_Found = Iterator[tuple[str, Mapping[str, Any]]]
"""Paths of selectors, and what they say."""


def errors_of(o: Object, kind: str, old: Object | None) -> list[FieldError]:
    """Problems of what selects devices. What is stored was judged before; only of a class it can be changed."""
    spec = o.get("spec") or {}
    if old is not None and (kind != _CLASS or spec == old.get("spec")):
        return []
    found = (
        _error(f"{path}.cel.expression", (one.get("cel") or {}).get("expression")) for path, one in _of(kind, spec)
    )
    return [error for error in found if error is not None]


def _of(kind: str, spec: Mapping[str, Any]) -> _Found:
    if kind == _CLASS:
        yield from _selectors(spec, "spec")
    elif kind == "ResourceClaim":
        yield from _of_claim(spec, "spec")
    elif kind == "ResourceClaimTemplate":
        yield from _of_claim(spec.get("spec") or {}, "spec.spec")


def _of_claim(spec: Mapping[str, Any], path: str) -> _Found:
    for index, request in enumerate((spec.get("devices") or {}).get("requests") or ()):
        at = f"{path}.devices.requests[{index}]"
        yield from _selectors(request.get("exactly") or {}, f"{at}.exactly")
        for number, alternative in enumerate(request.get("firstAvailable") or ()):
            yield from _selectors(alternative, f"{at}.firstAvailable[{number}]")


def _selectors(o: Mapping[str, Any], path: str) -> _Found:
    for index, selector in enumerate(o.get("selectors") or ()):
        yield f"{path}.selectors[{index}]", selector


def _error(path: str, text: str | None) -> FieldError | None:
    """What is wrong with one expression; one that is missing or too long is told of without a look at it."""
    if not text or len(text.encode()) > EXPRESSION_MAX_BYTES:
        return None
    try:
        program = compile(text, DECLARATIONS)
    except CompileError as e:
        return invalid(path, text, f"compilation failed: {e}")
    if program.type.kind not in ("bool", "dyn"):
        return invalid(path, text, f"must evaluate to bool or the unknown type, not {program.type}")
    return forbidden(path, "too complex, exceeds cost limit") if program.cost.high > COST_MAX else None
