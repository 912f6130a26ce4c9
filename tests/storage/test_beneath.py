"""Files below a root: whatever the path and whatever links are planted, nothing outside is touched."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.storage import beneath
from rayplane.storage.beneath import Beneath, LeavesRoot
from tests.tiers import examples


@pytest.fixture(params=["kernel", "by component"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "by component":
        monkeypatch.setattr(beneath, "_openat2", lambda *_: None)
    yield request.param


def picture(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory: mode and content."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            found[path] = (status.st_mode, content)
    return found


def machine(base: Path) -> tuple[Beneath, Path]:
    """A root, and a directory beside it that stands for the machine."""
    outside = base / "outside"
    (outside / "dir").mkdir(parents=True)
    (outside / "file").write_bytes(b"precious")
    (outside / "dir/deep").write_bytes(b"precious too")
    root = base / "root"
    root.mkdir()
    return Beneath(root), outside


NAMES = st.sampled_from(["a", "b", "..", ".", "", "link", "up", "abs", "file", "dir", "outside", "\0", "deep"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
# Whatever a fault of the code would do, it would do to what the test has made.
TARGETS = st.sampled_from(["..", "../outside", "../outside/file", "OUTSIDE/..", "a", "link", "b/../..", "OUTSIDE"])
WHATS = ["make_dirs", "make_linked", "write", "unlink", "remove", "read", "names", "resolve"]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["make_dirs", "make_linked", "write", "unlink", "remove", "read", "names", "resolve"]),
            PATHS,
        ),
        st.tuples(st.sampled_from(["rename"]), PATHS, PATHS),
        st.tuples(st.sampled_from(["plant"]), st.sampled_from(["link", "up", "abs", "a/link", "b"]), TARGETS),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_nothing_outside_is_touched(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, ...]]) -> None:
    base = tmp_path_factory.mktemp("m")
    root, outside = machine(base)
    before = picture(outside)
    real = os.path.realpath(root.root)
    for step in steps:
        try:
            seen = _do(root, step, outside)
        except (OSError, ValueError):
            continue
        assert b"precious" not in seen.encode()
        if step[0] == "resolve":
            assert seen == real or seen.startswith(real + "/")
    assert picture(outside) == before
    assert sorted(os.listdir(base)) == ["outside", "root"]
    for name in root.names():
        root.remove(name)
    assert root.names() == []
    assert picture(outside) == before


def _do(root: Beneath, step: tuple[str, ...], outside: Path) -> str:
    what, path, *more = step
    if what == "plant":
        # The test itself must follow nothing that it has planted.
        if os.path.realpath(os.path.dirname(os.path.join(root.root, path))).startswith(os.path.realpath(root.root)):
            os.symlink(more[0].replace("OUTSIDE", str(outside)), Path(root.root, path))
    elif what == "make_dirs":
        root.make_dirs(path)
    elif what == "make_linked":
        root.make_dirs(path, links=True)
    elif what == "write":
        root.write_new(path, b"w")
    elif what == "rename":
        root.rename(path, more[0])
    elif what == "read":
        return root.read(path, 100).decode()
    elif what == "names":
        return " ".join(root.names(path))
    elif what == "resolve":
        return root.resolve(path)
    else:
        getattr(root, what)(path)
    return ""


def test_what_is_refused(tmp_path: Path) -> None:
    root, outside = machine(tmp_path)
    os.symlink(outside, tmp_path / "root/link")
    for path in ("/etc", "../outside/file", "a/../../x", "link/file", "link/new", "a\0b"):
        with pytest.raises(LeavesRoot):
            root.write_new(path, b"")
    with pytest.raises(LeavesRoot):
        root.remove("")
    with pytest.raises(LeavesRoot):
        root.resolve("link/file")
    assert root.readlink("link") == str(outside)
    root.remove("link")
    assert (outside / "file").exists()


def test_links_below_the_root_are_followed_where_that_is_allowed(tmp_path: Path) -> None:
    root, _ = machine(tmp_path)
    root.make_dirs("v1/conf")
    root.write_new("v1/key", b"value", 0o640)
    root.symlink("v1", "..data")
    root.symlink("..data/key", "key")
    root.symlink("../v1/../v1", "v1/self")
    assert root.resolve("key") == os.path.join(os.path.realpath(root.root), "v1/key")
    assert root.resolve("..data/self/conf").endswith("/root/v1/conf")
    root.make_dirs("..data/conf/made", links=True)
    assert os.path.isdir(tmp_path / "root/v1/conf/made")
    assert stat.S_IMODE(os.stat(tmp_path / "root/v1/key").st_mode) == 0o640
    with pytest.raises(LeavesRoot):
        root.read("key", 10)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    root, _ = machine(tmp_path)
    os.mkfifo(tmp_path / "root/pipe")
    with pytest.raises(FileNotFoundError):
        root.read("pipe", 10)


def test_trees_of_any_depth_and_mode_are_removed(tmp_path: Path) -> None:
    root, outside = machine(tmp_path)
    root.make_dirs("top")
    fd = os.open(tmp_path / "root/top", os.O_RDONLY)
    for _ in range(1500):  # deeper than a path can be long and than Python can recurse
        os.mkdir("dd", dir_fd=fd)
        inner = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.symlink(outside, "link", dir_fd=fd)
    os.fchmod(fd, 0)
    os.close(fd)
    root.remove("top")
    assert root.names() == []
    assert (outside / "dir/deep").exists()


def test_the_kernel_is_asked_first() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        beneath._openat2(fd, [b"no-such"], os.O_RDONLY, 0, False)
    except OSError as e:
        assert e.errno == errno.ENOENT
    finally:
        os.close(fd)


def test_a_held_directory_is_the_same_whatever_becomes_of_its_name(tmp_path: Path) -> None:
    root = Beneath(tmp_path)
    root.make_dirs("volume/inner")
    with root.below("volume").held() as held:
        root.rename("volume", "before")
        root.make_dirs("volume")
        held.write_new("file", b"x")
        held.below("inner").symlink("../file", "link")
        assert held.names() == held.names() == ["file", "inner"]
    assert root.names("volume") == []
    assert root.read("before/file", 9) == b"x" and root.readlink("before/inner/link") == "../file"


def test_directories_are_made_where_some_of_them_are(tmp_path: Path) -> None:
    root = Beneath(tmp_path)
    root.make_dirs("a/b/c/d", 0o750)
    root.make_dirs("a/b/e")
    root.make_dirs("a")
    assert root.names("a/b") == ["c", "e"] and (tmp_path / "a/b/c").stat().st_mode & 0o777 == 0o750
    (tmp_path / "to-nothing").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        root.make_dirs("to-nothing", links=True)
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below", "to-nothing/below"):
        with pytest.raises(OSError, match=r"\S"):
            root.make_dirs(path)
