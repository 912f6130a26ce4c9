"""Plain HTTP to a member's client port, as blocking as curl: what was answered, and streams chunk by chunk."""

import http.client
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Headers that differ between servers by nature.
_OWN_HEADERS = ("date", "server", "content-length")
_IDS = re.compile(r'"(cluster_id|member_id|raft_term|leader|raftIndex|raftAppliedIndex|raftTerm|hash)":("[^"]+"|\d+)')
ANSWER_S = 30.0


@dataclass(frozen=True)
class HttpAnswer:
    """A whole answer; ids that differ between clusters are masked in `text`."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    address: str, path: str, body: str | None = None, *, method: str = "", headers: Mapping[str, str] | None = None
) -> HttpAnswer:
    """POST with a body, GET without, unless told otherwise."""
    connection = http.client.HTTPConnection(address, timeout=ANSWER_S)
    try:
        data = body.encode("utf-8", "surrogateescape") if body is not None else None
        connection.request(method or ("GET" if body is None else "POST"), path, data, dict(headers or {}))
        response = connection.getresponse()
        text = response.read().decode()
        seen = {k.lower(): v for k, v in response.getheaders() if k.lower() not in _OWN_HEADERS}
        return HttpAnswer(response.status, seen, _IDS.sub(lambda m: f'"{m[1]}":"1"', text), text)
    finally:
        connection.close()


class HttpStream:
    """A POST whose body and whose answer go on: raw HTTP/1.1, so that nothing buffers."""

    def __init__(self, address: str, path: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_S)
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._socket.sendall(head.encode())
        self._file = self._socket.makefile("rb")
        self._headed = False

    def send(self, text: str) -> None:
        """One chunk of the body, whatever it holds."""
        data = text.encode()
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The body is complete."""
        self._socket.sendall(b"0\r\n\r\n")

    def next(self) -> Any:
        """The next chunk of the answer, parsed; None at its end."""
        if not self._headed:
            while self._file.readline().strip():
                pass
            self._headed = True
        size = int(self._file.readline(), 16)
        data = self._file.read(size + 2)[:-2]
        return json.loads(data) if data else None

    def close(self) -> None:
        self._file.close()
        self._socket.close()
