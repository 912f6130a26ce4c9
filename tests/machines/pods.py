"""Pods that talk to each other, as tests on machines start and ask them."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.node.volumes.drivers.replicated.lease_directory import NAMESPACE, RECORD
from rayplane.node.volumes.drivers.replicated.placement import machine_of
from tests.e2e.harness import Cluster, Kubectl

PORT = 8000
SERVE = f"""
import os, socket, threading
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", {PORT}))
def echo():
    while True:
        _, sender = datagrams.recvfrom(99)
        datagrams.sendto(os.uname().nodename.encode(), sender)
threading.Thread(target=echo).start()
server = socket.create_server(("", {PORT}))
while True:
    connection, _ = server.accept()
    connection.sendall(os.uname().nodename.encode())
    connection.close()
"""
# The answers of places, each asked as long as it takes to tell a lost packet from a wall.
ASK = f"""
import json, socket, sys
def ask(kind, host):
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(float(sys.argv[1]))
        try:
            s.connect((host, {PORT}))
            if kind is socket.SOCK_DGRAM:
                s.send(b"?")
            return s.recv(99).decode()
        except OSError as e:
            return type(e).__name__
print(json.dumps([ask(k, h) for h in sys.argv[2:] for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]))
"""


def apply(kubectl: Kubectl, *objects: dict[str, Any]) -> None:
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


def server(node: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "python",
        "command": ["python3", "-c", SERVE],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    metadata = {"name": f"on-{node}", "labels": {"kind": "server", "on": node}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, selector: dict[str, str]) -> dict[str, Any]:
    ports = [{"name": p, "port": PORT, "protocol": p.upper()} for p in ("tcp", "udp")]
    spec = {"selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def asked(kubectl: Kubectl, node: str, *hosts: str, limit_s: float = 5) -> list[str]:
    """What the pod of a node is told at each host, by TCP and by UDP."""
    answer = kubectl("exec", f"on-{node}", "--", "python3", "-c", ASK, str(limit_s), *hosts)
    found: list[str] = json.loads(answer)
    return found


def likes(node: str) -> dict[str, Any]:
    """The affinity of a pod that is on a node unless that cannot be."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    terms = [{"weight": 100, "preference": term}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def claimed(name: str, near: str) -> list[dict[str, Any]]:
    """A Deployment of one pod with a replicated volume at /data; it likes to be on the node `near`."""
    container = {
        "name": "main",
        "image": "busybox",
        "command": ["sleep", "100000"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [container],
        "affinity": likes(near),
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
    }
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "storageClassName": "replicated",
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "strategy": {"type": "Recreate"},
                "template": template,
            },
        },
    ]


# Returns when the volume's bytes are where a lost machine does not take them along.
WRITE = """
import os, socket, sys
with open("/data/file", "w") as f:
    f.write(sys.argv[1])
if place := os.environ.get("RAYPLANE_VOLUME_SYNC"):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(place)
        s.sendall(b"sync\\n")
        s.makefile().readline()
"""


def write_data(kubectl: Kubectl, name: str, text: str) -> None:
    kubectl("exec", f"deployment/{name}", "--", "python3", "-c", WRITE, text)


def replicas(kubectl: Kubectl, claim: str) -> list[str]:
    """The machine of each replica of a claim's volume."""
    volume = kubectl.json("get", "pvc", claim)["spec"]["volumeName"]
    lease = kubectl.json("get", "lease", f"volume-{volume}", "--namespace", NAMESPACE)
    hosts = {n["metadata"]["name"]: n["metadata"]["annotations"] for n in kubectl.json("get", "nodes")["items"]}
    nodes = json.loads(lease["metadata"]["annotations"][RECORD])["replicas"]
    return [machine_of(hosts[node][HOST_ADDRESS]) for node in nodes]


# Each asks, or writes, without a second try, until its input ends.
ASKS = f"""
import json, select, socket, sys
made, failed = 0, []
while not select.select([sys.stdin], [], [], 0.02)[0]:
    try:
        with socket.create_connection((sys.argv[1], {PORT}), 5) as s:
            assert s.recv(99)
    except Exception as e:
        failed.append(repr(e))
    made += 1
print(json.dumps([made, failed[:9]]))
"""
WRITES = """
import json, select, sys
from rayplane.control_plane.client.blocking import Client
found = json.loads(sys.argv[1])
made, failed = 0, []
with Client(found["grpc"], ca=found["ca"], cert=found["cert"], key=found["key"]) as client:
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        try:
            client.create("configmaps", {"metadata": {"generateName": "written-", "namespace": "default"}})
        except Exception as e:
            failed.append(repr(e))
        made += 1
print(json.dumps([made, failed[:9]]))
"""


class Flow:
    """A command that goes on until it is told to end, and then says how often it did what, and what failed."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end(self) -> list[Any]:
        """How often, and why not."""
        out, _ = self._process.communicate()
        found: list[Any] = json.loads(out)
        return found


def asking(kubectl: Kubectl, node: str, host: str) -> Flow:
    """The pod of a node asks a host."""
    command = kubectl.command("exec", "-i", f"on-{node}", "--", "python3", "-c", ASKS, host)
    return Flow(command, kubectl.cluster.env)


def writing(cluster: Cluster) -> Flow:
    """A program at the cluster's machine writes objects."""
    command = [*cluster.entry(), str(cluster.python), "-c", WRITES, json.dumps(cluster.endpoints())]
    return Flow(command, cluster.env)


WRITE_ONCE = """
import json, sys
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.client.blocking import Client
found = json.loads(sys.argv[1])
with Client(found["grpc"], ca=found["ca"], cert=found["cert"], key=found["key"]) as client:
    for _ in range(20):
        try:
            client.create("configmaps", {"metadata": {"name": "written", "namespace": "default"}})
            print("written")
            break
        except AlreadyExists:
            print("written")  # and was not told
            break
        except ApiError as e:
            print(e, file=sys.stderr)
"""


def write_once(cluster: Cluster, endpoints: dict[str, Any]) -> str:
    """What a program at the cluster's machine says that makes the object `written` as soon as that can be."""
    command = [*cluster.entry(), str(cluster.python), "-c", WRITE_ONCE, json.dumps(endpoints)]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr
