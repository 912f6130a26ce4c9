"""Mutating admission policies: expressions that complete what is written, and what they ask the authorizer."""

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.test_policies import CONFIGMAPS, GROUP, enforce, refusal, valid
from tests.apiserver.test_policies import binding as validating_binding
from tests.apiserver.test_policies import policy as validating_policy
from tests.apiserver.test_webhooks import Hooks, add, configure, hooks, webhook  # noqa: F401

POLICIES, BINDINGS = f"mutatingadmissionpolicies.{GROUP}", f"mutatingadmissionpolicybindings.{GROUP}"
PODS = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}


def apply(expression: str) -> Object:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patch(expression: str) -> Object:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


def policy(*mutations: Object, name: str = "p", rules: list[Object] | None = None, **spec: Any) -> Object:
    constraints = {"resourceRules": rules or [CONFIGMAPS]}
    spec = {"matchConstraints": constraints, "mutations": list(mutations), "reinvocationPolicy": "Never", **spec}
    return {"metadata": {"name": name}, "spec": spec}


def config(name: str = "c", **more: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default", **more}, "data": {"a": "b"}}


async def bind(client: ApiClient, *policies: Object, **binding: Any) -> None:
    """Put policies in force; the server has seen them when this returns."""
    for one in policies:
        await client.create(POLICIES, one)
        spec = {"policyName": one["metadata"]["name"], **binding}
        await client.create(BINDINGS, {"metadata": {"name": one["metadata"]["name"]}, "spec": spec})
    assert (await client.list(BINDINGS)).items


async def made(client: ApiClient, **more: Any) -> Any:
    """A config map's data and labels after it was written."""
    o = await client.create("configmaps", config(**more))
    return o["data"], o["metadata"].get("labels")


COMPLETED: list[tuple[Object, Any, Any]] = [
    (apply("Object{data: {'x': object.data.a + 'c'}}"), {"a": "b", "x": "bc"}, None),
    (apply("Object{metadata: Object.metadata{labels: {'a/b': 'c'}}}"), {"a": "b"}, {"a/b": "c"}),
    (apply("Object{metadata: Object.metadata{?labels: optional.none()}}"), {"a": "b"}, None),
    (patch("[JSONPatch{op: 'replace', path: '/data/a', value: 'x'}]"), {"a": "x"}, None),
    (
        patch("[JSONPatch{op: 'add', path: '/metadata/labels', value: {}},"
              " JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a.io/b~c'), value: 'd'}]"),
        None,
        "metadata.labels: Invalid value: \"a.io/b~c\"",
    ),
    (
        patch("[JSONPatch{op: 'add', path: '/metadata/labels', value: {'y': 'z'}},"
              " JSONPatch{op: 'copy', from: '/metadata/labels/y', path: '/metadata/labels/'"
              " + jsonpatch.escapeKey('a.io/b')}]"),
        {"a": "b"},
        {"y": "z", "a.io/b": "z"},
    ),
    # A test that fails leaves the object as it is.
    (
        patch("[JSONPatch{op: 'remove', path: '/data/a'}, JSONPatch{op: 'test', path: '/data/b', value: 'b'}]"),
        {"a": "b"},
        None,
    ),
    (patch("object.data.a == 'c' ? [JSONPatch{op: 'remove', path: '/data/a'}] : []"), {"a": "b"}, None),
    (
        patch("[1, 2].map(i, JSONPatch{op: 'add', path: '/data/n' + string(i), value: string(i)})"),
        {"a": "b", "n1": "1", "n2": "2"},
        None,
    ),
    (patch("[JSONPatch{op: 'add', path: '/data', value: Object.data{k: 'v'}}]"), {"k": "v"}, None),
]  # fmt: skip


async def change(client: ApiClient, mutation: Object, **spec: Any) -> None:
    """Have the policy `p` make another mutation."""
    await client.patch(POLICIES, "p", "", {"spec": {"mutations": [mutation], **spec}}, kind="merge")
    assert (await client.get(POLICIES, "p"))["spec"]["mutations"] == [mutation]


async def test_a_mutation_completes_the_object(stack: Stack) -> None:
    client = stack.client()
    await bind(client, policy(COMPLETED[0][0]))
    for number, (mutation, data, labels) in enumerate(COMPLETED):
        await change(client, mutation)
        if data is None:
            with pytest.raises(errors.Invalid, match=labels):
                await made(client, name=f"c{number}")
        else:
            assert await made(client, name=f"c{number}") == (data, labels)


WHO = "policy 'p' with binding 'p' denied request: "


FAILED: list[tuple[Object, str]] = [
    (
        apply("Object{data: Object.spec{x: 'y'}}"),
        'type mismatch: unexpected type name "Object.spec", expected "Object.data", which matches field name path '
        "from root Object type",
    ),
    (apply("Object{nothing: 1}"), "error applying patch: failed to convert patch object to typed object: "
                                  ".nothing: field not declared in schema"),
    (apply("Object{data: 'text'}"), "error applying patch: failed to convert patch object to typed object: "
                                    ".data: expected map, got &{text}"),
    (apply("Object{data: {1: 'x'}}"), 'map key "1" is of type int, not string'),
    (
        apply("Object{metadata: Object.metadata{ownerReferences: [Object.metadata.ownerReferences{uid: 'u'}]}}"),
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: "
        ".metadata.ownerReferences[0]",
    ),
    (apply("Object{data: {'x': object.data.none}}"),
     "expression 'Object{data: {'x': object.data.none}}' resulted in error: no such key: none"),
    (patch("[JSONPatch{op: 'remove', path: '/data/none'}]"),
     "JSONPath: error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value"),
    (patch("[JSONPatch{op: 'jump', path: '/data'}]"), "JSONPath: Unexpected kind: jump"),
    (patch("[JSONPatch{op: 'add', path: '/data/x', value: authorizer}]"),
     "the expression evaluated to a type that could not marshal to JSON"),
    (patch("[JSONPatch{op: 'replace', path: '/kind', value: 'Secret'}]"), "it changes apiVersion or kind"),
    (patch("[JSONPatch{op: 'remove', path: '/metadata'}]"), "it leaves no metadata"),
    (patch("[JSONPatch{op: 'replace', path: '', value: 'x'}]"), "JSONPath: the patch leaves no object"),
]  # fmt: skip


async def test_what_fails_refuses_or_is_passed_over_as_the_policy_says(stack: Stack) -> None:
    client = stack.client()
    await bind(client, policy(FAILED[0][0]))
    for number, (mutation, message) in enumerate(FAILED):
        await change(client, mutation, failurePolicy="Fail")
        with pytest.raises(errors.ApiError) as refused:
            await made(client)
        assert refused.value.message == WHO + message
        assert (refused.value.code, refused.value.reason) == (403, "Invalid")
        assert refused.value.status["details"]["causes"] == [{"message": WHO + message}]
        await change(client, mutation, failurePolicy="Ignore")
        assert await made(client, name=f"c{number}") == ({"a": "b"}, None)


async def test_what_grows_without_end_is_stopped(stack: Stack) -> None:
    client = stack.client()
    doubled = [{"name": "v0", "expression": "['x', 'x']"}]
    doubled += [{"name": f"v{n}", "expression": f"[dyn(variables.v{n - 1}), variables.v{n - 1}]"} for n in range(1, 60)]
    await bind(
        client,
        policy(apply("Object{data: {'x': variables.v59}}"), variables=doubled),
        policy(patch("[JSONPatch{op: 'add', path: '/data/y', value: 'z'}]"), name="q"),
    )
    with pytest.raises(errors.ApiError, match=r"policy 'p' .* the document has more than 100000 values"):
        await made(client)


@pytest.mark.parametrize(
    "mutation",
    [
        patch("['a', 'b', 'c', 'd'].map(k, JSONPatch{op: 'add', path: '/data/' + k, value: object.data.a})"),
        apply("Object{data: {'1': object.data.a, '2': object.data.a, '3': object.data.a, '4': object.data.a}}"),
        patch("[JSONPatch{op: 'add', path: '/data', value: {'x': [1, 2, 3, 4].map(i, object.data.a)}}]"),
    ],
)
async def test_a_text_that_is_written_out_often_is_counted_as_often(stack: Stack, mutation: Object) -> None:
    client = stack.client()
    await bind(client, policy(mutation))
    with pytest.raises(errors.Invalid, match="accumulated size increase of copy is 3200"):
        await client.create("configmaps", {**config(), "data": {"a": "x" * 800_000}})


async def test_a_pod_is_completed_by_keys_of_its_lists(stack: Stack) -> None:
    client = stack.client()
    expression = """Object{
      spec: Object.spec{
        initContainers: [Object.spec.initContainers{name: "mesh", image: "mesh:1", restartPolicy: "Always"}],
        containers: object.spec.containers.map(c, Object.spec.containers{
          name: c.name, env: [Object.spec.containers.env{name: "MESH", value: request.namespace}]})
      }
    }"""
    conditions = [{"name": "once", "expression": "!has(object.spec.initContainers)"}]
    await bind(client, policy(apply(expression), rules=[PODS], matchConditions=conditions))
    containers = [{"name": n, "image": n, "env": [{"name": "A", "value": "b"}]} for n in ("one", "two")]
    pod = await client.create(
        "pods", {"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": containers}}
    )
    assert [c["env"] for c in pod["spec"]["containers"]] == [
        [{"name": "A", "value": "b"}, {"name": "MESH", "value": "default"}]
    ] * 2
    [mesh] = pod["spec"]["initContainers"]
    # Defaults are set in what a policy adds.
    assert (mesh["restartPolicy"], mesh["imagePullPolicy"]) == ("Always", "IfNotPresent")


