"""A working day with the real kubectl, over TLS and the load balancer."""

import asyncio
import os
from pathlib import Path

import pytest
import yaml

from tests.apiserver.secure import KUBECTL, Cluster, cluster

__all__ = ["cluster"]
pytestmark = pytest.mark.e2e

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "nginx:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


async def ok(cluster: Cluster, *arguments: str, stdin: str = "") -> str:
    code, out, err = await cluster.kubectl(*arguments, stdin=stdin)
    assert code == 0, f"kubectl {' '.join(arguments)}: {out}{err}"
    return out


async def test_apply_change_look_and_delete(cluster: Cluster) -> None:
    out = await ok(cluster, "apply", "-f", "-", stdin=MANIFEST)
    assert out == "deployment.apps/web created\nservice/web created\n"
    out = await ok(cluster, "apply", "-f", "-", stdin=MANIFEST.replace("nginx:1", "nginx:2"))
    assert out == "deployment.apps/web configured\nservice/web unchanged\n"
    code, out, _ = await cluster.kubectl("diff", "-f", "-", stdin=MANIFEST)
    assert code == 1
    assert "nginx:2" in out
    await ok(cluster, "scale", "deployment/web", "--replicas=5")
    await ok(cluster, "set", "image", "deploy/web", "c=nginx:3")
    await ok(cluster, "label", "deploy", "web", "tier=front")
    await ok(cluster, "patch", "deploy", "web", "-p", '{"spec":{"minReadySeconds":3}}')
    found = yaml.safe_load(await ok(cluster, "get", "deploy", "web", "-o", "yaml"))
    assert found["spec"]["replicas"] == 5
    assert found["spec"]["minReadySeconds"] == 3
    assert found["metadata"]["labels"] == {"app": "web", "tier": "front"}
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:3"
    wide = (await ok(cluster, "get", "deploy", "-o", "wide")).splitlines()
    assert wide[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert wide[1].split()[:2] == ["web", "0/5"]
    assert "RollingUpdateStrategy" in await ok(cluster, "describe", "deploy", "web")
    assert "FIELD: strategy <DeploymentStrategy>" in await ok(cluster, "explain", "deploy.spec.strategy")
    await ok(cluster, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=MANIFEST)
    await ok(cluster, "delete", "-f", "-", stdin=MANIFEST)
    code, _, err = await cluster.kubectl("get", "deploy", "web")
    assert 'deployments.apps "web" not found' in err


async def test_generators_send_protobuf(cluster: Cluster) -> None:
    for arguments in (
        ("namespace", "team"),
        ("configmap", "c", "--from-literal=a=b"),
        ("secret", "generic", "s", "--from-literal=a=b"),
        ("deployment", "d", "--image=nginx", "--replicas=2"),
        ("service", "clusterip", "svc", "--tcp=80:8080"),
        ("job", "j", "--image=busybox", "--", "true"),
        ("cronjob", "cj", "--image=busybox", "--schedule=*/5 * * * *"),
        ("serviceaccount", "robot"),
        ("role", "r", "--verb=get", "--resource=pods"),
        ("quota", "q", "--hard=pods=10"),
        ("ingress", "i", "--rule=a.example.com/=svc:80"),
        ("poddisruptionbudget", "b", "--selector=app=d", "--min-available=1"),
        ("priorityclass", "pc", "--value=10"),
    ):
        await ok(cluster, "create", *arguments)
    await ok(cluster, "autoscale", "deployment", "d", "--max=3")
    secret = yaml.safe_load(await ok(cluster, "get", "secret", "s", "-o", "yaml"))
    assert secret["data"] == {"a": "Yg=="}
    assert (await ok(cluster, "auth", "can-i", "create", "pods")) == "yes\n"


async def test_rollout_status_follows_the_controllers_word(cluster: Cluster) -> None:
    await ok(cluster, "create", "deployment", "d", "--image=nginx", "--replicas=2")
    process = await cluster.start_kubectl("rollout", "status", "deployment/d", "--timeout=120s")
    client = cluster.client()
    counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    status = {"observedGeneration": 1, **counts}
    await client.patch("deployments.apps", "d", "default", {"status": status}, subresource="status")
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err
    assert out.decode().splitlines()[-1] == 'deployment "d" successfully rolled out'


async def test_delete_waits_for_finalizers(cluster: Cluster) -> None:
    await ok(cluster, "create", "configmap", "held")
    finalizers = '{"metadata":{"finalizers":["example.com/hold"]}}'
    await ok(cluster, "patch", "configmap", "held", "-p", finalizers)
    process = await cluster.start_kubectl("delete", "configmap", "held", "--timeout=120s")
    client = cluster.client()
    async with asyncio.timeout(120):
        while not (await client.get("configmaps", "held", "default"))["metadata"].get("deletionTimestamp"):
            await asyncio.sleep(0.02)
    assert process.returncode is None
    await client.patch("configmaps", "held", "default", {"metadata": {"finalizers": None}})
    await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0


async def test_edit_sends_what_was_changed(cluster: Cluster, tmp_path: Path) -> None:
    await ok(cluster, "create", "configmap", "e", "--from-literal=color=red")
    path = cluster.kubeconfig("admin", ["system:masters"])
    environment = {**os.environ, "KUBECONFIG": str(path), "HOME": str(tmp_path), "KUBE_EDITOR": "sed -i s/red/blue/"}
    process = await asyncio.create_subprocess_exec(KUBECTL, "edit", "configmap", "e", env=environment)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert (await cluster.client().get("configmaps", "e", "default"))["data"] == {"color": "blue"}


DISPATCHER = Path("/usr/bin/kubectl")


@pytest.mark.skipif(not DISPATCHER.exists(), reason="no packaged kubectl on this machine")
async def test_older_kubectl_through_the_dispatcher(cluster: Cluster) -> None:
    path = cluster.kubeconfig("admin", ["system:masters"])
    environment = {"KUBECONFIG": str(path), "HOME": str(cluster.directory), "PATH": "/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec(
        str(DISPATCHER),
        "create",
        "deployment",
        "old",
        "--image=nginx",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert out.decode() == "deployment.apps/old created\n", err


async def test_pod_security_refuses_and_warns(cluster: Cluster) -> None:
    await ok(cluster, "create", "namespace", "safe")
    await ok(cluster, "create", "serviceaccount", "default", "-n", "safe")
    await ok(cluster, "label", "namespace", "safe", "pod-security.kubernetes.io/enforce=restricted")
    code, _, err = await cluster.kubectl("run", "a", "--image=i", "-n", "safe")
    assert code == 1
    assert 'Error from server (Forbidden): pods "a" is forbidden: violates PodSecurity "restricted:latest": ' in err
    code, out, err = await cluster.kubectl("create", "deployment", "a", "--image=i", "-n", "safe")
    assert (code, out) == (0, "deployment.apps/a created\n")
    assert err.startswith('Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false')
    await ok(cluster, "run", "free", "--image=i", "-n", "default")
    change = ("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
    code, _, err = await cluster.kubectl(*change)
    assert (code, "existing pods in namespace" in err) == (0, True)
