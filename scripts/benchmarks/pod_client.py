"""What runs inside pods to measure their network, and beside them for comparison: `serve PORT` or `ask HOST PORT MB`.

Needs nothing but Python. What was found is printed, and in a pod left as its termination message.
"""

import json
import os
import socket
import socketserver
import sys
import threading
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


class Datagrams(socketserver.BaseRequestHandler):
    """A datagram that is given back."""

    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


def ask(host: str, port: int, megabytes: int) -> dict[str, float]:
    """Round trips of one byte, in microseconds at the median, by TCP and UDP; megabytes per second one way."""
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
    return {
        "round_trip_us": _median_us(spans),
        "udp_round_trip_us": _median_us(_datagrams(host, port)),
        "mb_per_s": round(megabytes / seconds, 1),
    }


def _datagrams(host: str, port: int) -> list[float]:
    spans: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((host, port))
        while len(spans) < ROUNDS:
            begun = time.perf_counter()
            try:
                sock.send(b"x")
                sock.recv(1)
            except TimeoutError:
                continue  # lost, as datagrams may be
            spans.append(time.perf_counter() - begun)
    return spans


def _median_us(spans: list[float]) -> float:
    return round(sorted(spans)[len(spans) // 2] * 1e6, 1)


def connected(host: str, port: int, kind: bytes) -> socket.socket:
    sock = socket.create_connection((host, port), 10)
    sock.settimeout(60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(kind)
    return sock


def main() -> None:
    if sys.argv[1] == "serve":
        # Without isolation a pod has an address, not an interface.
        place = (os.environ.get("POD_IP", ""), int(sys.argv[2]))
        threading.Thread(target=socketserver.UDPServer(place, Datagrams).serve_forever, daemon=True).start()
        Server(place, Handler).serve_forever()
    answer = json.dumps(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    print(answer)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with open(MESSAGE, "w") as f:
            f.write(answer)


if __name__ == "__main__":
    main()
