"""Images are pulled from a registry as the kubelet pulls them, and what a registry says is checked."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.backoff import Backoff
from rayplane.node.images import blobs
from rayplane.node.images import registry as registries_client
from rayplane.node.images.catalog import Catalog
from rayplane.node.images.credentials import Auth, auths_of, credentials_of, fitting
from rayplane.node.images.errors import (
    Corrupt,
    ImageError,
    ImageNotFound,
    NoPull,
    PullBackOff,
    RegistryDenied,
    RegistryFailed,
    TooLarge,
)
from rayplane.node.images.references import parse_reference
from rayplane.node.images.registries import Registries
from rayplane.node.images.room import Room
from rayplane.node.images.service import ImagesService
from rayplane.node.images.store import ImageStore
from rayplane.node.kubelet.image_manager import NOT_PRESENT, ImageManager, ImageRules
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.node.conftest import make_pod
from tests.node.images.registry_server import TOKEN, Registry, serving
from tests.node.images.tars import entry, kept, laid_over, tar

LAYERS = [tar([entry("a", data=b"1")]), tar([entry("b", data=b"2" * 3_000_000)])]
USER = "me:secret"


class Recorder:
    """Events, as they were recorded."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, about: Object, kind: str, reason: str, message: str, *, part: str = "") -> None:
        self.told.append((reason, message))


class Secrets:
    """Secrets of a namespace by name."""

    def __init__(self) -> None:
        self.known: dict[str, Object] = {}

    async def find(self, namespace: str, references: Any) -> dict[tuple[str, str], Object | None]:
        return {(one.resource, one.name): self.known.get(one.name) for one in references}


def secret(name: str, auths: dict[str, Any], *, old: bool = False) -> Object:
    kind, field = ("dockercfg", ".dockercfg") if old else ("dockerconfigjson", ".dockerconfigjson")
    data = base64.b64encode(orjson.dumps(auths if old else {"auths": auths})).decode()
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "type": f"kubernetes.io/{kind}", "data": {field: data}}


def shown(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(user.encode()).decode()}


class Node:
    """A manager of images with what it is told and what it tells."""

    def __init__(
        self, directory: Path, registry: Registry, *allowed: str, mirror: str = "", isolates: bool = True
    ) -> None:
        self.store = ImageStore(directory, None, lambda: 5.0)
        self.events, self.secrets = Recorder(), Secrets()
        mirrors = {mirror: f"http://{registry.address}"} if mirror else {}
        rules = ImageRules(isolates, registries=Registries(allowed or ("all",), mirrors), backoff=Backoff(30.0, 300.0))
        self.manager = ImageManager(self.store, self.events, self.secrets, rules)  # type: ignore[arg-type]
        self.address = registry.address

    async def image(self, name: str = "shop:1", pod: str = "p", secrets: tuple[str, ...] = (), **container: Any) -> Any:
        spec: dict[str, Any] = {"imagePullSecrets": [{"name": one} for one in secrets]}
        said = name if "@" in name or "/" in name else f"{self.address}/{name}"
        return await self.manager.image(make_pod(pod, **spec), {"image": said, **container})


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    source = ImageStore(tmp_path / "source", None, lambda: 1.0)
    source.prepare()
    async with serving() as registry:
        image = kept(source, "shop:1", LAYERS, Cmd=["run"])
        registry.have(source, image.digest, "shop", "1")
        registry.have(source, image.digest, "library/shop", "1")
        yield registry


@pytest.fixture
async def node(tmp_path: Path, registry: Registry) -> AsyncIterator[Node]:
    node = Node(tmp_path / "node", registry)
    node.store.prepare()
    yield node
    await node.manager.close()
    assert [name for name in os.listdir(tmp_path / "node/making") if not name.endswith(".lock")] == []


def reasons(node: Node) -> list[str]:
    return [reason for reason, _ in node.events.told]


