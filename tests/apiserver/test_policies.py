"""Validating admission policies: expressions that refuse, warn and tell the audit log, over a real server."""

import asyncio
import json
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.expressions import INLINE, KUBERNETES, Limits, TooDear
from rayplane.control_plane.apiserver.admission.policies import Policy
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.test_audit import Audited, audited  # noqa: F401

GROUP = "admissionregistration.k8s.io"
POLICIES, BINDINGS = f"validatingadmissionpolicies.{GROUP}", f"validatingadmissionpolicybindings.{GROUP}"
CONFIGMAPS = {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
DENIED = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
NO_KEY = "expression 'object.data.none == 1' resulted in error: no such key: none"
OUT_OF_BUDGET = "validation failed due to running out of cost budget, no further validation rules will be run"


def policy(name: str = "p", rules: list[Object] | None = None, match: Object | None = None, **spec: Any) -> Object:
    constraints = {"resourceRules": rules or [CONFIGMAPS], **(match or {})}
    return {"metadata": {"name": name}, "spec": {"matchConstraints": constraints, **spec}}


def binding(name: str = "b", to: str = "p", actions: tuple[str, ...] = ("Deny",), **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"policyName": to, "validationActions": list(actions), **spec}}


def config(name: str = "c", **more: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default", **more}, "data": {"a": "b"}}


def valid(expression: str, **more: Any) -> Object:
    return {"validations": [{"expression": expression, **more}]}


async def enforce(client: ApiClient, *objects: Object) -> None:
    """The server has seen policies and bindings when this returns: its caches show one moment."""
    for o in objects:
        await client.create(BINDINGS if "policyName" in o["spec"] else POLICIES, o)
    assert (await client.list(BINDINGS)).items is not None


async def refusal(client: ApiClient, o: Object | None = None, resource: str = "configmaps") -> str:
    """What a policy says against a create; empty: nothing."""
    try:
        await client.create(resource, o or config())
    except errors.ApiError as e:
        assert "denied request: " in e.message, e.message
        return e.message.split("denied request: ")[1]
    return ""


@pytest.mark.parametrize(
    ("spec", "outcome"),
    [
        (valid("object.data.a == 'b'"), ""),
        (valid("object.data.a == 'c'"), "failed expression: object.data.a == 'c'"),
        (valid("false", message=" not so "), "not so"),
        (valid("false", message="m", messageExpression="'it is ' + object.data.a"), "it is b"),
        (valid("false", message="m", messageExpression="'two\\nlines'"), "m"),
        (valid("false", message="m", messageExpression="string(object.data.none)"), "m"),
        (valid("false", message="m", messageExpression="'  '"), "m"),
        (valid("object.data.none == 1"), NO_KEY),
        ({**valid("object.data.none == 1"), "failurePolicy": "Ignore"}, ""),
        (valid("has(object.data.none) || object.metadata.name == 'c'"), ""),
        (valid("oldObject == null && request.operation == 'CREATE'"), ""),
        (valid("request.resource.resource == 'configmaps' && request.kind.kind == 'ConfigMap'"), ""),
        (valid("request.namespace == 'default' && request.name == 'c' && !request.dryRun"), ""),
        (valid("'system:masters' in request.userInfo.groups"), ""),
        (valid("namespaceObject.metadata.labels['kubernetes.io/metadata.name'] == 'default'"), ""),
        (valid("namespaceObject.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z')"), "failed expression"),
        # Variables are looked at lazily, and may look at those before them.
        (
            {
                "variables": [
                    {"name": "bad", "expression": "object.none"},
                    {"name": "a", "expression": "object.data.a"},
                    {"name": "both", "expression": "variables.a + variables.a"},
                ],
                **valid("variables.both == 'bb'"),
            },
            "",
        ),
        (
            {"variables": [{"name": "bad", "expression": "object.none"}], **valid("variables.bad == 1")},
            "expression 'variables.bad == 1' resulted in error: composited variable \"bad\" fails to evaluate: "
            "no such key: none",
        ),
        # Match conditions: one that is false decides, one without a value refuses.
        ({"matchConditions": [{"name": "n", "expression": "object.data.a == 'c'"}], **valid("false")}, ""),
        ({"matchConditions": [{"name": "n", "expression": "object.data.none == 1"}], **valid("true")}, NO_KEY),
        (
            {
                "matchConditions": [
                    {"name": "n", "expression": "object.data.none == 1"},
                    {"name": "m", "expression": "false"},
                ],
                **valid("false"),
            },
            "",
        ),
        (
            {
                "failurePolicy": "Ignore",
                "matchConditions": [{"name": "n", "expression": "object.data.none == 1"}],
                **valid("false"),
            },
            "",
        ),
        ({"auditAnnotations": [{"key": "k", "valueExpression": "string(object.data.none)"}]}, "expression 'string("),
    ],
)
async def test_validations_refuse_in_kubernetes_words(stack: Stack, spec: Object, outcome: str) -> None:
    client = stack.client()
    await enforce(client, policy(**spec), binding())
    said = await refusal(client)
    assert said.startswith(outcome) and bool(said) == bool(outcome)


async def test_a_binding_is_judged_as_such_and_not_as_an_update_of_its_pod(stack: Stack) -> None:
    client, pods = stack.client(), {"apiGroups": [""], "apiVersions": ["v1"]}
    pod = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await client.create("pods", pod)
    updates = {**pods, "operations": ["UPDATE"], "resources": ["pods"]}
    bindings = {**pods, "operations": ["CREATE"], "resources": ["pods/binding"]}
    await enforce(client, policy(rules=[updates], **valid("false")), binding())
    await enforce(client, policy("q", [bindings], **valid("object.target.name != 'n2'")), binding("of-q", "q"))
    with pytest.raises(errors.Invalid, match="denied request"):
        await client.patch("pods", "p", "default", {"metadata": {"labels": {"a": "b"}}})
    place: Object = {"metadata": pod["metadata"], "target": {"kind": "Node", "name": "n2"}}
    with pytest.raises(errors.Invalid, match="denied request"):
        await client.create("pods", place, subresource="binding")
    place["target"]["name"] = "n1"
    await client.create("pods", place, subresource="binding")
    assert (await client.get("pods", "p", "default"))["spec"]["nodeName"] == "n1"


async def test_a_refusal_has_the_reason_and_the_form_of_kubernetes(stack: Stack) -> None:
    client = stack.client()
    await enforce(client, policy(**valid("false")), binding())
    with pytest.raises(errors.Invalid) as refused:
        await client.create("configmaps", config())
    text = f"{DENIED}failed expression: false"
    assert refused.value.message == f'configmaps "c" is forbidden: {text}'
    assert refused.value.code == 422
    assert refused.value.details == {"name": "c", "kind": "configmaps", "causes": [{"message": text}]}
    for reason, code in (("Forbidden", 403), ("RequestEntityTooLarge", 413)):
        changed = await client.get(POLICIES, "p")
        changed["spec"]["validations"][0]["reason"] = reason
        await client.update(POLICIES, changed)
        with pytest.raises(errors.ApiError) as other:
            await client.create("configmaps", config())
        assert (other.value.reason, other.value.code) == (reason, code)


DEFAULT = "kubernetes.io/metadata.name"


@pytest.mark.parametrize(
    ("match", "asked"),
    [
        ({}, True),
        ({"resourceRules": [{**CONFIGMAPS, "operations": ["UPDATE"]}]}, False),
        ({"resourceRules": [{**CONFIGMAPS, "resources": ["secrets"]}]}, False),
        ({"resourceRules": [{**CONFIGMAPS, "resources": ["*"], "apiGroups": ["*"]}]}, True),
        ({"resourceRules": [{**CONFIGMAPS, "resourceNames": ["c"]}]}, True),
        ({"resourceRules": [{**CONFIGMAPS, "resourceNames": ["d"]}]}, False),
        ({"resourceRules": [{**CONFIGMAPS, "scope": "Cluster"}]}, False),
        ({"excludeResourceRules": [{**CONFIGMAPS, "resourceNames": ["c"]}]}, False),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, True),
        ({"objectSelector": {"matchLabels": {"a": "c"}}}, False),
        ({"namespaceSelector": {"matchLabels": {DEFAULT: "default"}}}, True),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": DEFAULT, "operator": "NotIn", "values": ["default"]}]}},
            False,
        ),
    ],
)
@pytest.mark.parametrize("of_binding", [False, True])
async def test_policies_and_bindings_tell_whom_they_are_about(
    stack: Stack, match: Object, asked: bool, of_binding: bool
) -> None:
    client = stack.client()
    if of_binding:
        await enforce(client, policy(**valid("false")), binding(matchResources=match))
    else:
        await enforce(client, policy(match=match, **valid("false")), binding())
    assert bool(await refusal(client, config(labels={"a": "b"}))) == asked


