"""A small durable key-value database over HTTP, made of the standard library only.

    PUT /keys/NAME     store the body; answered 200 once it is durable
    GET /keys/NAME     what was stored, or 404
    GET /keys          everything, as a JSON object
    GET /healthz       whether it serves

Each write is a line of a log, flushed to the disk and then, through the volume's sync barrier, to a majority of the
volume's replicas. Writes that wait at the same time share one flush. At a start the log is read; a last line
that was torn by a crash was never acknowledged and is cut off.
"""

import http.server
import json
import os
import socket
import sys
import threading

PORT = 5432
BARRIER_TIMEOUT_S = 15.0
WRITE_TIMEOUT_S = 8.0


class Store:
    """Values by key, durable. One thread flushes for all that wait."""

    def __init__(self, path: str, barrier: str) -> None:
        self._barrier = barrier
        self._changed = threading.Condition()
        self._values: dict[str, str] = {}
        self._unsynced: list[tuple[int, str, str]] = []  # (number, key, value) written but not durable
        self._written = self._durable = 0
        self._log = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the process runs
        self._recover()
        threading.Thread(target=self._flush_for_ever, daemon=True).start()

    def _recover(self) -> None:
        self._log.seek(0)
        content = self._log.read()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            key, value = json.loads(line)
            self._values[key] = value
        self._log.truncate(whole)
        print(f"read {len(self._values)} keys from the log, cut {len(content) - whole} torn bytes", flush=True)

    def put(self, key: str, value: str) -> bool:
        """Whether it is durable; False when that took too long."""
        with self._changed:
            self._log.write(json.dumps([key, value]).encode() + b"\n")
            self._written += 1
            number = self._written
            self._unsynced.append((number, key, value))
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._durable >= number, WRITE_TIMEOUT_S)

    def get(self, key: str) -> str | None:
        with self._changed:
            return self._values.get(key)

    def all(self) -> dict[str, str]:
        with self._changed:
            return dict(self._values)

    def _flush_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._written > self._durable)
                number = self._written
            os.fsync(self._log.fileno())
            problem = self._replicate()
            if problem:
                # Maybe another database has the volume now. Who waits was not told anything; starting anew is safe.
                print(f"the volume does not take writes: {problem}", flush=True)
                os._exit(1)
            with self._changed:
                done = [w for w in self._unsynced if w[0] <= number]
                self._unsynced = [w for w in self._unsynced if w[0] > number]
                self._values.update({key: value for _, key, value in done})
                self._durable = number
                self._changed.notify_all()

    def _replicate(self) -> str:
        """Empty, or why the volume's replicas do not hold the log."""
        if not self._barrier:
            return ""
        try:
            with socket.socket(socket.AF_UNIX) as conn:
                conn.settimeout(BARRIER_TIMEOUT_S)
                conn.connect(self._barrier)
                conn.sendall(b"sync\n")
                answer = conn.makefile("rb").readline().decode().strip()
        except OSError as e:
            return str(e)
        return "" if answer.startswith("ok") else answer or "no answer"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store
    token: str

    def do_GET(self) -> None:
        if self.path == "/healthz":
            return self.answer(200, "ok")
        if not self.allowed():
            return self.answer(403, "wrong token")
        if self.path == "/keys":
            return self.answer(200, json.dumps(self.store.all()))
        value = self.store.get(self.path.removeprefix("/keys/"))
        return self.answer(404, "no such key") if value is None else self.answer(200, value)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if not self.allowed():
            return self.answer(403, "wrong token")
        if not self.store.put(self.path.removeprefix("/keys/"), body):
            return self.answer(503, "not durable yet")
        return self.answer(200, "stored")

    def allowed(self) -> bool:
        return self.headers.get("X-Token") == self.token

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Requests are too many to log."""


def main() -> None:
    Handler.token = os.environ["DB_TOKEN"]
    Handler.store = Store(sys.argv[1] + "/log", os.environ.get("RAYPLANE_VOLUME_SYNC", ""))
    server = http.server.ThreadingHTTPServer((os.environ["POD_IP"], PORT), Handler)
    server.daemon_threads = True
    print(f"serving on {server.server_address}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
