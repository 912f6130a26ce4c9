"""What a command of a build made is not made again while nothing that it sees has changed, and not taken on trust."""

import gc
import os
from pathlib import Path

import pytest

from rayplane.node.images.build_cache import BuildCache
from rayplane.node.images.building import Build
from rayplane.node.images.catalog import Stored
from rayplane.node.images.dockerfile import read_dockerfile
from rayplane.node.images.platforms import architecture
from rayplane.node.images.references import parse_reference
from rayplane.node.images.stages import read_stages
from rayplane.node.images.store import ImageStore
from tests.node.images.tars import kept
from tests.node.images.test_building import BASE, Written, shown

TEXT = "FROM base\nENV A=1\nRUN make\nCOPY f /f\nRUN check"


class Worker:
    """A machine on which builds are done, each in a store of its own."""

    def __init__(self, place: Path) -> None:
        self.place, self.cache, self.builds, self.made = place, BuildCache(place / "cache"), 0, b"made"
        self.store = ImageStore(place, None, lambda: 5.0)
        (place / "context").mkdir()
        (place / "context/f").write_text("file")

    def build(self, text: str = TEXT) -> tuple[Stored, list[str]]:
        """The image, and the commands that were run for it."""
        self.builds += 1
        self.store = ImageStore(self.place / f"store-{self.builds}", None, lambda: 5.0)
        self.store.prepare()
        base = kept(self.store, "base", [BASE])

        def write(upper: Path) -> None:
            if not runner.ran[1:]:
                (upper / "made").write_bytes(self.made)

        runner = Written(write)
        stages = read_stages(read_dockerfile(text.encode()), {}, architecture())
        work = Build(self.store, self.place / "context", stages, {"base": base}, arguments={}, runner=runner)
        work.cache = self.cache
        image = work.image([parse_reference("made")])
        return image, [step.words[-1] for step in runner.ran]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def test_a_command_is_run_once_while_what_it_sees_is_the_same(worker: Worker) -> None:
    first, ran = worker.build()
    assert ran == ["make", "check"]
    again, ran = worker.build()
    assert (again.digest, ran) == (first.digest, [])
    assert shown(worker.store, again)["made"] == b"made"
    (worker.place / "context/f").write_text("another")
    assert worker.build()[1] == ["check"]
    assert worker.build(TEXT.replace("A=1", "A=2"))[1] == ["make", "check"]


@pytest.mark.parametrize("harm", ["", "x", "made"])
def test_a_layer_that_is_not_what_it_was_is_made_again(worker: Worker, harm: str) -> None:
    first, _ = worker.build()
    for file in worker.cache._directory.iterdir():
        content = file.read_bytes()
        file.unlink()  # the store may have it under another name
        file.write_bytes(content.replace(b"made", b"MADE") if harm == "made" else harm.encode())
    again, ran = worker.build()
    assert again.digest == first.digest and "make" in ran
    assert worker.build()[1] == []


def test_the_longest_unused_go_first(worker: Worker) -> None:
    for number, name in enumerate("abc"):
        worker.build(f"FROM base\nRUN {name}")
        for file in worker.cache._directory.iterdir():
            if file.stat().st_mtime > 1000:
                os.utime(file, (number, number))
    worker.build("FROM base\nRUN a")
    size = max(file.stat().st_size for file in worker.cache._directory.iterdir())
    worker.cache.trim(bytes_max=2 * size)
    assert [worker.build(f"FROM base\nRUN {name}")[1] for name in "acb"] == [[], [], ["b"]]
    worker.cache.trim(layers_max=0)
    assert not [*worker.cache._directory.iterdir()]


def test_a_cache_that_cannot_be_written_is_none(worker: Worker) -> None:
    worker.cache._directory.write_text("no folder")
    first, _ = worker.build()
    again, ran = worker.build()
    assert again.digest == first.digest and ran == ["make", "check"]
    worker.cache.trim()


def test_a_look_that_others_disturb_leaves_nothing_open(worker: Worker) -> None:
    """Whatever is left open is a warning, and so an error, of whoever comes next."""
    worker.cache._directory.mkdir()
    for number in range(5):
        (worker.cache._directory / f"gone{number}").symlink_to("nowhere")
    worker.cache.trim()
    gc.collect()


def test_what_was_made_anew_takes_the_place_of_what_was_there(worker: Worker) -> None:
    """An image that was built without the cache is not gone back from by the next build with it."""
    worker.build()
    usual, worker.made = worker.cache, b"later"
    worker.cache = BuildCache(worker.place / "cache", anew=True)
    later, ran = worker.build()
    assert ran == ["make", "check"]
    worker.cache = usual
    again, ran = worker.build()
    assert (again.digest, ran) == (later.digest, [])
    assert shown(worker.store, again)["made"] == b"later"