async def test_updates_deletes_and_other_versions_are_judged_in_the_form_of_the_rules(stack: Stack) -> None:
    client = stack.client()
    everything = {**CONFIGMAPS, "operations": ["*"]}
    frozen = valid("oldObject == null || (object != null && object.data == oldObject.data)", message="frozen")
    await enforce(client, policy(rules=[everything], **frozen), binding())
    made = await client.create("configmaps", config())
    with pytest.raises(errors.Invalid, match="frozen"):
        await client.update("configmaps", {**made, "data": {"a": "x"}})
    with pytest.raises(errors.Invalid, match="frozen"):
        await client.delete("configmaps", "c", "default")
    await client.update("configmaps", {**made, "metadata": {**made["metadata"], "labels": {"x": "y"}}})
    old = {"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"]}
    rules = [{**old, "resources": ["horizontalpodautoscalers"]}]
    scaled = valid("object.spec.targetCPUUtilizationPercentage < 50", message="too hot")
    await enforce(client, policy("q", rules, **scaled), binding("q", "q"))
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    spec = {"maxReplicas": 3, "scaleTargetRef": target, "metrics": [{"type": "Resource", "resource": cpu}]}
    scaler = {"apiVersion": "autoscaling/v2", "metadata": {"name": "h", "namespace": "default"}, "spec": spec}
    assert await refusal(client, scaler, "horizontalpodautoscalers.autoscaling") == "too hot"


