"""One process: a component that ends itself is started again, as Ray would."""

import asyncio
import gc
import random
import weakref
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest

from rayplane.control_plane.cluster import process_host
from rayplane.control_plane.cluster.carried import Carried
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.errors import ClusterError, TimeStands
from rayplane.control_plane.cluster.process_host import ProcessHost
from rayplane.control_plane.cluster.slots import is_taken
from rayplane.control_plane.faults.vocabulary import Kill, Target
from rayplane.storage.env import heap
from rayplane.storage.env.leaps import LeapingLoop
from tests.cluster.harness import cluster


async def test_a_member_that_fails_comes_back_with_its_data() -> None:
    async with cluster(members=3, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        await c.etcd.put(b"/k", b"v")
        failed: Any = c.host._actors["member-1"][0]
        wal = failed.driver._wal

        def no_disk(*_: Any, **__: Any) -> Any:
            del wal.save
            raise OSError(28, "No space left on device")

        wal.save = no_disk
        # It may have been the leader: then this write is tried again.
        await c.until(lambda: c.etcd.put(b"/k", b"w"), "a write without member-1")
        await c.until(lambda: _again(c, failed), "member-1 is another one")
        endpoint = c.topology.get("member-1").endpoint("client")

        async def leads() -> bool:
            return bool((await c.etcd.status(endpoint)).leader)

        await c.until(leads, "member-1 follows")
        assert failed.failure is not None
        assert (await c.etcd.range(b"/k")).kvs[0].value == b"w"


async def _again(c: Any, before: object) -> bool:
    return "member-1" in c.host._actors and c.host._actors["member-1"][0] is not before


async def test_an_actor_that_cannot_even_be_connected_is_started_again() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        failed: list[bool] = []
        connect = process_host.GrpcNetwork

        def full(credentials: Any) -> Any:
            if len(failed) < 2:
                # Nobody else takes its addresses meanwhile.
                failed.append(is_taken(c.state.plan))
                raise OSError(28, "No space left on device")
            return connect(credentials)

        with mock.patch.object(process_host, "GrpcNetwork", full):
            await LiveInjector(c.access, random.Random(1)).begin(Kill(Target("scheduler", "scheduler-0")))
            await c.until(lambda: _runs(c, "scheduler-0"), "scheduler-0 runs again")
        assert failed == [True, True]


async def test_an_actor_whose_connections_do_not_close_is_started_again() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        network = c.host._actors["scheduler-0"][1]
        with mock.patch.object(network, "close", side_effect=OSError("no")), pytest.raises(ClusterError):
            await LiveInjector(c.access, random.Random(1)).begin(Kill(Target("scheduler", "scheduler-0")))
        await network.close()
        await c.until(lambda: _runs(c, "scheduler-0"), "scheduler-0 runs again")


async def test_what_a_killed_actor_had_in_memory_is_given_back() -> None:
    names = ("apiserver-0", "scheduler-0", "controllers-0")
    gc.disable()
    try:
        with mock.patch.multiple(heap, SWEEP_AFTER_S=0.1, SWEEP_EVERY_S=0.1):
            async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
                killed = {name: weakref.ref(c.host._actors[name][0]) for name in names}
                with mock.patch.object(c.host._sweep, "soon", wraps=c.host._sweep.soon) as told:
                    for name in names:
                        await c.host.kill(name, "KILL")
                assert told.call_count >= len(names)

                async def kept() -> list[str]:
                    c.host._sweep.soon()  # the look before may have come while something still ended
                    return [name for name, component in killed.items() if component() is not None]

                await c.until(kept, "nothing of them is kept", wanted=[])
    finally:
        gc.enable()


async def test_a_supervisor_that_does_not_start_is_tried_again() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=0) as c:
        before, prepare = c.host._actors["supervisor"][0], process_host.prepare
        failed: list[bool] = []

        async def full(*args: Any, **options: Any) -> Any:
            if len(failed) < 2:
                # Nobody else takes its addresses meanwhile.
                failed.append(is_taken(c.state.plan))
                raise OSError(28, "No space left on device")
            return await prepare(*args, **options)

        async def again() -> bool:
            return "supervisor" in c.host._actors and c.host._actors["supervisor"][0] is not before

        with mock.patch.object(process_host, "prepare", full):
            await c.host.kill("supervisor", "KILL")
            await c.until(again, "the supervisor runs again")
        assert failed == [True, True]


async def _runs(c: Any, name: str) -> bool:
    return name in c.host._actors


def test_its_time_is_led_forward_and_by_how_much_is_kept() -> None:
    kept: list[float] = []

    async def main() -> None:
        host = ProcessHost(kept.append)
        await host.advance(3600)
        assert kept[-1] == pytest.approx(3600, abs=60) and host.ahead_s == kept[-1]
        # Whoever kills it on the way finds it a minute back, not where it began.
        assert all(later - one <= 60 for one, later in pairwise([0.0, *kept]))
        host._actors["member-0"] = (object.__new__(Carried), None)  # type: ignore[assignment]
        with pytest.raises(TimeStands, match="member-0: the time of a process of its own"):
            await host.advance(1)

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())


async def test_another_loop_has_the_machines_time() -> None:
    with pytest.raises(TimeStands, match="rayplane up"):
        await ProcessHost(lambda _: None).advance(1)
