"""What Ray is told of where actors go, and of the package that machines need for them."""

import contextlib
import sys
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.runtime_env.py_modules import upload_py_modules_if_needed
from ray.exceptions import RaySystemError

from rayplane.control_plane.cluster import launch, ray_cluster, ray_driver, ray_host, ray_package
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.host import Runs
from rayplane.control_plane.cluster.ray_host import RayHost
from rayplane.control_plane.cluster.ray_package import KEEP_EVERY_S, Package
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology

NODE = "ab" * 28
A, B = Machine("192.0.2.1", "a"), Machine("192.0.2.2", "b")


@pytest.mark.parametrize("role", [Role.SUPERVISOR, Role.MEMBER])
async def test_each_actor_is_wanted_where_it_is_planned(monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    """Ray heeds no soft affinity of an actor that asks for no resource at all."""
    told: dict[str, Any] = {}
    pid = SimpleNamespace(remote=lambda: 7)
    made = SimpleNamespace(remote=lambda spec: SimpleNamespace(pid=pid))

    def options(**given: Any) -> Any:
        told.update(given)
        return made

    fake = SimpleNamespace(remote=lambda kind: SimpleNamespace(options=options), wait=lambda *_, **__: ([7], []))
    monkeypatch.setattr(ray_host, "ray", SimpleNamespace(**vars(fake), get=lambda reference: reference))
    monkeypatch.setattr(Package, "keep", lambda _: None)
    spec = Spec(
        instance=Instance("x", role, Machine("192.0.2.1", NODE)), config=ClusterConfig(), plan=AddressPlan(0),
        topology=Topology(()), credentials=None, secrets=None, data_dir="", log_file="",
    )  # fmt: skip
    assert await RayHost(ClusterConfig(), object).start(spec) == 7
    placement = told["scheduling_strategy"]
    assert (placement.node_id, placement.soft) == (NODE, role is Role.SUPERVISOR)
    assert any(told["resources"].values()) == placement.soft and told["num_cpus"] == 0


class Ray:
    """Ray with a clock; `kept`: what it was asked to keep, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.kept: list[tuple[str, float]] = []
        self.fails = False
        context = SimpleNamespace(runtime_env={"py_modules": ["gcs://package.zip"]})
        monkeypatch.setattr(ray_package, "ray", SimpleNamespace(get_runtime_context=lambda: context))
        monkeypatch.setattr(ray_package, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(ray_package, "upload_package_if_needed", self.upload)

    def upload(self, uri: str, *_: Any, **__: Any) -> bool:
        self.kept.append((uri, self.now_s))
        if self.fails:
            raise RaySystemError("the head is away")
        return True


def test_the_package_is_kept_for_machines_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, package = Ray(monkeypatch), Package()
    for ray.now_s, machines in ((0.0, [A]), (1.0, [A]), (2.0, [A, B]), (3.0, [B]), (4.0, [A, B])):
        package.keep_for(machines)
    assert ray.kept == [("gcs://package.zip", 0.0), ("gcs://package.zip", 2.0), ("gcs://package.zip", 4.0)]
    ray.now_s = 4.0 + KEEP_EVERY_S
    package.keep_for([A, B])
    assert len(ray.kept) == 4, "a head that started anew forgets who needs it"


def test_the_package_is_the_same_whatever_was_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or Ray would be sent another after each import of a module that was not imported before."""
    monkeypatch.setattr(ray_cluster, "PACKAGE", tmp_path)
    sent: list[str] = []

    def send() -> None:
        packed = upload_py_modules_if_needed(ray_cluster.carrying(), True, upload_fn=lambda *_, **__: None)
        sent.extend(packed["py_modules"])

    (tmp_path / "module.py").write_text("")
    send()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    send()
    (tmp_path / "module.py").write_text("changed = True")
    send()
    first, compiled, changed = sent
    assert first == compiled != changed


def test_a_head_that_is_away_ends_nobodys_look(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, package = Ray(monkeypatch), Package()
    ray.fails = True
    package.keep_for([A])
    ray.now_s = KEEP_EVERY_S
    package.keep_for([A])
    assert len(ray.kept) == 2


def test_each_process_is_asked_once_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread rests, and would answer a second later each time."""
    restarts, asked = {"a": 0, "b": 0}, list[str]()

    def actor(name: str, **_: Any) -> Any:
        def ask() -> str:
            asked.append(name)
            return name

        return SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: name), build=SimpleNamespace(remote=ask))

    named = SimpleNamespace(list_named_actors=lambda **_: [{"name": n, "namespace": "here"} for n in restarts])
    answers = SimpleNamespace(wait=lambda one, **_: (one, []), get=lambda one: ("1", one))
    monkeypatch.setattr(ray_host, "ray", SimpleNamespace(util=named, get_actor=actor, **vars(answers)))
    monkeypatch.setattr(ray_host, "actors", lambda ident: {"NumRestarts": restarts[ident]})
    builds = ray_host._Builds("here")
    assert builds.look() == builds.look() == {name: Runs("1", name) for name in restarts}
    assert asked == ["a", "b"]
    restarts["b"] += 1
    assert builds.look().keys() == restarts.keys()
    assert asked == ["a", "b", "b"]


async def test_who_was_killed_is_absent_until_ray_has_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not asked which build it is, for which it would be waited."""
    mine = {"lb": "1", "member-0": "2"}
    known = {"1": {"Name": "lb", "State": "RESTARTING"}, "2": {"Name": "member-0", "State": "ALIVE"}}
    known["3"] = {"Name": "member-0", "State": "RESTARTING"}  # another cluster's

    def ray_actors(ident: str = "", *, actor_state_name: str = "") -> Any:
        return known[ident] if ident else {i: one for i, one in known.items() if one["State"] == actor_state_name}

    def actor(name: str, **_: Any) -> Any:
        return SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: mine[name]), build=SimpleNamespace(remote=object))

    named = SimpleNamespace(list_named_actors=lambda **_: [{"name": n, "namespace": "rayplane-default"} for n in mine])
    answers = SimpleNamespace(wait=lambda one, **_: (one, []), get=lambda _: ("1", ""))
    monkeypatch.setattr(ray_host, "ray", SimpleNamespace(util=named, get_actor=actor, **vars(answers)))
    monkeypatch.setattr(ray_host, "actors", ray_actors)
    host = RayHost(ClusterConfig(), object)
    assert await host.absent() == {"lb": "its process has ended; Ray starts another"}
    assert (await host.builds()).keys() == {"member-0"}
    known["1"]["State"] = "ALIVE"
    assert await host.absent() == {}
    assert (await host.builds()).keys() == mine.keys()


