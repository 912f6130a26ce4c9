"""Tables of the metrics of nodes and pods."""

from datetime import UTC, datetime

from rayplane.control_plane.apiserver.registry.metrics_kinds import PRINTER

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_pod_uses_what_its_containers_use() -> None:
    node = {"metadata": {"name": "n"}, "usage": {"cpu": "250m", "memory": "1Gi"}, "window": "10s"}
    assert PRINTER.row(node, NOW) == ["n", "250m", "1Gi", "10s"]
    containers = [{"name": c, "usage": {"cpu": "100m", "memory": "64Mi"}} for c in "ab"]
    pod = {"metadata": {"name": "p"}, "containers": containers, "window": "10s"}
    assert PRINTER.row(pod, NOW) == ["p", "200m", "128Mi", "10s"]
