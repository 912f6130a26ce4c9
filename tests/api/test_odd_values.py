"""One odd value in a good object: it is refused in words, or everybody who reads it later copes."""

from datetime import UTC, datetime

import pytest

from rayplane.control_plane.api import podsecurity
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.kinds.strategy import prepare_for_create
from rayplane.control_plane.api.kinds.validation import validate_create, validate_update
from rayplane.control_plane.api.machinery import tables
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from rayplane.control_plane.api.podsecurity import Level, LevelVersion
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodParser
from rayplane.control_plane.scheduler.snapshot import Snapshot
from rayplane.node.kubelet.admission import room_of
from tests.api.kinds.test_rules import CASES
from tests.api.kinds.test_validation import GOOD as VALID
from tests.api.kinds.test_validation import REGISTRY
from tests.api.odd_values import fields, placed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = VALID | {kind: {"apiVersion": api_version, **good} for api_version, kind, good, _ in CASES}
# Of each kind; all together are 200 000 and take a minute.
SAMPLES = 250


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_odd_values_are_refused_or_harm_nobody(kind: str) -> None:
    info = REGISTRY.by_kind(GOOD[kind]["apiVersion"], kind)
    assert info is not None
    definition = definition_of(info.api_version, kind)
    assert definition is not None
    space = {"namespace": "ns"} if info.namespaced else {}
    base = {"kind": kind, **GOOD[kind], "metadata": {"name": "x", "uid": "u", **space}}
    everything = list(fields(info.api_version, kind))
    for path, value in everything[:: max(1, len(everything) // SAMPLES)]:
        o = placed(base, path, value)
        try:
            conform(o, definition)
        except (DecodeError, ApiError):
            continue
        default(o)
        status = o.get("status")
        prepare_for_create(o, info)
        errors = validate_create(o, info)
        assert all(str(e) for e in errors)
        if status is not None:
            # Written through its subresource it is validated by the schema only.
            o["status"] = status
        if not errors:
            tables.to_table(rules_for(info).printer, [o], now=NOW)
            validate_update(o, o, info)
            _read(kind, o)


def _read(kind: str, o: dict) -> None:
    if kind == "Pod":
        snapshot = Snapshot()
        snapshot.set_pod(PodParser().parse(o))
        room_of(o)
        podsecurity.violations(LevelVersion(Level.RESTRICTED), o["metadata"], o["spec"])
        podsecurity.violations(LevelVersion(Level.RESTRICTED, 0), o["metadata"], o["spec"])
    elif kind == "Node":
        Snapshot().set_node(NodeInfo.of(o))
