"""What every cluster starts with."""

from datetime import UTC, datetime

import orjson
import pytest

from rayplane.control_plane.api import chaos_mesh, legacy_tokens
from rayplane.control_plane.api.bootstrap import api_services, bootstrap_objects, extension_authentication
from rayplane.control_plane.api.machinery import schema
from rayplane.control_plane.api.machinery.decoding import decode_object
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver import bootstrap
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.identities import FRONT_PROXY
from rayplane.control_plane.stages.definitions import definitions


def test_every_group_and_version_has_its_api_service() -> None:
    # The metrics are ours as long as nobody brings a server of them.
    served = {i.api_version for i in builtin_registry().all()} - {"apiregistration.k8s.io/v1"}
    served.add("metrics.k8s.io/v1beta1")
    found = {(s["spec"].get("group", "") + "/" + s["spec"]["version"]).lstrip("/"): s for s in api_services()}
    assert found.keys() == served
    assert found["v1"]["metadata"]["name"] == "v1."
    assert found["apps/v1"]["spec"] == {
        "group": "apps", "version": "v1", "groupPriorityMinimum": 17_800, "versionPriority": 15
    }  # fmt: skip


def test_every_flow_schema_has_its_priority_level() -> None:
    objects = bootstrap_objects()
    levels = {o["metadata"]["name"] for o in objects if o["kind"] == "PriorityLevelConfiguration"}
    schemas = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "FlowSchema"}
    assert {"exempt", "catch-all"} <= levels & schemas.keys()
    assert {spec["priorityLevelConfiguration"]["name"] for spec in schemas.values()} <= levels
    assert {spec["matchingPrecedence"] for spec in schemas.values()} >= {1, 10_000}


def test_servers_of_extensions_find_the_authority_of_clients() -> None:
    found = extension_authentication("PEM")
    assert found["metadata"]["namespace"] == "kube-system"
    assert found["data"]["client-ca-file"] == found["data"]["requestheader-client-ca-file"] == "PEM"
    # Of all whose certificates that authority has signed only these may say who somebody else is.
    assert found["data"]["requestheader-allowed-names"] == f'["{FRONT_PROXY}"]'


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(bootstrap_objects(), id="every cluster"),
        pytest.param(bootstrap._of_this_cluster(ApiServerConfig(dns_address="127.96.0.10")), id="addresses"),
        pytest.param(
            [extension_authentication("PEM"), legacy_tokens.tracking(datetime(2026, 1, 1, tzinfo=UTC))], id="maps"
        ),
        pytest.param([*definitions(), *chaos_mesh.definitions()], id="definitions"),
    ],
)
def test_what_is_made_without_being_decoded_is_what_decoding_makes_of_it(made: list[Object]) -> None:
    """An empty list, a whole number where a quantity belongs: stored as they are, and read otherwise elsewhere."""
    for o in made:
        info = builtin_registry().by_kind(o["apiVersion"], o["kind"])
        assert info is not None and info.definition
        definition = schema.definition(info.definition)
        read = decode_object(orjson.dumps(o), api_version=info.api_version, kind=info.kind, definition=definition)
        assert read.object == o and not read.warnings, o["metadata"]["name"]
