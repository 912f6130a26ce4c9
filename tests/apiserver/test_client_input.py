"""What clients write keys nothing that lives on: counters, paths, names of managers."""

from dataclasses import replace

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.request_metrics import CUSTOM_MAX, OTHER, RequestMetrics
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rest import Rest, rest  # noqa: F401


async def counted(rest: Rest) -> list[str]:  # noqa: F811
    async with rest.request("GET", "/metrics") as response:
        return [line for line in (await response.text()).splitlines() if line.startswith("apiserver_request_total")]


async def test_requests_are_counted_by_what_is_served(rest: Rest) -> None:  # noqa: F811
    await rest.json("GET", "/api/v1/namespaces/default/configmaps")
    before = await counted(rest)
    labels = 'code="200",group="",resource="configmaps",subresource="",verb="LIST",version="v1"'
    assert f"apiserver_request_total{{{labels}}} 1.0" in before
    for number in range(50):
        for method, path in (
            ("GET", f"/api/v1/made-up-{number}"),
            ("GET", f"/apis/a{number}.example.com/v1/things"),
            (f"VERB{number}", "/version"),
            (f"VERB{number}", "/api/v1/nodes"),
        ):
            async with rest.request(method, path) as response:
                assert response.status >= 200
    after = await counted(rest)
    assert len(after) <= len(before) + 8
    assert not any("made-up" in line or "VERB" in line or "things" in line for line in after)


async def test_custom_resources_that_come_and_go_are_counted_within_a_bound(stack: Stack) -> None:
    pods = stack.servers[0].registry.kinds.named("pods")
    counts = RequestMetrics()
    for number in range(CUSTOM_MAX * 3):
        custom = replace(pods, plural=f"things{number}", custom=True)
        counts.add("list", custom, 200, 0.01)
    for family in [*counts.collect()][:2]:
        assert len(family.samples) == CUSTOM_MAX + 1, family.name
        assert any(OTHER in labels for labels in family.samples)


@pytest.mark.parametrize("name", ["a/b", "..", "%2e", "."])
async def test_no_name_in_a_request_is_another_path(stack: Stack, name: str) -> None:
    client = stack.client()
    for place in ((name, "default"), ("x", name)):
        with pytest.raises(errors.BadRequest, match="parameter invalid"):
            await client.get("configmaps", *place)


async def test_names_in_urls_are_decoded_once_and_checked(rest: Rest) -> None:  # noqa: F811
    for path in ("a%2Fb", "a%252Fb"):
        code, status = await rest.json("GET", f"/api/v1/namespaces/default/configmaps/{path}")
        assert code in (400, 404), status


async def test_managers_have_names_of_bounded_length(rest: Rest) -> None:  # noqa: F811
    path = "/api/v1/namespaces/default/configmaps"
    code, status = await rest.json("POST", f"{path}?fieldManager={'x' * 129}", {"metadata": {"name": "a"}})
    assert (code, status["message"]) == (
        422,
        'CreateOptions.meta.k8s.io "" is invalid: fieldManager: Too long: may not be more than 128 bytes',
    )
    code, status = await rest.json("POST", f"{path}?fieldManager=a%01b", {"metadata": {"name": "a"}})
    assert (code, "invalid character U+" in status["message"]) == (422, True)
    code, made = await rest.json("POST", path, {"metadata": {"name": "a"}, "data": {"x": "1"}}, User_Agent="é" * 500)
    assert code == 201
    assert len(made["metadata"]["managedFields"][0]["manager"].encode()) <= 128


async def test_definitions_with_odd_columns_are_refused(stack: Stack) -> None:
    column = {"name": "X", "type": "float", "jsonPath": ".spec.x"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    spec = {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{**version, "additionalPrinterColumns": [column]}],
    }
    client: ApiClient = stack.client()
    crds = "customresourcedefinitions.apiextensions.k8s.io"
    with pytest.raises(errors.Invalid, match="must be one of boolean,date,integer,number,string"):
        await client.create(crds, {"metadata": {"name": "things.example.com"}, "spec": spec})


HUGE = str(2**63 - 1)


async def test_odd_numbers_of_requests_are_no_faults(rest: Rest) -> None:  # noqa: F811
    client = rest.stack.client()
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    grace = {"terminationGracePeriodSeconds": int(HUGE), "nodeName": "n1"}
    for name in ("p", "q"):
        spec = {"containers": [{"name": "c", "image": "i"}], **grace}
        await client.create("pods", {"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    pods = "/api/v1/namespaces/default/pods"
    for query, code in (
        ("tailLines=-1", 422),
        ("tailLines=x", 400),
        (f"tailLines={HUGE}0", 400),
        ("sinceSeconds=0", 422),
        ("limitBytes=-5", 422),
        ("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 422),
    ):
        assert (await rest.json("GET", f"{pods}/p/log?{query}"))[0] == code, query
    # Deadlines beyond every calendar: the pod goes all the same.
    code, gone = await rest.json("DELETE", f"{pods}/p")
    assert (code, "deletionTimestamp" in gone["metadata"]) == (200, True)
    code, _ = await rest.json("DELETE", f"{pods}/q?gracePeriodSeconds={HUGE}")
    assert code == 200


async def test_calls_over_grpc_are_counted_and_timed_as_requests(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.NotFound):
        await client.get("configmaps", "none", "default")
    await client.create("configmaps", {"metadata": {"name": "one", "namespace": "default"}})
    families = [[*server.registry.requests.collect()] for server in stack.servers]
    made = {labels: n for total, *_ in families for labels, n in total.samples.items() if labels[3] == "configmaps"}
    assert made == {
        ("GET", "", "v1", "configmaps", "", "404"): 1,
        ("POST", "", "v1", "configmaps", "", "201"): 1,
    }
    assert any(("POST", "", "v1", "configmaps", "") in durations.samples for _, durations, _ in families)
