"""Ports of this machine that lead to ports of pods, for as long as the screen stands."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli.top.rows import Column, Key, Row
from rayplane.control_plane.client.pods import Duplex, PodClient
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import pods_pb2 as pb

LOOPBACK = "127.0.0.1"
COLUMNS = tuple(Column(name) for name in ("Namespace", "Pod", "Port", "Address", "Connections", "Failure"))
FORWARDS_MAX, CONNECTIONS_MAX = 32, 64
"""At once: of all, and of each; further ones are refused."""
_CHUNK = 32 * 1024


def parse_ports(text: str) -> tuple[int, int]:
    """The port here and that of the pod, from `PORT`, `HERE:PORT` or, for any that is free, `:PORT`."""
    here, colon, there = text.strip().rpartition(":")
    here = here if colon else there
    if not (there.isascii() and there.isdigit() and (here or "0").isascii() and (here or "0").isdigit()):
        raise UsageError(f"{text!r} is no port: give PORT, HERE:PORT, or :PORT for any that is free here")
    ports = int(here or 0), int(there)
    if not (0 <= ports[0] < 65536 and 0 < ports[1] < 65536):
        raise UsageError(f"{text!r}: ports are from 1 to 65535")
    return ports


@dataclass(eq=False, slots=True)
class Forward:
    """A port of a pod, and the port here that leads to it."""

    pod: Key
    port: int
    server: asyncio.Server
    connections: set["asyncio.Task[None]"] = field(default_factory=set)
    failure: str = ""

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.server.sockets[0].getsockname()[:2])


class Forwards:
    """Those that stand, by their addresses."""

    def __init__(self, pods: PodClient) -> None:
        self._pods = pods
        self._all: dict[str, Forward] = {}

    async def open(self, pod: Key, here: int, port: int) -> str:
        """The address that leads there from now on. ClusterError: it cannot be had."""
        if len(self._all) >= FORWARDS_MAX:
            raise ClusterError(f"{FORWARDS_MAX} ports are forwarded already: end some with ctrl+d in :pf")
        made: list[Forward] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(made[0], reader, writer)

        try:
            server = await asyncio.start_server(connected, LOOPBACK, here, start_serving=False)
        except OSError as e:
            raise ClusterError(
                f"port {here} of {LOOPBACK} cannot be had ({e.strerror}): choose another, or :{port} for any"
            ) from e
        forward = Forward(pod, port, server)
        made.append(forward)
        self._all[forward.address] = forward
        await server.start_serving()
        return forward.address

    async def close(self, address: str) -> None:
        """End one, and its connections; nothing where it is gone."""
        forward = self._all.pop(address, None)
        if forward is not None:
            forward.server.close()
            await cancel_and_wait(*forward.connections)

    async def close_all(self) -> None:
        for address in list(self._all):
            await self.close(address)

    def rows(self) -> list[Row]:
        """Those that stand, as a table shows them."""
        return [_row(address, one) for address, one in self._all.items()]

    async def _carry(self, of: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(of.connections) >= CONNECTIONS_MAX:
                of.failure = f"more than {CONNECTIONS_MAX} connections at once"
                return
            of.connections.add(task)
            namespace, name = of.pod
            asked = pb.PodConnection(namespace=namespace, name=name, port=of.port)
            await _both_ways(await self._pods.connection(asked), reader, writer)
        except ApiError as e:
            of.failure = e.message
        except OSError:
            pass  # one of the two has hung up
        finally:
            of.connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _both_ways(there: Duplex, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def out() -> None:
        while data := await reader.read(_CHUNK):
            await there.send(pb.PodForwardRequest(data=data))
        await there.send(None)

    sending = asyncio.create_task(out(), name="to a forwarded port")
    try:
        while (answer := await there.receive()) is not None:
            writer.write(answer.data)
            await writer.drain()
    finally:
        await cancel_and_wait(sending)
        await there.close()


def _row(address: str, one: Forward) -> Row:
    told: Mapping[str, object] = {
        "Namespace": one.pod[0],
        "Pod": one.pod[1],
        "Port": one.port,
        "Address": address,
        "Connections": len(one.connections),
        "Failure": one.failure,
    }
    return Row(("", address), tuple(str(told[column.name]) for column in COLUMNS), "", bool(one.failure))
