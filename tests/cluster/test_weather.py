"""The weather of a cluster, as standing faults and commands tell it."""

import asyncio
import random
from typing import Any

from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.host import Disturbance
from rayplane.control_plane.cluster.supervisor.weathering import Weathering
from rayplane.control_plane.cluster.weather import Weather, read, told_of
from rayplane.control_plane.faults.vocabulary import (
    ClockJump,
    Cut,
    ExpireCertificate,
    Fault,
    FullDisk,
    Partition,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Target,
)
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.rpc.weather import Weather as Network
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env.troubled import Trouble
from tests.faults.test_injectors import Admin, Skies

ONE, TWO = Target(name="member-0"), Target(name="member-1")
ALL: Weather = (
    Partition((("a", "b"),)),
    Partition((("b", "c"), ("d",))),
    Cut(("a",), ("b",)),
    SlowNetwork(0.5),
    ClockJump(ONE, -30.0),
    SlowDisk(ONE, 0.5),
    StalledDisk(TWO, 9.0),
    FullDisk(ONE),
    ExpireCertificate(TWO, 5.0),
)


class Host:
    """A host that knows the weather of the moment."""

    def __init__(self) -> None:
        self.now = Disturbance()

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        self.now = weather


async def test_standing_faults_and_commands_take_nothing_from_each_other() -> None:
    host: Any = Host()

    def issue(name: str, lasts_s: float) -> Credentials:
        raise AssertionError("no certificate is to expire")

    told = Weathering(host, dict, issue)

    async def tell(*weather: Fault, standing: bool) -> None:
        await told.tell(told_of(weather, ["x"], standing=standing))

    await tell(Partition((("a",),)), ClockJump(ONE, 5.0), SlowNetwork(0.1), standing=True)
    await tell(Partition((("b",),)), ClockJump(ONE, 2.0), StalledDisk(ONE, 1.0), standing=False)
    assert sorted(host.now.groups) == [("a",), ("b",)]
    assert host.now.slow_s == 0.1 and host.now.reset == ("x",)
    assert host.now.troubles == {"member-0": Trouble(clock_ahead_s=7.0, stalled=True)}
    await tell(standing=False)
    assert host.now.groups == (("a",),) and host.now.troubles == {"member-0": Trouble(clock_ahead_s=5.0)}
    await tell(standing=True)
    assert host.now == Disturbance(reset=("x",), troubles=host.now.troubles)
    assert set(host.now.troubles.values()) <= {Trouble()}
    await told.stop()


def test_what_was_told_is_told_the_same_again() -> None:
    for weather in ((), *((fault,) for fault in ALL), ALL):
        told = told_of(weather)
        assert told_of(read(told)) == told
    assert pb.DisturbRequest() == told_of(())


def test_who_calls_itself_is_slowed_by_no_network() -> None:
    network = Network(random.Random(1), None)
    network.slow_s = 5.0
    assert network.delay("supervisor", "supervisor") == 0.0
    assert network.delay("supervisor", "member-0")


def test_it_clears_up_though_the_supervisor_is_away_at_first() -> None:
    admin: Any = Admin(PROCESS)
    sky = admin.supervisor = Skies()

    async def story() -> None:
        injector, fault = LiveInjector(admin, random.Random(1)), Partition((("member-0",),))
        await injector.inflict(fault, ("member-0",))
        sky.fails = True
        ending = asyncio.create_task(injector.end(fault, ("member-0",)))
        await asyncio.sleep(1.0)
        assert sky.last()[0]
        sky.fails = False
        await ending
        assert sky.last() == ([], [], 0.0)

    VirtualLoop().run(story())
