"""A web shop from images on isolated nodes: what its customers meet, and what becomes of its database when it moves."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.conftest import running
from tests.e2e.harness import ROOT, Cluster, Kubectl, until
from tests.e2e.shop_images import PYTHON, make_contexts, missing
from tests.node.isolated import isolating
from tests.tiers import todays_part

pytestmark = [isolating, pytest.mark.skipif(bool(missing()), reason=f"this machine has no {missing()}")]
HOST = "shop.example"
ASK_DATABASE = "psql --no-psqlrc -qAt $DATABASE -c 'select system_identifier from pg_control_system()' || echo shut"
ASK_SHOP = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
DESK = {"name": "desk", "image": "desk", "command": ["sleep", "infinity"]}
"""Somebody with the machine's own programs."""

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@dataclass(frozen=True)
class OfNobody(Cluster):
    """A cluster of a user who has no rights beyond his own, started by root."""

    def entry(self) -> list[str]:
        return [*AS_NOBODY]

    @staticmethod
    def why_not() -> str:
        if os.geteuid() != 0:
            return "only root can be somebody else"
        # As its pods do, in a user namespace: rights that root has left to nobody count for nothing there.
        tried = [*AS_NOBODY, "unshare", "--user", "--map-root-user", sys.executable, "-c", "import rayplane"]
        done = subprocess.run(tried, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stderr.strip().rpartition("\n")[2]


@pytest.fixture(scope="module", params=todays_part(2, [OfNobody, Cluster]), ids=lambda of: of.__name__)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param is OfNobody and (why := OfNobody.why_not()):
        pytest.skip(f"nobody cannot run this Python: {why}")
    small = ("--members", "1", "--apiservers", "1", "--nodes", "2")
    with tempfile.TemporaryDirectory() as home:
        if request.param is OfNobody:
            os.chown(home, NOBODY, NOBODY)
        of = request.param("e2e-web-shop", Path(home))
        with running(of, "--host", "process", "--runtime", "process", "--isolation", "namespaces", *small) as made:
            for name, context in make_contexts(Path(home, "images")).items():
                made.rayplane("image", "build", str(context), "-t", name)
            yield made


def metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app": name}}


def workload(kind: str, name: str, *, ready: dict[str, Any], image: str, **more: Any) -> dict[str, Any]:
    """One pod of one container, of a Deployment or a StatefulSet. `more`: of the container, and `spec` of the set."""
    spec = more.pop("spec", {})
    container = {"name": name, "image": image, "readinessProbe": {"periodSeconds": 1, "timeoutSeconds": 5, **ready}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": metadata(name),
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": metadata(name), "spec": {"containers": [container | more]}},
            **spec,
        },
    }


def service(name: str, port: int, target: int, **spec: Any) -> dict[str, Any]:
    ports = {"ports": [{"port": port, "targetPort": target}], "selector": {"app": name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(name), "spec": ports | spec}


def database() -> list[dict[str, Any]]:
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "replicated",
            "resources": {"requests": {"storage": "256Mi"}},
        },
    }
    made = workload(
        "StatefulSet",
        "database",
        image="shop-database:1",
        ready={"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}},
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
        spec={"serviceName": "database", "volumeClaimTemplates": [claim]},
    )
    return [made, service("database", 5432, 5432, clusterIP="None")]


def shop(authority: Authority) -> list[dict[str, Any]]:
    shown = authority.issue(HOST, hosts=[HOST])
    keys = {"tls.crt": shown.cert.decode(), "tls.key": shown.key.decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata("shop")}
    backend = {"service": {"name": "shop", "port": {"number": 80}}}
    rule = {"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    reached = {"name": "DATABASE", "value": "postgresql://shop@database-0.database/postgres?connect_timeout=2"}
    ready = {"tcpSocket": {"port": 8000}}
    return [
        secret | {"stringData": keys},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("desk"), "spec": {"containers": [DESK]}},
        workload("Deployment", "cache", image="shop-cache:1", ready={"tcpSocket": {"port": 6379}}),
        service("cache", 6379, 6379),
        workload("Deployment", "shop", image="shop:1", ready=ready, env=[reached]),
        workload("Deployment", "stranger", image="shop:1", ready=ready, env=[reached]),
        service("shop", 80, 8000, type="LoadBalancer"),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": metadata("shop"),
            "spec": {"tls": [{"hosts": [HOST], "secretName": "shop"}], "rules": [rule]},
        },
    ]


