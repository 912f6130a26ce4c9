"""Answers of conversion webhooks, spoiled: what is taken of them is an object, and the rest says why not."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery import tables
from rayplane.control_plane.apiserver.apiextensions.definitions import versions_of
from rayplane.control_plane.apiserver.conversions import BadConversion, Unconverted, converted, review
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.storage.entries import encode
from tests.apiserver.test_definitions import definition, thing, version
from tests.fuzz import mutate

CASES = 120
CASES_PER_WORLD = 10_000
_UID = "the-question"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_STORED = {**thing({"n": 1}), "apiVersion": "example.com/v1", "kind": "Thing", "status": {"have": 1}}
_STORED["metadata"] = {
    **_STORED["metadata"],
    "uid": "u",
    "resourceVersion": "7",
    "generation": 3,
    "labels": {"a": "b"},
    "managedFields": [{"manager": "m"}],
}


def _kinds() -> Kinds:
    column = {"name": "N", "type": "integer", "jsonPath": ".spec.m"}
    scale = {"specReplicasPath": ".spec.m", "statusReplicasPath": ".status.have", "labelSelectorPath": ".spec.s"}
    new = version("v2", {"properties": {"m": {"type": "integer"}}}, storage=False)
    new |= {"additionalPrinterColumns": [column], "subresources": {"scale": scale}}
    crd = definition(version("v1", {"properties": {"n": {"type": "integer"}}}), new)
    crd["metadata"]["uid"] = "crd"
    webhook = {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}
    crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    kinds = Kinds()
    kinds.set_custom("things.example.com", versions_of(crd, 1))
    return kinds


def _answer(count: int) -> dict[str, Any]:
    made = {**_STORED, "apiVersion": "example.com/v2", "spec": {"m": 1}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "ConversionReview",
        "response": {"uid": _UID, "result": {"status": "Success"}, "convertedObjects": [made] * count},
    }


def make(rng: random.Random) -> tuple[int, bytes]:
    """How many objects were asked for, and the answer."""
    count = rng.choice((1, 1, 2, 3))
    answer = _answer(rng.choice((count, count, count, 1)))
    if rng.random() < 0.8:
        objects = answer["response"]["convertedObjects"]
        answer["response"]["convertedObjects"] = [mutate.of_json(rng, o, [_STORED]) for o in objects]
    if rng.random() < 0.3:
        answer = mutate.of_json(rng, answer)
    body = json.dumps(answer).encode(errors="replace")
    return count, mutate.of_bytes(rng, body) if rng.random() < 0.2 else body


class Server:
    async def run(self, case: tuple[int, bytes]) -> None:
        count, body = case
        kinds = _kinds()
        info = kinds.find("example.com", "v2", "things")
        stored = [{**_STORED, "spec": {"n": number}} for number in range(count)]
        tasks = []
        for o in stored:
            try:
                kinds.from_stored(info, o)
            except Unconverted as e:
                tasks.append(e.task)
        assert len(tasks) == count and orjson.loads(review(tasks, _UID))
        try:
            made = converted(tasks, _UID, body)
        except BadConversion as e:
            assert str(e)
            return
        for task, o in zip(tasks, made, strict=True):
            kinds.converted.learn(task, o)
        for o in stored:
            shown = kinds.from_stored(info, o)
            kept = ("name", "namespace", "uid", "resourceVersion", "generation", "managedFields")
            assert {k: shown["metadata"].get(k) for k in kept} == {k: o["metadata"].get(k) for k in kept}
            assert (shown["apiVersion"], shown["kind"]) == ("example.com/v2", "Thing")
            assert orjson.loads(encode(shown))["spec" if "spec" in shown else "metadata"] is not None
            self._show(kinds, shown)

    def _show(self, kinds: Kinds, shown: dict[str, Any]) -> None:
        info = kinds.find("example.com", "v2", "things")
        custom = kinds.custom(info)
        assert custom is not None
        tables.to_table(rules_for(info).printer, [shown], now=_NOW, columns=custom.columns)
        with contextlib.suppress(ApiError):
            get_scale(shown, kinds.scale_paths(info))

    async def good(self) -> None:
        await self.run((2, json.dumps(_answer(2)).encode()))

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Server]:
    yield Server()
