"""Metrics of every actor of a running cluster: who may scrape them, and that they follow what happens."""

import asyncio

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials
from tests.cluster.harness import Cluster, cluster

PORTS = {
    Role.MEMBER: "client",
    Role.APISERVER: "https",
    Role.LOAD_BALANCER: "metrics",
    Role.SCHEDULER: "metrics",
    Role.CONTROLLERS: "metrics",
    Role.NODE_HOST: "grpc",
    Role.SUPERVISOR: "grpc",
}
#: One of each that is there from the beginning.
WANTED = {
    Role.MEMBER: "etcd_server_has_leader",
    Role.APISERVER: "apiserver_request_total",
    Role.LOAD_BALANCER: "loadbalancer_backend_ready",
    Role.SCHEDULER: "leader_election_master_status",
    Role.CONTROLLERS: "leader_election_master_status",
    Role.NODE_HOST: "kubelet_running_pods",
    Role.SUPERVISOR: "supervisor_actors",
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(instance: Instance, credentials: Credentials) -> tuple[int, str]:
    *_, context = credentials.contexts()
    context.set_alpn_protocols(["http/1.1"])
    async with aiohttp.ClientSession() as session:
        url = f"https://{instance.endpoint(PORTS[instance.role])}/metrics"
        async with session.get(url, ssl=context, server_hostname=INTERNAL_SERVER_NAME) as response:
            return response.status, await response.text()


def samples(page: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def total(found: Samples, name: str, /, **labels: str) -> float:
    """The sum of a name's samples that have these labels."""
    return sum(v for (n, of), v in found.items() if n == name and labels.items() <= dict(of).items())


async def scraped(running: Cluster, role: Role, name: str, /, **labels: str) -> float:
    """The sum over all actors of a role."""
    admin = Credentials.read(running.directory.admin)
    pages = [await scrape(instance, admin) for instance in running.topology.of(role)]
    return sum(total(samples(page), name, **labels) for _, page in pages)


async def test_administrators_scrape_every_actor_and_others_are_refused() -> None:
    async with cluster(members=1, apiservers=1, nodes=1) as running:
        admin = Credentials.read(running.directory.admin)
        node_host = running.topology.of(Role.NODE_HOST)[0]
        other = Credentials.read(running.state_dir / "data" / f"{node_host.name}-tls")
        for instance in running.topology.instances:
            status, page = await scrape(instance, admin)
            assert status == 200, (instance.name, page)
            names = {name for name, _ in samples(page)}
            assert {WANTED[instance.role], "process_cpu_seconds_total"} <= names, instance.name
            status, page = await scrape(instance, other)
            assert status == 403, instance.name
            assert "/metrics" in page


async def test_what_happens_to_a_pod_is_counted_by_all_who_see_it() -> None:
    async with cluster(members=1, apiservers=1, nodes=1) as running:
        pod = {
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "busybox"}]},
        }
        await running.api.create("pods", pod)
        async with asyncio.timeout(30):
            while not await scraped(running, Role.NODE_HOST, "kubelet_running_containers", container_state="running"):
                await asyncio.sleep(0.1)
        assert await scraped(running, Role.NODE_HOST, "kubelet_started_pods_total") == 1
        assert await scraped(running, Role.NODE_HOST, "kubelet_pod_start_duration_seconds_count") == 1
        attempts = "scheduler_schedule_attempts_total"
        assert await scraped(running, Role.SCHEDULER, attempts, result="scheduled", profile="default-scheduler") == 1
        assert await scraped(running, Role.SCHEDULER, "leader_election_master_status", name="kube-scheduler") == 1
        assert await scraped(running, Role.CONTROLLERS, "workqueue_adds_total") > 0
        created = await scraped(running, Role.APISERVER, "apiserver_request_total", resource="pods", verb="POST")
        assert created >= 1
        assert await scraped(running, Role.MEMBER, "etcd_mvcc_put_total") > 0
        assert await scraped(running, Role.SUPERVISOR, "supervisor_running_actors", role="member") == 1
