"""Objects of a web shop, and its customers."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.harness import COMMAND_TIMEOUT_S, Cluster, Kubectl
from tests.e2e.shop_images import make_contexts

HOST = "kettles.example"
DESK = {"name": "desk", "image": "desk", "command": ["sleep", "infinity"]}
"""Somebody with the machine's own programs."""
_ASK_DATABASE = "psql --no-psqlrc -qAt $DATABASE -c 'select system_identifier from pg_control_system()' || echo shut"
_ASK = f"""
import http.client, socket, ssl, sys
place, authority, method, body = sys.argv[1:]
address, _, port = place.rpartition(":")
conn = http.client.HTTPSConnection(address, int(port), timeout=30)
plain = socket.create_connection((address, int(port)), timeout=30)
conn.sock = ssl.create_default_context(cadata=authority).wrap_socket(plain, server_hostname="{HOST}")
conn.request(method, "/", body, {{"Host": "{HOST}"}})
answer = conn.getresponse()
print(answer.read().decode())
sys.exit(answer.status != http.client.OK)
"""


def build_images(cluster: Cluster, place: Path) -> None:
    for name, context in make_contexts(place).items():
        cluster.rayplane("image", "build", str(context), "-t", name)


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


def database(*, beside: Sequence[dict[str, Any]] = (), **more: Any) -> list[dict[str, Any]]:
    """With its volume at /data, also of the containers `beside` it. `more`: of its pod's specification."""
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
    pod = made["spec"]["template"]["spec"]
    pod["containers"] += [one | {"volumeMounts": [{"name": "data", "mountPath": "/data"}]} for one in beside]
    pod |= more
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


def identity_of_database(kubectl: Kubectl, asking: str) -> str:
    """What the database says of itself to the pod of a Deployment; `shut` where it is not reached."""
    return kubectl("exec", f"deployment/{asking}", "--", "sh", "-c", _ASK_DATABASE).strip()


class Customer:
    """Somebody at the cluster's machine, who knows the shop's name and whose certificate to believe."""

    def __init__(self, cluster: Cluster, authority: Authority) -> None:
        place = cluster.endpoints()["ingressTls"].removeprefix("https://")
        self._command = [*cluster.entry(), str(cluster.python), "-c", _ASK, place, authority.cert.decode()]

    def ask(self, method: str, body: str = "") -> Any:
        """What the shop says; None where it does not answer well."""
        command = [*self._command, method, body]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        return None if done.returncode else json.loads(done.stdout)