async def test_policies_are_asked_by_name_and_again_when_they_want_that(stack: Stack, hooks: Hooks) -> None:  # noqa: F811
    client = stack.client()

    def told(name: str) -> Object:
        expression = f"Object{{data: {{'{name}': (has(object.data.{name}) ? object.data.{name} : '')"
        expression += " + string(size(object.data))}}"
        return apply(expression)

    hooks.answers["m"] = lambda request: add("/data/hook", "x") if "hook" not in request["object"]["data"] else {}
    await configure(client, "mutating", "m", webhook("m", hooks.client("m"), reinvocationPolicy="IfNeeded"))
    await bind(
        client,
        policy(told("q"), name="q", reinvocationPolicy="Never"),
        policy(told("p"), name="p", reinvocationPolicy="IfNeeded"),
    )
    data, _ = await made(client)
    # p saw one entry, q two; then the webhook added one; p is asked again and the webhook sees what it made.
    assert data == {"a": "b", "p": "14", "q": "2", "hook": "x"}
    assert [sorted(request["object"]["data"]) for _, request in hooks.seen] == [
        ["a", "p", "q"],
        ["a", "hook", "p", "q"],
    ]
    assert hooks.seen[1][1]["object"]["data"]["p"] == "14"


async def test_parameters_are_objects_for_each_of_which_a_policy_is_asked(stack: Stack) -> None:
    client = stack.client()
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    conditions = [{"name": "one", "expression": "!('param' in object.data)"}]
    mutation = apply("Object{data: {params.data.key: params.metadata.name}}")
    for name in ("x", "y"):
        o = config(name, labels={"role": "param"})
        await client.create("configmaps", {**o, "data": {"key": f"key-{name}", "param": "yes"}})
    await bind(
        client,
        policy(mutation, paramKind=kind, matchConditions=conditions),
        paramRef={"selector": {"matchLabels": {"role": "param"}}, "parameterNotFoundAction": "Deny"},
    )
    assert (await made(client))[0] == {"a": "b", "key-x": "x", "key-y": "y"}
    for name in ("x", "y"):
        await client.delete("configmaps", name, "default")
    with pytest.raises(errors.Forbidden) as refused:
        await client.create("configmaps", config("d"))
    assert refused.value.message == (
        WHO + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    )


