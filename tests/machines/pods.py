"""Pods that talk to each other, as tests on machines start and ask them."""

import json
from typing import Any

import yaml

from tests.e2e.harness import Kubectl

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
