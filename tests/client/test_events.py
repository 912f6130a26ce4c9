"""The event recorder: repeats become a count, writing happens in the background and never blocks."""

import asyncio
import random

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import EventRecorder
from rayplane.control_plane.client import events as module
from rayplane.control_plane.client.correlation import BURST, REFILL_S, SIMILAR_MAX, SIMILAR_S
from rayplane.control_plane.client.events import COMBINED
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.simulation.cell import VirtualClock
from rayplane.storage.env import Env, SimulatedDisk
from tests.fakes import FakeClient, Store

POD: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "web", "uid": "u1"}}


def pod(name: str) -> Object:
    return {**POD, "metadata": {"namespace": "default", "name": name, "uid": name}}


def recorder() -> tuple[EventRecorder, FakeClient, Store]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    store = Store()
    client = FakeClient(store)
    env = Env(VirtualClock(loop, 0), random.Random(1), SimulatedDisk())
    made = EventRecorder(client, env, component="tester", host="node-0")  # type: ignore[arg-type]
    made.start()
    return made, client, store


def written(store: Store) -> list[Object]:
    return list(store.list("events"))


def test_repeats_are_counted_on_one_object() -> None:
    async def main() -> None:
        events, client, store = recorder()
        for _ in range(3):
            events.event(POD, "Warning", "BackOff", "restarting failed container")
        await asyncio.sleep(1)
        [event] = written(store)
        assert (event["count"], event["reason"], event["type"]) == (3, "BackOff", "Warning")
        assert event["involvedObject"]["uid"] == "u1"
        await asyncio.sleep(59)
        events.event(POD, "Warning", "BackOff", "restarting failed container")
        events.event(POD, "Normal", "Started", "started")
        await asyncio.sleep(1)
        repeated, other = written(store)
        assert repeated["count"] == 4
        assert repeated["lastTimestamp"] > repeated["firstTimestamp"]
        assert other["reason"] == "Started"
        assert client.calls == ["batch 1", "batch 2"]
        await events.stop()

    VirtualLoop().run(main())


def test_containers_that_do_the_same_are_told_apart() -> None:
    async def main() -> None:
        events, _, store = recorder()
        for name in ("a", "b", "a"):
            events.event(POD, "Normal", "Created", "Container created", part=f"spec.containers{{{name}}}")
        await asyncio.sleep(1)
        told = {e["involvedObject"]["fieldPath"]: e["count"] for e in written(store)}
        assert told == {"spec.containers{a}": 2, "spec.containers{b}": 1}
        await events.stop()

    VirtualLoop().run(main())


def test_events_of_one_moment_are_listed_as_they_came() -> None:
    async def main() -> None:
        events, _, store = recorder()
        for reason in ("Pulled", "Created", "Started", "Killing", "BackOff"):
            events.event(POD, "Normal", reason, "said")
        await asyncio.sleep(1)
        by_name = sorted(written(store), key=lambda event: event["metadata"]["name"])
        assert [event["reason"] for event in by_name] == ["Pulled", "Created", "Started", "Killing", "BackOff"]
        await events.stop()

    VirtualLoop().run(main())


def test_events_wait_while_the_api_is_away_and_only_so_many() -> None:
    async def main() -> None:
        events, client, store = recorder()
        client.parted = True
        for n in range(module.KNOWN_MAX + 10):
            events.event(pod(str(n)), "Normal", "Counted", f"number {n}")
        await asyncio.sleep(60)
        assert not written(store)
        client.parted = False
        await asyncio.sleep(120)
        messages = {e["message"] for e in written(store)}
        assert f"number {module.KNOWN_MAX + 9}" in messages
        assert 0 < len(messages) <= module.KNOWN_MAX
        await events.stop()

    VirtualLoop().run(main())


def test_many_that_differ_in_their_text_alone_become_one_and_an_object_has_only_so_many() -> None:
    async def main() -> None:
        events, client, store = recorder()
        for n in range(1000):
            events.event(POD, "Normal", "SuccessfulCreate", f"Created pod: web-{n}")
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        *single, combined = sorted(written(store), key=lambda e: e["count"])
        assert [e["message"] for e in single] == [f"Created pod: web-{n}" for n in range(SIMILAR_MAX - 1)]
        assert combined["message"].startswith(COMBINED) and combined["count"] < 1000
        assert len(client.calls) <= BURST, "no more is written of an object at a time"
        events.event(pod("other"), "Normal", "Pulled", "pulled")
        await asyncio.sleep(REFILL_S)
        events.event(POD, "Normal", "SuccessfulCreate", "Created pod: last")
        await asyncio.sleep(1)
        combined = max(written(store), key=lambda e: e["count"])
        assert (combined["count"], combined["message"]) == (1000 - len(single) + 1, COMBINED + "Created pod: last")
        assert "pulled" in {e["message"] for e in written(store)}, "another object has room of its own"
        await asyncio.sleep(SIMILAR_S + 1)
        events.event(POD, "Normal", "SuccessfulCreate", "Created pod: much later")
        await asyncio.sleep(1)
        assert "Created pod: much later" in {e["message"] for e in written(store)}
        await events.stop()

    VirtualLoop().run(main())


def test_an_event_that_was_written_by_an_unanswered_call_is_counted_on() -> None:
    async def main() -> None:
        events, _, store = recorder()
        events.event(POD, "Normal", "Pulled", "pulled")
        await asyncio.sleep(1)
        # The recorder does not know that its create came through.
        for known in events._known.values():
            known.written = False
        events.event(POD, "Normal", "Pulled", "pulled")
        await asyncio.sleep(1)
        [event] = written(store)
        assert event["count"] == 2
        await events.stop()

    VirtualLoop().run(main())


def test_an_event_that_is_gone_begins_anew() -> None:
    async def main() -> None:
        events, _, store = recorder()
        events.event(POD, "Normal", "Pulled", "pulled")
        await asyncio.sleep(1)
        store.objects.clear()
        events.event(POD, "Normal", "Pulled", "pulled")
        await asyncio.sleep(1)
        events.event(POD, "Normal", "Pulled", "pulled")
        await asyncio.sleep(1)
        [event] = written(store)
        assert event["count"] == 1
        await events.stop()

    VirtualLoop().run(main())
