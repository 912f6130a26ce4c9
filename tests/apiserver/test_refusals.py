"""What a request is refused with: which of several faults is told, and in which words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rayplane.control_plane.api.machinery import protobuf
from rayplane.control_plane.api.meta import Object, format_micro_time, format_time, parse_time
from tests.apiserver.test_rest import CONFIG_MAPS, Rest, rest  # noqa: F401

OF_DEFAULT = "/api/v1/namespaces/default"
BAD_TOKEN = "invalid continue token: continue key is not valid: "
TOKEN = {"v": "meta.k8s.io/v1", "rv": 5, "start": "a"}


def token(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def refusal(rest: Rest, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:  # noqa: F811
    code, status = await rest.json(method, path, body, **headers)
    return code, status.get("message", "") if isinstance(status, dict) else ""


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("DELETE", "/api/v1/configmaps", 405),
        ("DELETE", "/api/v1/configmaps/", 405),
        ("DELETE", "/api/v1/configmaps?dryRun=All", 405),
        ("GET", "/api/v1/configmaps/a", 404),
        ("DELETE", "/api/v1/configmaps/a", 404),
        ("GET", f"{OF_DEFAULT}/nodes", 404),
        ("GET", f"{OF_DEFAULT}/pods/a/status/more", 404),
        ("POST", f"{CONFIG_MAPS}/a", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("PUT", CONFIG_MAPS, 405),
        ("DELETE", CONFIG_MAPS + "/", 200),
    ],
)
async def test_what_is_served_where(rest: Rest, method: str, path: str, code: int) -> None:  # noqa: F811
    await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "kept"}})
    assert (await refusal(rest, method, path))[0] == code
    kept, _ = await rest.json("GET", f"{CONFIG_MAPS}/kept")
    assert kept == (404 if code == 200 else 200)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", f"{OF_DEFAULT}/nothings", {}),
        ("GET", "/apis/example.org/v1/nothings", {}),
        ("GET", f"{CONFIG_MAPS}?limit=many", {}),
        ("GET", CONFIG_MAPS, {"Accept": "text/html"}),
        ("PUT", CONFIG_MAPS, {}),
        ("DELETE", "/api/v1/configmaps", {}),
        ("PATCH", f"{CONFIG_MAPS}/a", {"Content_Type": "text/plain"}),
        ("POST", f"{CONFIG_MAPS}?dryRun=Some", {}),
        ("GET", f"{CONFIG_MAPS}?watch=1&resourceVersionMatch=Exact", {}),
        ("GET", f"{OF_DEFAULT}/pods/a/nothing", {}),
    ],
)
async def test_who_may_not_ask_is_told_nothing_else(
    rest: Rest,  # noqa: F811
    method: str,
    path: str,
    headers: dict[str, str],
) -> None:
    body: Object | None = {} if method in ("POST", "PATCH") else None
    code, text = await refusal(rest, method, path, body, Impersonate_User="bob", **headers)
    assert (code, 'User "bob" cannot ' in text) == (403, True)
    async with rest.request(method, path, body, **headers) as response:
        assert response.status in (400, 404, 405, 406, 415, 422)


LIST = 'ListOptions.meta.k8s.io "" is invalid: '
MATCH = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden "


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("resourceVersionMatch=Exact", 422, LIST + MATCH + "unless resourceVersion is provided"),
        (
            "resourceVersionMatch=Some&resourceVersion=1",
            422,
            LIST + 'resourceVersionMatch: Unsupported value: "Some": supported values: "Exact", "NotOlderThan", ""',
        ),
        (
            "resourceVersionMatch=Some",
            422,
            LIST + f"[{MATCH}unless resourceVersion is provided, "
            'resourceVersionMatch: Unsupported value: "Some": supported values: "Exact", "NotOlderThan", ""]',
        ),
        (
            "watch&resourceVersionMatch=Exact",
            422,
            LIST + f"[{MATCH}for watch unless sendInitialEvents is provided, "
            'resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"]',
        ),
        (
            "watch=yes&sendInitialEvents=true",
            422,
            LIST + "resourceVersionMatch: Forbidden: "
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "sendInitialEvents=no",
            422,
            LIST + "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "watch=1&resourceVersion=abc",
            400,
            'resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax',
        ),
        (
            "resourceVersion=18446744073709551616",
            400,
            'resourceVersion: Invalid value: "18446744073709551616": '
            'strconv.ParseUint: parsing "18446744073709551616": value out of range',
        ),
        ("watch=1&labelSelector=a==", 200, ""),
        ("watch=1&labelSelector=,", 400, "found ',', expected: !, identifier, or 'end of string'"),
        (
            "continue=" + token({**TOKEN, "rv": 0}),
            400,
            "invalid continue token: continue key is not valid: "
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ),
        (
            "continue=" + token({**TOKEN, "start": ""}),
            400,
            "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
        ),
        (
            "continue=" + token({**TOKEN, "start": "../b"}),
            400,
            "invalid continue token: continue key is not valid: ../b",
        ),
        (
            "continue=" + token([]),
            400,
            BAD_TOKEN + "json: cannot unmarshal array into Go value of type storage.continueToken",
        ),
        ("continue=bad", 400, BAD_TOKEN + "invalid character 'm' looking for beginning of value"),
        ("continue=a", 400, BAD_TOKEN + "illegal base64 data at input byte 0"),
        ("continue=bad.cafe", 400, BAD_TOKEN + "illegal base64 data at input byte 3"),
    ],
)
async def test_options_of_reads(rest: Rest, query: str, code: int, text: str) -> None:  # noqa: F811
    if code == 200:
        query += "&timeoutSeconds=1"
    assert await refusal(rest, "GET", f"{CONFIG_MAPS}?{query}") == (code, text)


@pytest.mark.parametrize("query", ["", "&resourceVersionMatch=Exact", "&limit=1"])
async def test_a_version_of_the_future_is_too_large(rest: Rest, query: str) -> None:  # noqa: F811
    code, text = await refusal(rest, "GET", f"{CONFIG_MAPS}?resourceVersion=9223372036854775808{query}")
    assert (code, text.partition(",")[0].rpartition(" ")[0]) == (504, "Timeout: Too large resource version:")


@pytest.mark.parametrize(
    ("method", "query", "body", "text"),
    [
        ("POST", "dryRun=Some", {}, 'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]'),
        ("POST", "fieldValidation=No", {}, 'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported'),
        ("PUT", "dryRun=Some", {}, 'UpdateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]'),
        ("DELETE", "", {"dryRun": ["x"]}, 'DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["x"]'),
        (
            "DELETE",
            "propagationPolicy=Fast",
            None,
            'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Fast": '
            'supported values: "Foreground", "Background", "Orphan", "nil"',
        ),
        (
            "DELETE",
            "",
            {"propagationPolicy": "Orphan", "orphanDependents": False},
            'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: "Orphan": '
            "orphanDependents and deletionPropagation cannot be both set",
        ),
    ],
)
async def test_options_of_writes(rest: Rest, method: str, query: str, body: Any, text: str) -> None:  # noqa: F811
    path = CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/a"
    code, said = await refusal(rest, method, f"{path}?{query}", body)
    assert (code, said[: len(text)]) == (422, text)


async def test_a_patch_of_no_known_type_is_refused_by_the_router(rest: Rest) -> None:  # noqa: F811
    code, text = await refusal(rest, "PATCH", f"{CONFIG_MAPS}/a", {}, Content_Type="application/json")
    assert (code, text) == (415, "415: Unsupported Media Type")


async def test_only_what_has_rows_comes_as_a_table(rest: Rest) -> None:  # noqa: F811
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/"}}}
    assert (await rest.json("POST", reviews, review, Accept=table))[0] == 406
    code, answer = await rest.json("POST", reviews, review, Accept=f"{table},application/json")
    assert (code, answer["kind"]) == (201, "SelfSubjectAccessReview")
    made = {
        "metadata": {"name": "rc"},
        "spec": {
            "replicas": 2,
            "selector": {"a": "b"},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }
    await rest.json("POST", f"{OF_DEFAULT}/replicationcontrollers", made)
    _, scale = await rest.json("GET", f"{OF_DEFAULT}/replicationcontrollers/rc/scale", Accept=table)
    assert [c["name"] for c in scale["columnDefinitions"]] == ["Name", "Desired", "Available", "Age"]
    assert scale["rows"][0]["cells"][:3] == ["rc", 2, 0]


async def test_a_row_has_its_object_in_one_of_three_ways(rest: Rest) -> None:  # noqa: F811
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"x": "y"}})
    for said, kind in (("None", None), ("Object", "ConfigMap"), ("Metadata", "PartialObjectMetadata"), ("", "Partial")):
        for path in (CONFIG_MAPS, f"{CONFIG_MAPS}/c"):
            _, shown = await rest.json("GET", f"{path}?includeObject={said}", Accept=table)
            found = (shown["rows"][0]["object"] or {}).get("kind")
            assert found == kind or (kind == "Partial" and found == "PartialObjectMetadata")
    code, refused = await rest.json("GET", f"{CONFIG_MAPS}?includeObject=All", Accept=table)
    assert (code, refused["message"]) == (
        400,
        'Unable to convert to Table as requested: includeObject: Invalid value: "All": '
        "must be 'Metadata', 'Object', 'None', or empty",
    )
    assert (await rest.json("GET", f"{CONFIG_MAPS}?includeObject=All"))[0] == 200, "it is only of tables"


async def test_json_is_for_people_where_people_look(rest: Rest) -> None:  # noqa: F811
    async def lines(query: str, agent: str) -> int:
        async with rest.request("GET", f"/api/v1/namespaces/default{query}", User_Agent=agent) as response:
            return len((await response.text()).splitlines())

    assert await lines("", "kubectl/v1.37.0") == 1
    assert await lines("", "curl/8.0") > 5
    assert await lines("?pretty=false", "curl/8.0") == 1
    assert await lines("?pretty=T", "kubectl/v1.37.0") > 5


def test_years_have_four_digits() -> None:
    moment = parse_time("0099-01-02T03:04:05.5Z")
    assert format_time(moment) == "0099-01-02T03:04:05Z"
    assert format_micro_time(moment) == "0099-01-02T03:04:05.500000Z"


async def test_who_uses_a_deprecated_kind_is_warned(rest: Rest) -> None:  # noqa: F811
    for method, body in (("GET", None), ("POST", {"metadata": {"name": "e"}})):
        async with rest.request(method, f"{OF_DEFAULT}/endpoints", body) as response:
            assert response.headers.getall("Warning") == [
                '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
            ]
    service = {"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP"}}
    async with rest.request("POST", f"{OF_DEFAULT}/services", service) as response:
        assert response.headers["Warning"] == '299 - "spec.SessionAffinity is ignored for headless services"'


async def test_who_takes_nothing_but_protobuf_gets_it(rest: Rest) -> None:  # noqa: F811
    only = "application/vnd.kubernetes.protobuf"
    await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}})

    async def answered(path: str, accept: str = only, method: str = "GET") -> tuple[int, str, bytes]:
        async with rest.request(method, path, Accept=accept) as response:
            return response.status, response.headers["Content-Type"], await response.read()

    code, media, body = await answered(f"{CONFIG_MAPS}/a")
    assert (code, media, protobuf.decode(body)["data"]) == (200, only, {"x": "1"})
    code, media, body = await answered(CONFIG_MAPS)
    assert (code, [o["data"] for o in protobuf.decode(body)["items"]]) == (200, [{"x": "1"}])
    code, media, body = await answered(f"{CONFIG_MAPS}/none")
    assert (code, media, protobuf.decode_envelope(body)[1]) == (404, only, "Status")
    code, media, body = await answered(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1")
    assert (code, media) == (200, f"{only};stream=watch")
    assert (len(body), body[4:11]) == (4 + int.from_bytes(body[:4], "big"), b"\n\x05ADDED")
    # Both are understood: JSON is what costs less.
    assert (await answered(f"{CONFIG_MAPS}/a", f"{only}, application/json"))[1] == "application/json"
    assert (await answered(f"{CONFIG_MAPS}/a", "application/cbor"))[0] == 406
    assert (await answered(f"{CONFIG_MAPS}/a", f"{only};as=Table;v=v1;g=meta.k8s.io"))[0] == 406
    code, text = await refusal(rest, "POST", CONFIG_MAPS, b"\xd9\xd9\xf7\xa0", Content_Type="application/cbor")
    assert (code, text.endswith("application/json, application/yaml, application/vnd.kubernetes.protobuf")) == (
        415,
        True,
    )


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/api/v1/namespaces/default/services/x", {"spec": {"ports": [{"port": 80}]}}),
        ("/api/v1/namespaces/default/limitranges/x", {"spec": {"limits": []}}),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles/x", {"rules": []}),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases/x", {"spec": {"holderIdentity": "a"}}),
    ],
)
async def test_some_kinds_are_made_by_an_update(rest: Rest, path: str, made: dict[str, Any]) -> None:  # noqa: F811
    body = {"metadata": {"name": "x"}, **made}
    code, _ = await rest.json("PUT", f"{path}?dryRun=All", body)
    assert (code, (await rest.json("GET", path))[0]) == (201, 404)
    code, found = await rest.json("PUT", path, body)
    assert (code, bool(found["metadata"]["uid"])) == (201, True)
    assert (await rest.json("PUT", path, found))[0] == 200
    other = path.removesuffix("x") + "y"
    named = {**found, "metadata": {"name": "y", "resourceVersion": "1"}}
    assert (await rest.json("PUT", other, named))[0] == 404


async def test_other_kinds_are_not(rest: Rest) -> None:  # noqa: F811
    assert (await rest.json("PUT", f"{CONFIG_MAPS}/x", {"metadata": {"name": "x"}}))[0] == 404
    budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/x"
    assert (await rest.json("PUT", budget, {"metadata": {"name": "x"}, "spec": {}}))[0] == 404
    await rest.json("POST", budget.removesuffix("/x"), {"metadata": {"name": "x"}, "spec": {}})
    code, text = await refusal(rest, "PUT", budget, {"metadata": {"name": "x"}, "spec": {}})
    assert (code, text.rpartition(": ")[2]) == (422, "must be specified for an update")


@pytest.mark.parametrize(("size", "coding"), [(100, None), (200_000, "gzip")])
async def test_large_answers_are_compressed(rest: Rest, size: int, coding: str | None) -> None:  # noqa: F811
    made = {"metadata": {"name": "a"}, "data": {"x": "y" * size}}
    await rest.json("POST", CONFIG_MAPS, made)
    async with rest.request("GET", f"{CONFIG_MAPS}/a", Accept_Encoding="br, gzip;q=1.0") as response:
        assert response.headers.get("Content-Encoding") == coding
        assert (await response.json())["data"] == made["data"]
    async with rest.request("GET", f"{CONFIG_MAPS}/a", Accept_Encoding="identity") as response:
        assert "Content-Encoding" not in response.headers
