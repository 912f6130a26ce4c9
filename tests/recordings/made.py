"""Recordings for tests: a small one of a web application, and files that say whatever a test wants."""

import zlib
from datetime import UTC, datetime
from typing import Any

import orjson

from rayplane.control_plane.invariants import History, Violation
from rayplane.control_plane.recordings import Ending, Head, Tape
from rayplane.control_plane.recordings.tape import GZIP, Struck

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = {
    "rayplane": "recording", "version": 1, "of": "chaos", "name": "x", "seed": 1, "cluster": "c",
    "started": "2026-01-01T00:00:00Z",
}  # fmt: skip
END = {"end": 9.0, "ok": True}
EVIL = "<img src=x onerror=alert(1)>"


def named(name: str, namespace: str = "default", **more: Any) -> Any:
    """An object that was made 100 seconds before the recording began."""
    place = {"namespace": namespace} if namespace else {}
    stamp = "2025-12-31T23:58:20Z"
    return {"metadata": {"name": name, "uid": name, "creationTimestamp": stamp, **place}, **more}


def node(name: str) -> Any:
    status = {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}
    return named(name, "", apiVersion="v1", kind="Node", status=status)


def pod(name: str, on: str = "") -> Any:
    container = {"name": "main", "image": EVIL, "resources": {"requests": {"cpu": "1"}}}
    spec = {"containers": [container], **({"nodeName": on} if on else {})}
    return named(name, apiVersion="v1", kind="Pod", spec=spec, status={"phase": "Running" if on else "Pending"})


def web() -> bytes:
    """A node; a pod that is there from 1 s on, bound at 2 s and gone at 6 s; a fault from 3 to 5 s; a Secret."""
    tape, history = Tape(Head(of="chaos", name="web", seed=7, cluster="shop", started=STARTED)), History()
    secret = named("s", apiVersion="v1", kind="Secret", data={"password": "aHVudGVyMg=="})
    history.begin(0.5, 10, [("nodes", node("node-0")), ("secrets", secret)])
    tape.begun(history)
    tape.state(0.6, {"members": [{"name": "member-0", "leader": True, "term": 2}], "actors": []})
    tape.changed(history.take(1.0, "pods", pod("web"), 11))
    tape.changed(history.take(2.0, "pods", pod("web", "node-0"), 12))
    tape.state(3.1, {"members": [{"name": "member-0", "error": EVIL}], "actors": [{"name": "lb", "role": EVIL}]})
    tape.changed(history.take(6.0, "pods", named("web"), 14, gone=True))
    ending = Ending(
        end_s=8.0,
        ok=False,
        faults=[Struck("stop: leader", ("member-0",), 3.0, 5.0)],
        invariants={"one leader": [Violation("one leader", EVIL, 4.0)], "nothing lost": []},
        unseen=["nothing lost"],
        failures=["it took too long"],
        events=[(3.0, f"stop {EVIL}")],
    )
    return tape.finished(ending)


def packed(*lines: Any) -> bytes:
    """A file of these lines, as JSON where they are no bytes."""
    packer = zlib.compressobj(wbits=GZIP)
    text = b"".join((one if isinstance(one, bytes) else orjson.dumps(one)) + b"\n" for one in lines)
    return packer.compress(text) + packer.flush()
