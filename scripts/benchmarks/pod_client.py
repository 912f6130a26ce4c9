"""What runs inside pods to measure their network, and beside them for comparison: `serve PORT` or `ask HOST PORT MB`.

Needs nothing but Python. What was found is printed, and in a pod left as its termination message.
"""

import json
import os
import socket
import socketserver
import sys
import time

ROUNDS = 2000
CHUNK = 256 * 1024
MESSAGE = "/dev/termination-log"
ECHO, SINK = b"e", b"s"


class Handler(socketserver.BaseRequestHandler):
    """A connection whose bytes are given back, or counted to the end."""

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = self.request.recv(1)
        while data := self.request.recv(CHUNK):
            if kind == ECHO:
                self.request.sendall(data)
        if kind == SINK:
            self.request.sendall(b".")


class Server(socketserver.ThreadingTCPServer):
    """A server of many connections, whose port may be taken again at once."""

    allow_reuse_address = True


def ask(host: str, port: int, megabytes: int) -> dict[str, float]:
    """Round trips of one byte, in microseconds at the median; megabytes per second of one connection."""
    with connected(host, port, ECHO) as sock:
        spans = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            sock.sendall(b"x")
            sock.recv(1)
            spans.append(time.perf_counter() - begun)
    with connected(host, port, SINK) as sock:
        begun, data = time.perf_counter(), bytes(CHUNK)
        for _ in range(megabytes * 1024 * 1024 // CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
        seconds = time.perf_counter() - begun
    return {"round_trip_us": round(sorted(spans)[ROUNDS // 2] * 1e6, 1), "mb_per_s": round(megabytes / seconds, 1)}


def connected(host: str, port: int, kind: bytes) -> socket.socket:
    sock = socket.create_connection((host, port), 10)
    sock.settimeout(60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(kind)
    return sock


def main() -> None:
    if sys.argv[1] == "serve":
        # Without isolation a pod has an address, not an interface.
        Server((os.environ.get("POD_IP", ""), int(sys.argv[2])), Handler).serve_forever()
    answer = json.dumps(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    print(answer)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with open(MESSAGE, "w") as f:
            f.write(answer)


if __name__ == "__main__":
    main()
