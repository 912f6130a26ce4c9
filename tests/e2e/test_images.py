"""Images by the command line: loaded from an archive, run in pods of their own root, listed, mapped and removed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, Kubectl, until
from tests.node.images.tars import docker_archive, entry, tar
from tests.node.images.test_image_containers import tools
from tests.node.isolated import isolating

pytestmark = isolating
FAILED = 1


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    small = ("--members", "1", "--apiservers", "1", "--nodes", "2")
    return bring_up("--host", "process", "--runtime", "process", "--isolation", "namespaces", *small)


@pytest.fixture
def kubectl(cluster: Cluster, fresh_namespace: Callable[..., Kubectl], request: pytest.FixtureRequest) -> Kubectl:
    return fresh_namespace(cluster, "", str(request.node.name).replace("_", "-"))


@pytest.mark.turn(1, of=2)
def test_an_image_is_loaded_run_and_removed(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    archive = tmp_path / "shop.tar"
    layers = [tools(), tar([entry("srv/page", data=b"from the image\n")])]
    archive.write_bytes(docker_archive("shop:1", layers, Cmd=["cat", "page"], WorkingDir="/srv"))
    assert cluster.rayplane("image", "load", str(archive)).stdout == "loaded docker.io/library/shop:1\n"
    kubectl("run", "reader", "--image=shop:1", "--restart=Never")
    until("its end", lambda: kubectl("get", "pod", "reader", "-o", "jsonpath={.status.phase}") == "Succeeded")
    assert kubectl("logs", "reader") == "from the image\n"
    (images,) = json.loads(cluster.rayplane("image", "list", "-o", "json").stdout)["machines"].values()
    (image,) = images["images"]
    pod = kubectl.json("get", "pod", "reader")
    assert pod["status"]["containerStatuses"][0]["imageID"] == image["config"]
    copy = tmp_path / "copy.tar"
    cluster.rayplane("image", "save", "shop:1", str(copy))
    assert cluster.rayplane("image", "rm", "shop:1").stdout.splitlines()[0] == "removed docker.io/library/shop:1"
    assert "image list" in cluster.rayplane("image", "rm", "shop:1", code=FAILED).stderr
    cluster.rayplane("image", "load", str(copy), "--tag", "shop:2")
    listed = cluster.rayplane("image", "list").stdout
    assert "docker.io/library/shop:1" in listed and "docker.io/library/shop:2" in listed
    assert "removed" in cluster.rayplane("image", "prune", "--all").stdout


def test_a_program_of_the_machine_stands_for_an_image(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.rayplane("image", "map", "greeter*", "--command", "echo hello")
    kubectl("run", "greets", "--image=greeter:3", "--restart=Never", "--", "you")
    until("its end", lambda: kubectl("get", "pod", "greets", "-o", "jsonpath={.status.phase}") == "Succeeded")
    assert kubectl("logs", "greets") == "hello you\n"
    assert "greeter*" in cluster.rayplane("image", "list").stdout
    cluster.rayplane("image", "map", "greeter*", "--remove")
    assert "greeter*" not in cluster.rayplane("image", "list").stdout


@pytest.mark.turn(0, of=2)
def test_an_image_is_built_on_another(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    base = tmp_path / "base.tar"
    base.write_bytes(docker_archive("base:1", [tools()], Env=["WHO=base"]))
    cluster.rayplane("image", "load", str(base))
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "page").write_text("built\n")
    (folder / "Dockerfile").write_text(
        'FROM base:1 AS made\nSHELL ["sh", "-c"]\nRUN echo "made of $WHO" >/made; rm /usr/bin/cat; id -u >&2\n'
        "FROM base:1\nCOPY page /srv/\nCOPY --from=made /made /srv/\nENV B=$WHO-1\n"
        'CMD ["sh", "-c", "cat /srv/page /srv/made; echo $B"]\n'
    )
    first = cluster.rayplane("image", "build", str(folder), "-t", "shop:built").stdout
    assert cluster.rayplane("image", "build", str(folder), "-t", "shop:built").stdout == first
    kubectl("run", "built", "--image=shop:built", "--restart=Never")
    until("its end", lambda: kubectl("get", "pod", "built", "-o", "jsonpath={.status.phase}") == "Succeeded")
    assert kubectl("logs", "built") == "built\nmade of base\nbase-1\n"
    (folder / "Dockerfile").write_text("FROM base:1\n\nRUN --network=host true\n")
    told = cluster.rayplane("image", "build", str(folder), "-t", "shop:no", code=FAILED).stderr
    assert "Dockerfile, line 3: RUN --network is not done here" in told


def test_what_is_no_image_and_has_no_end_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    assert "holds no images" in cluster.rayplane("image", "load", "/dev/zero", code=FAILED).stderr
    assert (
        "at most" in cluster.rayplane("image", "build", str(tmp_path), "-f", "/dev/zero", "-t", "x", code=FAILED).stderr
    )


def test_a_pod_whose_image_is_nowhere_says_so(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("run", "lost", "--image=nowhere:1")
    until("its event", lambda: "ImageNotPresent" in kubectl("get", "events", "-o", "jsonpath={.items[*].reason}"))
    namespace = kubectl("get", "pod", "lost", "-o", "jsonpath={.metadata.namespace}")
    assert "image nowhere:1 is nowhere" in cluster.rayplane("why", "pod", "lost", "-n", namespace).stdout