async def test_a_policy_that_cannot_be_compiled_is_not_stored(stack: Stack) -> None:
    client = stack.client()
    wrong = policy(
        apply("Object.spec{}"),
        patch("[Object{}]"),
        apply("Other{}"),
        variables=[{"name": "v", "expression": "1 +"}],
        matchConditions=[{"name": "m", "expression": "'text'"}],
    )
    with pytest.raises(errors.Invalid) as refused:
        await client.create(POLICIES, wrong)
    found = {c["field"]: c["message"] for c in refused.value.status["details"]["causes"]}
    assert set(found) == {
        "spec.matchConditions[0].expression",
        "spec.variables[0].expression",
        "spec.mutations[0].applyConfiguration.expression",
        "spec.mutations[1].jsonPatch.expression",
        "spec.mutations[2].applyConfiguration.expression",
    }
    assert "must evaluate to Object but got Object.spec" in found["spec.mutations[0].applyConfiguration.expression"]
    assert "must evaluate to list(JSONPatch) but got list(Object)" in found["spec.mutations[1].jsonPatch.expression"]
    # Only what makes patches knows their objects.
    judging = validating_policy(**valid("Object{} == Object{}"))
    with pytest.raises(errors.Invalid, match="undeclared reference to 'Object'"):
        await client.create(f"validatingadmissionpolicies.{GROUP}", judging)