async def test_nobody_is_locked_out_and_what_is_not_bound_is_not_in_force(stack: Stack) -> None:
    client = stack.client()
    all_there_is = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}
    await enforce(client, policy(rules=[all_there_is], **valid("false")))
    assert not await refusal(client)
    await enforce(client, binding())
    assert await refusal(client, config("d"))
    await client.delete(BINDINGS, "b")
    assert not await refusal(client, config("d"))
    await enforce(client, binding())
    await client.delete(POLICIES, "p")
    assert not await refusal(client, config("e"))


# --- parameters -----------------------------------------------------------------------------------

CONFIG_MAP_PARAMS: Object = {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}
LIMITED = valid("object.metadata.name.size() <= int(params.data.max)", messageExpression="'at most ' + params.data.max")


def params(name: str, most: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "data": {"max": most}}


SECRETS = [{**CONFIGMAPS, "resources": ["secrets"]}]
SECRET = {"metadata": {"name": "secret", "namespace": "default"}}


@pytest.mark.parametrize(
    ("ref", "outcome"),
    [
        ({"name": "strict"}, "at most 3"),
        ({"name": "lax"}, ""),
        ({"name": "strict", "namespace": "default"}, "at most 3"),
        ({"selector": {"matchLabels": {"of": "mine"}}}, "at most 3"),
        ({"selector": {}}, "at most 3"),
        ({"selector": {"matchLabels": {"of": "nobody"}}}, ""),
        ({"name": "none"}, ""),
        (
            {"name": "none", "parameterNotFoundAction": "Deny"},
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
    ],
)
async def test_parameters_are_found_by_name_and_by_selector(stack: Stack, ref: Object, outcome: str) -> None:
    client = stack.client()
    await client.create("configmaps", params("strict", "3", of="mine"))
    await client.create("configmaps", params("lax", "30", of="mine"))
    param_ref = {"parameterNotFoundAction": "Allow", **ref}
    await enforce(client, policy(rules=SECRETS, **CONFIG_MAP_PARAMS, **LIMITED), binding(paramRef=param_ref))
    assert await refusal(client, SECRET, "secrets") == outcome


async def test_parameters_may_be_custom_and_of_the_cluster(stack: Stack) -> None:
    client = stack.client()
    names = {"plural": "limits", "singular": "limit", "kind": "Limit"}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"max": {"type": "integer"}}}}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
    spec = {"group": "example.com", "scope": "Cluster", "names": names, "versions": versions}
    kind = {"apiVersion": "example.com/v1", "kind": "Limit"}
    ref = {"name": "l", "parameterNotFoundAction": "Deny"}
    await enforce(
        client,
        policy(paramKind=kind, **valid("object.data.size() <= params.max")),
        binding(paramRef=ref),
    )
    unknown = (
        "failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'"
    )
    assert await refusal(client) == unknown
    crds = "customresourcedefinitions.apiextensions.k8s.io"
    await client.create(crds, {"metadata": {"name": "limits.example.com"}, "spec": spec})
    for _ in range(100):
        crd = await client.get(crds, "limits.example.com")
        if any(c["type"] == "Established" for c in (crd.get("status") or {}).get("conditions") or ()):
            break
        await asyncio.sleep(0)
    await client.create("limits.example.com", {**kind, "metadata": {"name": "l"}, "max": 0})
    assert (await refusal(client)).startswith("failed expression: object.data.size()")
    limit = await client.get("limits.example.com", "l")
    await client.update("limits.example.com", {**limit, "max": 1})
    assert not await refusal(client)
    changed = await client.get(BINDINGS, "b")
    changed["spec"]["paramRef"]["namespace"] = "default"
    await client.update(BINDINGS, changed)
    assert "must not be provided for a cluster-scoped" in await refusal(client, config("d"))


