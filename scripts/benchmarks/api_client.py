"""The API clients of `api`, in a process of their own: `python -m scripts.benchmarks.api_client < JOB`.

Prints a line when the clock starts, and one with the figures (JSON) when it stops.

JOB (JSON): address host:port, credentials directory ("" for plain HTTP), operation, and what that needs (`OPERATIONS`).
Any server that speaks the Kubernetes API does. Requests are made before the clock starts, and of an answer only its
length is looked at: all connections are plain sockets in one loop, so that what is measured is the server's work.
"""

import itertools
import json
import re
import selectors
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.benchmarks.extensions import GROUP, extensions

NAMESPACE = "bench"
#: Objects of 1 KB that are read and changed.
OBJECTS = 100
WARM_UP_S = 0.5
SILENT_S = 30.0
#: How long events may be on their way after the last change.
DRAIN_S = 20.0
#: Connections that the changes of `watch` are made on.
CHANGERS = 8
#: Lags that are kept: those of every n-th answer.
LAGS_MAX = 200_000
# A record of TLS: more never comes at once, and what is asked for is allocated.
_READ_BYTES = 1 << 14
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EVENT = b'"type":"MODIFIED"'
_TIME = re.compile(rb"@(\d{20})@")


class Answer:
    """One HTTP/1.1 answer as it comes: its status, and whether it is whole."""

    def __init__(self) -> None:
        self.status = 0
        self.body: list[bytes] = []
        self._head = b""
        self._left: int | None = None  # of the body; None where it comes in chunks
        self._chunk = b""

    def feed(self, data: bytes) -> bool:
        """Whether this was its end. One answer comes at a time: nothing follows it."""
        if not self.status:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return False
            self.status = int(head[9:12])
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else None if _CHUNKED.search(head) else 0
        if self._left is None:
            return self._feed_chunks(data)
        self.body.append(data)
        self._left -= len(data)
        return self._left <= 0

    def _feed_chunks(self, data: bytes) -> bool:
        data, at = self._chunk + data, 0
        while (end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:end], 16)
            after = end + 2 + size + 2
            if len(data) < after:
                break
            if not size:
                return True
            self.body.append(data[end + 2 : after - 2])
            at = after
        self._chunk = data[at:]
        return False


class Connection:
    """A socket that does not wait, and the answer that comes on it."""

    def __init__(self, job: dict[str, Any], context: ssl.SSLContext | None) -> None:
        host, _, port = job["address"].rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=SILENT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain) if context is not None else plain
        self.socket.setblocking(False)
        self.answer = Answer()
        self.began = 0.0

    def ask(self, request: bytes) -> None:
        self.answer = Answer()
        self.began = time.perf_counter()
        if self.socket.send(request) != len(request):
            raise RuntimeError("a request does not fit the socket's buffer")

    def pieces(self) -> Iterator[bytes]:
        """What has come so far."""
        while True:
            try:
                data = self.socket.recv(_READ_BYTES)
            except (ssl.SSLWantReadError, BlockingIOError):
                return
            if not data:
                raise ConnectionError("the server closed a connection")
            yield data

    def whole(self) -> bool:
        """Take what has come; whether the answer is whole."""
        return any(self.answer.feed(data) for data in self.pieces())


class Clients:
    """Connections in one loop."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self._context = _context(job["credentials"])
        self._selector = selectors.DefaultSelector()

    def connect(self, count: int) -> list[Connection]:
        found = [Connection(self.job, self._context) for _ in range(count)]
        for connection in found:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return found

    def close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def ready(self, timeout: float) -> list[Connection]:
        """Those on which something has come."""
        return [key.data for key, _ in self._selector.select(max(timeout, 0.0))]

    def one(self, connection: Connection, request: bytes) -> Answer:
        """Ask and wait. RuntimeError when nothing comes."""
        connection.ask(request)
        while True:
            ready = self.ready(SILENT_S)
            if not ready:
                raise RuntimeError("the server does not answer")
            if connection in ready and connection.whole():
                return connection.answer


def _context(credentials: str) -> ssl.SSLContext | None:
    if not credentials:
        return None
    directory = Path(credentials)
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    # Where it listens is this benchmark's choice; the authority is the cluster's own.
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    return context


def request(method: str, path: str, body: Any = None) -> bytes:
    """A request's bytes; `body`: what JSON says, or bytes of it."""
    data = (
        b"" if body is None else body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: kubernetes\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


# --- what is asked ----------------------------------------------------------------------------

_CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def config_map(name: str, value: str) -> dict[str, Any]:
    """About 1 KB as it is stored."""
    data = {"value": value, "filling": "x" * 640}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}