async def test_a_variable_without_a_name_is_refused_by_its_field(stack: Stack) -> None:
    nameless = [{"expression": "1"}]
    for resource, wrong in (
        (POLICIES, policy(apply("Object{}"), variables=nameless)),
        (f"validatingadmissionpolicies.{GROUP}", validating_policy(variables=nameless, **valid("true"))),
    ):
        with pytest.raises(errors.Invalid) as refused:
            await stack.client().create(resource, wrong)
        assert [c["field"] for c in refused.value.status["details"]["causes"]] == ["spec.variables[0].name"]


async def test_policies_that_nobody_can_read_stop_no_write(stack: Stack) -> None:
    """No server lets them in: somebody wrote them into etcd."""
    client = stack.client()
    await bind(client, policy(apply("Object{data: {'x': 'y'}}")))
    for resource, kind in (
        (POLICIES, "MutatingAdmissionPolicy"),
        ("validating" + POLICIES[8:], "ValidatingAdmissionPolicy"),
    ):
        head = f'{{"kind":"{kind}","apiVersion":"{GROUP}/v1","metadata":{{"name":"odd"}},"spec":'
        for number, spec in enumerate(
            ('{"paramKind":[1]}', '{"matchConstraints":7}', '{"mutations":{},"variables":1}')
        ):
            key = f"/registry/{resource.partition('.')[0]}/odd{number}"
            await stack.etcd.put(key.encode(), (head.replace("odd", f"odd{number}") + spec + "}").encode())
    assert (await client.list("configmaps", "default")).items == []
    assert (await made(client))[0] == {"a": "b", "x": "y"}


# --- the authorizer -------------------------------------------------------------------------------


async def grant(client: ApiClient, user: Object, *rules: Object) -> None:
    await client.create("clusterroles.rbac.authorization.k8s.io", {"metadata": {"name": "r"}, "rules": list(rules)})
    await client.create(
        "clusterrolebindings.rbac.authorization.k8s.io",
        {
            "metadata": {"name": "r"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [user],
        },
    )


ANN = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}
WRITES = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}


