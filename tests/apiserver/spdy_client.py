"""A client of SPDY/3.1 over an upgraded connection, as kubectl before 1.30 and client-go's NewSPDYExecutor are."""

import asyncio
import ssl
from collections import defaultdict

from rayplane.control_plane.streams import spdy


class SpdyClient:
    """One connection. Streams have odd numbers, in the order in which they are opened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = spdy.Encoder(), spdy.Decoder()
        self._next = 1
        self.headers: dict[str, str] = {}
        self.data: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self.frames: list[spdy.Frame] = []

    @staticmethod
    async def connect(address: str, path: str, *protocols: str, tls: ssl.SSLContext, token: str) -> "SpdyClient":
        """Ask for the upgrade; `headers` has what was answered, under lower-case names and `status`."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=host)
        offers = "".join(f"X-Stream-Protocol-Version: {name}\r\n" for name in protocols)
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        writer.write(f"{head}Authorization: Bearer {token}\r\n{offers}\r\n".encode())
        client = SpdyClient(reader, writer)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        client.headers = {name.lower(): value for name, _, value in pairs} | {"status": status.split(" ")[1]}
        return client

    def open(self, **headers: str) -> int:
        """A new stream; its number."""
        stream, self._next = self._next, self._next + 2
        self._writer.write(self._encoder.open(stream, headers))
        return stream

    async def send(self, stream: int, data: bytes, *, last: bool = False, piece: int = 32 * 1024) -> None:
        for at in range(0, len(data), piece):
            self._writer.write(self._encoder.data(stream, data[at : at + piece]))
            await self._writer.drain()
        if last:
            self._writer.write(self._encoder.data(stream, b"", last=True))

    def write(self, data: bytes) -> None:
        """Bytes that are no frame."""
        self._writer.write(data)

    def ping(self, body: bytes) -> None:
        self._writer.write(self._encoder.ping(body))

    async def read(self, *until: int) -> None:
        """Read until these streams have ended; with none, until the connection has."""
        while not until or not self.ended.issuperset(until):
            data = await self._reader.read(64 * 1024)
            if not data:
                return
            for frame in self._decoder.feed(data):
                self.frames.append(frame)
                if frame.type == 0:
                    self.data[frame.stream] += frame.data
                    if frame.last:
                        self.ended.add(frame.stream)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
