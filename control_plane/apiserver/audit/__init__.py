"""The audit log: one JSON line for each stage of each request that the policy wants recorded.

Owns: what is remembered of a request while it is answered (`Trail`), the events made of it, the queue to the file, and
the file's rotation. Does not own: which requests are recorded (`control_plane.api.audit`).

What answers a request tells its trail through the functions of this package, which do nothing where there is none.
Concurrency: a trail belongs to the task that answers its request. Nothing waits for the file: events go into a bounded
queue, and a thread encodes and writes them; when the queue is full, events are dropped and counted, as in Kubernetes.
"""

from rayplane.control_plane.apiserver.audit.auditor import Auditor
from rayplane.control_plane.apiserver.audit.trail import (
    Trail,
    allowed,
    annotate,
    body,
    called_by,
    denied,
    impersonates,
    panicked,
    response_starts,
    started,
)

__all__ = [
    "Auditor",
    "Trail",
    "allowed",
    "annotate",
    "body",
    "called_by",
    "denied",
    "impersonates",
    "panicked",
    "response_starts",
    "started",
]
