"""What people apply: operators and applications, a file each, with the features that those in use have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.harness import Cluster, Kubectl, until

APPLICATIONS = Path(__file__).parent / "manifests" / "applications"
# Of kinds that the others define: a client asks for these again when the definitions are there.
OBJECTS = APPLICATIONS / "objects"
# What a cluster writes by itself.
_OF_THE_CLUSTER = ("event/", "event.events.k8s.io/", "lease.coordination.k8s.io/", "componentstatus/")


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--apiservers", "1", "--nodes", "3", "--node-cpu", "32")


def everything(kubectl: Kubectl) -> set[str]:
    """The names of all objects of the cluster."""
    kinds = kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    names = kubectl.names(",".join(kinds), "--all-namespaces")
    return {name for name in names if not name.startswith(_OF_THE_CLUSTER)}


def not_ready(kubectl: Kubectl) -> list[str]:
    """Pods that neither are ready nor have done what they were for."""
    pods = kubectl.items("pods", "--all-namespaces")
    found = []
    for pod in pods:
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}
        if pod["status"].get("phase") != "Succeeded" and conditions.get("Ready") != "True":
            found.append(pod["metadata"]["name"])
    return found


@pytest.mark.turn(1, of=2)
def test_all_of_them_are_accepted_run_are_applied_again_and_leave_nothing(cluster: Cluster) -> None:
    kubectl = cluster.kubectl(namespace="")
    before = everything(kubectl)
    kubectl("apply", "-f", str(APPLICATIONS))
    kubectl("apply", "-f", str(OBJECTS))
    until("all pods ready", lambda: not not_ready(kubectl))
    # Whoever goes on with server-side apply takes over what defaults have changed, as a fieldRef without its version.
    again = kubectl("apply", "--server-side", "--force-conflicts", "--recursive", "-f", str(APPLICATIONS))
    assert {line.rpartition(" ")[2] for line in again.splitlines()} == {"serverside-applied"}
    until("all pods ready", lambda: not not_ready(kubectl))
    kubectl("delete", "--timeout=180s", "-f", str(OBJECTS))
    kubectl("delete", "--ignore-not-found", "--timeout=180s", "-f", str(APPLICATIONS))
    until("nothing is left", lambda: not everything(kubectl) - before)


def test_a_definition_as_large_as_they_come(cluster: Cluster) -> None:
    """Some hundred kilobytes of schema, nested as those of operators that embed pods: created, explained, used."""
    kubectl = cluster.kubectl()
    leaf: dict[str, Any] = {"type": "string", "description": "A text about what this field is good for. " * 4}
    level: dict[str, Any] = {f"field{n}": leaf for n in range(40)}
    for depth in range(12):
        level = {f"field{n}": leaf for n in range(20)} | {f"level{depth}": {"type": "object", "properties": level}}
    every = {f"part{n}": {"type": "object", "properties": level} for n in range(6)}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": every}}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "wholes.large.example.dev"},
        "spec": {
            "group": "large.example.dev",
            "scope": "Namespaced",
            "names": {"plural": "wholes", "singular": "whole", "kind": "Whole"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    text = yaml.safe_dump(definition, default_flow_style=True, width=1 << 20)
    # As is told to users of such definitions: they are too large for the annotation of a client-side apply.
    assert "Too long" in kubectl("apply", "-f", "-", stdin=text, code=1)
    kubectl("apply", "--server-side", "-f", "-", stdin=text)
    kubectl("wait", "--for=condition=Established", "crd/wholes.large.example.dev", "--timeout=180s")
    path = ".".join(f"level{n}" for n in reversed(range(12)))
    until("explained", lambda: "field0" in kubectl("explain", f"whole.spec.part0.{path}"))
    inner: dict[str, object] = {"field3": "deep"}
    for depth in range(12):
        inner = {f"level{depth}": inner}
    whole = {"apiVersion": "large.example.dev/v1", "kind": "Whole", "metadata": {"name": "w"}, "spec": {"part0": inner}}
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(whole))
    assert kubectl("get", "whole", "w", "-o", f"jsonpath={{.spec.part0.{path}.field3}}") == "deep"
    kubectl("delete", "crd", "wholes.large.example.dev", "--timeout=180s")
