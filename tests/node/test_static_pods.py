"""Static pods: a directory of manifests, the pods they become, and their mirrors at the API."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import is_mirror
from rayplane.node.config import NodeConfig
from rayplane.node.kubelet.manifests import CONFIG_HASH, NoManifest, mirror_of, shows, static_pod
from tests.fakes import FakeClient
from tests.node.processes import MakeHost, phase

STAMP = "2026-01-01T00:00:00Z"
MANIFEST: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "c", "image": "nginx"}]},
}


def written(**changes: Any) -> bytes:
    return yaml.safe_dump({**MANIFEST, **changes}).encode()


def test_a_manifest_becomes_a_pod_of_its_node_and_a_mirror() -> None:
    pod = static_pod(written(), "n1", STAMP)
    assert (meta.name(pod), meta.namespace(pod), meta.node_name(pod)) == ("web-n1", "default", "n1")
    assert meta.annotations(pod)["kubernetes.io/config.source"] == "file"
    assert {"operator": "Exists", "effect": "NoExecute"} in pod["spec"]["tolerations"]
    mirror = mirror_of(pod, {"metadata": {"name": "n1", "uid": "u1"}})
    assert meta.annotations(mirror)["kubernetes.io/config.mirror"] == meta.uid(pod)
    assert meta.annotations(pod)[CONFIG_HASH] == meta.uid(pod)
    (owner,) = mirror["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Node", "n1", "u1", True)
    assert "uid" not in mirror["metadata"] and shows(mirror, pod)
    # The same file is the same pod; another one, or another node's, is not.
    assert meta.uid(static_pod(written(), "n1", "later")) == meta.uid(pod)
    other = static_pod(written(metadata={"name": "web"}), "n1", STAMP)
    assert len({meta.uid(p) for p in (pod, other, static_pod(written(), "n2", STAMP))}) == 3
    assert not shows(mirror, other)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"x" * (2 << 20),
        written(kind="Deployment"),
        written(metadata={}),
        written(spec=[]),
        written(spec={"containers": []}),
        written(spec={"containers": [{"name": "Not A Name", "image": "x"}]}),
        written(spec={"containers": "c"}),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(NoManifest):
        static_pod(data, "n1", STAMP)


@given(st.binary(max_size=200))
def test_no_file_breaks_its_reader(data: bytes) -> None:
    with pytest.raises(NoManifest):
        static_pod(data, "n1", STAMP)


def mirrors(api: FakeClient) -> list[Object]:
    return [pod for pod in api.objects.get("pods", {}).values() if is_mirror(pod)]


async def test_a_mirror_comes_back_and_goes_with_its_manifest(
    api: FakeClient, make_host: MakeHost, tmp_path: Path
) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "web.yaml").write_bytes(written())
    (directory / ".hidden.yaml").write_bytes(written(metadata={"name": "hidden"}))
    (directory / "broken.yaml").write_bytes(b"{")
    host = await make_host(NodeConfig("n1", static_pods=str(directory)))
    await api.until(lambda: mirrors(api) and phase(api, "web-n1") == "Running")
    assert len(mirrors(api)) == 1
    worker = host.kubelet("n1").worker("default", "web-n1")
    first, attempt = meta.uid(api.pod("web-n1")), worker.machine.by_name["c"].attempt
    # Who deletes a mirror gets it back; its containers have gone on all the time.
    await api.delete("pods", "web-n1", "default")
    await api.until(lambda: mirrors(api) and meta.uid(mirrors(api)[0]) != first and phase(api, "web-n1") == "Running")
    assert worker.machine.by_name["c"].attempt == attempt
    (directory / "web.yaml").unlink()
    await api.until(lambda: not mirrors(api) and not host.kubelet("n1").workers)


async def test_a_mirror_without_a_manifest_is_ended(api: FakeClient, make_host: MakeHost) -> None:
    pod = static_pod(written(), "n1", STAMP)
    api.put("pods", {**mirror_of(pod, {"metadata": {"name": "n1"}}), "status": {"phase": "Running"}})
    await make_host(NodeConfig("n1"))
    await api.until(lambda: not mirrors(api))
