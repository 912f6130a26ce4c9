"""A store keeps what it is given, whole, shared by processes, and lets go of what nobody uses."""

import io
import multiprocessing
import os
import signal
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from rayplane.node.images.archives import load, saved
from rayplane.node.images.catalog import Catalog, Program
from rayplane.node.images.errors import (
    BadImage,
    BadReference,
    Corrupt,
    ImageError,
    ImageInUse,
    ImageNotFound,
    TooLarge,
)
from rayplane.node.images.manifests import digest_of
from rayplane.node.images.platforms import architecture
from rayplane.node.images.references import parse_reference
from rayplane.node.images.store import ImageStore
from rayplane.node.images.users import Accounts
from tests.node.images.tars import DIRECTORY, config_of, docker_archive, entry, kept, laid_over, tar

BASE = tar([entry("bin", DIRECTORY), entry("bin/tool", data=b"tool"), entry("etc/passwd", data=b"web:x:7:8::/srv:\n")])
OVER = tar([entry("srv/page", data=b"page"), entry("bin/.wh.tool")])
NOW = 1_000_000.0


def make(directory: Path) -> ImageStore:
    store = ImageStore(directory, None, lambda: NOW)
    store.prepare()
    return store


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return make(tmp_path / "images")


def file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / f"archive-{len(data)}"
    path.write_bytes(data)
    return path


def left(store: ImageStore) -> list[str]:
    """What is half made, but for locks."""
    return [name for name in os.listdir(store.root / "making") if not name.endswith(".lock")]


@pytest.mark.parametrize("packed", [bytes, lambda data: zlib.compress(data, wbits=31)], ids=["plain", "gzip"])
def test_what_docker_saved_is_an_image_with_its_layers_laid_over(
    store: ImageStore, tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    path = file(tmp_path, packed(docker_archive("shop:1", [BASE, OVER], Cmd=["serve"], User="web")))
    (image,) = load(store, path)
    assert image.names == ("docker.io/library/shop:1",)
    assert store.catalog().find(parse_reference("shop:1")) == image
    ready = store.ready(image)
    assert laid_over([Path(one) for one in ready.layers]) == {
        "bin": {},
        "etc": {"passwd": b"web:x:7:8::/srv:\n"},
        "srv": {"page": b"page"},
    }
    assert (ready.config.cmd, ready.config.user, ready.accounts) == (("serve",), "web", Accounts("web:x:7:8::/srv:\n"))
    assert left(store) == []


def test_an_archive_written_is_read_again_as_the_same_image(store: ImageStore, tmp_path: Path) -> None:
    image = kept(store, "localhost:5000/a/b:2", [BASE, OVER], Env=["A=1"])
    data = b"".join(saved(store, image))
    other = make(tmp_path / "other")
    (again,) = load(other, file(tmp_path, data), [parse_reference("more")])
    assert (again.digest, again.config) == (image.digest, image.config)
    assert again.names == ("localhost:5000/a/b:2", "docker.io/library/more:latest")
    # By programs that know the older form only, too.
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        old = [entry(m.name, data=archive.extractfile(m).read()) for m in archive if m.name != "index.json"]  # type: ignore[union-attr]
    (third,) = load(make(tmp_path / "third"), file(tmp_path, tar(old)))
    assert (third.config, third.names) == (image.config, image.names)


def test_a_layer_is_unpacked_once_for_all_images(store: ImageStore) -> None:
    one, two = kept(store, "one", [BASE]), kept(store, "two", [BASE, OVER])
    assert store.ready(one).layers[0] == store.ready(two).layers[1]
    assert len(os.listdir(store.root / "layers")) == 2


def layout(blobs: list[bytes], manifest: dict[str, Any], **index: Any) -> bytes:
    data = orjson.dumps(manifest)
    own = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest_of(data), "size": len(data)}
    listed = orjson.dumps({"schemaVersion": 2, "manifests": [{**own, **index}]})
    files = {f"blobs/{digest_of(one).replace(':', '/')}": one for one in (*blobs, data)}
    return tar(entry(name, data=one) for name, one in {"index.json": listed, **files}.items())


def described(data: bytes, **lies: Any) -> dict[str, Any]:
    return {"mediaType": "application/x", "digest": digest_of(data), "size": len(data), **lies}


CONFIG = config_of([BASE])
LIES: dict[str, tuple[dict[str, Any], type[ImageError]]] = {
    "a size": ({"layers": [described(BASE, size=5)]}, TooLarge),
    "a larger size": ({"layers": [described(BASE, size=1 << 30)]}, Corrupt),
    "no digest": ({"layers": [described(BASE, digest="md5:1")]}, BadImage),
    "a path for a digest": ({"layers": [described(BASE, digest="sha256:../../../etc/passwd")]}, BadImage),
    "a layer that is not there": ({"layers": [described(OVER)]}, BadImage),
    "more layers than diff_ids": ({"layers": [described(BASE)] * 2}, BadImage),
    "too many layers": ({"layers": [described(BASE)] * 200}, BadImage),
    "no schema": ({"layers": [described(BASE)], "schemaVersion": 1}, BadImage),
    "no config": ({"config": None}, BadImage),
}


