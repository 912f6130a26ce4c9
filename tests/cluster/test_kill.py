"""Finding whom to kill: nobody that hangs is waited for, and a number of a process alone is not believed."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from rayplane.control_plane.cli import chaos as commands
from rayplane.control_plane.cluster import chaos, processes, victims
from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.faults.vocabulary import FullDisk, Kill, Target
from rayplane.control_plane.rpc import RpcError

MEMBERS = tuple(Instance(f"member-{n}", Role.MEMBER, Machine(), {"client": n}) for n in range(3))


class StandIn:
    """An administrator's access to members that say what `says` has for them, or hang."""

    def __init__(self, says: dict[str, Any]) -> None:
        self.says = says
        self.killed: list[str] = []
        self.state = SimpleNamespace(topology=Topology(MEMBERS), config=SimpleNamespace(host=RAY))
        self.topology = self.state.topology
        self.etcd = self.supervisor = self

    async def status(self, endpoint: str, *, timeout: float) -> Any:
        said = self.says.get(f"member-{endpoint.rpartition(':')[2]}")
        if said is None:
            await asyncio.Event().wait()
        if isinstance(said, RpcError):
            raise said
        return said

    async def range(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    async def Kill(self, request: Any, *, timeout: float) -> Any:
        self.killed.append(request.name)
        return SimpleNamespace(pid=7)


def _says(member: int, leader: int) -> Any:
    return SimpleNamespace(leader=leader, header=SimpleNamespace(member_id=member))


async def leader_killed(admin: Any) -> list[tuple[str, int]]:
    return await chaos.LiveInjector(admin, random.Random(1)).strike(Kill(Target("leader")))


async def test_in_one_process_no_actor_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victims, "LOOK_UP_S", 0.05)
    admin: Any = StandIn({"member-2": _says(2, 2)})
    admin.state.config.host = PROCESS
    assert await asyncio.wait_for(leader_killed(admin), 5) == [("member-2", 0)]


async def test_a_leader_is_killed_while_etcd_and_a_member_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victims, "LOOK_UP_S", 0.05)
    admin: Any = StandIn({"member-1": _says(1, 2), "member-2": _says(2, 2)})
    assert await asyncio.wait_for(leader_killed(admin), 5) == [("member-2", 7)]
    assert admin.killed == ["member-2"]


async def test_a_supervisor_that_dies_before_it_can_answer_is_told_with_its_process(tmp_path: Path) -> None:
    class Dying(StandIn):
        async def Kill(self, request: Any, *, timeout: float) -> Any:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the connection ended")

    admin: Any = Dying({})
    admin.state.topology = Topology((Instance("supervisor", Role.SUPERVISOR, Machine()),))
    admin.directory = SimpleNamespace(path=tmp_path)
    processes.write(tmp_path / "data" / "supervisor")
    fault = Kill(Target(name="supervisor"))
    [hit] = await chaos.LiveInjector(admin, random.Random(1)).inflict(fault, ["supervisor"])
    assert hit == ("supervisor", os.getpid())
    assert commands._struck(fault, *hit, alone=True) == f"supervisor (process {os.getpid()}) got SIGKILL"
    assert commands._struck(fault, "supervisor", 0, alone=True) == "supervisor got SIGKILL"
    assert "shares the process" in commands._struck(fault, "supervisor", 0, alone=False)


async def test_when_nobody_leads_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victims, "LOOK_UP_S", 0.05)
    gone = RpcError(grpc.StatusCode.UNAVAILABLE, "gone")
    admin: Any = StandIn({"member-0": gone, "member-1": _says(1, 0), "member-2": gone})
    with pytest.raises(ClusterError, match="no member leads"):
        await leader_killed(admin)


@pytest.mark.processes
def test_the_process_of_an_actor_is_known_while_it_lives(tmp_path: Path) -> None:
    data = tmp_path / "data" / "member-0"
    assert processes.read(data) == 0
    processes.write(data)
    assert processes.read(data) == os.getpid()
    assert [p.stat().st_mode & 0o777 for p in data.parent.iterdir()] == [0o600]
    program = "from rayplane.control_plane.cluster import processes as p"
    code = f"import pathlib, sys; {program}; p.write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(data)], check=True, timeout=60)
    assert processes.read(data) == 0
    # Another process that got the number of the one that ended.
    file = next(data.parent.iterdir())
    file.write_text(f"{os.getpid()} {file.read_text().split()[1]}")
    assert processes.read(data) == 0


@pytest.mark.processes
def test_a_process_whose_disk_is_full_writes_again_afterwards(tmp_path: Path) -> None:
    data = tmp_path / "data" / "member-0"
    code = """import pathlib, signal, sys
from rayplane.control_plane.cluster import processes as p
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
p.write(pathlib.Path(sys.argv[1]))
for _ in range(3):
    input()
    try:
        pathlib.Path(sys.argv[1] + "-file").write_text("x")
        print("written", flush=True)
    except OSError as e:
        print(e.errno, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def told() -> bytes:
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        return writer.stdout.readline().strip()

    admin: Any = StandIn({})
    admin.directory = SimpleNamespace(path=tmp_path)
    injector, full = chaos.LiveInjector(admin, random.Random(1)), FullDisk(Target(name="member-0"))
    try:
        assert told() == b"written"
        asyncio.run(injector.inflict(full, ["member-0"]))
        assert told() == str(errno.EFBIG).encode()
        asyncio.run(injector.end(full, ("member-0",)))
        assert told() == b"written"
    finally:
        writer.kill()
        writer.communicate()
    with pytest.raises(ClusterError, match="another machine, or not at all"):
        asyncio.run(injector.inflict(full, ["member-0"]))


@pytest.mark.processes
def test_a_process_that_was_stopped_stands_still_until_it_is_continued(tmp_path: Path) -> None:
    data = tmp_path / "data" / "member-0"
    assert not processes.stands_still(data)
    code = """import os, pathlib, signal, sys
from rayplane.control_plane.cluster import processes as p
p.write(pathlib.Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGSTOP)
input()"""
    stopped = subprocess.Popen([sys.executable, "-c", code, str(data)], stdin=subprocess.PIPE)
    try:
        os.waitpid(stopped.pid, os.WUNTRACED)
        assert processes.stands_still(data)
        stopped.send_signal(signal.SIGCONT)
        os.waitpid(stopped.pid, os.WCONTINUED)
        assert not processes.stands_still(data)
    finally:
        stopped.kill()
        stopped.communicate()
    assert not processes.stands_still(data)
