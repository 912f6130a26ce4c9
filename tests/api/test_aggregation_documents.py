"""What servers of aggregated APIs say of themselves: whatever it is, it harms nobody."""

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.aggregation.catalog import Catalog, Remote
from rayplane.control_plane.api.aggregation.openapi import version_2_parts
from rayplane.control_plane.api.aggregation.reading import read_openapi_url, read_resources
from rayplane.control_plane.api.machinery.discovery import Discovery
from rayplane.control_plane.api.machinery.resources import builtin_registry

GROUP = "example.com"
KEY = f"apis/{GROUP}/v1"
BACKEND = Backend(GROUP, "v1", "default", "ext", 443, "", unchecked=True, available=True)
V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def rows() -> st.SearchStrategy[Any]:
    """Rows of an APIResourceList, or nearly."""
    fields = {
        "name": st.sampled_from(["flunders", "flunders/status", "a/b/c", "", "x" * 300]) | ODD,
        "kind": st.just("Flunder") | ODD,
        "namespaced": st.booleans() | ODD,
        "verbs": st.just(["get", "list"]) | ODD,
        "shortNames": st.just(["fl"]) | ODD,
        "group": st.just("") | ODD,
    }
    return st.fixed_dictionaries({}, optional=fields) | ODD


@given(st.lists(rows(), max_size=4) | ODD, st.sampled_from(["APIResourceList", "List"]))
def test_discovery_stays_what_it_is_whatever_a_server_lists(resources: Any, kind: str) -> None:
    catalog = Catalog(builtin_registry())
    spec = {"group": GROUP, "version": "v1", "service": {"namespace": "default", "name": "ext", "port": 443}}
    catalog.put({"metadata": {"name": f"v1.{GROUP}"}, "spec": {**spec, "insecureSkipTLSVerify": True}})
    try:
        found = read_resources(orjson.dumps({"kind": kind, "resources": resources}), GROUP, "v1")
    except ValueError:
        return
    catalog.found(BACKEND, found)
    document = json.loads(Discovery(catalog).document("/apis", V2).body)
    (version,) = next(g["versions"] for g in document["items"] if g["metadata"].get("name") == GROUP)
    for row in version["resources"]:
        names = [row["resource"], row["singularResource"], *row["verbs"], *row.get("shortNames", ())]
        assert all(isinstance(name, str) for name in names) and row["scope"] in ("Namespaced", "Cluster")


@given(st.binary(max_size=60) | ODD.map(orjson.dumps))
def test_what_is_no_document_is_refused_as_such(body: bytes) -> None:
    for read in (lambda: read_resources(body, GROUP, "v1"), lambda: read_openapi_url(body, KEY)):
        try:
            assert not read()
        except ValueError:
            continue


@given(st.dictionaries(st.sampled_from([f"/{KEY}/flunders", "/api/v1/nodes", ""]), ODD), ODD)
def test_openapi_documents_add_what_is_theirs_or_nothing(paths: Any, schemas: Any) -> None:
    body = orjson.dumps({"paths": paths, "components": {"schemas": schemas}})
    parts = version_2_parts(body, Remote(BACKEND))
    assert parts is None or all(path.startswith(f"/{KEY}/") for path in parts[0])


def test_a_path_of_openapi_stays_at_its_place() -> None:
    for url, taken in (
        (f"/openapi/v3/{KEY}?hash=A1", True),
        ("/openapi/v3/api/v1?hash=A1", False),
        (f"https://elsewhere/openapi/v3/{KEY}", False),
        (f"/openapi/v3/{KEY} HTTP/1.1", False),
        (5, False),
    ):
        root = orjson.dumps({"paths": {KEY: {"serverRelativeURL": url}}})
        assert read_openapi_url(root, KEY) == (url if taken else "")
