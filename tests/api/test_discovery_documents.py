"""Discovery and OpenAPI documents: negotiation, content, hashes, and stock kubectl reading them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.aggregation.catalog import Catalog
from rayplane.control_plane.api.bootstrap import api_services
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.machinery.discovery import Discovery, negotiate
from rayplane.control_plane.api.machinery.openapi import OpenAPI
from rayplane.control_plane.api.machinery.resources import Registry, builtin_registry
from tests.api.schema_samples import custom

V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
V2BETA1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", ""),
        ("application/json", ""),
        ("*/*", ""),
        (f"{V2},{V2BETA1},application/json", "v2"),
        (f"{V2BETA1},application/json", "v2beta1"),
        (f"{V2},application/json", "v2"),
        (V2.replace("v=v2", "v=v9") + ",application/json", ""),
        ("application/json; g=apidiscovery.k8s.io; v=v2; as=APIGroupDiscoveryList", "v2"),
        ("application/vnd.kubernetes.protobuf," + V2, "v2"),
        ("application/json," + V2, ""),
    ],
)
def test_the_first_form_that_is_served_wins(accept: str, form: str) -> None:
    assert negotiate(accept) == form


def catalog(registry: Registry) -> Catalog:
    """What is served, in the order in which every cluster has it."""
    made = Catalog(registry)
    for service in api_services():
        made.put(service)
    return made


def load(discovery: Discovery, path: str, accept: str = "") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(discovery.document(path, accept).body)
    return data


def test_aggregated_discovery_says_which_form_it_is() -> None:
    discovery = Discovery(catalog(builtin_registry()))
    for accept, version in ((V2, "v2"), (V2BETA1, "v2beta1")):
        for path in ("/api", "/apis"):
            document = discovery.document(path, accept)
            assert document.content_type == accept
            assert json.loads(document.body)["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    pods = next(
        r for r in load(discovery, "/api", V2)["items"][0]["versions"][0]["resources"] if r["resource"] == "pods"
    )
    assert pods["scope"] == "Namespaced" and pods["shortNames"] == ["po"]
    eviction = next(s for s in pods["subresources"] if s["subresource"] == "eviction")
    assert eviction["responseKind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}


def test_legacy_discovery() -> None:
    discovery = Discovery(catalog(builtin_registry()), server_address="127.0.0.1:6443")
    assert load(discovery, "/api")["versions"] == ["v1"]
    groups = {g["name"]: g for g in load(discovery, "/apis")["groups"]}
    assert groups["autoscaling"]["preferredVersion"]["groupVersion"] == "autoscaling/v2"
    assert load(discovery, "/apis/apps")["kind"] == "APIGroup"
    rows = {r["name"]: r for r in load(discovery, "/api/v1")["resources"]}
    assert rows["pods/eviction"]["group"] == "policy"
    assert rows["pods"]["categories"] == ["all"]
    assert rows["namespaces"]["namespaced"] is False
    assert load(discovery, "/apis/apps/v1")["groupVersion"] == "apps/v1"
    for path in ("/apis/nope", "/apis/apps/v9", "/api/v9", "/apis/a/b/c"):
        with pytest.raises(NotFound):
            discovery.document(path)


# What Kubernetes 1.37 publishes of them.
STORED = {
    "v1/pods": "xPOwRZ+Yhw8=",
    "v1/configmaps": "qFsyl6wFWjQ=",
    "v1/endpoints": "fWeeMqaN/OA=",
    "v1/events": "r2yiGXH7wu8=",
    "v1/secrets": "S6u1pOWzb84=",
    "v1/services": "0/CO1lhkEBI=",
    "events.k8s.io/v1/events": "r2yiGXH7wu8=",
    "autoscaling/v1/horizontalpodautoscalers": "qwQve8ut294=",
    "autoscaling/v2/horizontalpodautoscalers": "qwQve8ut294=",
    "certificates.k8s.io/v1/certificatesigningrequests": "95fRKMXA+00=",
}
GROUPS = (
    "apiregistration.k8s.io apps events.k8s.io authentication.k8s.io authorization.k8s.io autoscaling batch "
    "certificates.k8s.io networking.k8s.io policy rbac.authorization.k8s.io storage.k8s.io "
    "admissionregistration.k8s.io apiextensions.k8s.io scheduling.k8s.io coordination.k8s.io node.k8s.io "
    "discovery.k8s.io flowcontrol.apiserver.k8s.io resource.k8s.io storagemigration.k8s.io"
)


def test_hashes_say_which_version_is_stored() -> None:
    discovery = Discovery(catalog(builtin_registry()))
    for name, wanted in STORED.items():
        version, _, plural = name.rpartition("/")
        rows = load(discovery, f"/apis/{version}" if "/" in version else f"/api/{version}")["resources"]
        assert {row["name"]: row.get("storageVersionHash") for row in rows}[plural] == wanted, name


def test_groups_are_in_the_order_of_kubernetes_and_custom_ones_follow_by_name() -> None:
    registry = builtin_registry().copy()
    for group in ("z.example.com", "a.example.com"):
        registry.add(replace(custom(), group=group))
    listed = [group["name"] for group in load(Discovery(catalog(registry)), "/apis")["groups"]]
    assert listed == [*GROUPS.split(), "a.example.com", "z.example.com"]


def test_kinds_of_answers_leave_out_the_group_that_they_are_listed_under() -> None:
    registry = builtin_registry().copy()
    registry.add(custom())
    groups = load(Discovery(catalog(registry)), "/apis", V2)["items"]
    found = {(g["metadata"]["name"], r["resource"]): r for g in groups for r in g["versions"][0]["resources"]}
    deployments, foos = found["apps", "deployments"], found["example.com", custom().plural]
    assert deployments["responseKind"] == {"group": "", "version": "", "kind": "Deployment"}
    assert [(s["subresource"], s["responseKind"]["group"]) for s in deployments["subresources"]] == [
        ("scale", "autoscaling"),
        ("status", ""),
    ]
    assert foos["responseKind"] == {"group": "example.com", "version": "v1", "kind": custom().kind}
    discovery = Discovery(catalog(registry))
    assert "apiVersion" not in load(discovery, "/api/v1")
    assert load(discovery, "/apis/apps/v1")["apiVersion"] == "v1"


def test_etags_follow_the_content() -> None:
    registry = builtin_registry().copy()
    discovery, openapi = Discovery(catalog(registry)), OpenAPI(registry, version="v1.37.0")
    before = discovery.document("/apis", V2).etag, openapi.root().etag
    assert before == (
        Discovery(catalog(builtin_registry())).document("/apis", V2).etag,
        OpenAPI(builtin_registry(), version="v1.37.0").root().etag,
    )
    registry.add(custom())
    assert discovery.document("/apis", V2).etag != before[0]
    assert "example.com" in {g["name"] for g in load(discovery, "/apis")["groups"]}
    assert "apis/example.com/v1" in json.loads(openapi.root().body)["paths"]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref" and isinstance(item, str):  # JSONSchemaProps has such a field
                yield item.rpartition("/")[2]
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_openapi_documents_are_closed_and_hashed() -> None:
    openapi = OpenAPI(builtin_registry(), version="v1.37.0")
    paths = json.loads(openapi.root().body)["paths"]
    assert set(paths) >= {"api/v1", "apis/apps/v1", "apis/autoscaling/v1", "apis/autoscaling/v2"}
    for key, row in paths.items():
        document = openapi.group_version(key)
        assert row["serverRelativeURL"] == f"/openapi/v3/{key}?hash={document.etag.strip(chr(34))}"
        data = json.loads(document.body)
        assert set(references(data)) <= set(data["components"]["schemas"])
    with pytest.raises(NotFound):
        openapi.group_version("apis/nope/v1")


def test_openapi_tells_kubectl_what_it_looks_for() -> None:
    data = json.loads(OpenAPI(builtin_registry(), version="v1").group_version("apis/apps/v1").body)
    patch = data["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {
        "group": "apps",
        "kind": "Deployment",
        "version": "v1",
    }
    assert {p["name"] for p in patch["parameters"]} >= {"fieldValidation", "dryRun"}
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    containers = data["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]


def test_openapi_of_a_custom_resource() -> None:
    registry = builtin_registry().copy()
    registry.add(custom())
    schema = {"properties": {"spec": {"type": "object"}}}
    openapi = OpenAPI(registry, version="v1", custom_schemas={("example.com/v1", "Foo"): schema})
    data = json.loads(openapi.group_version("apis/example.com/v1").body)
    made = data["components"]["schemas"]["com.example.v1.Foo"]
    assert set(made["properties"]) == {"apiVersion", "kind", "metadata", "spec"}
    assert made["x-kubernetes-group-version-kind"][0]["kind"] == "Foo"


# --- stock kubectl -----------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    """A handler that serves the documents and nothing else."""

    discovery = Discovery(catalog(builtin_registry()))
    openapi = OpenAPI(builtin_registry(), version="v1.37.0")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/openapi/v3":
            document = self.openapi.root()
        elif path.startswith("/openapi/v3/"):
            document = self.openapi.group_version(path.removeprefix("/openapi/v3/"))
        else:
            document = self.discovery.document(path, self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", document.content_type)
        self.send_header("ETag", document.etag)
        self.send_header("Content-Length", str(len(document.body)))
        self.end_headers()
        self.wfile.write(document.body)

    def log_message(self, *_: Any) -> None:
        pass


def _kubectl() -> str | None:
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.exists() else shutil.which("kubectl")


@pytest.mark.e2e
@pytest.mark.skipif(_kubectl() is None, reason="kubectl is not installed")
def test_kubectl_reads_discovery_and_explains_from_openapi(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(_kubectl()), "--server", f"http://127.0.0.1:{server.server_port}",
             "--cache-dir", str(tmp_path / "cache"), *arguments],
            env={**os.environ, "HOME": str(tmp_path), "KUBECONFIG": ""},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        listed = run("api-resources", "--no-headers").splitlines()
        assert {row.split()[0] for row in listed} == {i.plural for i in builtin_registry().all()}
        assert "rollingUpdate\t<RollingUpdateDeployment>" in run("explain", "deploy.spec.strategy")
        assert "map[string]Quantity" in run("explain", "pod.spec.containers.resources")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
