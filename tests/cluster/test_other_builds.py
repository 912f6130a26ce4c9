"""Actors of another build: what they are told, how they are moved, and which builds may take over."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.cluster import carried, processes
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.environments import Build, build_of, check_reads_all
from rayplane.control_plane.cluster.errors import ClusterError, NewerState, UsageError
from rayplane.control_plane.cluster.failures import ComponentFailed
from rayplane.control_plane.cluster.launch import down
from rayplane.control_plane.cluster.outside import prepare
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.spec_json import spec_from_json, spec_to_json
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Machine, Role, Topology, founding, of_one_build
from rayplane.control_plane.cluster.upgrade import checked
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env.marks import MARK_FILE
from rayplane.storage.formats import STATE, Mark
from tests.cluster.fake_host import World
from tests.recorded import unpacked

CONFIG = ClusterConfig(name="x", host="process", nodes=1)


def specs() -> list[Spec]:
    """One of each role."""
    topology = founding(CONFIG, (Machine(),))
    topology = replace(
        topology, instances=tuple(replace(i, ports={"grpc": 1, "peer": 2, "https": 3}) for i in topology.instances)
    )
    maker = SpecMaker(config=CONFIG, plan=AddressPlan(1), secrets=Secrets.create("x"), state_dir="/nowhere")
    return [maker.make(topology.of(role)[0], topology, restarted=True) for role in Role]


def test_a_spec_comes_through_to_another_build_whole() -> None:
    for spec in specs():
        assert spec_from_json(spec_to_json(spec)) == spec


def test_what_another_build_does_not_know_is_left_out() -> None:
    spec = next(spec for spec in specs() if spec.instance.role is Role.APISERVER)
    told = spec_to_json(spec)
    for part in ("config", "secrets", "credentials", "instance", "topology"):
        told[part]["of_later"] = "eA=="
    assert spec_from_json(told) == spec


async def test_an_actor_is_moved_once_and_the_topology_remembers_where() -> None:
    world = World(members=1)
    await world.start_members()
    try:
        await world.supervise()
        await world.stub.Move(pb.MoveRequest(name="apiserver-0", python="/b"), timeout=20.0)
        assert world.host.actors["apiserver-0"].instance.python == "/b"
        assert world.host.stopped.count("apiserver-0") == 1
        await world.stub.Move(pb.MoveRequest(name="apiserver-0", python="/b"), timeout=20.0)
        assert world.host.stopped.count("apiserver-0") == 1
        # The fake's actors run 1.0: an environment that has another by now was changed in place.
        for version, times in (("1.0", 1), ("2.0", 2)):
            await world.stub.Move(pb.MoveRequest(name="apiserver-0", python="/b", version=version), timeout=20.0)
            assert world.host.stopped.count("apiserver-0") == times
        told = await world.stub.Topology(pb.TopologyRequest(builds=True), timeout=20.0)
        assert {row.name: (row.build, row.runs_in) for row in told.instances}["apiserver-0"] == ("1.0", "/b")
        with pytest.raises(RpcError, match="its host's environment"):
            await world.stub.Move(pb.MoveRequest(name="supervisor", python="/b"), timeout=20.0)
    finally:
        await world.close()


def test_an_up_runs_all_actors_with_its_own_build() -> None:
    topology = Topology(tuple(replace(i, python="/b") for i in founding(CONFIG, (Machine(),)).instances))
    assert Topology.from_json(topology.to_json()) == topology
    assert of_one_build(topology) == founding(CONFIG, (Machine(),))


def test_a_build_that_would_not_read_what_is_there_takes_nothing_over() -> None:
    own = Build.own()
    check_reads_all(own, own)
    older = replace(own, version="0.0.9", formats=own.formats | {"member": own.formats["member"] - 1})
    check_reads_all(own, older)
    with pytest.raises(ClusterError, match=r"0\.0\.9 cannot read what .* writes \(member\).*rayplane restore"):
        check_reads_all(older, own)


@pytest.mark.processes
def test_an_environment_without_rayplane_is_told_so(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named rayplane' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UsageError, match="no module named rayplane"):
        build_of(str(python))
    with pytest.raises(UsageError):
        build_of(str(tmp_path / "nothing"))


def environment(place: Path, build: Build) -> str:
    """The Python of a stand-in that only says which build it has."""
    place.write_text(f"#!/bin/sh\necho '{json.dumps(build.to_json())}'\n")
    place.chmod(0o755)
    return str(place)


@pytest.mark.processes
async def test_a_build_whose_environment_is_gone_is_known_by_what_it_wrote(tmp_path: Path) -> None:
    directory = kept(tmp_path, running=True, host={"python": str(tmp_path / "gone")})
    member = directory.path / "data" / "member-0"
    member.mkdir(parents=True)
    own, said = Build.own(), list[str]()
    wanted = environment(tmp_path / "wanted", replace(own, version="2.0"))
    (member / MARK_FILE).write_bytes(Mark(own.formats["member"], "1.9").encode())
    assert (await checked(directory, wanted, said.append)).version == "2.0"
    assert len(said) == 1 and "gone has no rayplane any more" in said[0]
    (member / MARK_FILE).write_bytes(Mark(own.formats["member"] + 1, "1.9").encode())
    with pytest.raises(ClusterError, match=r"2\.0 cannot read what 1\.9 writes \(member\)"):
        await checked(directory, wanted, said.append)


def played(path: Path, script: str) -> Spec:
    """The spec of an actor of another build, whose interpreter is a script."""
    python = path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    spec = specs()[0]
    return replace(
        spec,
        data_dir=str(path / "data"),
        log_file=str(path / "logs" / "own.log"),
        instance=replace(spec.instance, python=str(python)),
    )


@pytest.mark.processes
def test_a_process_that_does_not_read_what_it_is_told_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried, "START_TIMEOUT_S", 0.1)
    spec = played(tmp_path, "exec sleep 1000")
    spec = replace(spec, topology=replace(spec.topology, run="more than a pipe holds" * 10_000))
    with pytest.raises(ComponentFailed, match="said nothing"):
        carried.Carried(spec, outlives=False)._launch()


@pytest.mark.processes
async def test_a_process_whose_start_is_cancelled_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids, go, answer = list[int](), threading.Event(), carried._answer

    def slowly(process: Any, told: bytes) -> bytes:
        pids.append(process.pid)
        go.wait()
        return answer(process, told)

    monkeypatch.setattr(carried, "_answer", slowly)
    spec = played(tmp_path, """read -r told; echo "{\\"pid\\": $$}"; exec sleep 1000""")
    unused: Any = None
    starting = asyncio.ensure_future(prepare(spec, unused, unused, unused, outlives=True))
    while not pids:
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    try:
        assert not processes.is_alive(pids[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)


def kept(path: Path, **changed: object) -> StateDir:
    """A state directory with what an older build wrote, but for some of it."""
    directory = StateDir(path / "state")
    directory.create()
    told = json.loads((unpacked(path) / "cluster.json").read_text())
    (directory.path / "cluster.json").write_text(json.dumps(told | changed))
    return directory


def test_the_state_that_an_older_build_kept_is_read_and_marked_when_it_is_written(tmp_path: Path) -> None:
    directory = kept(tmp_path)
    state = directory.read()
    assert state is not None and state.config.name == "old" and len(state.topology.of(Role.MEMBER)) == 3
    directory.write(state)
    mark = json.loads((directory.path / "cluster.json").read_text())["mark"]
    assert mark == {"format": STATE.newest, "build": VERSION}
    assert directory.read() == state


async def test_the_state_of_a_newer_build_is_neither_read_nor_deleted(tmp_path: Path) -> None:
    directory = kept(tmp_path, mark={"format": STATE.newest + 1, "build": "9.0"})
    with pytest.raises(NewerState, match=r"made by rayplane 9\.0.*start it with that build"):
        directory.read()
    with pytest.raises(NewerState):
        await down(directory, lambda _: None, purge=True)
    assert (directory.path / "cluster.json").exists()


@pytest.mark.parametrize("mark", [{}, [], 7, {"format": "2", "build": ""}])
def test_a_state_whose_mark_is_none_is_damaged(tmp_path: Path, mark: object) -> None:
    with pytest.raises(ClusterError, match="damaged"):
        kept(tmp_path, mark=mark).read()
