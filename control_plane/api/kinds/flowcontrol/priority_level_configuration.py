"""Priority level configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.bootstrap_flow import mandatory_levels
from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.flowcontrol.flow_schema import validate_condition_types
from rayplane.control_plane.api.kinds.metadata import Errors, in_range
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    limited: Mapping[str, Any] = spec.get("limited") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing")
    shares = limited.get("nominalConcurrencyShares")
    return [
        name(obj),
        spec.get("type") or "",
        NONE if shares is None else shares,
        *(NONE if queuing is None else queuing.get(field, 0) for field in ("queues", "handSize", "queueLengthLimit")),
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Type"), Column("NominalConcurrencyShares"), Column("Queues"),
    Column("HandSize"), Column("QueueLengthLimit"), AGE,
)  # fmt: skip


_QUEUES_MAX, _HASH_BITS = 10_000_000, 60
_QUEUING = {"queues": 64, "handSize": 8, "queueLengthLimit": 50}
_SHARES = {"limited": 30, "exempt": 0}


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for part, shares in _SHARES.items():
        values = spec.get(part)
        if values is None:
            continue
        for field, value in (("nominalConcurrencyShares", shares), ("lendablePercent", 0)):
            if values.get(field) is None:
                values[field] = value
    queuing = ((spec.get("limited") or {}).get("limitResponse") or {}).get("queuing")
    if queuing is not None:
        for field, value in _QUEUING.items():
            if not queuing.get(field):
                queuing[field] = value


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    kind, limited, exempt = spec.get("type") or "", spec.get("limited"), spec.get("exempt")
    if (name(obj) == "exempt") != (kind == "Exempt"):
        errs.append(invalid("spec.type", kind, "type must be 'Exempt' if and only if name is 'exempt'"))
    if kind not in ("Exempt", "Limited"):
        errs.append(not_supported("spec.type", kind, ("Exempt", "Limited")))
    elif kind == "Exempt":
        if limited is not None:
            errs.append(forbidden("spec.limited", "must be nil if the type is not Limited"))
        _shares(exempt or {}, "spec.exempt", errs)
    else:
        if exempt is not None:
            errs.append(forbidden("spec.exempt", "must be nil if the type is Limited"))
        if limited is None:
            errs.append(required("spec.limited", "must not be empty when type is Limited"))
        else:
            _shares(limited, "spec.limited", errs)
            borrowed = limited.get("borrowingLimitPercent")
            if borrowed is not None and borrowed < 0:
                text = "if specified, must be a non-negative integer"
                errs.append(invalid("spec.limited.borrowingLimitPercent", borrowed, text))
            _response(limited.get("limitResponse") or {}, "spec.limited.limitResponse", errs)
    # How many seats others may have of what is exempt is left open.
    if any(name(o) == name(obj) != "exempt" and o["spec"] != spec for o in mandatory_levels()):
        errs.append(invalid("spec", spec, f"spec of '{name(obj)}' must equal the fixed value"))
    return errs


def _shares(values: Mapping[str, Any], path: str, errs: Errors) -> None:
    shares, lent = values.get("nominalConcurrencyShares"), values.get("lendablePercent")
    if shares is not None and shares < 0:
        errs.append(invalid(f"{path}.nominalConcurrencyShares", shares, "must be a non-negative integer"))
    in_range(lent, 0, 100, f"{path}.lendablePercent", errs)


def _response(response: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, queuing = response.get("type") or "", response.get("queuing")
    if kind not in ("Queue", "Reject"):
        errs.append(not_supported(f"{path}.type", kind, ("Queue", "Reject")))
    elif kind == "Reject":
        if queuing is not None:
            errs.append(forbidden(f"{path}.queuing", "must be nil if limited.limitResponse.type is not Limited"))
    elif queuing is None:
        errs.append(required(f"{path}.queuing", "must not be empty if limited.limitResponse.type is Limited"))
    else:
        _queues(queuing, f"{path}.queuing", errs)


def _queues(queuing: Mapping[str, int], path: str, errs: Errors) -> None:
    queues, hand = queuing["queues"], queuing["handSize"]
    for field in ("queueLengthLimit", "queues"):
        if queuing[field] <= 0:
            errs.append(invalid(f"{path}.{field}", queuing[field], "must be positive"))
    if queues > _QUEUES_MAX:
        errs.append(invalid(f"{path}.queues", queues, f"must not be greater than {_QUEUES_MAX}"))
    at, bits = f"{path}.handSize", 0
    if hand <= 0:
        errs.append(invalid(at, hand, "must be positive"))
    elif hand > queues:
        errs.append(invalid(at, hand, f"should not be greater than queues ({queues})"))
    elif hand > _HASH_BITS:
        bits = hand
    else:
        bits = math.ceil(sum(math.log2(queues - index) for index in range(hand)))
    if bits > _HASH_BITS:
        text = f"required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {_HASH_BITS}"
        errs.append(invalid(at, hand, text))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    validate_condition_types(new, errs)
    return errs


RULES = {
    "PriorityLevelConfiguration": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
