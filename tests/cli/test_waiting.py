"""`rayplane why pod`: what a pod waits for or lacks, and who could make it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.cli import stages, waiting
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.manifests import ManifestError
from rayplane.control_plane.cluster.stages import read
from rayplane.control_plane.stages.examples import shipped
from rayplane.node.images.containers import SIMULATED_ID
from tests.fakes import FakeClient

ENV = [
    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "maybe", "key": "k", "optional": True}}},
]
VOLUMES = [{"name": "v", "configMap": {"name": "conf"}}, {"name": "w", "secret": {"secretName": "there"}}]


class Api(FakeClient):
    """An API at which one account may make Secrets."""

    async def create(self, resource: str, obj: dict[str, Any], **options: Any) -> dict[str, Any]:
        if not resource.startswith("subjectaccessreviews"):
            return await super().create(resource, obj, **options)
        spec = obj["spec"]
        asked = spec["resourceAttributes"]
        allowed = spec["user"] == "system:serviceaccount:default:maker" and asked["resource"] == "secrets"
        return {"status": {"allowed": allowed and asked["verb"] == "create"}}


def pod(name: str, account: str = "default", **spec: Any) -> dict[str, Any]:
    spec = {"nodeName": "n1", "serviceAccountName": account, "containers": [{"name": "c"}], **spec}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": spec,
        "status": {"phase": "Pending"},
    }


def node(runtime: str) -> dict[str, Any]:
    return {"metadata": {"name": "n1"}, "status": {"nodeInfo": {"containerRuntimeVersion": f"rayplane-{runtime}://1"}}}


async def said(api: Api) -> list[str]:
    return list(waiting.lines(await waiting.waits(api, "default", "web")))  # type: ignore[arg-type]


async def test_what_is_missing_is_told_with_who_may_make_it() -> None:
    api = Api()
    api.put("nodes", node("simulated"))
    api.put("secrets", {"metadata": {"name": "there", "namespace": "default"}})
    api.put("pods", pod("web", containers=[{"name": "c", "env": ENV}], volumes=VOLUMES))
    api.put("pods", pod("setup", "maker"))
    assert await said(api) == [
        "It waits for Secret default/key, which is not there.",
        "    May make it: setup (service account maker).",
        "    Pods of simulated nodes run no programs: a Stage with an `apply` step makes it in their name.",
        "It waits for ConfigMap default/conf, which is not there.",
        "    Pods of simulated nodes run no programs: make it by hand, or by a Stage with an `apply` step.",
    ]
    api.put("nodes", node("process"))
    assert (await said(api))[-1] == "    Make it, or look into the logs of whatever should have."


async def test_whoever_waits_for_what_stages_that_come_along_make_is_told_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api()
    api.put("nodes", node("simulated"))
    api.put("pods", pod("web", volumes=[{"name": "w", "secret": {"secretName": "kedaorg-certs"}}]))
    *_, command = await said(api)
    assert "`rayplane stages keda | kubectl apply -f -`" in command
    stages.show("keda")
    assert capsys.readouterr().out == shipped()["keda"].decode()
    stages.show()
    assert "keda: kedaorg-certs\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="use one of argo-cd, ingress-nginx, keda"):
        stages.show("other")
    (tmp_path / "keda").mkdir()
    monkeypatch.chdir(tmp_path)  # where somebody keeps that application's own files
    assert [one.object["metadata"]["name"] for one in read(["keda"])] == ["keda-certificates"]
    with pytest.raises(ManifestError, match="keda"):
        read(["./keda"])
    assert read([*shipped()])


async def test_a_pod_that_has_what_it_needs_or_runs_waits_for_nothing() -> None:
    api = Api()
    api.put("nodes", node("simulated"))
    api.put("pods", pod("web"))
    assert await said(api) == []
    running = pod("web", volumes=VOLUMES)
    running["status"]["phase"] = "Running"
    api.put("pods", running)
    assert await said(api) == []
    api.remove("pods", "default/web")
    assert await said(api) == []


async def test_a_container_that_is_data_on_a_node_of_processes_is_told_with_its_image() -> None:
    api = Api()
    web = pod("web")
    web["status"] = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "c", "image": "nginx", "imageID": f"{SIMULATED_ID}sha256:1"},
            {"name": "d", "image": "shop", "imageID": "sha256:2"},
        ],
    }
    api.put("pods", web)
    lacks = await waiting.lacks(api, "default", "web")  # type: ignore[arg-type]
    simulated = [{"container": "c", "image": "nginx"}]
    assert lacks.to_json() == {"waits": [], "simulated": simulated, "unscheduled": ""}
    first, then = lacks.lines()
    assert first == "Container c is simulated, and runs no program: image nginx is nowhere, and no command said."
    assert "rayplane image load" in then


async def test_a_pod_without_a_node_is_told_with_its_schedulers_words() -> None:
    api = Api()
    web = pod("web", nodeName="", schedulerName="mine")
    api.put("pods", web)
    (first, then) = (await waiting.lacks(api, "default", "web")).lines()  # type: ignore[arg-type]
    assert first == "It has no node: scheduler mine has said nothing about it."
    assert "rayplane explain pod" in then
    web["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "its gang is not complete"}]
    api.put("pods", web)
    lacks = await waiting.lacks(api, "default", "web")  # type: ignore[arg-type]
    assert lacks.to_json()["unscheduled"] == "its gang is not complete"
    foreign = replace(lacks, unexplained="pod default/web names scheduler mine")
    assert list(foreign.lines())[1] == "    Nothing more is known here: pod default/web names scheduler mine."


GOOD = b"""
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: a}
spec: {resourceRef: {kind: Pod}, selector: {}, next: {statusTemplate: "phase: Running"}}
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD.replace(b"phase: Running", b"{{ foo }}"), r"document 2: Stage a: spec.next.statusTemplate: .*line 1:"),
        (GOOD.replace(b"Stage", b"Stages"), "document 2: kwok.x-k8s.io/v1alpha1 Stages: use one of Stage,"),
        (GOOD.replace(b"selector: {}", b"selector: [1]"), "document 2: Stage a: spec.selector"),
    ],
)
def test_stages_of_a_file_are_checked_before_anything_is_done(text: bytes, why: str, tmp_path: Any) -> None:
    file = tmp_path / "stages.yaml"
    file.write_bytes(GOOD)
    assert [one.object["metadata"]["name"] for one in read([str(file)])] == ["a"]
    file.write_bytes(GOOD + b"---\n" + text)
    with pytest.raises(ManifestError, match=why):
        read([str(file)])