# --- budgets --------------------------------------------------------------------------------------

LIMITS = Limits(call=2_000, policy=10_000, conditions=2_500)


def loop(times: int) -> str:
    """An expression that costs some hundred for each of `times`."""
    return f"[{','.join('0' * times)}].all(a, [{','.join('0' * 100)}].all(b, a + b == 0))"


@pytest.mark.parametrize(
    ("spec", "outcome"),
    [
        ({"validations": [{"expression": loop(1)}] * 2}, None),
        ({"validations": [{"expression": loop(9)}]}, "operation cancelled: actual cost limit exceeded"),
        ({"validations": [{"expression": loop(2)}] * 40}, OUT_OF_BUDGET),
        ({"matchConditions": [{"name": f"n{i}", "expression": loop(2)} for i in range(9)]}, OUT_OF_BUDGET),
        (
            {"auditAnnotations": [{"key": f"k{i}", "valueExpression": f"{loop(2)} ? '' : ''"} for i in range(40)]},
            OUT_OF_BUDGET,
        ),
        # Variables that look at variables: those under way count, too.
        (
            {
                "variables": [
                    {"name": f"v{i}", "expression": loop(2) + (f" && variables.v{i - 1}" if i else "")}
                    for i in range(40)
                ],
                **valid("variables.v39"),
            },
            OUT_OF_BUDGET,
        ),
        (
            {
                "variables": [{"name": f"v{i}", "expression": loop(2)} for i in range(40)],
                **valid(" && ".join(f"variables.v{i}" for i in range(40))),
            },
            OUT_OF_BUDGET,
        ),
        (
            {"validations": [{"expression": "false", "messageExpression": f"{loop(3)} ? 'm' : ''"}] * 20},
            f"failed messageExpression: {OUT_OF_BUDGET}",
        ),
    ],
)
def test_no_expression_and_no_policy_costs_more_than_its_budget(spec: Object, outcome: str | None) -> None:
    denials = Policy(policy(**spec)).judge({}, LIMITS).denials
    assert bool(denials) == bool(outcome)
    assert outcome is None or outcome in denials[-1].message
    lax = Policy(policy(failurePolicy="Ignore", **spec)).judge({}, LIMITS).denials
    assert not [d for d in lax if OUT_OF_BUDGET in d.message or "cancelled" in d.message]


