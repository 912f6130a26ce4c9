"""A cluster's slot of 127/8 is its own while any of its processes lives, whatever is being restarted."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from rayplane.control_plane.cluster import launch, ray_cluster, signs, slots
from rayplane.control_plane.cluster.config import PROCESS, RAY, SLOTS, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, SlotTaken
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import share
from rayplane.control_plane.cluster.state import HOME, ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Topology
from rayplane.control_plane.rpc.sockets import stop_listening
from rayplane.control_plane.rpc.tls import key_hash

SILENT = lambda _: None  # noqa: E731


@pytest.fixture
async def plan() -> AsyncIterator[AddressPlan]:
    """One that no cluster of this machine has, nor gets meanwhile."""
    async with slots.reserved(slots.in_order(random.Random())) as free:
        yield free


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "FREE_S", 0.0)


def held(plan: AddressPlan) -> bool:
    """Whether another cluster would go round it, but for who starts in it now."""
    return slots.is_taken(plan)


def test_a_cluster_whose_supervisor_is_away_has_its_slot(plan: AddressPlan) -> None:
    assert not held(plan)
    with signs.hold(plan.slot), signs.hold(plan.slot):
        assert held(plan)
        # That of another begins with the same digit.
        assert not signs.is_held(plan.slot + 10 * SLOTS) and not signs.is_held(plan.slot * 10 or 10)
    assert not held(plan)


async def test_one_of_a_build_without_signs_is_known_by_its_claim(plan: AddressPlan) -> None:
    server = await slots.claim(plan)
    assert await asyncio.to_thread(held, plan)
    await stop_listening(server)
    assert not await asyncio.to_thread(held, plan)


def test_who_looks_listens_nowhere(plan: AddressPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that starts just then would find its address in use."""
    with socket.socket() as server, monkeypatch.context() as patched:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(plan.claim_address)
        patched.setattr(socket.socket, "listen", None)
        patched.setattr(socket.socket, "bind", None)
        assert not held(plan)


async def test_a_slot_in_use_is_gone_round_and_said_where_there_is_no_other(impatient: None) -> None:
    async with slots.reserved(slots.in_order(random.Random())) as plan:
        pass
    with signs.hold(plan.slot):
        async with slots.reserved([plan, *slots.in_order(random.Random())]) as other:
            assert other != plan
        with pytest.raises(SlotTaken, match="take it down first"):
            async with slots.reserved([plan]):
                raise AssertionError("it is another's")


async def test_a_node_that_has_joined_is_in_the_way_of_other_clusters_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    """It lives on while its cluster is down, maybe on that one's own machine."""
    async with slots.reserved(slots.in_order(random.Random())) as plan:
        pass
    started: list[AddressPlan] = []

    async def start(directory: StateDir, state: ClusterState, *_: Any) -> None:
        started.append(state.plan)

    monkeypatch.setattr(launch, "_up_process", start)
    directory, secrets = _made(tmp_path), Secrets.create("own")
    secrets.write(directory.pki)
    config = ClusterConfig(name="own", host=PROCESS)
    down = ClusterState(config, plan, Topology(()), False, {"pid": 0})
    with (
        signs.hold(plan.slot, joined=key_hash(Secrets.create("own").ca_cert)),
        pytest.raises(SlotTaken, match="rayplane join"),
    ):
        await launch._up(config, directory, down, SILENT, prepare=None, encryption=b"")
    with signs.hold(plan.slot, joined=key_hash(secrets.ca_cert)):
        assert held(plan)
        await launch._up(config, directory, down, SILENT, prepare=None, encryption=b"")
        # Its own processes are, as ever.
        with signs.hold(plan.slot), pytest.raises(SlotTaken, match="take it down"):
            await launch._up(config, directory, down, SILENT, prepare=None, encryption=b"")
    assert [one.slot for one in started] == [plan.slot]


