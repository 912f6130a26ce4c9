"""Simulated containers in virtual time: what annotations make of them."""

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from rayplane.node.errors import Unsupported
from rayplane.node.lifecycle.model import ContainerUser
from rayplane.node.runtime import LogOptions, StartOrder
from rayplane.node.runtime.simulated import JOB_RUN_S, SimulatedRuntime, usual_run_s


class _Selector(selectors.DefaultSelector):
    """A selector that does not wait: tells the loop's clock how long it would have."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.skipped += timeout or 0.0
        return super().select(0)


def virtually(main: Coroutine[Any, Any, None]) -> None:
    """Run in virtual time."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.skipped  # type: ignore[method-assign]
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


class Recorder:
    """A listener that notes what happened when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []

    def _note(self, text: str) -> None:
        self.seen.append((round(asyncio.get_running_loop().time(), 3), text))

    def started(
        self, container_id: str = "", image: tuple[str, str] = ("", ""), user: ContainerUser | None = None
    ) -> None:
        self._note("started")

    def failed(self, reason: str, message: str) -> None:
        self._note(reason)

    def exited(self, exit_code: int, signal: int, message: str, reason: str = "") -> None:
        self._note(f"exited {exit_code}")


def order(annotations: dict[str, str], *, init: bool = False, owner: str = "") -> StartOrder:
    container: dict[str, Any] = {"name": "c", "readinessProbe": {"initialDelaySeconds": 5}}
    part = "initContainers" if init else "containers"
    owners = [{"kind": owner, "name": "o", "uid": "x", "controller": True}] if owner else []
    metadata = {"name": "p", "annotations": {f"rayplane.io/{k}": v for k, v in annotations.items()}}
    pod = {"metadata": metadata | {"ownerReferences": owners}, "spec": {"containers": [], part: [container]}}
    return StartOrder(pod, container, 1, "id", "10.0.0.2", stamp="2026-01-01T00:00:00Z")


def life(
    annotations: dict[str, str], *, stop: tuple[float, float] | None = None, **more: Any
) -> list[tuple[float, str]]:
    """What happens within an hour; `stop` is (when, grace)."""
    recorder = Recorder()

    async def main() -> None:
        run = SimulatedRuntime(random.Random(7), lambda: "").start(order(annotations, **more), recorder)
        if stop is not None:
            await asyncio.sleep(stop[0])
            run.stop(stop[1])
        await asyncio.sleep(3600)

    virtually(main())
    return recorder.seen


@pytest.mark.parametrize(
    ("annotations", "more", "seen"),
    [
        ({}, {}, [(0, "started")]),
        ({"start-delay": "2s"}, {}, [(2, "started")]),
        ({"run-duration": "1m", "exit-code": "3"}, {}, [(0, "started"), (60, "exited 3")]),
        ({"run-duration.c": "1s", "run-duration": "9s"}, {}, [(0, "started"), (1, "exited 0")]),
        ({}, {"init": True}, [(0, "started"), (0, "exited 0")]),
        ({}, {"owner": "Job"}, [(0, "started"), (1, "exited 0")]),
        ({}, {"owner": "ReplicaSet"}, [(0, "started")]),
        ({"start-delay": "soon"}, {}, [(0, "CreateContainerConfigError")]),
        ({}, {"stop": (5, 30)}, [(0, "started"), (5, "exited 143")]),
        ({"stop-delay": "4"}, {"stop": (5, 30)}, [(0, "started"), (9, "exited 143")]),
        ({"stop-delay": "never"}, {"stop": (5, 30)}, [(0, "started"), (35, "exited 137")]),
        ({"start-delay": "9"}, {"stop": (5, 30)}, [(5, "exited 143")]),
    ],
)
def test_lives(annotations: dict[str, str], more: dict[str, Any], seen: list[tuple[float, str]]) -> None:
    assert life(annotations, **more) == seen


def test_crashes_come_at_their_rate_and_by_the_seed() -> None:
    seen = life({"crash-rate": "0.1"})
    assert seen == life({"crash-rate": "0.1"})
    assert seen[1][1] == "exited 1"
    assert 0 < seen[1][0] < 200


def test_probes() -> None:
    async def main() -> None:
        runtime = SimulatedRuntime(random.Random(1), lambda: "")
        plain = runtime.start(order({}), Recorder())
        assert plain.probe_delay("readiness") == plain.probe_delay("liveness") == (0.0, True)
        slow = runtime.start(order({"ready-after": "3", "honor-initial-delay": "true"}), Recorder())
        assert slow.probe_delay("readiness") == (8.0, True)
        sick = runtime.start(order({"liveness-fails-after": "7"}), Recorder())
        assert sick.probe_delay("liveness") == (7.0, False)

    virtually(main())


def test_followed_logs_end_with_the_container() -> None:
    async def main() -> None:
        run = SimulatedRuntime(random.Random(1), lambda: "").start(
            order({"log": "hello", "run-duration": "60"}), Recorder()
        )
        data = b"".join([chunk async for chunk in run.logs(LogOptions(follow=True))])
        assert data.endswith(b"hello\n")
        assert asyncio.get_running_loop().time() == 60

    virtually(main())


@pytest.mark.parametrize(
    ("policy", "container", "annotations", "seconds"),
    [
        ("Never", {"command": ["psql"]}, {}, JOB_RUN_S),
        ("OnFailure", {"args": ["migrate"]}, {}, JOB_RUN_S),
        ("Never", {"command": ["/bin/sleep", "90"]}, {}, 90.0),
        ("Never", {"command": ["sleep"], "args": ["2m"]}, {}, 120.0),
        ("Never", {"command": ["sleep", "infinity"]}, {}, None),
        ("Never", {}, {}, None),
        ("Always", {"command": ["psql"]}, {}, None),
        ("Never", {}, {"helm.sh/hook": "test"}, JOB_RUN_S),
        ("Always", {}, {"helm.sh/hook": "test"}, None),
    ],
)
def test_pods_of_nobody_end_where_they_run_a_command_to_its_end(
    policy: str, container: dict[str, Any], annotations: dict[str, str], seconds: float | None
) -> None:
    pod: dict[str, Any] = {"metadata": {"name": "p", "annotations": annotations}, "spec": {"restartPolicy": policy}}
    assert usual_run_s(pod, {"name": "c", **container}) == seconds
    owner = {"kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
    owned = {**pod, "metadata": {**pod["metadata"], "ownerReferences": [owner]}}
    assert usual_run_s(owned, {"name": "c", **container}) is None


def test_who_runs_a_command_in_a_simulated_container_is_told_why_he_cannot() -> None:
    async def main() -> None:
        run = SimulatedRuntime(random.Random(7), lambda: "").start(order({}), Recorder())
        with pytest.raises(Unsupported, match=r"container c is simulated .* `rayplane image load` or `map`"):
            await run.exec(["ls"], tty=False, stdin=False)

    virtually(main())