@pytest.mark.parametrize("what", LIES)
def test_a_manifest_that_lies_is_refused_and_leaves_no_image(store: ImageStore, tmp_path: Path, what: str) -> None:
    lie, error = LIES[what]
    manifest = {"schemaVersion": 2, "config": described(CONFIG), "layers": [described(BASE)], **lie}
    with pytest.raises(error):
        load(store, file(tmp_path, layout([CONFIG, BASE], manifest)))
    assert store.catalog() == Catalog() and left(store) == []


def test_content_that_is_not_its_digest_is_refused(store: ImageStore, tmp_path: Path) -> None:
    good = layout([CONFIG, BASE], {"schemaVersion": 2, "config": described(CONFIG), "layers": [described(BASE)]})
    with pytest.raises(Corrupt):
        load(store, file(tmp_path, good.replace(b"tool\0\0", b"fool\0\0")))


def test_a_layer_that_is_not_its_diff_id_is_never_shown(store: ImageStore) -> None:
    image = kept(store, "a", [BASE])
    lying = config_of([OVER])
    with store.working():
        digest, size = store.blobs.add([lying])
    path = store.blobs.path(image.config)
    path.write_bytes(lying)
    with pytest.raises(Corrupt):
        store.config(image)
    assert size and store.blobs.has(digest)
    path.unlink()
    store.blobs.add([CONFIG])
    path = store.blobs.path(digest_of(BASE))
    path.write_bytes(OVER)
    with pytest.raises(Corrupt):
        store.ready(image)
    assert os.listdir(store.root / "layers") == [] and left(store) == []


def test_of_an_index_this_machine_gets_its_own(store: ImageStore, tmp_path: Path) -> None:
    other = orjson.dumps(orjson.loads(CONFIG) | {"architecture": "s390x"})
    manifests = [
        orjson.dumps({"schemaVersion": 2, "config": described(one), "layers": [described(BASE)]})
        for one in (other, CONFIG)
    ]
    kind = "application/vnd.oci.image.manifest.v1+json"
    platforms = [{"os": "linux", "architecture": name} for name in ("s390x", architecture())]
    inner = orjson.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                described(one, mediaType=kind, platform=p) for one, p in zip(manifests, platforms, strict=True)
            ],
        }
    )
    top = {"manifests": [described(inner, mediaType="application/vnd.oci.image.index.v1+json")], "schemaVersion": 2}
    files = {f"blobs/{digest_of(one).replace(':', '/')}": one for one in (other, CONFIG, BASE, inner, *manifests)}
    data = tar(entry(name, data=one) for name, one in {"index.json": orjson.dumps(top), **files}.items())
    (image,) = load(store, file(tmp_path, data), [parse_reference("mine")])
    assert image.digest == digest_of(manifests[1])


def test_of_a_layout_for_many_machines_this_one_gets_its_own(store: ImageStore, tmp_path: Path) -> None:
    other = orjson.dumps(orjson.loads(CONFIG) | {"architecture": "s390x"})
    found = [
        orjson.dumps({"schemaVersion": 2, "config": described(one), "layers": [described(BASE)]})
        for one in (other, CONFIG)
    ]
    names = {"io.containerd.image.name": "shop:1"}

    def layout(architectures: list[str]) -> bytes:
        listed = [
            described(one, platform={"os": "linux", "architecture": name}, annotations=names)
            for one, name in zip(found, architectures, strict=True)
        ]
        index = orjson.dumps({"schemaVersion": 2, "manifests": listed})
        files = {f"blobs/{digest_of(one).replace(':', '/')}": one for one in (other, CONFIG, BASE, *found)}
        return tar(entry(name, data=one) for name, one in {"index.json": index, **files}.items())

    (image,) = load(store, file(tmp_path, layout(["s390x", architecture()])))
    assert image.digest == digest_of(found[1])
    with pytest.raises(BadImage, match=r"no match for platform linux/.*images for linux/s390x, linux/mips"):
        load(store, file(tmp_path, layout(["s390x", "mips"])))


def test_an_image_for_other_machines_is_refused_when_it_comes(store: ImageStore, tmp_path: Path) -> None:
    for more, said in (({"architecture": "s390x"}, "linux/s390x"), ({"os": "windows"}, "windows/")):
        data = orjson.dumps(orjson.loads(CONFIG) | more)
        listed = orjson.dumps([{"Config": "c.json", "RepoTags": ["shop:1"], "Layers": ["l"]}])
        archive = tar(
            entry(name, data=one) for name, one in {"c.json": data, "l": BASE, "manifest.json": listed}.items()
        )
        with pytest.raises(BadImage, match=f"the image is for {said}.* and this machine is linux/{architecture()}"):
            load(store, file(tmp_path, archive))
    assert store.catalog().images == {}


