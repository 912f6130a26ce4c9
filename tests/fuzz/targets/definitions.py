"""Definitions of custom resources with spoiled schemas, and spoiled objects of those that are taken."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import AsyncIterator
from typing import Any

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import decoding, schema
from rayplane.control_plane.apiserver.apiextensions import acceptance, custom_resource, defaulting
from rayplane.control_plane.apiserver.apiextensions.definitions import versions_of
from tests.apiserver.test_operators import OPERATORS, defined
from tests.fuzz import mutate

CASES = 150
CASES_PER_WORLD = 10_000
_CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
_NOW = "2024-02-20T10:00:00Z"

Case = tuple[dict[str, Any], list[dict[str, Any]]]
"""A definition, and objects."""


def make(rng: random.Random) -> Case:
    one = rng.choice(OPERATORS)
    parts = [sub for other in OPERATORS for sub in other["schema"]["properties"].values()]
    shape = mutate.of_json(rng, one["schema"], parts) if rng.random() < 0.8 else one["schema"]
    crd = defined(shape, one["kind"], one["group"])
    if rng.random() < 0.2:
        crd["spec"] = mutate.of_json(rng, crd["spec"])
    known = [one["valid"], *(case["object"] for case in one["invalid"])]
    return crd, [mutate.of_json(rng, rng.choice(known), known) for _ in range(3)]


class Judge:
    async def run(self, case: Case) -> None:
        crd, objects = case
        with contextlib.suppress(ApiError):
            body = json.dumps(crd).encode()
            known = schema.definition_of(*_CRD)
            crd = decoding.decode_object(body, api_version=_CRD[0], kind=_CRD[1], definition=known).object
            crd.setdefault("metadata", {})
            acceptance.complete(crd, _NOW, ())
            if acceptance.errors_of(crd, ()):
                return
            for version in versions_of(crd, 1):
                for one in objects:
                    with contextlib.suppress(ApiError):
                        self._object(version, one)

    def _object(self, version: Any, given: dict[str, Any]) -> None:
        o, old = self._decoded(version, given), self._decoded(version, given)
        defaulting.default(o, version.schema)
        custom_resource.errors_of(o, version.schema, version.rules, None)
        custom_resource.errors_of(o, version.schema, version.rules, old)
        version.settle(o)
        settled = copy.deepcopy(o)
        version.settle(o)
        assert o == settled, "what is settled is settled again otherwise"

    def _decoded(self, version: Any, given: dict[str, Any]) -> dict[str, Any]:
        info, body = version.info, json.dumps(given).encode()
        return decoding.decode_object(
            body, api_version=info.api_version, kind=info.kind, definition=version.definition
        ).object

    async def good(self) -> None:
        for one in OPERATORS[:2]:
            crd = defined(one["schema"], one["kind"], one["group"])
            acceptance.complete(crd, _NOW, ())
            assert acceptance.errors_of(crd, ()) == []

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Judge]:
    yield Judge()