ASKED: list[tuple[str, str]] = [
    ("authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()", ""),
    ("authorizer.group('').resource('configmaps').namespace('default').check('delete').allowed()", "no"),
    ("authorizer.group('').resource('configmaps').subresource('x').check('create').allowed()", "no"),
    ("authorizer.requestResource.check('create').allowed()", ""),
    ("authorizer.requestResource.check('update').allowed()", "no"),
    ("authorizer.group('').resource('secrets').name('s').check('get').allowed()", ""),
    ("authorizer.group('').resource('secrets').name('t').check('get').allowed()", "no"),
    ("authorizer.path('/healthz').check('get').allowed()", ""),
    ("authorizer.path('/other').check('get').allowed()", "no"),
    ("authorizer.path('/other').check('get').errored()", "no"),
    ("authorizer.path('/healthz').check('get').reason().startsWith('RBAC: allowed by ClusterRoleBinding')", ""),
    ("authorizer.path('/healthz').check('get').error() == ''", ""),
    ("authorizer.serviceAccount('a', 'b').group('').resource('pods').check('list').allowed()", "no"),
    ("authorizer.group('').resource('pods').fieldSelector('spec.nodeName=n').check('list').allowed()", "no"),
    ("authorizer.group('').resource('pods').labelSelector('a=b').check('list').allowed()", "no"),
    ("authorizer.path(' ').check('get').allowed()", "resulted in error: path must not be empty"),
    ("authorizer.group('').resource('').check('get').allowed()", "resulted in error: resource must not be empty"),
    (
        "authorizer.serviceAccount('a', 'B!').path('/x').check('get').allowed()",
        "resulted in error: Invalid service account name",
    ),
    # Two questions are all that one expression may ask.
    (
        "['a', 'b', 'c'].all(v, !authorizer.path('/x').check(v).allowed())",
        "resulted in error: operation cancelled: actual cost limit exceeded",
    ),
]


async def test_a_policy_asks_the_authorizer_about_who_writes(stack: Stack) -> None:
    client = stack.client()
    await grant(
        client,
        ANN,
        WRITES,
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]},
        {"nonResourceURLs": ["/healthz"], "verbs": ["get"]},
    )
    await enforce(client, validating_policy(**valid("true")), validating_binding())
    policies = f"validatingadmissionpolicies.{GROUP}"
    for number, (expression, outcome) in enumerate(ASKED):
        await client.patch(policies, "p", "", {"spec": valid(expression, message="no")}, kind="merge")
        assert (await client.get(policies, "p"))["spec"]["validations"][0]["expression"] == expression
        told = await refusal(stack.client_as("ann"), config(f"c{number}"))
        assert told.endswith(outcome) if outcome else told == "", expression


async def test_a_service_account_and_a_variable_are_asked_about_too(stack: Stack) -> None:
    client = stack.client()
    await grant(client, {"kind": "ServiceAccount", "name": "default", "namespace": "default"}, WRITES)
    asked = "authorizer.serviceAccount('default', 'default').group('').resource('configmaps')"
    variables = [{"name": "may", "expression": f"{asked}.check('create').allowed()"}]
    refuses = valid("!variables.may", messageExpression="'told by ' + request.userInfo.username")
    await enforce(client, validating_policy(variables=variables, **refuses), validating_binding())
    assert await refusal(client) == "told by kubernetes-admin"
    with pytest.raises(errors.Invalid, match="undeclared reference to 'authorizer'"):
        telling = valid("false", messageExpression="authorizer.path('/x').check('get').reason()")
        await client.create(f"validatingadmissionpolicies.{GROUP}", validating_policy("t", **telling))


async def test_conditions_of_a_webhook_and_mutations_ask_the_authorizer(stack: Stack, hooks: Hooks) -> None:  # noqa: F811
    client = stack.client()
    await grant(client, ANN, WRITES)
    hooks.answers["m"] = lambda request: add("/data/hook", "x")
    may = "authorizer.group('').resource('nodes').check('list').allowed()"
    conditions = [{"name": "c", "expression": f"!{may}"}]
    await configure(client, "mutating", "m", webhook("m", hooks.client("m"), matchConditions=conditions))
    await bind(client, policy(apply(f"Object{{data: {{'powerful': string({may})}}}}")))
    assert (await made(stack.client_as("ann")))[0] == {"a": "b", "powerful": "false", "hook": "x"}
    assert (await made(client, name="d"))[0] == {"a": "b", "powerful": "true"}
