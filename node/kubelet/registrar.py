"""The registrar of a host: its nodes come to the API together.

In batches, one after the other: however many nodes a host has, they never ask more at once than an API server takes.
What was not done is tried again, as often as it takes, the more seldom the less comes of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

from rayplane.control_plane.api import meta, node_annotations
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.client import ApiClient, ops
from rayplane.node.kubelet.registration import status_patch

log = logging.getLogger(__name__)

BATCH_MAX = 50
RETRIES = Backoff(0.5, 5.0)


class NewNode(Protocol):
    """A node that is not registered yet."""

    @property
    def name(self) -> str: ...

    def wanted(self) -> Object:
        """Return the Node as it is made, with its status."""

    def node_status(self, node: Object) -> dict[str, Any]:
        """Return its status now; `node`: what is known of it."""

    def take_cidr(self, node: Object) -> bool:
        """Take the addresses of its pods from the Node; whether they are new."""

    def registered(self, node: Object) -> None:
        """The Node is there."""


_N = TypeVar("_N", bound=NewNode)


async def registered(client: ApiClient, nodes: Sequence[_N]) -> AsyncIterator[list[_N]]:
    """Create or refresh the Nodes; those that are there now, batch by batch, until all are."""
    left, pauses = list(nodes), Pauses(RETRIES)
    while left:
        batch, left = left[:BATCH_MAX], left[BATCH_MAX:]
        late = await _register(client, batch)
        left += late
        if done := [node for node in batch if node not in late]:
            pauses.reset()
            yield done
        if late:
            await asyncio.sleep(pauses.next_s())


async def _register(client: ApiClient, nodes: Sequence[_N]) -> list[_N]:
    """Those that could not be registered."""
    late: list[_N] = []
    known: list[_N] = []
    for node, answer in await _write(client, nodes, [ops.create("nodes", n.wanted()) for n in nodes]):
        if isinstance(answer, AlreadyExists):
            known.append(node)
        elif not _done(node, answer):
            late.append(node)
    there: list[tuple[_N, Object]] = []
    for node, answer in await _write(client, known, [ops.get("nodes", n.name) for n in known]):
        if isinstance(answer, ApiError):
            _done(node, answer)
            late.append(node)
        else:
            there.append((node, answer))
    met: list[tuple[_N, Object]] = []
    for node, answer in await _write(client, [n for n, _ in there], [_refreshed(n, o) for n, o in there]):
        if isinstance(answer, ApiError):
            _done(node, answer)
            late.append(node)
        else:
            node.take_cidr(answer)
            met.append((node, answer))
    patches = [(n.name, status_patch(o, n.node_status(o))) for n, o in met]
    statuses = [ops.patch("nodes", name, "", body, kind="strategic", subresource="status") for name, body in patches]
    answers = await _write(client, [n for n, _ in met], statuses)
    return late + [node for node, answer in answers if not _done(node, answer)]


def _refreshed(node: NewNode, known: Object) -> Any:
    """What a host says of a node that was there before: also that no other stands for it.

    Where it has not moved, the zone that somebody has given it stays.
    """
    made = node.wanted()
    labels, annotations = meta.labels(made), {node_annotations.HEARTBEAT: None, **meta.annotations(made)}
    if _machine(known) == _machine(made) and meta.labels(known).get(ZONE):
        labels = {**labels, ZONE: meta.labels(known)[ZONE]}
    return ops.patch("nodes", node.name, "", {"metadata": {"labels": labels, "annotations": annotations}})


def _machine(node: Object) -> str:
    return meta.annotations(node).get(node_annotations.HOST_ADDRESS, "").rpartition(":")[0]


def _done(node: NewNode, answer: Object | ApiError) -> bool:
    if isinstance(answer, ApiError):
        log.warning("cannot register node %s yet: %s", node.name, answer.message)
        return False
    node.registered(answer)
    return True


async def _write(client: ApiClient, nodes: Sequence[_N], batch: list[Any]) -> list[tuple[_N, Object | ApiError]]:
    """Each node's answer."""
    try:
        return list(zip(nodes, await client.batch(batch), strict=True))
    except ApiError as e:
        return [(node, e) for node in nodes]
