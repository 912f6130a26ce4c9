"""How a process on another machine of Ray is sent a signal: by its neighbours, and by a task where none of them can."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayActorError

from rayplane.control_plane.cluster import ray_signals

PLACE, NODE, PID, KILL = "rayplane-x", "1f" * 28, 40, 9


@dataclass
class Ray:
    """Ray whose actors are `(name, node, pid)`. `answers`: what comes of a signal sent by one, or by a task."""

    actors: list[tuple[str, str, int]]
    answers: dict[str, Exception | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)

    def known(self, actor_state_name: str) -> dict[str, Any]:
        return {name: {"Name": name, "Pid": pid, "Address": {"NodeID": node}} for name, node, pid in self.actors}

    def _asking(self, who: str) -> Callable[[int, int], str]:
        def ask(pid: int, number: int) -> str:
            assert (pid, number) == (PID, KILL)
            self.asked.append(who)
            return who

        return ask

    def get_actor(self, name: str, namespace: str) -> Any:
        if namespace != PLACE or name.startswith("other"):
            raise ValueError(name)
        methods = {} if name.startswith("old") else {"signal": SimpleNamespace(remote=self._asking(name))}
        return SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: name), **methods)

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._asking("a task")))

    def get(self, who: str, timeout: float) -> None:
        if (error := self.answers.get(who)) is not None:
            raise error

    def cancel(self, who: str) -> None:
        self.taken_back.append(who)


def _sent(monkeypatch: pytest.MonkeyPatch, ray: Ray) -> Ray:
    monkeypatch.setattr(ray_signals, "ray", ray)
    monkeypatch.setattr(ray_signals, "actors", ray.known)
    ray_signals.send(PLACE, NODE, PID, KILL)
    return ray


def test_a_neighbour_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [("far", "n2", 1), ("itself", NODE, PID), ("other-1", NODE, 2), ("old-1", NODE, 3), ("near", NODE, 4)]
    assert _sent(monkeypatch, Ray(there)).asked == ["near"]


def test_who_does_not_answer_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [(f"near-{n}", NODE, n) for n in range(4)]
    silent = Ray(there, {"near-0": GetTimeoutError(), "near-1": RayActorError()})
    assert _sent(monkeypatch, silent).asked == ["near-0", "near-1", "a task"]
    assert silent.taken_back == ["near-0"]


def test_a_machine_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Ray([], {"a task": GetTimeoutError()})
    with pytest.raises(TimeoutError):
        _sent(monkeypatch, silent)
    assert silent.taken_back == ["a task"]


def test_a_neighbour_that_was_refused_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProcessLookupError):
        _sent(monkeypatch, Ray([("near", NODE, 4)], {"near": ProcessLookupError()}))
