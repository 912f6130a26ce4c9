"""Whatever comes as an image ends: endless files, pipes, streams and bombs, within bounds of bytes."""

import contextlib
import gzip
import io
import os
import threading
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.images import archives, blobs, layers
from rayplane.node.images.archives import load, spooled
from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.room import Room, read_bounded, room_at
from rayplane.node.images.service import ImagesService
from rayplane.node.images.store import ImageStore
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.node.images.tars import entry, tar
from tests.node.images.test_store import file, left, make

BOUND = 8 * 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return make(tmp_path / "images")


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archives, blobs, layers):
        monkeypatch.setattr(module, "room_at", lambda place: Room(BOUND, 1000))


def endless_tar() -> Iterator[bytes]:
    yield tar([entry("a", data=b"x")])[:1024]
    while True:
        yield tar([entry("b", data=bytes(512))])[:1024]


@pytest.mark.usefixtures("little_room")
def test_a_device_without_end_is_told_to_be_no_archive_at_once(tmp_path: Path) -> None:
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(BadImage, match="holds no images"):
            spooled(Path(device), tmp_path / device.rpartition("/")[2])
    assert all(one.stat().st_size <= 1024 * 1024 for one in tmp_path.iterdir())


@pytest.mark.usefixtures("little_room")
def test_a_pipe_without_end_ends_where_the_room_does(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as out:
            for part in endless_tar():
                out.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(TooLarge, match="more than"):
        spooled(pipe, tmp_path / "kept")
    writer.join()
    assert (tmp_path / "kept").stat().st_size <= BOUND


class Ran:
    """A manager of images that works at once."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store

    async def run(self, work: Any, *args: Any) -> Any:
        return work(*args)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(("endless", "error"), [(lambda: repeat(bytes(1000)), BadImage), (endless_tar, TooLarge)])
async def test_a_node_takes_no_more_of_a_stream_without_end_than_it_has_room_for(
    store: ImageStore, endless: Callable[[], Iterator[bytes]], error: type[Exception]
) -> None:
    taken = 0

    async def requests() -> AsyncIterator[pb.LoadImagesRequest]:
        nonlocal taken
        for part in endless():
            taken += len(part)
            yield pb.LoadImagesRequest(data=part)

    with pytest.raises(error):
        await ImagesService(Ran(store), unpacks=False).Load(requests(), None)  # type: ignore[arg-type]
    assert taken <= BOUND and left(store) == []


@pytest.mark.usefixtures("little_room")
def test_a_bomb_of_an_archive_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb") as out:
        out.write(tar([entry("a", data=b"x")])[:1024])
        for _ in range(4):
            out.write(bytes(BOUND))
    assert len(whole.getvalue()) < BOUND // 100
    with pytest.raises(TooLarge):
        load(store, file(tmp_path, whole.getvalue()))
    (archive,) = (one for one in tmp_path.iterdir() if one.is_file())
    assert archive.stat().st_size == len(whole.getvalue()) and left(store) == []


@pytest.mark.usefixtures("little_room")
def test_content_that_is_said_to_be_larger_than_the_room_is_not_begun(store: ImageStore) -> None:
    with pytest.raises(TooLarge, match="there is room for"):
        store.blobs.writer("sha256:" + "0" * 64, 1 << 60)
    assert left(store) == []


def test_images_leave_some_of_a_disk_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = namedtuple("disk", "f_blocks f_bavail f_frsize f_files f_favail")
    gib = 1024**3
    for size, free, room in ((10, 5, 5 - 0.25), (40, 5, 5 - 0.8), (4000, 5, 4), (10, 0, 0)):
        found = disk(size * 1024, free * 1024, 1024**2, 1000, 30)
        monkeypatch.setattr(os, "statvfs", lambda place, found=found: found)
        assert abs(room_at(tmp_path).bytes - room * gib) < 2 * 1024**2 and room_at(tmp_path).files == 10


def test_what_people_name_is_read_only_as_far_as_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="at most 1000 bytes"):
        read_bounded(Path("/dev/zero"), 1000, "a Dockerfile")
