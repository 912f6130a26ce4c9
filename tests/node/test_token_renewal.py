"""Tokens that pods mount: renewed in time, kept while they cannot be, and gone with the pod."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.node.config import NodeConfig
from rayplane.node.errors import MountError
from rayplane.node.kubelet.sandbox import Sandbox, SandboxParts
from rayplane.node.kubelet.token_manager import DAY_S, JITTER_S, TokenManager, renewal_s
from rayplane.node.tasks import Tasks
from rayplane.node.volumes.pod_files import PodFiles
from tests.node.conftest import make_pod

HOUR_S = 3600


class Api:
    """An API that issues tokens `t1`, `t2`, ... for accounts that are there."""

    def __init__(self) -> None:
        self.account = True
        self.asked: list[tuple[float, int]] = []
        self.cut_to = 0

    async def create(self, resource: str, request: Object, *, subresource: str) -> Object:
        assert (resource, subresource) == ("serviceaccounts", "token")
        seconds = request["spec"]["expirationSeconds"]
        assert request["spec"]["boundObjectRef"] == {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-web"}
        self.asked.append((asyncio.get_running_loop().time(), seconds))
        if not self.account:
            raise NotFound.of("serviceaccounts", "default")
        given = self.cut_to or seconds
        return {"spec": {**request["spec"], "expirationSeconds": given}, "status": {"token": f"t{len(self.asked)}"}}


class Nothing:
    """What a pod without other objects and claims needs of its node."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.node_ip = "127.0.0.1"

    async def add_pod(self, place: Any) -> None: ...

    async def find(self, namespace: str, references: Any) -> dict[tuple[str, str], Object | None]:
        return {}

    def watch(self, *args: Any) -> None: ...

    unwatch = watch

    def remove_pod(self, uid: str) -> None: ...

    async def unpublish(self, pod: Object, *, node: str) -> None: ...

    def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        self.events.append(f"{kind} {reason} {message}")


class Mounted:
    """A pod's sandbox with a projected volume of one token, in virtual time."""

    def __init__(self, directory: Path, seconds: int) -> None:
        self.api, self.around, self.tasks = Api(), Nothing(), Tasks()
        manager = TokenManager(self.api, random.Random(1))  # type: ignore[arg-type]
        around: Any = self.around
        parts = SandboxParts(
            node=NodeConfig("n1"),
            addresses=around,
            objects=around,
            tokens=manager,
            certificates=around,
            volumes=around,
            files=PodFiles(str(directory)),
            runtime=around,
            dns="",
            events=around,
            tasks=self.tasks,
        )
        source = {"serviceAccountToken": {"path": "token", "expirationSeconds": seconds}}
        self.pod = make_pod("web", volumes=[{"name": "v", "projected": {"sources": [source]}}])
        self.sandbox = Sandbox(parts, self.pod, "127.0.0.2", own_address=False, moved=lambda ip: None)
        self.file = directory / "uid-web" / "volumes" / "v" / "token"

    async def mount(self) -> None:
        await self.sandbox.mount(self.pod)

    async def at(self, when_s: float) -> str:
        """What the file says at a moment."""
        await asyncio.sleep(when_s - asyncio.get_running_loop().time())
        return self.file.read_text()

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.api.asked]


def run(test: Any) -> None:
    VirtualLoop().run(test)


@pytest.mark.parametrize(
    ("seconds", "renewed_s"),
    [(HOUR_S, 0.8 * HOUR_S), (600, 480), (30 * HOUR_S, 24 * HOUR_S), (90 * HOUR_S, 24 * HOUR_S)],
)
def test_a_token_is_renewed_at_four_fifths_of_its_life_or_after_a_day(
    tmp_path: Path, seconds: int, renewed_s: float
) -> None:
    mounted = Mounted(tmp_path, seconds)

    async def test() -> None:
        await mounted.mount()
        before = os.readlink(mounted.file.parent / "..data")
        assert await mounted.at(renewed_s - JITTER_S - 1) == "t1"
        assert await mounted.at(renewed_s + 1) == "t2"
        # Whoever reads sees the old file or the new, whole.
        assert os.readlink(mounted.file.parent / "..data") != before
        assert await mounted.at(2 * renewed_s + 1) == "t3"
        await mounted.sandbox.unmount()
        await asyncio.sleep(5 * renewed_s)
        assert len(mounted.api.asked) == 3

    run(test())


def test_what_the_api_gives_counts_not_what_was_asked(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, 90 * HOUR_S)
    mounted.api.cut_to = HOUR_S

    async def test() -> None:
        await mounted.mount()
        assert await mounted.at(HOUR_S) == "t2"
        await mounted.sandbox.unmount()

    run(test())


def test_a_deleted_account_leaves_the_token_and_a_new_one_brings_another(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, HOUR_S)

    async def test() -> None:
        await mounted.mount()
        mounted.api.account = False
        assert await mounted.at(0.9 * HOUR_S) == "t1"
        # Once a minute, and quietly as long as the token is good.
        assert {round(b - a) for a, b in zip(mounted.times[1:], mounted.times[2:], strict=False)} == {60}
        assert not mounted.around.events
        assert await mounted.at(HOUR_S + 61) == "t1"
        assert 'token expired and refresh failed: serviceaccounts "default" not found' in mounted.around.events[-1]
        mounted.api.account = True
        assert await mounted.at(HOUR_S + 122) == f"t{len(mounted.api.asked)}"
        await mounted.sandbox.unmount()

    run(test())


def test_a_pod_without_an_account_does_not_start(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, HOUR_S)
    mounted.api.account = False

    async def test() -> None:
        with pytest.raises(MountError, match='failed to fetch token: serviceaccounts "default" not found'):
            await mounted.mount()
        await mounted.sandbox.unmount()
        await asyncio.sleep(HOUR_S)
        assert len(mounted.api.asked) == 1

    run(test())


def test_an_api_that_gives_no_time_at_all_is_not_asked_without_pause(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, HOUR_S)
    mounted.api.cut_to = 1

    async def test() -> None:
        await mounted.mount()
        await asyncio.sleep(100)
        assert 5 < len(mounted.api.asked) <= 11
        await mounted.sandbox.unmount()

    run(test())


@given(st.floats(0, 1e9), st.floats(0, 1, exclude_max=True))
def test_a_renewal_is_never_late(seconds: float, chance: float) -> None:
    assert 0 <= renewal_s(seconds, chance) <= min(0.8 * seconds, DAY_S)
