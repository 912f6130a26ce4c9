"""Channels in the messages of a WebSocket: each begins with the number of its channel.

In protocols with base64 in their name messages are text, the number as a digit and then base64; in all others they are
bytes, whether the client calls them binary or text.

Source: k8s.io/apimachinery/pkg/util/httpstream/wsstream.
"""

import base64
import binascii
from collections.abc import AsyncIterator

from rayplane.control_plane.streams.wires import WebSocketWire


class Channels:
    """The channels of a WebSocket. Sending raises ConnectionError when the client is gone."""

    def __init__(self, wire: WebSocketWire) -> None:
        self.protocol = wire.socket.ws_protocol or ""
        self._wire = wire
        self._base64 = "base64" in self.protocol

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """Channel and data of each message; what can be no message is left out."""
        async for message in self._wire:
            if not message:
                continue
            if not self._base64:
                yield message[0], message[1:]
                continue
            try:
                yield message[0] - ord("0"), base64.b64decode(message[1:], validate=True)
            except binascii.Error:
                continue

    async def send(self, channel: int, data: bytes) -> None:
        if self._base64:
            await self._wire.socket.send_str(f"{channel}{base64.b64encode(data).decode()}")
        else:
            await self._wire.send(bytes((channel,)) + data)

    async def close(self) -> None:
        await self._wire.close()
