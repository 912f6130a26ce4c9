"""The carrier between machines: which routes each of a machine's hosts has, and when."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS, NETWORK
from rayplane.node.overlay.carrier import Carrier
from rayplane.node.runtime.isolation.members import network_id
from rayplane.node.tasks import Tasks


def node(name: str, number: int, network: str) -> Object:
    notes = {HOST_ADDRESS: f"192.0.2.1:{number}", NETWORK: network}
    return {"metadata": {"name": name, "annotations": notes}, "spec": {"podCIDR": f"10.16.{number}.0/24"}}


class Nodes:
    """An informer of nodes."""

    def __init__(self, *nodes: Object) -> None:
        self.objects = list(nodes)
        self._tell: Any = None

    def add_handler(self, tell: Any) -> None:
        self._tell = tell

    def list(self) -> list[Object]:
        return self.objects

    def set(self, *nodes: Object) -> None:
        self.objects = [*nodes]
        self._tell("", None, None)


class Wire:
    """A machine's network; the device is the end of a pipe."""

    network_id = "here"
    header = b""

    def __init__(self) -> None:
        self.routes: set[tuple[str, bool]] = set()
        self.changed = asyncio.Event()

    async def open_wire(self) -> int:
        device, _ = os.pipe2(os.O_NONBLOCK)
        return device

    def route(self, cidr: str, *, shared: bool) -> None:
        self.routes.add((cidr, shared))
        self.changed.set()

    def unroute(self, cidr: str, *, shared: bool) -> None:
        self.routes.remove((cidr, shared))
        self.changed.set()

    async def until(self, *routes: tuple[str, bool]) -> None:
        async with asyncio.timeout(60):
            while self.routes != set(routes):
                self.changed.clear()
                await self.changed.wait()


HERE, MATE, FAR = node("n1", 1, "here"), node("n2", 2, "here"), node("n3", 3, "there")


@pytest.fixture
async def carrier(tmp_path: Path) -> AsyncIterator[tuple[Nodes, Wire, int]]:
    """The host of n1, beside another of its machine that leads: the descriptor of whose lock is the last of these."""
    lead = os.open(tmp_path / "lead", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lead, fcntl.LOCK_EX)
    nodes, wire, tasks = Nodes(HERE, MATE, FAR), Wire(), Tasks()
    made = Carrier(wire, nodes, ["n1"], lead_file=str(tmp_path / "lead"), channel=lambda _: None, tasks=tasks)  # type: ignore[arg-type]
    made.start()
    yield nodes, wire, lead
    await made.stop()
    os.close(lead)


async def test_what_a_hosts_own_pods_send_is_carried_by_itself_and_the_machines_own_by_one_of_its_hosts(
    carrier: tuple[Nodes, Wire, int],
) -> None:
    _, wire, lead = carrier
    await wire.until(("10.16.3.0/24", False))
    fcntl.flock(lead, fcntl.LOCK_UN)
    await wire.until(("10.16.3.0/24", False), ("10.16.3.0/24", True))


async def test_routes_go_with_the_machine_that_they_led_to(carrier: tuple[Nodes, Wire, int]) -> None:
    nodes, wire, _ = carrier
    await wire.until(("10.16.3.0/24", False))
    nodes.set(HERE, MATE)
    await wire.until()
    # Its node comes back on this machine: it is reached without a wire.
    nodes.set(HERE, MATE, node("n3", 3, "here"), node("n4", 4, "elsewhere"))
    await wire.until(("10.16.4.0/24", False))


def test_a_folder_at_the_same_path_is_another_network_where_it_is_another_folder(tmp_path: Path) -> None:
    """Containers of one machine, each with a Ray node, have the same paths and the same kernel."""
    folder = tmp_path / "data"
    first = network_id(str(folder / "isolation"))
    assert network_id(str(folder / "isolation")) == first
    folder.rename(tmp_path / "of another container")
    assert network_id(str(folder / "isolation")) != first
