"""Commands of builds, run for real: in the image's root, alone, without a network, and seen by nobody after."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.node.images.building import Build
from rayplane.node.images.catalog import Stored
from rayplane.node.images.dockerfile import read_dockerfile
from rayplane.node.images.errors import BadImage
from rayplane.node.images.platforms import architecture
from rayplane.node.images.references import parse_reference
from rayplane.node.images.room import Room
from rayplane.node.images.stages import read_stages
from rayplane.node.images.store import ImageStore
from rayplane.node.images.unpacking import Owners
from rayplane.node.runtime.isolation import build_runner
from rayplane.node.runtime.isolation.build_runner import IsolatedRunner
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST
from tests.node.images.tars import entry, kept, tar
from tests.node.images.test_building import shown
from tests.node.images.test_image_containers import tools
from tests.node.isolated import isolating

pytestmark = [pytest.mark.processes, isolating]
BASE = 'FROM base\nSHELL ["sh", "-c"]\n'


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    owners = Owners(RANGE_FIRST, RANGE_COUNT) if os.geteuid() == 0 else None
    store = ImageStore(tmp_path / "images", owners, lambda: 5.0)
    store.prepare()
    return store


@pytest.fixture
def base(store: ImageStore) -> Stored:
    return kept(store, "base", [tools(), tar([entry("srv/old", data=b"old"), entry("srv/dir/x", data=b"x")])])


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def built(store: ImageStore, base: Stored, output: int, text: str, *, network: bool = False, memory: int = 0) -> Stored:
    context = store.root.parent / "context"
    context.mkdir(exist_ok=True)
    stages = read_stages(read_dockerfile(text.encode()), {}, architecture())
    runner = IsolatedRunner(store.root, network=network, output=output, epoch=7, memory=memory)
    work = Build(store, context, stages, {"base": base}, arguments={}, runner=runner)
    return work.image([parse_reference("made")])


def said(output: int) -> str:
    return os.pread(output, 1 << 20, 0).decode()


def test_a_command_runs_in_the_images_root_and_what_it_changes_is_kept(
    store: ImageStore, base: Stored, output: int
) -> None:
    text = f"""{BASE}
    WORKDIR /srv
    ENV A=1
    RUN echo "$A $PWD $(id -u) $SOURCE_DATE_EPOCH $(cat /proc/1/comm)" >new; cat new
    RUN ls -A; ls /proc/self/task | while read n; do echo "$n" >/tmp/pid; done
    USER web
    RUN id -u >/tmp/who; ls / >/tmp/root
    """
    image = built(store, base, output, text)
    files = shown(store, image)
    assert files["srv"]["new"] == b"1 /srv 0 7 sh\n" and files["tmp"]["who"] == b"7\n"
    assert "1 /srv 0 7 sh" in said(output) and "old" in said(output)
    assert not {"proc", "dev", "sys"} & {*files}
    assert [one for one in os.listdir(store.root / "making") if not one.endswith(".lock")] == []
    assert built(store, base, output, text).digest == image.digest


def test_what_a_command_removes_is_gone(store: ImageStore, base: Stored, output: int) -> None:
    image = built(store, base, output, BASE + "RUN rm -r /srv/dir /srv/old")
    assert shown(store, image)["srv"] == {}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 3", "line 3: RUN: the command ended with exit code 3"),
        ("sh -c 'kill -9 $$'", "ended with exit code 137"),
        ('["none"]', "could not be run: .*none"),
    ],
)
def test_a_command_that_fails_ends_the_build(
    store: ImageStore, base: Stored, output: int, command: str, why: str
) -> None:
    with pytest.raises(BadImage, match=why):
        built(store, base, output, f"{BASE}RUN {command}")
    assert not any(one.names == ("docker.io/library/made:latest",) for one in store.catalog().images.values())


def test_a_command_has_a_network_only_where_it_is_asked_for(store: ImageStore, base: Stored, output: int) -> None:
    text = BASE + "RUN readlink /proc/self/ns/net >/tmp/net; ls /etc >/tmp/etc"
    alone = shown(store, built(store, base, output, text))["tmp"]
    shared = shown(store, built(store, base, output, text, network=True))["tmp"]
    own = os.readlink("/proc/self/ns/net").encode()
    assert alone["net"].strip() != own and b"resolv.conf" not in alone["etc"]
    assert shared["net"].strip() == own and b"resolv.conf" in shared["etc"]


def test_what_keeps_a_command_from_running_is_told_whenever_it_is_found(
    store: ImageStore, base: Stored, output: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nobody reads the order any more."""
    refuses = tmp_path / "python"
    said = b'{"why": "not on this machine"}'
    refuses.write_text(f"#!{sys.executable}\nimport os, sys\nos.write(int(sys.argv[3]), {said!r})\n")
    refuses.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(refuses))
    with pytest.raises(BadImage, match="could not be run: not on this machine"):
        built(store, base, output, f"{BASE}ENV A={'x' * 50_000} B={'x' * 50_000}\nRUN true")


def test_a_command_that_fills_the_disk_is_ended(
    store: ImageStore, base: Stored, output: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_runner, "LOOK_S", 0.01)
    monkeypatch.setattr(build_runner, "room_at", lambda place: Room(0, 0))
    with pytest.raises(BadImage, match="fills the disk"):
        built(store, base, output, BASE + "RUN sleep 1000")


def test_a_command_that_has_more_memory_than_it_may_is_ended(store: ImageStore, output: int) -> None:
    large = kept(store, "large", [tools(), tar([entry("srv/large", data=b"x" * (48 << 20))])])
    with pytest.raises(BadImage, match=r"line 3: RUN: .* more memory than the 67108864 bytes"):
        built(store, large, output, f"{BASE}RUN x=$(cat /srv/large); sleep 30", memory=64 << 20)
    built(store, large, output, f"{BASE}RUN true", memory=64 << 20)


def test_a_command_sees_nothing_of_the_machine(store: ImageStore, base: Stored, output: int, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    image = built(store, base, output, f"{BASE}RUN ls {tmp_path} /root /home >/tmp/seen 2>&1; env >/tmp/env; true")
    files = shown(store, image)["tmp"]
    assert b"secret\n" not in files["seen"]
    assert {line.partition("=")[0] for line in files["env"].decode().splitlines()} <= {
        *("PATH", "HOME", "HOSTNAME", "SOURCE_DATE_EPOCH", "PWD", "SHLVL", "_", "OLDPWD")
    }