async def test_an_image_is_pulled_once_and_told_of(node: Node, registry: Registry) -> None:
    image = await node.image()
    assert laid_over([Path(one) for one in image.layers]) == {"a": b"1", "b": b"2" * 3_000_000}
    assert image.name == f"{node.address}/shop:1" and image.image_id.startswith(f"{node.address}/shop@sha256:")
    assert image.cmd == ("run",)
    assert reasons(node) == ["Pulling", "Pulled"] and "Successfully pulled image" in node.events.told[1][1]
    asked = len(registry.asked)
    await node.image(pod="other")
    assert (reasons(node)[2:], len(registry.asked)) == (["Pulled"], asked)
    again = await node.image(imagePullPolicy="Always")
    assert again.image_id == image.image_id and registry.asked[asked:] == ["shop:1"]


async def test_pods_that_come_together_pull_once(node: Node, registry: Registry) -> None:
    await asyncio.gather(*(node.image(pod=f"p{n}") for n in range(5)))
    assert registry.asked.count("shop:1") == 1


async def test_what_a_build_begins_with_is_pulled_where_nodes_may(
    node: Node, registry: Registry, tmp_path: Path
) -> None:
    service, name = ImagesService(node.manager, unpacks=True), f"{registry.address}/shop:1"
    request = pb.SaveImageRequest(name=name)
    archive = b"".join([one.data async for one in service.Save(request, None)])  # type: ignore[arg-type]
    assert name.encode() in archive and registry.asked[0] == "shop:1"
    alone = Node(tmp_path / "alone", registry, "docker.io")
    alone.store.prepare()
    with pytest.raises(ImageNotFound):
        await anext(ImagesService(alone.manager, unpacks=True).Save(request, None))  # type: ignore[arg-type]
    await alone.manager.close()


async def test_a_digest_is_pinned(node: Node, registry: Registry) -> None:
    digest = next(name.partition(":")[2] for name in registry.manifests if "@" not in name and name.count(":") == 2)
    image = await node.image(f"{node.address}/shop@{digest}")
    assert image.image_id.endswith(digest)
    registry.manifests["shop:" + digest] = b"{}"
    other = Node(node.store.root.parent / "other", registry)
    other.store.prepare()
    with pytest.raises(Corrupt):
        await other.image(f"{node.address}/shop@{digest}")
    await other.manager.close()


@pytest.mark.parametrize(
    ("broken", "name", "error"),
    [
        ("lie", "shop:1", Corrupt),
        ("cut", "shop:1", RegistryFailed),
        ("fail", "shop:1", RegistryFailed),
        ("", "shop:none", ImageNotFound),
    ],
)
async def test_a_failed_pull_is_told_and_not_tried_again_at_once(
    node: Node, registry: Registry, broken: str, name: str, error: type[ImageError]
) -> None:
    registry.broken = broken
    with pytest.raises(error) as caught:
        await node.image(name)
    assert caught.value.reason == "ErrImagePull" and node.store.catalog() == Catalog()
    asked = len(registry.asked)
    with pytest.raises(PullBackOff, match=r"Back-off pulling image .*: ErrImagePull: ") as waits:
        await node.image(name)
    assert 0 < waits.value.wait_s <= 30 and len(registry.asked) == asked
    assert reasons(node) == ["Pulling", "Failed", "BackOff"]
    # Another pod is not made to wait for it.
    with pytest.raises(error):
        await node.image(name, pod="other")
    registry.broken = ""
    node.manager.release("uid-p")
    if name == "shop:1":
        assert (await node.image(name)).cmd == ("run",)


async def test_who_drips_is_given_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries_client, "SLOW_FROM_S", -1.0)
    monkeypatch.setattr(registries_client, "SLOWEST", 1 << 60)
    with pytest.raises(RegistryFailed, match="slower than"):
        await node.image()


async def test_an_image_that_is_said_to_be_larger_than_the_disk_is_not_begun(
    node: Node, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "room_at", lambda place: Room(1_000_000, 100))
    with pytest.raises(TooLarge, match="there is room for 1000000"):
        await node.image()
    assert not node.store.catalog().images


