"""Requests of claims, read from their specs: wishes with alternatives, constraints, configuration.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 DeviceClaim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.quantity import Quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import Toleration

ALL = -1
ALTERNATIVES_MAX = 8
#: Devices of one claim.
DEVICES_MAX = 32


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """One request, or one of the alternatives of a request."""

    request: str
    """Its name; `request/alternative` for an alternative."""
    expressions: tuple[str, ...]
    count: int
    capacity: Mapping[str, Quantity]
    tolerations: tuple[Toleration, ...]
    written_tolerations: tuple[Mapping[str, Any], ...]
    admin: bool
    of_class: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """Devices that have the same value of an attribute, or all different ones."""

    attribute: str
    requests: frozenset[str]
    must_match: bool

    def concerns(self, request: str) -> bool:
        return not self.requests or request in self.requests or request.partition("/")[0] in self.requests


@dataclass(frozen=True, slots=True)
class ClaimWishes:
    """Requests of a claim, each with its alternatives in order of preference."""

    key: str
    seed: str
    """What tells shares of this claim from all others."""
    requests: tuple[tuple[Wish, ...], ...]
    constraints: tuple[Constraint, ...]
    configs: tuple[Mapping[str, Any], ...]
    digest: bytes
    """Equal for claims that ask for the same."""


def _asked(claim: Object) -> Mapping[str, Any]:
    return meta.spec(claim).get("devices") or {}


def problem_of(claim: Object, classes: Mapping[str, Object]) -> str:
    """What stands against a claim wherever it is allocated; empty when nothing does."""
    least = 0
    for request in _asked(claim).get("requests") or ():
        counts = []
        for name, one in _variants(request):
            if one.get("deviceClassName") not in classes:
                return f"request {name}: device class {one.get('deviceClassName')} does not exist"
            counts.append(1 if one.get("allocationMode") == "All" else int(one.get("count") or 1))
        least += min(counts, default=0)
    if least > DEVICES_MAX:
        limit = f"number of requested devices {least} exceeds the claim limit of {DEVICES_MAX}"
        return f"claim {meta.key(claim)}: {limit}"
    return ""


def _variants(request: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The request itself, or its alternatives; each with its name."""
    name = request.get("name") or ""
    if request.get("exactly") is not None:
        yield name, request["exactly"]
    else:
        for one in request.get("firstAvailable") or ():
            yield f"{name}/{one.get('name')}", one


def wishes_of(claim: Object, classes: Mapping[str, Object]) -> ClaimWishes:
    """A claim as it is searched for; its classes are there."""
    asked = _asked(claim)
    constraints = tuple(
        Constraint(one.get("matchAttribute") or one.get("distinctAttribute") or "",
                   frozenset(one.get("requests") or ()), bool(one.get("matchAttribute")))
        for one in asked.get("constraints") or ()
    )  # fmt: skip
    return ClaimWishes(
        meta.key(claim),
        f"{meta.uid(claim)}/{meta.resource_version(claim)}",
        tuple(
            tuple(_wish(name, one, classes) for name, one in _variants(request))
            for request in asked.get("requests") or ()
        ),
        constraints,
        tuple(asked.get("config") or ()),
        hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest(),
    )


def _wish(name: str, request: Mapping[str, Any], classes: Mapping[str, Object]) -> Wish:
    of_class = request.get("deviceClassName") or ""
    selectors = [*(meta.spec(classes[of_class]).get("selectors") or ()), *(request.get("selectors") or ())]
    written = tuple(request.get("tolerations") or ())
    capacity = (request.get("capacity") or {}).get("requests") or {}
    return Wish(
        request=name,
        expressions=tuple(e for s in selectors if (e := (s.get("cel") or {}).get("expression"))),
        count=ALL if request.get("allocationMode") == "All" else int(request.get("count") or 1),
        capacity={name: quantity.parse(amount) for name, amount in capacity.items()},
        tolerations=tuple(Toleration.of(t) for t in written),
        written_tolerations=written,
        admin=bool(request.get("adminAccess")),
        of_class=of_class,
    )