# --- removing -----------------------------------------------------------------------------------


def test_a_used_image_stays_until_its_last_use_is_over(store: ImageStore) -> None:
    image = kept(store, "a", [BASE])
    store.ready(image)
    uses = [store.use(image), make(store.root).use(image)]
    for use in uses:
        with pytest.raises(ImageInUse):
            store.remove("a")
        use.close()
    assert store.remove("a") == [*image.names, image.digest]
    assert store.catalog() == Catalog()
    assert os.listdir(store.root / "layers") == os.listdir(store.root / "blobs/sha256") == []
    with pytest.raises(ImageInUse):
        store.use(image)


def test_of_two_names_one_goes_and_shared_layers_stay(store: ImageStore) -> None:
    image = kept(store, "a", [BASE])
    store.tag(image, parse_reference("b"))
    kept(store, "c", [BASE, OVER])
    assert store.remove("a") == ["docker.io/library/a:latest"]
    assert store.remove("b") == ["docker.io/library/b:latest", image.digest]
    with pytest.raises(ImageNotFound):
        store.remove("a")
    found = store.catalog().find(parse_reference("c"))
    assert found is not None and len(store.ready(found).layers) == 2


def test_what_is_freed_is_what_no_other_image_has(store: ImageStore) -> None:
    kept(store, "one", [BASE])
    other = kept(store, "two", [BASE, OVER])
    gone, freed = store.free([other.digest])
    assert gone == [other.digest] and len(OVER) < freed < len(OVER) + len(BASE)


def test_a_name_goes_over_to_the_image_that_came_last(store: ImageStore) -> None:
    first, second = kept(store, "a", [BASE]), kept(store, "a", [OVER])
    catalog = store.catalog()
    assert catalog.find(parse_reference("a")) == second
    assert catalog.images[first.digest].names == ()


def test_programs_stand_for_names_the_exact_one_first(store: ImageStore) -> None:
    for pattern in ("ngin*", "nginx", "docker.io/bitnami/*", "*:9"):
        store.map_program(pattern, [pattern])

    def program(text: str) -> str:
        found: Program | None = store.catalog().program(text, parse_reference(text))
        return found.pattern if found is not None else ""

    names = ("nginx", "nginx:1.27", "bitnami/nginx", "nginx-extra:2", "redis", "redis:9")
    assert [program(name) for name in names] == ["nginx", "nginx", "docker.io/bitnami/*", "ngin*", "", "*:9"]
    store.map_program("nginx", [])
    assert program("nginx") == "ngin*"


def test_no_program_stands_for_a_name_that_no_pod_may_say(store: ImageStore) -> None:
    for name in ("Nginx", "a//b", "a:b:c"):
        with pytest.raises(BadReference):
            store.map_program(name, ["echo"])
        store.map_program(name, [])


# --- processes ----------------------------------------------------------------------------------


def _work(root: str, path: str, ready: Any) -> None:
    store = make(Path(root))
    ready.wait()
    for image in load(store, Path(path)):
        store.ready(image)


@pytest.mark.processes
def test_two_processes_that_load_at_once_have_one_image(store: ImageStore, tmp_path: Path) -> None:
    layers = [tar(entry(f"{n}/{m}", data=b"x" * 100) for m in range(200)) for n in range(3)]
    path = file(tmp_path, docker_archive("a", layers))
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(2)
    both = [spawn.Process(target=_work, args=(str(store.root), str(path), ready)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    (image,) = store.catalog().images.values()
    assert len(os.listdir(store.root / "layers")) == 3 and left(store) == []
    assert set(laid_over([Path(one) for one in store.ready(image).layers])) == {"0", "1", "2"}


def _dies(root: str, digest: str, files: int) -> None:
    """Unpack a layer, and die after so many of its files."""
    from rayplane.node.images import unpacking

    store = make(Path(root))
    written = unpacking.LayerWriter._file

    def counted(self: Any, *args: Any) -> None:
        nonlocal files
        if not files:
            os.kill(os.getpid(), signal.SIGKILL)
        files -= 1
        written(self, *args)

    unpacking.LayerWriter._file = counted  # type: ignore[method-assign, assignment]
    store.ready(store.catalog().images[digest])


@pytest.mark.processes
def test_a_process_killed_in_the_middle_leaves_no_half_layer(store: ImageStore) -> None:
    image = kept(store, "a", [tar(entry(str(n), data=b"x") for n in range(20))])
    dying = multiprocessing.get_context("spawn").Process(target=_dies, args=(str(store.root), image.digest, 10))
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert os.listdir(store.root / "layers") == [] and len(left(store)) == 1
    fresh = make(store.root)
    fresh.clean()
    assert left(fresh) == []
    (layer,) = fresh.ready(image).layers
    assert len(os.listdir(layer)) == 20
