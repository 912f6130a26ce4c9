"""Admission policies with spoiled expressions, on spoiled objects: they judge and change, or say why not."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import decoding
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.apiserver.admission import compilation, typechecking
from rayplane.control_plane.apiserver.admission.conditions import Undecided
from rayplane.control_plane.apiserver.admission.expressions import Failed, Limits, OutOfBudget, TooDear, bindings
from rayplane.control_plane.apiserver.admission.mutations import MutatingPolicy
from rayplane.control_plane.apiserver.admission.policies import Policy
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.cel import Decision, Unanswered
from tests.fuzz import mutate

CASES = 60
CASES_PER_WORLD = 10_000
_LIMITS = Limits(call=400_000, policy=1_000_000, conditions=400_000, inline=700_000)
_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "namespace": "default",
        "labels": {"a/b": "c"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}, "env": []}],
        "x": [1, 2.5],
    },
}
_TEXTS = (
    "object.spec.containers.all(c, c.image.startsWith('i'))",
    "quantity(object.spec.containers[0].resources.limits.cpu).isLessThan(quantity('2'))",
    "has(object.metadata.labels) && object.metadata.labels['a/b'] == 'c'",
    "authorizer.group('').resource('pods').namespace(request.namespace).check('get').allowed()",
    "authorizer.serviceAccount('default', object.metadata.name).path('/x').check('get').reason() == ''",
    "authorizer.requestResource.check(string(variables.v)).errored()",
    "variables.v == object.metadata.name || variables.v in request.userInfo.groups",
    "object.metadata.?labels.orValue({}).transformMap(k, v, k + v) == {}",
    "namespaceObject.metadata.labels.all(k, k != object.metadata.name)",
    "'a' + object.metadata.name",
    "params == null",
)
_PATCHES = (
    "Object{metadata: Object.metadata{labels: {'x': object.metadata.name}}}",
    "Object{spec: Object.spec{containers: object.spec.containers.map(c, Object.spec.containers{name: c.name})}}",
    "Object{spec: Object.spec{containers: [Object.spec.containers{env: [Object.spec.containers.env{name: 'E'}]}]}}",
    "Object{spec: object.spec}",
    "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey(object.metadata.name), value: 'v'}]",
    "[JSONPatch{op: 'copy', from: '/spec', path: '/metadata/x'}, JSONPatch{op: 'test', path: '/kind', value: 'Pod'}]",
    "object.spec.containers.map(c, JSONPatch{op: 'replace', path: '/spec/x', value: [dyn(c), c.name, 1u, b'x']})",
    "[JSONPatch{op: 'remove', path: '/metadata'}, JSONPatch{op: 'replace', path: '', value: authorizer}]",
    "[JSONPatch{op: 'add', path: '/spec/containers/-', value: duration('1h')}]",
)
T = TypeVar("T")


def _spoiled(rng: random.Random, text: str) -> str:
    if rng.random() < 0.3:
        text = rng.choice(("{} && {}", "{} || {}", "[{}, {}]", "{} + {}")).format(text, rng.choice(_TEXTS))
    return mutate.of_text(rng, text) if rng.random() < 0.4 else text


def make(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A policy, and an object."""
    rules = [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]
    spec: dict[str, Any] = {
        "matchConstraints": {"resourceRules": rules},
        "failurePolicy": rng.choice(("Fail", "Ignore")),
        "variables": [{"name": "v", "expression": _spoiled(rng, rng.choice(_TEXTS))}],
        "matchConditions": [{"name": "m", "expression": _spoiled(rng, rng.choice(_TEXTS))}] * rng.randrange(2),
        "validations": [
            {"expression": _spoiled(rng, rng.choice(_TEXTS)), "messageExpression": _spoiled(rng, rng.choice(_TEXTS))}
        ],
        "auditAnnotations": [{"key": "k", "valueExpression": _spoiled(rng, rng.choice(_TEXTS))}],
        "mutations": [_mutation(_spoiled(rng, text)) for text in rng.choices(_PATCHES, k=2)],
    }
    o = mutate.of_json(rng, _POD) if rng.random() < 0.6 else _POD
    return {"metadata": {"name": "p", "generation": 1}, "spec": spec}, o


def _mutation(text: str) -> dict[str, Any]:
    if "JSONPatch" in text:
        return {"patchType": "JSONPatch", "jsonPatch": {"expression": text}}
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}}


def _called(patch: Callable[[dict[str, Any], Limits], T], names: dict[str, Any]) -> T:
    return patch(names, _LIMITS)


class Server:
    def __init__(self) -> None:
        self._kinds = Kinds()
        self._pods = builtin_registry().by_name("pods")

    async def run(self, case: tuple[dict[str, Any], dict[str, Any]]) -> None:
        policy, given = copy.deepcopy(case)
        for kind in ("ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"):
            compilation.errors_of(policy, self._kinds.named(f"{kind.lower()[:-1]}ies.admissionregistration.k8s.io"))
        typechecking.complete(policy, self._kinds)
        o = self._object(given)
        if o is None:
            return
        names = bindings(self._question(o))
        with contextlib.suppress(TooDear):
            self._answered(names, lambda found: Policy(policy).judge(found, _LIMITS))
        mutating = MutatingPolicy(policy)
        with contextlib.suppress(TooDear, Undecided):
            self._answered(names, lambda found: mutating.meets(found, _LIMITS))
        definition = self._kinds.definition(self._pods)
        for mutation in mutating.compiled.mutations:
            before = copy.deepcopy(o)
            with contextlib.suppress(TooDear, Failed, OutOfBudget):
                patch = mutating.compiled.patched(mutation, o, definition)
                new = self._answered(names, partial(_called, patch))
                json.dumps(new)
                with contextlib.suppress(ApiError):
                    decoding.conform_patched(new, definition, field_validation="Ignore")
            assert o == before, "what a mutation starts from was changed"

    def _object(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """What the server would make of a body; None for what it refuses."""
        try:
            body = json.dumps(given).encode(errors="replace")
            definition = self._kinds.definition(self._pods)
            o = decoding.decode_object(body, api_version="v1", kind="Pod", definition=definition).object
        except ApiError:
            return None
        o["metadata"] = {**(o.get("metadata") or {}), "name": "p", "namespace": "default"}
        return o

    def _question(self, o: dict[str, Any]) -> Question:
        user = {"username": "u", "groups": ["g"]}
        parts = {"uid": "u", "operation": "CREATE", "subresource": "", "namespace": "default", "name": "p"}
        return Question(
            **parts, info=self._pods, asked=self._pods, user=user, new=o, old=None, dry_run=False, options={}
        )

    def _answered(self, names: dict[str, Any], decide: Callable[[dict[str, Any]], T]) -> T:
        answers: dict[Any, Decision] = {}
        names = {**names, "authorizer": names["authorizer"].with_answers(answers)}
        for _ in range(64):
            try:
                return decide(names)
            except Unanswered as e:
                assert e.check not in answers
                answers[e.check] = Decision(len(answers) % 2 == 0)
        raise AssertionError("more questions than the budget allows")

    async def good(self) -> None:
        spec = {"validations": [{"expression": "object.kind == 'Pod'"}]}
        names = bindings(self._question(_POD))
        assert Policy({"metadata": {"name": "p"}, "spec": spec}).judge(names, _LIMITS).denials == []

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Server]:
    yield Server()