def pod(name: str, size: int) -> dict[str, Any]:
    """A pod of about `size` bytes as it is stored: mostly environment, as large pods are."""
    count = max(1, (size - 1750) // 145)
    env = [{"name": f"SETTING_{n:03}", "value": "v" * 39} for n in range(count)]
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    container = {"name": "app", "image": "registry.k8s.io/pause:3.10", "env": env, "resources": resources}
    labels = {"app": "bench", "pod-template-hash": "5d59d67564"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"automountServiceAccountToken": False, "containers": [container]},
    }


def prepare(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """The namespace, its account, and the objects that are read; what is there already stays."""
    [connection] = clients.connect(1)
    needed = [
        ("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        (
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
        ),
        *((_CONFIG_MAPS, config_map(f"object-{n:06}", "")) for n in range(OBJECTS)),
    ]
    for path, o in needed:
        _ask(clients, connection, request("POST", path, o), 201, 409)
    return {}


def extend(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """What extends the API is there, and definitions are served."""
    [connection] = clients.connect(1)
    for path, o in extensions(job["definitions"], job["policies"], job["webhooks"]):
        _ask(clients, connection, request("POST", path, o), 201, 409)
    end, collection = time.monotonic() + SILENT_S, f"/apis/{GROUP}/v1/things{job['definitions'] - 1}"
    while job["definitions"] and clients.one(connection, request("GET", collection)).status != 200:
        if time.monotonic() > end:
            raise RuntimeError(f"{collection} is not served")
        time.sleep(0.05)
    return {}


def retract(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """What `extend` made is deleted."""
    [connection] = clients.connect(1)
    for path, o in extensions(job["definitions"], job["policies"], job["webhooks"]):
        _ask(clients, connection, request("DELETE", f"{path}/{o['metadata']['name']}"), 200, 404)
    return {}


def _ask(clients: Clients, connection: Connection, ask: bytes, *expected: int) -> None:
    answer = clients.one(connection, ask)
    if answer.status not in expected:
        line, _, _ = ask.partition(b"\r\n")
        raise RuntimeError(f"{line!r}: {answer.status} {b''.join(answer.body)[:500]!r}")


def clean(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """What was made is deleted."""
    [connection] = clients.connect(1)
    for path in (_CONFIG_MAPS, f"{_PODS}?gracePeriodSeconds=0", f"/api/v1/namespaces/{NAMESPACE}"):
        clients.one(connection, request("DELETE", path))
    return {}


def _gets() -> Iterator[bytes]:
    return itertools.cycle([request("GET", f"{_CONFIG_MAPS}/object-{n:06}") for n in range(OBJECTS)])


def get(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """`connections` that get one object after the other, for `seconds`."""
    return _in_turn(clients, job, _gets())


def create(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """`connections` that create config maps of 1 KB, for `seconds`. `run`: a name that no run before had."""
    run = job["run"]
    bodies = ((f"{run}-{n:08}", b"") for n in itertools.count())
    whole = request("POST", _CONFIG_MAPS, config_map(f"{run}-{0:08}", ""))
    first, name = f"{run}-{0:08}".encode(), whole.index(f"{run}-{0:08}".encode())
    before, after = whole[:name], whole[name + len(first) :]
    return _in_turn(clients, job, (before + own.encode() + after for own, _ in bodies))


def pods(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """`count` pods of `size` bytes are created, on `connections`."""
    requests = [request("POST", _PODS, pod(f"pod-{n:06}", job["size"])) for n in range(job["count"])]
    return _in_turn(clients, job | {"seconds": float("inf"), "warm_up": 0.0}, iter(requests))


def lists(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """`count` lists of all pods, one after the other; `query` says how fresh."""
    requests = [request("GET", f"{_PODS}{job['query']}")] * job["count"]
    return _in_turn(clients, job | {"connections": 1, "seconds": float("inf"), "warm_up": 0.0}, iter(requests))


def first(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """The moment (CLOCK_MONOTONIC, ns) of the first answer to `get` of a server that starts just now."""
    ask, end = request("GET", job["path"]), time.monotonic() + SILENT_S
    print("begin", flush=True)
    while time.monotonic() < end:
        try:
            [connection] = clients.connect(1)
            if clients.one(connection, ask).status == 200:
                return {"at_ns": time.monotonic_ns()}
        except OSError:
            time.sleep(0.002)
    raise RuntimeError("the server does not answer")


def _in_turn(clients: Clients, job: dict[str, Any], requests: Iterator[bytes]) -> dict[str, Any]:
    """Each connection asks again as soon as it has its answer, until the time or the requests are over."""
    connections = clients.connect(job["connections"])
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    size = 0
    begin = time.perf_counter() + job.get("warm_up", WARM_UP_S)
    end, cpu, said = begin + job["seconds"], 0.0, False
    busy = 0
    for connection, ask in zip(connections, requests, strict=False):
        connection.ask(ask)
        busy += 1
    while busy:
        if not said and time.perf_counter() >= begin:
            said, cpu, begin = True, time.process_time(), time.perf_counter()
            print("begin", flush=True)
        ready = clients.ready(SILENT_S)
        if not ready:
            raise RuntimeError("the server does not answer")
        for connection in ready:
            if not connection.whole():
                continue
            now, answer = time.perf_counter(), connection.answer
            if answer.status >= 300:
                statuses[str(answer.status)] = statuses.get(str(answer.status), 0) + 1
            elif said and connection.began >= begin and now <= end:
                latencies.append((now - connection.began) * 1000)
            size = max(size, sum(map(len, answer.body)))
            ask = next(requests, b"") if now < end else b""
            if ask:
                connection.ask(ask)
            else:
                busy -= 1
    seconds = time.perf_counter() - begin
    return {
        "latencies_ms": [round(v, 3) for v in latencies],
        "errors": statuses,
        "bytes": size,
        "seconds": seconds,
        "client_cpu_s": round(time.process_time() - cpu, 3),
    }


# --- watches ----------------------------------------------------------------------------------


class Watch:
    """One watch: how many events came."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events = 0
        self._tail = b""

    def take(self) -> list[bytes]:
        """What has come now."""
        pieces = list(self.connection.pieces())
        for data in pieces:
            # An event's word may be cut in two.
            begin = self._tail + data[: len(_EVENT) - 1]
            self.events += data.count(_EVENT) + begin.count(_EVENT)
            self._tail = (self._tail + data)[1 - len(_EVENT) :] if len(data) < len(_EVENT) else data[1 - len(_EVENT) :]
        return pieces


class Changes:
    """Changes at an even pace, each with its time in its value, on connections of their own."""

    def __init__(self, clients: Clients, rate: int, count: int) -> None:
        # Each in its turn: none is idle for so long that a server gives it up.
        self._free = deque(clients.connect(CHANGERS))
        self._rate, self._left, self._number = rate, count, 0
        self._begin = time.perf_counter()
        self.done = self.failed = 0
        self._count = count
        self._parts = []
        for n in range(OBJECTS):
            name, mark = f"object-{n:06}", "@" + "0" * 20 + "@"
            whole = request("PUT", f"{_CONFIG_MAPS}/{name}", config_map(name, mark))
            self._parts.append(whole.split(mark.encode()))

    @property
    def over(self) -> bool:
        return self.done + self.failed == self._count

    def send(self) -> float:
        """Send what is due; seconds until the next is."""
        while self._left and self._free:
            due = self._begin + self._number / self._rate - time.perf_counter()
            if due > 0:
                return due
            before, after = self._parts[self._number % OBJECTS]
            self._free.popleft().ask(before + b"@%020d@" % time.perf_counter_ns() + after)
            self._number += 1
            self._left -= 1
        return SILENT_S

    def answered(self, connection: Connection) -> None:
        if connection.answer.status == 200:
            self.done += 1
        else:
            self.failed += 1
        self._free.append(connection)


def watch(clients: Clients, job: dict[str, Any]) -> dict[str, Any]:
    """`connections` that watch all config maps, while `rate` of them are changed per second for `seconds`."""
    opened, version = _open_watches(clients, job["connections"])
    watches = {w.connection: w for w in opened}
    changes = Changes(clients, job["rate"], job["rate"] * job["seconds"])
    lags: list[float] = []
    every = max(1, job["connections"] * job["rate"] * job["seconds"] // LAGS_MAX)
    turn = 0
    print("begin", flush=True)
    begin, cpu, last = time.perf_counter(), time.process_time(), 0.0
    while True:
        for connection in clients.ready(min(changes.send(), 0.1)):
            found = watches.get(connection)
            if found is None:
                if connection.whole():
                    changes.answered(connection)
                continue
            pieces, turn = found.take(), turn + 1
            if turn % every == 0:
                now = time.perf_counter_ns()
                lags += [(now - int(sent)) / 1e6 for data in pieces for sent in _TIME.findall(data)]
        if changes.over:
            last = last or time.perf_counter()
            if time.perf_counter() > last + DRAIN_S or all(w.events >= changes.done for w in opened):
                break
    end = time.perf_counter()
    return {
        "version": version,
        "changes": changes.done,
        "errors": {"changes": changes.failed} if changes.failed else {},
        "delivered": sum(w.events for w in opened),
        "missing": sum(max(0, changes.done - w.events) for w in opened),
        "seconds": end - begin,
        "lags_ms": [round(lag, 2) for lag in lags],
        "client_cpu_s": round(time.process_time() - cpu, 3),
    }


def _open_watches(clients: Clients, count: int) -> tuple[list[Watch], str]:
    """Watches that have begun, from the version of a list."""
    [connection] = clients.connect(1)
    listed = json.loads(b"".join(clients.one(connection, request("GET", f"{_CONFIG_MAPS}?limit=1")).body))
    clients.close(connection)
    version = listed["metadata"]["resourceVersion"]
    ask = request("GET", f"{_CONFIG_MAPS}?watch=1&resourceVersion={version}")
    found: list[Watch] = []
    for _ in range(count):
        # Asked at once: a server does not wait long for a request.
        [c] = clients.connect(1)
        c.ask(ask)
        found.append(Watch(c))
    waiting = {w.connection for w in found}
    while waiting:
        ready = clients.ready(SILENT_S)
        if not ready:
            raise RuntimeError("watches do not begin")
        for c in ready:
            for data in c.pieces():
                c.answer.feed(data)
            if c.answer.status == 200:
                waiting.discard(c)
            elif c.answer.status:
                raise RuntimeError(f"a watch was refused: {c.answer.status}")
    return found, version


OPERATIONS: dict[str, Callable[[Clients, dict[str, Any]], dict[str, Any]]] = {
    "prepare": prepare,
    "clean": clean,
    "extend": extend,
    "retract": retract,
    "get": get,
    "create": create,
    "pods": pods,
    "list": lists,
    "watch": watch,
    "first": first,
}


def main() -> None:
    """Read the job, do it, print what came of it."""
    job = json.load(sys.stdin)
    figures = OPERATIONS[job["operation"]](Clients(job), job)
    if job["operation"] in ("prepare", "clean", "extend", "retract"):
        print("begin", flush=True)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
