"""How an actor on Ray is stopped: in order where it can end its work so, and without a second wait if it is silent."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from rayplane.control_plane.cluster import ray_host
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.ray_host import STOP_TIMEOUT_S, RayHost


class Ray:
    """Ray with one actor, whose methods answer what `answers` has. `done`: what was asked of it, and for how long."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.done: list[tuple[str, float]] = []

    def get_actor(self, name: str, namespace: str) -> Any:
        def method(what: str) -> Any:
            return SimpleNamespace(remote=lambda **options: (what, options))

        return SimpleNamespace(**{what: method(what) for what in self.answers})

    def get(self, asked: tuple[str, Any], timeout: float) -> Any:
        self.done.append((asked[0], timeout))
        answer = self.answers[asked[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.done.append(("kill", 0.0))


ASKED, STOPPED, KILLED = ("leave_s", STOP_TIMEOUT_S), ("stop", STOP_TIMEOUT_S), ("kill", 0.0)


@pytest.mark.parametrize(
    ("actor", "done"),
    [
        ({"leave_s": 0.0, "leave": None, "stop": None}, [ASKED, STOPPED, KILLED]),
        (
            {"leave_s": 30.0, "leave": None, "stop": None},
            [ASKED, ("leave", 30.0 + STOP_TIMEOUT_S), STOPPED, KILLED],
        ),
        ({"leave_s": GetTimeoutError(), "leave": None, "stop": None}, [ASKED, KILLED]),
        (
            {"leave_s": 1.0, "leave": GetTimeoutError(), "stop": None},
            [ASKED, ("leave", 1.0 + STOP_TIMEOUT_S), STOPPED, KILLED],
        ),
        # Of an earlier version.
        ({"stop": None}, [STOPPED, KILLED]),
    ],
)
async def test_an_actor_ends_its_work_before_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, actor: dict[str, Any], done: list[tuple[str, float]]
) -> None:
    ray = Ray(**actor)
    monkeypatch.setattr(ray_host, "ray", ray)
    await RayHost(ClusterConfig(name="x"), object).stop("node-host-0")
    assert ray.done == done
