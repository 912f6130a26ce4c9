"""The web application: a page, and the way to the database. Standard library only.

    GET /              the greeting of the ConfigMap, and which pod answers
    GET|PUT /keys/...  passed on to the database with the Secret's token
    GET /healthz       readiness

The database is found as in any Kubernetes pod: DB_SERVICE_HOST and DB_SERVICE_PORT.
"""

import http.client
import http.server
import os
import sys

PORT = 8000
DB_TIMEOUT_S = 10.0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    greeting_file: str

    def do_GET(self) -> None:
        if self.path == "/healthz":
            return self.answer(200, b"ok")
        if self.path.startswith("/keys"):
            return self.pass_on(None)
        with open(self.greeting_file) as f:
            text = f"{os.environ['TITLE']}: {f.read().strip()} (from {os.environ['HOSTNAME']})\n"
        return self.answer(200, text.encode())

    def do_PUT(self) -> None:
        self.pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def pass_on(self, body: bytes | None) -> None:
        host, port = os.environ["DB_SERVICE_HOST"], int(os.environ["DB_SERVICE_PORT"])
        db = http.client.HTTPConnection(host, port, timeout=DB_TIMEOUT_S)
        try:
            db.request(self.command, self.path, body, {"X-Token": os.environ["DB_TOKEN"]})
            answer = db.getresponse()
            status, content = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as e:
            status, content = 503, f"the database does not answer: {e}".encode()
        finally:
            db.close()
        self.answer(status, content)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Pod", os.environ["HOSTNAME"])
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Requests are too many to log."""


def main() -> None:
    Handler.greeting_file = sys.argv[1]
    server = http.server.ThreadingHTTPServer((os.environ["POD_IP"], PORT), Handler)
    server.daemon_threads = True
    print(f"serving on {server.server_address}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
