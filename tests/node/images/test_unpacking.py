"""Layers are unpacked as a plain model has them, and hostile ones do nothing outside of their directory."""

import contextlib
import io
import os
import stat
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayplane.node.images.decompress import Plain
from rayplane.node.images.errors import BadImage, ImageError, TooLarge
from rayplane.node.images.unpacking import OPAQUE, Owners
from tests.node.images.tars import DIRECTORY, LINK, SYMLINK, Tree, entry, laid_over, tar, unpack
from tests.tiers import examples

Entry = tuple[str, str, str]
"""What it is (file, dir, link, hard, gone, clear), its path, and its content or target."""
NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.tuples(st.sampled_from(["file", "file", "dir", "link", "hard", "gone", "clear"]), PATHS, PATHS)
LAYERS = st.lists(st.lists(ENTRIES, max_size=6), min_size=1, max_size=4)


class Refused(Exception):
    """The model has no place for an entry."""


def packed(layer: list[Entry]) -> bytes:
    return tar([_packed(*one) for one in layer])


def _packed(kind: str, path: str, other: str) -> tuple[tarfile.TarInfo, bytes]:
    above, _, name = path.rpartition("/")
    return {
        "file": lambda: entry(path, data=other.encode()),
        "dir": lambda: entry(path, DIRECTORY),
        "link": lambda: entry(path, SYMLINK, linkname=other),
        "hard": lambda: entry(path, LINK, linkname=other),
        "gone": lambda: entry(f"{above}/.wh.{name}".lstrip("/")),
        "clear": lambda: entry(f"{path}/.wh..wh..opq"),
    }[kind]()


def down(tree: Tree, parts: list[str]) -> Tree:
    """A directory below a tree, made if it is missing."""
    for part in parts:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise Refused
    return tree


def linked(own: Tree, path: str, target: str) -> Any:
    """The file that a hard link leads to, which must not lie below what it replaces."""
    found: Any = own
    for part in target.split("/"):
        if not isinstance(found, dict) or part not in found:
            raise Refused
        found = found[part]
    if isinstance(found, dict) or target.startswith(f"{path}/"):
        raise Refused
    return found


def applied(below: Tree, layer: list[Entry]) -> Tree:
    """A layer over a tree: first what it removes of it, then what it brings. The rules of the OCI image format."""
    own: Tree = {}
    cleared: list[list[str]] = []
    for kind, path, other in layer:
        *above, name = path.split("/")
        if kind in ("gone", "clear"):
            down(own, [*above, name] if kind == "clear" else above)
            cleared.append([*above, name, *([""] if kind == "clear" else [])])
            continue
        brought = {"file": other.encode(), "link": other, "dir": {}}.get(kind)
        if kind == "hard":
            brought = linked(own, path, other)
        there = down(own, above)
        if kind != "dir" or not isinstance(there.get(name), dict):
            there[name] = brought
    return merged(removed(below, cleared), own)


def removed(tree: Tree, paths: list[list[str]]) -> Tree:
    out = {name: dict(one) if isinstance(one, dict) else one for name, one in tree.items()}
    for name in [*out]:
        inner = [path[1:] for path in paths if path[0] == name]
        if [] in inner:
            del out[name]
        elif [""] in inner and isinstance(out[name], dict):
            out[name] = {}
        elif isinstance(out[name], dict):
            out[name] = removed(out[name], inner)
    return out


def merged(below: Tree, above: Tree) -> Tree:
    out = dict(below)
    for name, one in above.items():
        before = out.get(name)
        out[name] = merged(before if isinstance(before, dict) else {}, one) if isinstance(one, dict) else one
    return out


@settings(max_examples=examples(300), deadline=None)
@given(LAYERS)
def test_layers_are_what_a_plain_model_makes_of_them(tmp_path_factory: Any, layers: list[list[Entry]]) -> None:
    top = tmp_path_factory.mktemp("layers")
    tree: Tree = {}
    done: list[Path] = []
    for number, layer in enumerate(layers):
        try:
            tree = applied(tree, layer)
        except Refused:
            with pytest.raises(BadImage):
                unpack(packed(layer), top / str(number))
            return
        done.insert(0, unpack(packed(layer), top / str(number)))
    assert laid_over(done) == tree