def only_the_shop() -> dict[str, Any]:
    allowed = {"from": [{"podSelector": {"matchLabels": {"app": "shop"}}}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("database"),
        "spec": {"podSelector": {"matchLabels": {"app": "database"}}, "ingress": [allowed]},
    }


class Customer:
    """Somebody at the machine, who knows the shop's name and whose certificate to believe."""

    def __init__(self, cluster: Cluster, authority: Authority) -> None:
        self._place = cluster.endpoints()["ingressTls"].removeprefix("https://")
        self._context = ssl.create_default_context(cadata=authority.cert.decode())

    def ask(self, method: str, body: str = "") -> Any:
        """What the shop says; None where it does not answer well."""
        address, _, port = self._place.rpartition(":")
        conn = http.client.HTTPSConnection(address, int(port), timeout=30)
        try:
            plain = socket.create_connection((address, int(port)), timeout=30)
            conn.sock = self._context.wrap_socket(plain, server_hostname=HOST)
            conn.request(method, "/", body, {"Host": HOST})
            answer = conn.getresponse()
            said = answer.read()
            return json.loads(said) if answer.status == http.client.OK else None
        except OSError:
            return None
        finally:
            conn.close()


def test_a_shop_sells_and_its_database_moves(cluster: Cluster, fresh_namespace: Callable[..., Kubectl]) -> None:
    kubectl = fresh_namespace(cluster, "", "shop")
    authority = Authority.create("shop")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([*database(), *shop(authority)]))
    for name in ("statefulset/database", "deployment/cache", "deployment/shop", "deployment/stranger"):
        kubectl("rollout", "status", name, "--timeout=180s")
    customer = Customer(cluster, authority)
    until("the shop is served under its own certificate", lambda: customer.ask("PUT") is not None)
    assert customer.ask("POST", "a kettle; it's red") == ["1"]
    assert customer.ask("GET") == {"visits": 1, "orders": ["a kettle; it's red"]}

    def asked_by(name: str) -> str:
        return kubectl("exec", f"deployment/{name}", "--", "sh", "-c", ASK_DATABASE).strip()

    balanced = kubectl.json("get", "service", "shop")["status"]["loadBalancer"]["ingress"][0]["ip"]
    # From within another pod, to which it is the same address as to people at the machine.
    said = kubectl("exec", "deployment/stranger", "--", PYTHON, "-c", ASK_SHOP, f"http://{balanced}/")
    assert json.loads(said)["orders"] == ["a kettle; it's red"]

    # Its tar gives each file to whose it was here, whom a cluster of nobody has no number for.
    kubectl("wait", "--for=condition=Ready", "pod/desk", "--timeout=60s")
    (sent := cluster.home / "sent").write_text("sent")
    if os.geteuid() == 0:
        os.chown(sent, 1000, 1000)
    kubectl("cp", str(sent), "desk:/tmp/sent")
    assert kubectl("exec", "desk", "--", "cat", "/tmp/sent") == "sent"

    identity = asked_by("stranger")
    assert identity.isdigit()
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(only_the_shop()))
    until("strangers are kept out", lambda: asked_by("stranger") == "shut")
    assert asked_by("shop") == identity

    before = kubectl.json("get", "pod", "database-0")
    kubectl("cordon", before["spec"]["nodeName"])
    kubectl("delete", "pod", "database-0", "--timeout=180s")
    kubectl("rollout", "status", "statefulset/database", "--timeout=180s")
    after = kubectl.json("get", "pod", "database-0")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["nodeName"] != before["spec"]["nodeName"]
    until("the shop finds its database", lambda: customer.ask("GET"))
    assert customer.ask("GET")["orders"] == ["a kettle; it's red"]
    assert customer.ask("POST", "tea") == ["2"]
    assert asked_by("shop") == identity and asked_by("stranger") == "shut"
