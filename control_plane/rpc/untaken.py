"""Answers that are complete and wait for a client that opens no window: how much they may hold, and how long. Pure."""

from rayplane.control_plane.rpc.http2 import Stream

#: Of one connection. While more waits for its client, it begins no calls.
BYTES_MAX = 64 << 20
#: Looks at a connection in a row at which an answer is as long as before: five minutes, as over HTTP/1.1.
LOOKS_MAX = 30


class Untaken:
    """The record of one connection."""

    def __init__(self) -> None:
        self._held: dict[Stream, tuple[int, int]] = {}  # bytes at the last look, and how often it was so many
        self._bytes = 0

    def add(self, stream: Stream) -> None:
        """The answer of this stream is complete."""
        if stream.blocked:
            self._held[stream] = stream.held, 0
            self._bytes += stream.held

    def is_full(self) -> bool:
        """Whether more waits than may."""
        if self._bytes <= BYTES_MAX:
            return False
        self._held = {stream: known for stream, known in self._held.items() if stream.blocked}
        self._bytes = sum(stream.held for stream in self._held)
        return self._bytes > BYTES_MAX

    def look(self) -> list[Stream]:
        """Called at intervals: the streams whose answers nobody has taken anything of for too long."""
        before, self._held = self._held, {}
        given_up = []
        for stream, (held, looks) in before.items():
            left = stream.held
            if left and left == held and looks + 1 >= LOOKS_MAX:
                given_up.append(stream)
            elif left:
                self._held[stream] = left, looks + 1 if left == held else 0
        self._bytes = sum(held for held, _ in self._held.values())
        return given_up
