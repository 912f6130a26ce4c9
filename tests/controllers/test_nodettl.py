"""The span for which nodes keep what they read: by the number of nodes, without going back and forth."""

from __future__ import annotations

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.nodettl import TTL, NodeTtlController
from tests.controllers.cluster import Cluster


def grown(cluster: Cluster, nodes: int) -> None:
    """Have as many nodes as that."""
    known = sorted(meta.name(node) for node in cluster.list("nodes"))
    for name in known[nodes:]:
        cluster.remove("nodes", name)
    for n in range(len(known), nodes):
        cluster.add("nodes", f"n{n:05d}")
    cluster.settle()


def spans(cluster: Cluster) -> set[str | None]:
    return {meta.annotations(node).get(TTL) for node in cluster.list("nodes")}


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((1,), "0"), ((100,), "0"), ((101,), "15"), ((101, 95), "15"), ((101, 89), "0"), ((95,), "0"), ((600,), "30"),
     ((1200, 950), "60"), ((1200, 20), "0"), ((2001,), "300")],
)  # fmt: skip
def test_spans(sizes: tuple[int, ...], wanted: str) -> None:
    cluster = Cluster(NodeTtlController())
    for size in sizes:
        grown(cluster, size)
    assert spans(cluster) == {wanted}


def test_what_somebody_else_wrote_is_put_right() -> None:
    cluster = Cluster(NodeTtlController())
    grown(cluster, 2)
    cluster.change("nodes", "n00000", metadata={"annotations": {TTL: "7", "mine": "kept"}})
    cluster.settle()
    assert spans(cluster) == {"0"}
    assert meta.annotations(cluster.require("nodes", "", "n00000"))["mine"] == "kept"
