"""Stock helm, 3 and 4: a chart with a definition, hooks, a test and what releases consist of."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Cluster, Kubectl

RELEASES = ("1.27", "1.37")
"""Of Kubernetes, whose helm is tried: 3.12 and 4.3."""
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: '7'\n",
    "values.yaml": "replicas: 1\ncolor: blue\n",
    "crds/gadgets.yaml": """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.shop.example.dev}
spec:
  group: shop.example.dev
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties: {spec: {type: object, properties: {color: {type: string}}}}
""",
    "templates/all.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers: [{name: c, image: "nginx:{{ .Chart.AppVersion }}", env: [{name: COLOR, value: {{ .Values.color }}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: shop.example.dev/v1
kind: Gadget
metadata: {name: {{ .Release.Name }}}
spec: {color: {{ .Values.color }}}
---
{{- if lookup "v1" "Namespace" "" .Release.Namespace }}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-looked-up}
{{- end }}
""",
    "templates/hooks.yaml": """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-prepare
  annotations:
    "helm.sh/hook": pre-install,pre-upgrade
    "helm.sh/hook-delete-policy": before-hook-creation,hook-succeeded
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-test
  annotations: {"helm.sh/hook": test, "rayplane.io/run-duration": "0.1"}
spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}
""",
}


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--apiservers", "1", "--nodes", "1")


@pytest.fixture
def kubectl(cluster: Cluster, release: str, fresh_namespace: Callable[..., Kubectl]) -> Kubectl:
    return fresh_namespace(cluster, "", f"helm-{release.replace('.', '-')}")


def test_a_chart_is_installed_changed_tested_rolled_back_and_removed(
    kubectl: Kubectl, release: str, binaries_of: Callable[[str], Path], tmp_path: Path
) -> None:
    binary, chart = binaries_of(release) / "helm", tmp_path / "shop"
    for name, text in CHART.items():
        (chart / name).parent.mkdir(parents=True, exist_ok=True)
        (chart / name).write_text(text)

    def helm(*arguments: str) -> str:
        done = subprocess.run(
            [str(binary), "--namespace", kubectl.namespace, *arguments],
            env=os.environ | kubectl.cluster.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def status(**wanted: Any) -> None:
        found = json.loads(helm("status", "r", "-o", "json"))
        assert {**found["info"], "version": found["version"]}.items() >= wanted.items()

    waiting = ("--wait", "--timeout", "60s")
    helm("lint", str(chart))
    helm("install", "r", str(chart), *waiting)
    status(status="deployed", version=1)
    assert kubectl.names("gadgets") == ["gadget.shop.example.dev/r"]
    assert kubectl.names("jobs") == []  # the hook has succeeded and is gone
    assert kubectl.names("configmaps", "-l", "app.kubernetes.io/managed-by=Helm") != []
    helm("upgrade", "r", str(chart), "--set", "replicas=2,color=red", *waiting)
    status(status="deployed", version=2)
    assert kubectl("get", "deploy,gadget", "-o", "jsonpath={..replicas} {.items[*].spec.color}").endswith(" red")
    helm("test", "r")
    helm("rollback", "r", "1", *waiting)
    assert kubectl.json("get", "deployment", "r")["spec"]["replicas"] == 1
    assert [entry["status"] for entry in json.loads(helm("history", "r", "-o", "json"))] == [
        "superseded",
        "superseded",
        "deployed",
    ]
    assert [entry["name"] for entry in json.loads(helm("list", "-o", "json"))] == ["r"]
    assert "kind: Gadget" in helm("get", "manifest", "r")
    helm("template", "r", str(chart), "--validate")
    helm("uninstall", "r", *waiting)
    assert kubectl.names("deployments,services,gadgets,secrets") == []