async def test_what_nobody_listens_at_is_told(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", Registry(address="127.0.0.1:1"))
    node.store.prepare()
    with pytest.raises(RegistryFailed, match="failed to do request"):
        await node.image()
    await node.manager.close()


async def test_credentials_come_from_the_pods_secrets(node: Node, registry: Registry) -> None:
    registry.user = USER
    with pytest.raises(RegistryDenied):
        await node.image(pod="none", secrets=("missing",))
    assert "FailedToRetrieveImagePullSecret" in reasons(node)
    node.secrets.known["wrong"] = secret("wrong", {node.address: shown("me:wrong")})
    node.secrets.known["right"] = secret("right", {f"http://{node.address}/v2/": shown(USER)}, old=True)
    with pytest.raises(RegistryDenied):
        await node.image(pod="wrong", secrets=("wrong",))
    image = await node.image(secrets=("wrong", "right"))
    assert image.cmd == ("run",) and "token repository:shop:pull" in registry.asked
    # What came by a secret is for pods that have it; others ask the registry themselves.
    with pytest.raises(RegistryDenied):
        await node.image(pod="stranger")
    with pytest.raises(NoPull):
        await node.image(pod="never", imagePullPolicy="Never")
    asked = len(registry.asked)
    assert (await node.image(pod="friend", secrets=("right",))).image_id == image.image_id
    assert len(registry.asked) == asked


async def test_a_token_of_the_registry_is_shown_as_it_is(node: Node, registry: Registry) -> None:
    registry.user = USER
    node.secrets.known["token"] = secret("token", {node.address: {"registrytoken": TOKEN}})
    assert (await node.image(secrets=("token",))).cmd == ("run",)
    assert not [asked for asked in registry.asked if asked.startswith("token ")]


async def test_a_mirror_is_asked_before_its_registry(tmp_path: Path, registry: Registry) -> None:
    node = Node(tmp_path / "node", registry, "docker.io", mirror="docker.io")
    node.store.prepare()
    image = await node.image("docker.io/library/shop:1")
    assert image.name == "docker.io/library/shop:1" and registry.asked[0] == "library/shop:1"
    # Not all registries may be asked.
    assert await node.image() is None
    await node.manager.close()


async def test_where_nothing_is_isolated_machines_stand_for_images_whatever_the_policy(
    tmp_path: Path, registry: Registry
) -> None:
    node = Node(tmp_path / "node", registry, isolates=False)
    node.store.prepare()
    kept(node.store, "here", LAYERS)
    for policy in ("Always", "IfNotPresent", "Never"):
        assert await node.image(imagePullPolicy=policy) is None
        assert await node.image("docker.io/library/here:latest", imagePullPolicy=policy) is None
    assert registry.asked == []
    assert {*reasons(node)} == {NOT_PRESENT} and "isolation" in node.events.told[0][1]
    await node.manager.close()


HOSTS = [
    ("docker.io", "nginx", True),
    ("https://index.docker.io/v1/", "nginx", True),
    ("ghcr.io", "ghcr.io/a/b", True),
    ("*.io", "ghcr.io/a/b", True),
    ("*.io", "a.b.io/c", False),
    ("ghcr.io/a", "ghcr.io/a/b", True),
    ("ghcr.io/a", "ghcr.io/ab/c", False),
    ("localhost:5000", "localhost:5001/a", False),
]


@pytest.mark.parametrize(("pattern", "name", "fits"), HOSTS)
def test_a_key_names_hosts_ports_and_paths(pattern: str, name: str, fits: bool) -> None:
    assert bool(fitting([Auth(pattern, "u")], parse_reference(name))) is fits


def test_the_longest_key_counts_most_and_odd_secrets_name_nobody() -> None:
    auths = auths_of(
        secret("s", {"ghcr.io": shown("a:b"), "ghcr.io/x": shown("c:d:e"), "odd": {"auth": "?"}, "no": {}})
    )
    assert [(one.user, one.password) for one in fitting(auths, parse_reference("ghcr.io/x/y"))] == [
        ("c", "d:e"),
        ("a", "b"),
    ]
    assert credentials_of(auths).secrets == {"uid-s"}
    for data in ("", "!", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"auths": []}').decode()):
        odd = {"metadata": {"uid": "u"}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}
        assert auths_of(odd) == []
    assert auths_of({"metadata": {}, "type": "Opaque"}) == []
