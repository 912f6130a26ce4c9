"""The files of containers: hostile mount paths, sub paths and planted links lead nowhere outside of the pod."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.node.errors import ContainerConfigError, MountError, NodeError
from rayplane.node.runtime import Mount
from rayplane.node.runtime.copying import copy_command
from rayplane.node.runtime.tree import ContainerTree
from rayplane.node.volumes.pod_files import PodFiles
from rayplane.node.volumes.projected import VolumeFile
from rayplane.storage.beneath import LeavesRoot
from tests.storage.test_beneath import picture
from tests.tiers import examples

Pod = tuple[PodFiles, str]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    files = PodFiles(str(tmp_path / "pods"))
    return files, files.create("uid")


def tree_of(pod: Pod, *mounts: Mount) -> ContainerTree:
    tree = ContainerTree(pod[1], "c")
    tree.prepare(mounts, log="1.log")
    return tree


def test_a_volume_below_another_costs_no_bytes(pod: Pod, tmp_path: Path) -> None:
    files, directory = pod
    claim = tmp_path / "claim"
    (claim / "cache").mkdir(parents=True)
    (claim / "cache/kept").write_text("precious")
    inner = files.volume_dir(directory, "inner")
    tree = tree_of(pod, Mount("inner", "/data/cache", inner, scratch=True), Mount("outer", "/data", str(claim)))
    assert (claim / "cache/kept").read_text() == "precious"
    assert os.listdir(claim) == ["cache"]
    assert tree.place("/data/cache/x") == f"{inner}/x"
    assert tree.place("/data/cache/../kept") == f"{claim}/kept"


def test_a_volume_below_an_empty_dir_is_seen_in_it(pod: Pod, tmp_path: Path) -> None:
    files, directory = pod
    outer, claim = files.volume_dir(directory, "outer"), tmp_path / "claim"
    claim.mkdir()
    mounts = (Mount("o", "/data", outer, scratch=True), Mount("i", "/data/db/main", str(claim)))
    for _ in range(2):  # a restart finds its own link
        tree = tree_of(pod, *mounts)
        assert os.path.realpath(f"{tree.root.root}/data/db/main") == str(claim)
    os.unlink(f"{outer}/db/main")
    os.makedirs(f"{outer}/db/main/own")
    tree_of(pod, *mounts)
    assert os.path.isdir(f"{outer}/db/main/own")
    assert os.listdir(claim) == []


def test_mount_paths_that_climb_are_refused(pod: Pod, tmp_path: Path) -> None:
    for path in ("/../../..", "../x", "/data/../../../x"):
        with pytest.raises(ContainerConfigError, match=r"must not contain '\.\.'"):
            tree_of(pod, Mount("v", path, str(tmp_path)))


def test_sub_paths_stay_in_their_volume(pod: Pod, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "v1").mkdir(parents=True)
    volume.chmod(0o2777)
    (volume / "link").symlink_to("v1")
    (volume / "out").symlink_to("..")
    (volume / "etc").symlink_to("/etc")
    for path in ("out/x", "etc", "../x", "/etc", "v1/../../x", "out"):
        with pytest.raises(ContainerConfigError, match='failed to prepare subPath for volumeMount "v"'):
            tree_of(pod, Mount("v", "/data", str(volume), sub_path=path))
    tree = tree_of(pod, Mount("v", "/data", str(volume), sub_path="link/new"))
    assert tree.mounts[0].source == str(volume / "v1/new")
    assert (volume / "v1/new").stat().st_mode == volume.stat().st_mode, "who may write there may write here"
    assert sorted(os.listdir(tmp_path)) == ["pods", "volume"]


def test_working_directories_go_no_higher_than_the_root(pod: Pod) -> None:
    tree = tree_of(pod)
    assert tree.place("/../../../srv", create=True) == f"{tree.root.root}/srv"
    os.symlink("/tmp", f"{tree.root.root}/tmp")
    os.symlink("../../../../..", f"{tree.root.root}/up")
    for path in ("/tmp/x", "/up/x"):
        with pytest.raises(LeavesRoot):
            tree.place(path, create=True)


def test_copies_land_in_the_container(pod: Pod) -> None:
    files, directory = pod
    volume = files.volume_dir(directory, "v")
    tree = tree_of(pod, Mount("v", "/data", volume))
    root = tree.root.root
    place: Callable[[str, bool], str] = lambda path, make: tree.place(path, create=make)  # noqa: E731
    assert copy_command(["tar", "-xmf", "-", "-C", "/tmp/in"], place) == ["tar", "-xmf", "-", "-C", f"{root}/tmp/in"]
    assert os.path.isdir(f"{root}/tmp/in")
    unpack = ["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C"]
    assert copy_command([*unpack, "/data"], place) == [*unpack, volume]
    assert copy_command([*unpack, "../../../.."], place) == [*unpack, root]
    assert copy_command(["test", "-d", "/etc"], place) == ["test", "-d", f"{root}/etc"]
    packed = copy_command(["tar", "cf", "-", "/data/f"], place)
    assert packed is not None and packed[-1] == f"{volume}/f" and packed[3].endswith(",data/f,S")
    again = copy_command(["sh", "-c", "tar cf - /data/f | tail -c+100"], place)
    assert again is not None and again[2].endswith(f"{volume}/f | tail -c+100")
    assert copy_command(["tar", "czf", "/x.tgz", "/etc"], place) is None


def test_files_of_a_config_map_stay_in_it(pod: Pod, tmp_path: Path) -> None:
    files, directory = pod
    volume = files.volume_dir(directory, "cfg")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    files.project(volume, {"key": VolumeFile(b"1", 0o644)})
    # What a pod may plant in a volume that it can write to.
    for name in ("..data", "key", "..v2", "..v3", "..data_tmp", "dir"):
        path = Path(volume, name)
        if path.is_symlink():
            path.unlink()
        path.symlink_to(outside)
    files.project(volume, {"key": VolumeFile(b"2", 0o600), "dir/x": VolumeFile(b"3", 0o600)})
    assert Path(volume, "key").read_bytes() == b"2"
    assert Path(volume, "dir/x").read_bytes() == b"3"
    assert os.listdir(outside) == ["file"]
    assert sorted(n for n in os.listdir(volume) if n.startswith("..")) == ["..data", os.readlink(f"{volume}/..data")]
    for key in ("../../../outside/file", "/etc/x", "..data", "a/../../x", "..x"):
        with pytest.raises(LeavesRoot):
            files.project(volume, {key: VolumeFile(b"x", 0o600)})
    assert Path(volume, "key").read_bytes() == b"2"
    assert (outside / "file").read_text() == "precious"


async def test_names_of_pods_and_volumes_are_names(pod: Pod, tmp_path: Path) -> None:
    files, directory = pod
    (tmp_path / "keep").mkdir()
    for name in ("..", "../x", "/etc", "", ".", "a/b"):
        with pytest.raises(LeavesRoot):
            files.create(name)
        with pytest.raises(LeavesRoot):
            files.volume_dir(directory, name)
        await files.remove(name)
    assert sorted(os.listdir(tmp_path)) == ["keep", "pods"]
    assert os.listdir(files.root) == ["uid"]


# Whatever a fault of the code would do, it would do to names that only the test has.
WORDS = st.sampled_from(["a-tree", "b-tree", "..", ".", "", "data-tree", "link", "up-tree", "outside", "containers"])
PATHS = st.lists(WORDS, max_size=4).map(lambda words: "/" + "/".join(words))
IN_ROOT = ["root", "root/a-tree", "root/data-tree", "root/up-tree"]
IN_VOLUMES = ["volume/a-tree", "volume/link", "scratch/data-tree"]
WHERE = st.sampled_from(["", *IN_ROOT, *IN_VOLUMES, "termination-log", "1.log"])
TARGETS = st.sampled_from(["OUTSIDE", "..", "../../../..", "a-tree", "OUTSIDE/..", "../../../../outside"])
LINKS = st.tuples(WHERE, TARGETS)


@settings(deadline=None, max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mounts=st.lists(st.tuples(PATHS, PATHS.map(lambda p: p.strip("/")), st.booleans()), max_size=3),
    links=st.lists(LINKS, max_size=3),
    working_dir=PATHS,
    copied=PATHS,
)
def test_nothing_outside_the_pod_is_touched(
    tmp_path_factory: pytest.TempPathFactory,
    mounts: list[tuple[str, str, bool]],
    links: list[tuple[str, str]],
    working_dir: str,
    copied: str,
) -> None:
    base = tmp_path_factory.mktemp("m")
    outside = base / "outside"
    (outside / "a-tree").mkdir(parents=True)
    (outside / "a-tree/file").write_bytes(b"precious")
    volume = base / "volume"
    volume.mkdir()
    before = picture(outside)
    files = PodFiles(str(base / "pods"))
    other = files.create("other")
    pod = (files, files.create("uid"))
    scratch = files.volume_dir(pod[1], "scratch")
    wanted = [Mount("v", at, scratch if own else str(volume), sub_path=sub, scratch=own) for at, sub, own in mounts]
    places = {"volume": str(volume), "scratch": scratch}
    for _ in range(2):
        _use(pod, wanted, working_dir, copied)
        for where, target in links:
            top, _, rest = where.partition("/")
            path = f"{places.get(top) or f'{pod[1]}/containers/c/{top}'}/{rest}".rstrip("/")
            _plant(path, target.replace("OUTSIDE", str(outside)), below=(pod[1], str(volume)))
    _use(pod, wanted, working_dir, copied)
    files._remove("uid")
    assert picture(outside) == before
    assert sorted(os.listdir(base)) == ["outside", "pods", "volume"]
    assert os.listdir(files.root) == ["other"]
    assert sorted(os.listdir(other)) == ["containers", "volumes"] and not os.listdir(f"{other}/containers")


def _use(pod: Pod, mounts: list[Mount], working_dir: str, copied: str) -> None:
    tree = ContainerTree(pod[1], "c")
    steps: list[Callable[[], Any]] = [
        lambda: tree.prepare(mounts, log="1.log"),
        lambda: tree.place(working_dir, create=True),
        lambda: copy_command(["tar", "-xmf", "-", "-C", copied], lambda path, make: tree.place(path, create=make)),
        lambda: tree.files.read("termination-log", 100),
    ]
    for step in steps:
        try:
            result = step()
        except (NodeError, OSError):
            continue
        assert result != b"precious"


def _plant(path: str, target: str, *, below: tuple[str, ...]) -> None:
    # The test itself must follow nothing that it has planted.
    parent = os.path.realpath(os.path.dirname(path))
    if not any(parent == top or parent.startswith(f"{top}/") for top in map(os.path.realpath, below)):
        return
    try:
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            os.rename(path, f"{path}.aside")
        os.symlink(target, path)
    except OSError:
        return


@pytest.mark.parametrize("where", ["pods", "pods/uid", "link/uid/volumes", "pods/new"])
def test_no_host_path_shows_files_of_pods(pod: Pod, tmp_path: Path, where: str) -> None:
    files, _ = pod
    (tmp_path / "link").symlink_to(files.root)
    with pytest.raises(MountError, match="files of the cluster"):
        files.host_path({"name": "v", "hostPath": {"path": str(tmp_path / where)}})
    assert os.listdir(files.root) == ["uid"]
    assert files.host_path({"name": "v", "hostPath": {"path": str(tmp_path / "other")}}) == f"{tmp_path}/other"