OUTSIDE = "secret"
HOSTILE: dict[str, list[Any]] = {
    "climbs": [entry("a/../../secret", data=b"x")],
    "climbs from a link": [entry("a", SYMLINK, linkname=".."), entry("a/secret", data=b"x")],
    "goes through a link": [entry("a", SYMLINK, linkname="{outside}"), entry("a/secret", data=b"x")],
    "makes a directory through a link": [entry("a", SYMLINK, linkname="{outside}"), entry("a/b/c", DIRECTORY)],
    "hard link out": [entry("a", LINK, linkname="../secret")],
    "hard link to the machine's": [entry("a", LINK, linkname="{outside}/secret")],
    "hard link through a link": [entry("a", SYMLINK, linkname="{outside}"), entry("b", LINK, linkname="a/secret")],
    "hard link to a directory": [entry("a", DIRECTORY), entry("b", LINK, linkname="a")],
    "hard link to its own replacement": [entry("a/b", data=b"x"), entry("a", LINK, linkname="a/b")],
    "hard link to a removed file": [entry(".wh.a"), entry("b", LINK, linkname="a")],
    "hard link to the root": [entry("a", LINK, linkname=".")],
    "removes ..": [entry("a/.wh...")],
    "removes .": [entry("a/.wh..")],
    "removes nothing": [entry(".wh.")],
    "removes through a link": [entry("a", SYMLINK, linkname="{outside}"), entry("a/.wh.secret")],
    "hides through a link": [entry("a", SYMLINK, linkname="{outside}"), entry("a/.wh..wh..opq")],
    "a link to nothing": [entry("a", SYMLINK)],
    "too long a name": [entry("a" * 256, data=b"x")],
    "too long a path": [entry("a/" * 2100 + "b", data=b"x")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_layer_is_refused_and_nothing_outside_changes(what: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / OUTSIDE).write_text("untouched")
    (tmp_path / "made" / OUTSIDE).parent.mkdir()
    (tmp_path / "made" / OUTSIDE).write_text("untouched")
    for info, _ in (found := [*HOSTILE[what]]):
        info.linkname = info.linkname.format(outside=outside)
    with pytest.raises(BadImage):
        unpack(tar(found), tmp_path / "made" / "layer")
    assert [one.read_text() for one in tmp_path.rglob(OUTSIDE)] == ["untouched"] * 2
    assert sorted(os.listdir(outside)) == [OUTSIDE] and not os.listxattr(outside)


def test_an_absolute_name_lies_below_the_root(tmp_path: Path) -> None:
    layer = unpack(tar([entry("//tmp//./x", data=b"1"), entry("y", SYMLINK, linkname="/etc")]), tmp_path / "layer")
    assert laid_over([layer]) == {"tmp": {"x": b"1"}, "y": "/etc"}


def test_directories_that_no_entry_names_may_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        found = unpack(tar([entry("a/b/c", data=b"1")]), tmp_path / "layer")
    finally:
        os.umask(before)
    assert [(found / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o755, 0o755]


def test_devices_are_left_out_and_pipes_are_not(tmp_path: Path) -> None:
    kinds = {"disk": tarfile.BLKTYPE, "null": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    layer = unpack(tar(entry(name, kind, devmajor=1, devminor=3) for name, kind in kinds.items()), tmp_path / "layer")
    assert os.listdir(layer) == ["pipe"]


def test_modes_times_and_holes_stay(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse")
    sparse.size = 512
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    for at, text in ((386, b"%011o" % 4096), (398, b"%011o" % 512), (483, b"%011o" % 1_000_000)):
        header[at : at + 11] = text
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    holes = bytes(header) + b"x" * 512
    plain = tar(
        [entry("d", DIRECTORY, mode=0o1777, mtime=5), entry("d/su", data=b"1", mode=0o4755, mtime=7)],
        form=tarfile.GNU_FORMAT,
    )
    layer = unpack(holes + plain, tmp_path / "layer")
    assert (layer / "sparse").read_bytes() == bytes(4096) + b"x" * 512 + bytes(1_000_000 - 4608)
    assert (layer / "sparse").stat().st_blocks < 100
    for name, mode, time in (("d", 0o1777, 5), ("d/su", 0o4755, 7)):
        status = (layer / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (mode, time)


def test_directories_that_nobody_may_enter_are_filled_all_the_same(tmp_path: Path) -> None:
    shut = [entry("a/b", DIRECTORY, mode=0), entry("a", DIRECTORY, mode=0), entry("a/b/c", data=b"1")]
    layer = unpack(tar(shut), tmp_path / "layer")
    assert stat.S_IMODE((layer / "a").stat().st_mode) == 0
    (layer / "a").chmod(0o700)


@pytest.mark.parametrize("mtime", ["-5", "1e300", "inf", "nan"])
def test_times_that_no_file_has_are_brought_in(mtime: str, tmp_path: Path) -> None:
    layer = unpack(tar([entry("a", pax_headers={"mtime": mtime})]), tmp_path / "layer")
    assert 0 <= (layer / "a").stat().st_mtime <= 1 << 34


def test_numbers_beyond_the_range_are_nobodys() -> None:
    owners = Owners(1_000_000, 65536)
    assert [owners(n) for n in (0, 65535, 65536, -1, 1 << 70)] == [1_000_000, 1_065_535, *[1_065_534] * 3]


# --- bounds -------------------------------------------------------------------------------------


def test_more_entries_than_a_layer_may_have_are_too_many(tmp_path: Path) -> None:
    many = tar(entry(f"d{number}", DIRECTORY) for number in range(101))
    with pytest.raises(TooLarge):
        unpack(many, tmp_path / "layer", entries_max=100)


def test_a_bomb_is_stopped_where_its_room_ends(tmp_path: Path) -> None:
    bomb = zlib.compress(tar([entry("a", data=bytes(50_000_000))]), 9, wbits=31)
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge):
        unpack(bomb, tmp_path / "layer", bytes_max=1_000_000)
    assert sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file()) <= 1_000_000


def test_a_hole_counts_as_what_it_shows(tmp_path: Path) -> None:
    info = entry("a", pax_headers={"GNU.sparse.major": "0", "GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,0"})
    with pytest.raises(TooLarge):
        unpack(tar([info]), tmp_path / "layer")


def test_headers_without_end_take_no_memory(tmp_path: Path) -> None:
    long = tarfile.TarInfo("pax")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(TooLarge):
        unpack(long.tobuf(tarfile.GNU_FORMAT) + bytes(100_000), tmp_path / "layer")


def test_a_negative_size_is_no_loop(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BadImage):
        unpack(bytes(header) + bytes(1024), tmp_path / "layer")


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_damaged_archives_are_refused_or_unpacked_never_more(tmp_path_factory: Any, data: st.DataObject) -> None:
    links = entry("c", SYMLINK, linkname="a"), entry("d", LINK, linkname="a/b")
    good = bytearray(tar([entry("a/b", data=b"12345" * 200), *links]))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    with contextlib.suppress(ImageError):
        unpack(cut, tmp_path_factory.mktemp("layers") / "layer", bytes_max=100_000)


@settings(max_examples=examples(200), deadline=None)
@given(
    # Nothing that is packed begins so.
    st.just(b"") | st.binary(max_size=3000).map(lambda rest: b"." + rest),
    st.lists(st.integers(1, 700), max_size=8),
)
@example(b".\x2a\x4d\x18", [4])  # but for its first byte a frame that zstd skips
def test_a_stream_is_read_as_it_was_before_it_was_packed(content: bytes, sizes: list[int]) -> None:
    from rayplane.node.images.decompress import zstd

    half = len(content) // 2
    for packed_as in (
        lambda part: part,
        lambda part: zlib.compress(part, wbits=31),
        zstd.compress,
    ):
        plain = Plain(io.BytesIO(packed_as(content[:half]) + packed_as(content[half:])), 10_000)
        got = b"".join(plain.read(size) for size in sizes)
        assert got == content[: len(got)] and len(got) == min(sum(sizes), len(content))
        plain.drain()
        assert plain.size == len(content)


def test_only_files_of_the_layer_itself_survive_what_it_removes(tmp_path: Path) -> None:
    below = unpack(tar([entry("d/old", data=b"1"), entry("gone", data=b"1")]), tmp_path / "below")
    above = unpack(
        tar([entry("d/new", data=b"2"), entry(".wh.d"), entry(".wh.gone"), entry("gone/x", data=b"2")]),
        tmp_path / "above",
    )
    assert laid_over([above, below]) == {"d": {"new": b"2"}, "gone": {"x": b"2"}}
    assert OPAQUE in os.listxattr(above / "d")
