"""Validating admission policies say in their status what does not fit the schemas of what they judge."""

from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission import typechecking
from rayplane.control_plane.apiserver.kinds import Kinds
from tests.apiserver.conftest import Stack
from tests.apiserver.test_definitions import CRDS, definition
from tests.apiserver.test_policies import POLICIES, policy, valid


def rule(*resources: str, group: str = "apps", **more: Any) -> Object:
    found = {"operations": ["*"], "apiGroups": [group], "apiVersions": ["v1"], "resources": list(resources)}
    return {**found, **more}


def warnings(rules: list[Object], *expressions: str, **spec: Any) -> dict[str, str]:
    validations = [{"expression": text} for text in expressions]
    made = policy(rules=rules, validations=validations, **spec)
    made["metadata"]["generation"] = 1
    typechecking.complete(made, Kinds())
    assert made["status"]["observedGeneration"] == 1
    found = made["status"]["typeChecking"].get("expressionWarnings") or []
    return {one["fieldRef"].removeprefix("spec.validations"): one["warning"] for one in found}


def test_a_field_that_no_object_has_is_warned_of_for_each_kind() -> None:
    found = warnings([rule("deployments", "statefulsets")], "object.spec.replicas > 1", "object.replicas > 1")
    problem = "ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"
    assert found == {
        "[1].expression": "\n".join(f"apps/v1, Kind={k}: {problem}" for k in ("Deployment", "StatefulSet"))
    }


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("object.spec.replicas > '1'", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("object.metadata.labels.size() > 0 && object.metadata.namespace == oldObject.metadata.__namespace__", ""),
        ("object.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z')", ""),
        ("object.spec.template.spec.containers.all(c, c.imagePullPolicy == 'Always')", ""),
        ("object.spec.template.spec.containers.all(c, c.image == 1)", "found no matching overload for '_==_'"),
        ("object.spec.template.spec.containers[0].resources.limits['cpu'] == '1'", ""),
        ("object.spec.strategy.rollingUpdate.maxSurge == 1", ""),
        ("request.nothing == 1", "undefined field 'nothing'"),
        ("authorizer.requestResource.check('get').allowed()", ""),
        ("params.data.a == 'b'", "undeclared reference to 'params'"),
        ("variables.count == 'a'", "applied to '(int, string)'"),
        ("variables.wrong == 'a'", ""),
    ],
)
def test_expressions_are_checked_by_the_types_of_schemas(expression: str, problem: str) -> None:
    variables = [
        {"name": "count", "expression": "size(object.spec.template.spec.containers)"},
        {"name": "wrong", "expression": "object.none"},
    ]
    found = warnings([rule("deployments")], expression, variables=variables)
    assert problem in found.get("[0].expression", "") if problem else found == {}


def test_parameters_have_the_type_of_their_kind() -> None:
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    found = warnings([rule("deployments")], "params.data.a == 1", "params.none", paramKind=kind)
    assert "applied to '(string, int)'" in found["[0].expression"]
    assert "undefined field 'none'" in found["[1].expression"]


def test_rules_with_wildcards_and_subresources_name_nothing() -> None:
    for given in (rule("*"), rule("deployments/scale"), rule("deployments", group="*"), rule("none")):
        assert warnings([given], "object.none") == {}
    assert warnings([rule("deployments", apiVersions=["*"])], "object.none") == {}


def test_kinds_that_have_parts_of_their_own_kind_are_checked() -> None:
    """Schemas of definitions have schemas in them, without end."""
    given = rule("customresourcedefinitions", group="apiextensions.k8s.io")
    schema = "object.spec.versions[0].schema.openAPIV3Schema"
    assert warnings([given], f"{schema}.not.not.not.type == 'string'") == {}
    assert "undefined field 'none'" in warnings([given], f"{schema}.not.not.none == 'string'")["[0].expression"]


async def test_the_status_follows_the_spec(stack: Stack) -> None:
    client = stack.client()
    made = await client.create(
        POLICIES, policy(**valid("object.spec.none == 1", messageExpression="string(object.other)"))
    )
    # A config map has no spec; what a message is made of is checked too.
    found = {w["fieldRef"]: w["warning"] for w in made["status"]["typeChecking"]["expressionWarnings"]}
    assert set(found) == {"spec.validations[0].expression", "spec.validations[0].messageExpression"}
    assert found["spec.validations[0].expression"].startswith("/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined")
    assert (made["metadata"]["generation"], made["status"]["observedGeneration"]) == (1, 1)
    made["spec"]["validations"] = [{"expression": "object.data.a == 'b'"}]
    made = await client.update(POLICIES, made)
    assert made["status"] == {"observedGeneration": 2, "typeChecking": {}}
    labelled = await client.patch(POLICIES, "p", "", {"metadata": {"labels": {"a": "b"}}}, kind="merge")
    assert labelled["status"] == made["status"]


async def test_custom_resources_are_checked_by_their_definition(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    await client.list("things.v1.example.com")
    rules = [rule("things", group="example.com")]
    made = await client.create(
        POLICIES, policy(rules=rules, **valid("object.spec.n > 1 && object.metadata.name != ''"))
    )
    assert made["status"]["typeChecking"] == {}
    made = await client.create(POLICIES, policy("q", rules=rules, **valid("object.spec.m > 1")))
    [warning] = made["status"]["typeChecking"]["expressionWarnings"]
    assert warning["warning"].startswith("example.com/v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'm'")


def test_a_policy_of_very_many_expressions_is_checked_in_part() -> None:
    found = warnings([rule("deployments")], *["object.none"] * (typechecking.COMPILED_MAX + 10))
    assert len(found) == typechecking.COMPILED_MAX
