"""What the REST face accepts is a good object: read back as it was answered, written and applied again without a
change, within its own schema, shown in every form, and deleted. Odd values at fields of good objects of every kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from tests.api import odd_values
from tests.api.kinds.test_validation import REGISTRY
from tests.api.test_odd_values import GOOD
from tests.apiserver.conftest import Stack
from tests.fuzz import mutate
from tests.fuzz.targets import _objects
from tests.fuzz.targets._http import Header, ask, body_of, code_of, is_fault, request

CASES = 30
CASES_PER_WORLD = 150

_JSON: tuple[Header, ...] = (("Content-Type", b"application/json"),)
_APPLY: tuple[Header, ...] = (("Content-Type", b"application/apply-patch+yaml"),)
_MERGE: tuple[Header, ...] = (("Content-Type", b"application/merge-patch+json"),)
_TABLE: tuple[Header, ...] = (("Accept", b"application/json;as=Table;v=v1;g=meta.k8s.io"),)
_PROTOBUF: tuple[Header, ...] = (("Accept", b"application/vnd.kubernetes.protobuf"),)
_YAML: tuple[Header, ...] = (("Accept", b"application/yaml"),)
# What who applies does not send: the server's own.
_OF_THE_SERVER = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink",
    "deletionTimestamp", "deletionGracePeriodSeconds")  # fmt: skip


@dataclass(frozen=True)
class Case:
    info: ResourceInfo
    object: Any
    status: Any = None
    """For the subresource, once the object is there."""


def _kinds() -> list[tuple[ResourceInfo, Object]]:
    found = []
    for kind, good in sorted(GOOD.items()):
        info = REGISTRY.by_kind(good["apiVersion"], kind)
        if info is not None and {"create", "get", "update"} <= {*info.verbs}:
            found.append((info, {"kind": kind, **good}))
    for seed in _objects.SEEDS:
        info = REGISTRY.by_kind(seed[0], seed[2])
        if info is not None and {"create", "get", "update"} <= {*info.verbs}:
            found.append((info, _objects.good(seed)))
    return found


KINDS = _kinds()


def make(rng: random.Random) -> Case:
    info, good = rng.choice(KINDS)
    o = copy.deepcopy(good)
    o.setdefault("metadata", {})
    everything = _objects.odd_fields(info.api_version, info.kind)
    for _ in range(mutate.some(rng, 3)):
        if not everything or rng.random() < 0.1:
            o = mutate.of_json(rng, o, _objects.PARTS)
            break
        path, value = rng.choice(everything)
        with contextlib.suppress(AttributeError, TypeError, KeyError):  # an odd value stands in the way
            o = odd_values.placed(o, path, value)
    status = o.pop("status", None) if isinstance(o, dict) else None
    if status is None and rng.random() < 0.3:
        below = [f for f in everything if f[0][0] == "status"]
        holder: Any = {}
        for path, value in rng.sample(below, min(len(below), mutate.some(rng))):
            with contextlib.suppress(AttributeError, TypeError, KeyError):
                holder = odd_values.placed(holder, path, value)
        status = holder.get("status")
    return Case(info, o, status)


class Face:
    def __init__(self, stack: Stack) -> None:
        self._address = stack.servers[0].https_address
        self._server = stack.http_server()
        self._number = 0
        self.accepted = 0

    async def run(self, case: Case) -> None:
        info, o = case.info, copy.deepcopy(case.object)
        version = f"/api/{info.version}" if not info.group else f"/apis/{info.group}/{info.version}"
        there = f"{version}/namespaces/default/{info.plural}" if info.namespaced else f"{version}/{info.plural}"
        code, made = await self._json("POST", there, _JSON, o)
        if code >= 400:
            return
        assert code == 201, (code, made)
        self.accepted += 1
        one = f"{there}/{quote(made['metadata']['name'])}"
        try:
            await self._is_good(info, one, made)
            if case.status is not None and "status" in info.subresources:
                body = {**made, "status": case.status}
                code, with_status = await self._json("PUT", f"{one}/status", _JSON, body)
                if code == 200:
                    await self._is_good(info, one, with_status)
        finally:
            await self._json("DELETE", f"{one}?gracePeriodSeconds=0&propagationPolicy=Background", ())
            code, left = await self._json("GET", one, ())
            if code == 200:
                nothing = {"metadata": {"finalizers": None}}
                _, left = await self._json("PATCH", one, _MERGE, nothing)
                if info.kind == "Namespace":
                    body = {**left, "spec": {"finalizers": []}}
                    await self._json("PUT", f"{one}/finalize", _JSON, body)
                code, left = await self._json("GET", one, ())
            assert code == 404, f"it stays: {left}"

    async def _is_good(self, info: ResourceInfo, one: str, made: Object) -> None:
        code, got = await self._json("GET", one, ())
        assert (code, got) == (200, made), "read back as something else"
        for accept in (_TABLE, _YAML):
            answer = await ask(self._address, request("GET", one, accept))
            assert code_of(answer) == 200, answer[-1500:]
        assert yaml.load(answer.partition(b"\r\n\r\n")[2], yaml.CSafeLoader) == made, "another object in YAML"
        answer = await ask(self._address, request("GET", one, _PROTOBUF))
        assert code_of(answer) == (200 if info.definition else 406), answer[-1500:]
        if info.definition:
            assert _said(body_of(answer)) == _said(made), f"another object in protobuf: {body_of(answer)}"
        code, put = await self._json("PUT", f"{one}?fieldValidation=Strict", _JSON, made)
        assert (code, put) == (200, made), f"written again without a change: {code} {put}"
        applied = copy.deepcopy(made)
        for name in _OF_THE_SERVER:
            applied["metadata"].pop(name, None)
        query = "fieldManager=again&force=true&fieldValidation=Strict"
        code, after = await self._json("PATCH", f"{one}?{query}", _APPLY, applied)
        if code == 400 and "duplicate entries for key" in after["message"]:
            return  # an update may do what nobody can own, in Kubernetes as well
        assert code == 200, f"applied again: {code} {after}"
        assert _content(after) == _content(made), f"applied again it is another: {after}"
        code, back = await self._json(
            "PUT", one, _JSON, {**made, "metadata": {**made["metadata"], "resourceVersion": ""}}
        )
        assert code in (200, 422), f"written back: {code} {back}"

    async def _json(self, method: str, path: str, headers: tuple[Header, ...], body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        answer = await ask(self._address, request(method, path, headers, data))
        code = code_of(answer)
        assert code and not is_fault(answer), (method, path, answer[-1500:])
        text = answer.partition(b"\r\n\r\n")[2]
        return code, json.loads(text) if text[:1] == b"{" else text

    async def good(self) -> None:
        answer = await ask(self._address, request("GET", "/api/v1/namespaces/default/configmaps"))
        assert code_of(answer) == 200, answer[:500]

    def sizes(self) -> dict[str, int]:
        return {"connections": len(self._server.connections), "guards": len(self._server._guards)}


def _said(value: Any) -> Any:
    """Without what protobuf cannot tell from nothing: null, and lists and maps that are empty."""
    if isinstance(value, list):
        return [_said(item) for item in value]
    if not isinstance(value, dict):
        return value
    said = {key: _said(item) for key, item in value.items()}
    return {key: item for key, item in said.items() if item not in (None, [], {}) or isinstance(item, bool)}


def _content(o: Object) -> Object:
    meta = {k: v for k, v in o["metadata"].items() if k not in ("managedFields", "resourceVersion")}
    return {**o, "metadata": meta}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Face]:
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0")
    try:
        await stack.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        yield Face(stack)
        await asyncio.sleep(0)
    finally:
        await stack.stop()