async def test_what_is_dear_is_judged_beside_the_loop(stack: Stack) -> None:
    client = stack.client()
    dear = Policy(policy(**valid(loop(60))))
    with pytest.raises(TooDear):
        dear.judge({}, INLINE)
    assert not dear.judge({}, KUBERNETES).denials
    await enforce(client, policy(**valid(f"{loop(60)} && object.data.a == 'c'", message="m")), binding())
    assert await refusal(client) == "m"


# --- what is told besides ---------------------------------------------------------------------------


async def test_bindings_warn_and_tell_the_audit_log(audited: Audited) -> None:  # noqa: F811
    client = audited.stack.client()
    annotations = [
        {"key": "said", "valueExpression": "' name is ' + object.metadata.name"},
        {"key": "unsaid", "valueExpression": "''"},
    ]
    await enforce(
        client,
        policy(auditAnnotations=annotations, **valid("false", message="bad")),
        binding(actions=("Warn", "Audit")),
    )
    async with audited.request("POST", "/api/v1/namespaces/default/configmaps", config()) as response:
        assert response.status == 201
        (warning,) = response.headers.getall("Warning")
    assert warning == "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': bad\""
    (event,) = await audited.events()
    told = event["annotations"]
    assert told["p/said"] == "name is c" and "p/unsaid" not in told
    assert json.loads(told["validation.policy.admission.k8s.io/validation_failure"]) == [
        {
            "message": "bad",
            "policy": "p",
            "binding": "b",
            "expressionIndex": 0,
            "validationActions": ["Warn", "Audit"],
        }
    ]


# --- what may be stored -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            valid("object.data.a == foo"),
            'spec.validations[0].expression: Invalid value: "object.data.a == foo": compilation failed: ERROR: '
            "<input>:1:18: undeclared reference to 'foo' (in container '')\n | object.data.a == foo\n"
            " | .................^",
        ),
        (valid("object.data"), "must evaluate to bool but got dyn"),
        (valid("request.uid == ''"), "undefined field 'uid'"),
        (valid("params.a == 1"), "undeclared reference to 'params'"),
        (valid("true", messageExpression="1"), 'spec.validations[0].messageExpression: Invalid value: "1": must eval'),
        (valid("true", message="a\nb"), "message must not contain line breaks"),
        (valid("true", reason="Gone"), 'spec.validations[0].reason: Unsupported value: "Gone"'),
        (valid("variables.a"), "undeclared reference to 'variables'"),
        (
            {
                "variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}],
                **valid("true"),
            },
            "spec.variables[0].expression: Invalid value",
        ),
        (
            {"variables": [{"name": "a", "expression": "1"}], **valid("variables.a")},
            "must evaluate to bool but got int",
        ),
        ({"variables": [{"name": "if", "expression": "1"}], **valid("true")}, "name is not a valid CEL identifier"),
        ({"matchConditions": [{"name": "n", "expression": "1"}], **valid("true")}, "must evaluate to bool but got int"),
        (
            {"auditAnnotations": [{"key": "k", "valueExpression": "1"}]},
            "must evaluate to one of [string null_type] but got int",
        ),
    ],
)
async def test_expressions_are_compiled_when_they_are_stored(stack: Stack, spec: Object, problem: str) -> None:
    with pytest.raises(errors.Invalid) as refused:
        await stack.client().create(POLICIES, policy(**spec))
    assert problem in refused.value.message


async def test_conditions_of_webhooks_are_compiled_when_they_are_stored(stack: Stack) -> None:
    webhook = {
        "name": "a.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [CONFIGMAPS],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "matchConditions": [{"name": "n", "expression": "object."}],
    }
    configuration = {"metadata": {"name": "w"}, "webhooks": [webhook]}
    with pytest.raises(errors.Invalid) as refused:
        await stack.client().create(f"validatingwebhookconfigurations.{GROUP}", configuration)
    assert "webhooks[0].matchConditions[0].expression: Invalid value" in refused.value.message
    assert "compilation failed: ERROR: <input>:1:8: Syntax error" in refused.value.message
