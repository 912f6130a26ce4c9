"""The weather of actors with processes of their own holds while somebody says so, and not longer."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.host import Disturbance
from rayplane.control_plane.cluster.own_weather import OwnWeather
from rayplane.control_plane.cluster.supervisor.weathering import AGAIN_S, HOLDS_S, Weathering
from rayplane.control_plane.cluster.weather import told_of
from rayplane.control_plane.faults.vocabulary import ClockJump, ExpireCertificate, Partition, SlowNetwork, Target
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.storage.env.troubled import Trouble

NAMES = {"10.0.0.1:1": "a", "10.0.0.2:1": "b"}
PARTED = Disturbance(groups=(("a",),), troubles={"a": Trouble(clock_ahead_s=5.0)}, names=NAMES)


class Connections:
    """A network that is told which connections break."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def sever(self, parted: Any) -> None:
        self.broken += [address for address in NAMES if parted("a", address)]


def test_what_is_told_no_more_is_over() -> None:
    async def main() -> None:
        own = OwnWeather("a", random.Random(1))
        own.hold(PARTED, 10.0)
        for _ in range(5):
            await asyncio.sleep(8.0)
            assert own.link.delay("a", "10.0.0.2:1") is None and own.troubled.now.clock_ahead_s == 5.0
            own.hold(PARTED, 10.0)
        await asyncio.sleep(10.1)
        assert own.link.delay("a", "10.0.0.2:1") == 0.0 and own.troubled.now == Trouble()

    VirtualLoop().run(main())


def test_a_partition_that_lasts_breaks_connections_once_and_so_does_a_reset() -> None:
    async def main() -> None:
        own, network = OwnWeather("a", random.Random(1)), Connections()
        any_network: Any = network
        own.network(any_network)
        for _ in range(10):
            own.hold(PARTED, 10.0)
            await asyncio.sleep(2.0)
        assert network.broken == ["10.0.0.2:1"], "however often it was told"
        own.hold(Disturbance(reset=("b",), names=NAMES), 10.0)
        assert network.broken == ["10.0.0.2:1"] * 2 and own.link.delay("a", "10.0.0.2:1") == 0.0

    VirtualLoop().run(main())


class Host:
    """A host whose actors hear of the weather, or not."""

    def __init__(self) -> None:
        self.told: list[Disturbance] = []
        self.is_deaf = False

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        assert holds_s == HOLDS_S
        if self.is_deaf:
            raise ClusterError("nobody hears")
        self.told.append(weather)


def issue(name: str, lasts_s: float) -> Any:
    """Another one each time."""
    return (name, lasts_s, object())


def names() -> Mapping[str, str]:
    return NAMES


def test_the_weather_is_told_again_until_it_is_calm_and_that_of_a_killed_command_ends() -> None:
    async def main() -> None:
        host: Any = Host()
        weather = Weathering(host, names, issue)
        standing, command = (
            told_of((ClockJump(Target(name="a"), 5.0),), standing=True),
            told_of((Partition((("a",),)),), ["b"], holds_s=20.0),
        )
        await weather.tell(standing)
        await weather.tell(command)
        assert host.told[-1].groups == (("a",),) and host.told[-1].reset == ("b",) and host.told[-1].names == NAMES
        host.is_deaf = True
        await asyncio.sleep(2 * AGAIN_S)
        host.is_deaf = False
        await asyncio.sleep(AGAIN_S)
        assert host.told[-1].groups and not host.told[-1].reset
        await weather.tell(told_of((SlowNetwork(0.5),), holds_s=20.0))
        await asyncio.sleep(20.0 + 2 * AGAIN_S)
        assert not host.told[-1].of_network and host.told[-1].troubles["a"].clock_ahead_s == 5.0
        await weather.tell(told_of((), standing=True))
        await asyncio.sleep(2 * AGAIN_S)
        count = len(host.told)
        await asyncio.sleep(10 * AGAIN_S)
        assert host.told[-1].is_calm and len(host.told) == count
        await weather.stop()

    VirtualLoop().run(main())


def test_a_certificate_is_issued_once_and_shown_until_the_fault_is_over() -> None:
    async def main() -> None:
        host: Any = Host()
        weather = Weathering(host, names, issue)
        short = ExpireCertificate(Target(name="a"), 6.0)
        await weather.tell(told_of((short,), standing=True))
        await weather.tell(told_of((ClockJump(Target(name="a"), 1.0),), holds_s=100.0))
        shown = host.told[0].certificates["a"]
        assert shown[:2] == ("a", 6.0) and not host.told[0].is_calm
        assert {told.certificates["a"] for told in host.told} == {shown}
        await weather.tell(told_of((), standing=True))
        assert not host.told[-1].certificates
        await weather.stop()

    VirtualLoop().run(main())


def test_faults_that_are_told_while_the_last_calm_is_said_last() -> None:
    async def main() -> None:
        host: Any = Host()
        saying, said = asyncio.Event(), host.disturb

        async def slow(told: Disturbance, holds_s: float) -> None:
            saying.set()
            await asyncio.sleep(1.0)
            await said(told, holds_s)

        weather = Weathering(host, names, issue)
        await weather.tell(told_of((), standing=True))
        host.disturb = slow
        await saying.wait()
        await weather.tell(told_of((ClockJump(Target(name="a"), 5.0),), standing=True))
        count = len(host.told)
        await asyncio.sleep(HOLDS_S)
        assert len(host.told) > count and not host.told[-1].is_calm
        await weather.stop()

    VirtualLoop().run(main())


def test_an_actor_that_has_left_needs_no_certificate_and_hinders_nobody() -> None:
    async def main() -> None:
        host, here = Host(), {"a": "a", "b": "b"}
        weather = Weathering(host, lambda: here, lambda name, _: here[name])  # type: ignore[arg-type, return-value]
        both = tuple(ExpireCertificate(Target(name=name), 6.0) for name in here)
        await weather.tell(told_of(both, standing=True))
        del here["a"]
        await weather.tell(told_of((Partition((("b",),)),), holds_s=20.0))
        assert host.told[-1].certificates == {"b": "b"} and host.told[-1].groups == (("b",),)
        await weather.stop()

    VirtualLoop().run(main())


def test_an_actor_is_told_of_no_other_ones_certificate() -> None:
    keys: Any = {"a": "key of a", "b": "key of b"}
    told = Disturbance(slow_s=0.5, certificates=keys)
    assert told.shown_to("a") == Disturbance(slow_s=0.5, certificates={"a": keys["a"]})
    assert not told.shown_to("c").certificates


class Shown:
    """A renewal that says what is shown."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def show(self, credentials: Any) -> None:
        self.said.append(credentials)

    def show_own(self) -> None:
        self.said.append("own")


def test_an_actor_shows_its_own_certificate_again_when_it_is_told_no_more() -> None:
    async def main() -> None:
        own, shown = OwnWeather("a", random.Random(1)), Shown()
        renewal: Any = shown
        own.renewal(renewal)
        short: Any = "short"
        for _ in range(3):
            own.hold(Disturbance(certificates={"a": short}), 10.0)
            await asyncio.sleep(5.0)
        assert shown.said == ["short"]
        await asyncio.sleep(10.0)
        assert shown.said == ["short", "own"]

    VirtualLoop().run(main())
