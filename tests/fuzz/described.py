"""Requests as the served OpenAPI describes them, made by schemathesis: another's reading of what we say we take.

    pip install "rayplane[fuzz]"
    python -m tests.fuzz.described [GROUPVERSION...] [--examples N] [--seed S]

A cluster of its own in one process is asked for each operation of the named documents (`api/v1`, `apis/apps/v1`; all by
default). What was wrong is told afterwards: faults of the server, connections that ended without an answer, and a
server that is not ready in the end.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

import rayplane

#: Watches and streams end by themselves.
_QUERY = {"timeoutSeconds": 1, "watch": "false", "follow": "false"}
_ANSWER_S = 30.0
_REFUSED_FOR_NOW = (503, 504)


class Server:
    """A front door, and what was found wrong with it."""

    def __init__(self, kubeconfig: Path, own: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url = cluster["server"]
        self.session = requests.Session()
        self.session.trust_env = False  # else REQUESTS_CA_BUNDLE would come before our own authority
        self.session.verify = _file(own / "ca.crt", cluster["certificate-authority-data"])
        shown = [_file(own / f"{n}.pem", user[f"client-{n}-data"]) for n in ("certificate", "key")]
        self.session.cert = (shown[0], shown[1])
        self.asked = 0
        self.finds: Counter[str] = Counter()

    def documents(self, named: list[str]) -> Iterator[dict[str, Any]]:
        paths = self.session.get(f"{self.url}/openapi/v3").json()["paths"]
        for name in named or sorted(n for n in paths if n.count("/")):
            yield self.session.get(f"{self.url}{paths[name]['serverRelativeURL']}").json()

    def ask(self, case: Any) -> None:
        """Send a case and judge the answer."""
        case.query = {**(case.query or {}), **_QUERY}
        self.asked += 1
        try:
            verify = self.session.verify
            answer = case.call(base_url=self.url, session=self.session, timeout=_ANSWER_S, verify=verify)
        except requests.RequestException as e:
            self.finds[f"{case.method} {case.path}: {type(e).__name__}"] += 1
            return
        if _is_fault(answer):
            self.finds[f"{case.method} {case.path}: {answer.status_code} {answer.text[:300]}"] += 1


def _is_fault(answer: Any) -> bool:
    """As Kubernetes has it, a Status of 500 without a reason says that the request made no sense."""
    if answer.status_code < 500 or answer.status_code in _REFUSED_FOR_NOW:
        return False
    try:
        status = answer.json()
    except ValueError:
        return True
    return not isinstance(status, dict) or status.get("kind") != "Status" or bool(status.get("reason"))


def _file(path: Path, data: str) -> str:
    path.write_bytes(base64.b64decode(data))
    path.chmod(0o600)
    return str(path)


def run(server: Server, named: list[str], examples: int, number: int) -> None:
    """Ask for every operation `examples` times."""
    for document in server.documents(named):
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = found.ok()

            @seed(number)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy())
            def ask(case: Any) -> None:
                server.ask(case)

            ask()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.described", description=__doc__)
    parser.add_argument("documents", nargs="*", metavar="GROUPVERSION")
    parser.add_argument("--examples", type=int, default=20, help="for each operation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as own, rayplane.Cluster(nodes=1) as cluster:
        server = Server(Path(cluster.kubeconfig), Path(own))
        run(server, options.documents, options.examples, options.seed)
        if (ready := server.session.get(f"{server.url}/readyz")).status_code != 200:
            server.finds[f"/readyz: {ready.status_code} {ready.text[:300]}"] += 1
        print(f"{server.asked} requests")
        for find, times in server.finds.items():
            print(f"FOUND {times} times: {find}")
        return 1 if server.finds else 0


if __name__ == "__main__":
    sys.exit(main())
