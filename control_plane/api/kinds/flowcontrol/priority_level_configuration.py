"""Priority level configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, in_range, not_negative
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
    kind = spec.get("type") or ""
    own, other = ("exempt", "limited") if kind == "Exempt" else ("limited", "exempt")
    if kind not in ("Exempt", "Limited"):
        errs.append(not_supported("spec.type", kind, ("Exempt", "Limited")))
        return errs
    if spec.get(other) is not None:
        text = f"must be nil if the type is {kind}"
        errs.append(forbidden(f"spec.{other}", text))
    if kind == "Limited" and spec.get("limited") is None:
        errs.append(required("spec.limited", "must not be empty when type is Limited"))
    values = spec.get(own) or {}
    not_negative(values.get("nominalConcurrencyShares"), f"spec.{own}.nominalConcurrencyShares", errs)
    in_range(values.get("lendablePercent"), 0, 100, f"spec.{own}.lendablePercent", errs)
    if kind == "Limited" and spec.get("limited") is not None:
        _response(values.get("limitResponse") or {}, "spec.limited.limitResponse", errs)
    return errs


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
        for field in _QUEUING:
            if queuing[field] <= 0:
                errs.append(invalid(f"{path}.queuing.{field}", queuing[field], "must be positive"))
        if queuing["handSize"] > queuing["queues"]:
            text = f"should not be greater than queues ({queuing['queues']})"
            errs.append(invalid(f"{path}.queuing.handSize", queuing["handSize"], text))


RULES = {
    "PriorityLevelConfiguration": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=Status({}, metadata=frozenset()),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