@pytest.mark.parametrize(("was", "asked"), [(PROCESS, RAY), (RAY, PROCESS)])
async def test_a_cluster_goes_on_on_the_host_that_it_was_on(
    was: str, asked: str, plan: AddressPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    said: list[str] = []
    for host, start in ((PROCESS, "_up_process"), (RAY, "_up_ray")):
        monkeypatch.setattr(launch, start, AsyncMock(side_effect=lambda *_, host=host: started.append(host)))
    monkeypatch.setattr(launch, "reserved", lambda *_: contextlib.nullcontext(plan))
    directory = _made(tmp_path)
    Secrets.create("own").write(directory.pki)
    down = ClusterState(ClusterConfig(name="own", host=was), plan, Topology(()), False, {"pid": 0})
    config = ClusterConfig(name="own", host=asked)
    await launch._up(config, directory, down, said.append, prepare=None, encryption=b"")
    assert started == [was] and f"going on from it on the host {was}, as it was" in said[-1]


async def test_what_ends_just_then_is_waited_for(plan: AddressPlan) -> None:
    with socket.socket() as before:
        before.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        before.bind(plan.claim_address)
        before.listen(1)
        claiming = asyncio.create_task(slots.claim(plan))
        await asyncio.sleep(0)
    await stop_listening(await claiming)


async def test_a_claim_of_what_another_keeps_says_so(plan: AddressPlan, impatient: None) -> None:
    with socket.socket() as other:
        # One who was there before may have hung up on a caller a moment ago.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(plan.claim_address)
        other.listen(1)
        with pytest.raises(SlotTaken, match=plan.pod_cidr):
            await slots.claim(plan)


def test_slots_of_clusters_that_are_down_are_taken_last(tmp_path: Path) -> None:
    directories = [StateDir(tmp_path / HOME / name) for name in ("a", "b")]
    for slot, directory in zip((3, 5), directories, strict=True):
        directory.create()
        directory.write(ClusterState(ClusterConfig(), AddressPlan(slot), Topology(()), False, {"pid": 0}))
    assert [other.plan.slot for other in directories[0].others()] == [5]
    assert {plan.slot for plan in slots.in_order(random.Random(), {3, 5})[-2:]} == {3, 5}
    assert StateDir(tmp_path / "elsewhere").others() == []


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_start_begins_anew_elsewhere_only_where_another_came_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None, comes_back: bool
) -> None:
    """The other was away with all its processes when it was looked for, and is there when the supervisor claims."""
    tried, others = [], list[socket.socket]()

    async def start(directory: StateDir, state: ClusterState, *_: Any) -> None:
        directory.write(replace(state, running=False))
        tried.append(state.plan)
        if len(tried) == 1:
            if comes_back:
                others.append(signs.hold(state.plan.slot))
            raise ClusterError("supervisor: SlotTaken")

    monkeypatch.setattr(launch, "_up_process", start)
    try:
        up = launch._up(
            ClusterConfig(name="new", host=PROCESS), _made(tmp_path), None, SILENT, prepare=None, encryption=b""
        )
        if comes_back:
            await up
            assert len({plan.slot for plan in tried}) == 2
        else:
            with pytest.raises(ClusterError, match="SlotTaken"):
                await up
            assert len(tried) == 1
    finally:
        for other in others:
            other.close()


@pytest.mark.parametrize("ends", [True, False])
async def test_why_a_start_failed_is_told_while_its_own_processes_are_still_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Their signs are no other cluster's, and what hinders their end is not why it failed."""
    tried, own = [], list[socket.socket]()

    async def start(directory: StateDir, state: ClusterState, *_: Any) -> None:
        tried.append(state.plan)
        own.append(signs.hold(state.plan.slot))
        raise ClusterError("no such image")

    async def take_down(*_: Any) -> None:
        if not ends:
            raise ClusterError("it does not end")
        asyncio.get_running_loop().call_soon(own[-1].close)

    monkeypatch.setattr(slots, "POLL_S", 0)
    monkeypatch.setattr(launch, "_up_process", start)
    monkeypatch.setattr(launch, "take_down", take_down)
    try:
        with pytest.raises(ClusterError, match="no such image"):
            await launch._up(
                ClusterConfig(name="new", host=PROCESS), _made(tmp_path), None, SILENT, prepare=None, encryption=b""
            )
        assert len(tried) == 1
    finally:
        for sign in own:
            sign.close()


def _made(path: Path) -> StateDir:
    directory = StateDir(path / "state")
    directory.create()
    return directory


def test_ray_gets_no_port_of_an_actor_that_does_not_listen_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan, rng = AddressPlan(2), random.Random(1)
    ours = set(share(plan)) - set(list(share(plan))[-2:])
    host = launch._new_host(ClusterConfig(host=RAY), plan, rng, Secrets.create("x"), ours)
    assert host["port"] not in ours
    ray_cluster.remove_folder(host)
