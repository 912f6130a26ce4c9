"""Pages of a node's kubelet: health, pods, statistics, metrics, configuration."""

import json
from typing import Any

import pytest

from rayplane.node.config import NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.stats import ContainerStats, NodeStats, PodStats, resource_metrics, summary
from rayplane.node.runtime import Usage
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, phase, shell, stub

STAMP = "2026-01-01T00:00:00Z"


async def page(host: NodeHost, path: str, status: int = 200, query: str = "") -> str:
    answer = await stub(host).Page(pb.PageRequest(node="n1", path=path, query=query))
    assert answer.status == status, answer.page
    text: str = answer.page.decode()
    return text


async def test_a_simulated_node_has_the_pages_of_a_kubelet(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NodeConfig("n1", cpu="2", memory="1Gi", max_pods=7))
    limits = {"resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "1Gi"}}}
    api.put("pods", make_pod("web", container=limits))
    await api.until(lambda: phase(api, "web") == "Running")
    for path in ("healthz", "healthz/ping", "healthz/syncloop", "/healthz/"):
        assert await page(host, path) == "ok"
    told = "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nhealthz check passed\n"
    assert await page(host, "healthz", query="verbose&exclude=log") == told
    assert "no matches for" in await page(host, "healthz", query="verbose&exclude=none")
    (shown,) = json.loads(await page(host, "pods"))["items"]
    assert (shown["metadata"]["name"], shown["status"]["phase"]) == ("web", "Running")
    (running,) = json.loads(await page(host, "runningpods"))["items"]
    assert running["spec"]["containers"][0]["name"] == "main"
    found = json.loads(await page(host, "stats/summary"))
    assert found["node"]["nodeName"] == "n1" and found["node"]["memory"]["availableBytes"] == (1 << 30) - (64 << 20)
    (pod,) = found["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "uid-web"}
    assert pod["containers"][0]["cpu"]["usageNanoCores"] == 250_000_000
    resource = await page(host, "metrics/resource")
    own = '{container="main",namespace="default",pod="web"}'
    assert f"container_memory_working_set_bytes{own} 6.7108864e+07" in resource
    assert "node_cpu_usage_seconds_total" in resource and "resource_scrape_error 0.0" in resource
    assert "process_resident_memory_bytes" not in resource
    cadvisor = await page(host, "metrics/cadvisor")
    assert "machine_cpu_cores 2.0" in cadvisor and "container_spec_cpu_quota{" in cadvisor
    config = json.loads(await page(host, "configz"))["kubeletconfig"]
    assert (config["kind"], config["maxPods"]) == ("KubeletConfiguration", 7)
    assert "kubelet_running_pods" in await page(host, "metrics")
    assert 'kubernetes_healthcheck{name="syncloop",type="healthz"} 1.0' in await page(host, "metrics/slis")
    assert "kubelet statusz" in await page(host, "statusz") and "max-pods=7" in (await page(host, "flagz")).splitlines()
    await page(host, "checkpoint/default/web/main", status=501)
    for path in ("", "run/default/web/main", "metricsx", "stats", "../healthz"):
        await page(host, path, status=404)


@pytest.mark.processes
async def test_a_real_node_tells_its_disk_and_counts_its_probes(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    api.put("pods", shell("web", "exec sleep 1000", container={"readinessProbe": probe}))
    name = 'container="main",namespace="default",pod="web",pod_uid="uid-web",probe_type="Readiness",result="successful"'
    while f"prober_probe_total{{{name}}}" not in await page(host, "metrics/probes"):
        await api.until(lambda: True)
    found = json.loads(await page(host, "stats/summary"))
    assert found["node"]["fs"]["capacityBytes"] > found["node"]["fs"]["availableBytes"] > 0
    assert found["pods"][0]["process_stats"]["process_count"] >= 1
    await api.delete("pods", "web", "default")
    await api.until(lambda: not host.kubelet("n1").workers)
    assert "pod_uid" not in await page(host, "metrics/probes")


def node(*uses: Usage) -> NodeStats:
    containers = [ContainerStats(f"c{n}", f"id{n}", "i", STAMP, use) for n, use in enumerate(uses)]
    return NodeStats("n", STAMP, STAMP, [PodStats(make_pod("p"), containers)], memory=1000, cores=1.0)


def test_a_node_uses_what_its_pods_use() -> None:
    stats = node(Usage(1, 100, 2, 3 * 10**9), Usage(4, 200, 5, 6 * 10**9))
    own: dict[str, Any] = summary(stats)["node"]
    assert (own["cpu"]["usageNanoCores"], own["memory"]["usageBytes"], own["memory"]["availableBytes"]) == (5, 300, 700)
    assert "fs" not in own
    samples = {f.name: f.samples for f in resource_metrics(stats)}
    assert samples["pod_cpu_usage_seconds_total"] == {("default", "p"): 9.0}
    assert samples["container_start_time_seconds"]["c0", "default", "p"] == 1767225600.0