@pytest.mark.parametrize("cpus", [None, {"a": 8.0}])
async def test_nodes_leave_with_their_machines_only_where_ray_gives_machines_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cpus: dict[str, float] | None
) -> None:
    """Without an autoscaler of Ray's a machine that is not there is late, and has its nodes' data."""
    instances = [Instance(f"node-host-{n}", Role.NODE_HOST, m, nodes=(f"node-{n}",)) for n, m in enumerate((A, B))]
    config, host = ClusterConfig(address="192.0.2.1:6379", autoscale="1:5"), {"owned": False, "address": A.address}
    state = ClusterState(config, AddressPlan(0), Topology(tuple(instances)), running=True, host=host)
    seen: list[Topology] = []

    def answering(value: Any) -> Any:
        async def answer(*_: Any) -> Any:
            return value

        return answer

    fake = SimpleNamespace(machines=answering([A]), cpus=answering(cpus), holders=answering({"node-host-0": [A]}))
    monkeypatch.setattr(ray_host, "RayHost", lambda *_: fake)
    monkeypatch.setattr(sys, "stdin", StringIO())

    @contextlib.asynccontextmanager
    async def driver(directory: StateDir, _: str) -> AsyncIterator[Any]:
        with pytest.raises(ClusterError, match="interrupted"):
            await ray_driver._start(directory, config)
        yield SimpleNamespace(line=answering(capsys.readouterr().out))

    async def placed(placed: ClusterState, *_: Any) -> ClusterState:
        seen.append(placed.topology)
        raise ClusterError("that is all")

    monkeypatch.setattr(launch, "ray_driver", driver)
    monkeypatch.setattr(launch, "_write_access", lambda *_: None)
    with pytest.raises(ClusterError, match="add that machine" if cpus is None else "that is all"):
        await launch._up_ray(StateDir(tmp_path), state, SimpleNamespace(), print, placed)  # type: ignore[arg-type]
    assert [[i.phase for i in topology.instances] for topology in seen] == (
        [] if cpus is None else [[Phase.ACTIVE, Phase.LEAVING]]
    )
