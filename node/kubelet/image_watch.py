"""The watch over images: nodes list them anew when they have changed; those unused go when the disk gets full."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import NodeError
from rayplane.node.events import Events

N = TypeVar("N", bound="ListedNode")
LOOK_S, LOOKS_PER_COLLECTION = 2.0, 30


class ListedNode(Protocol):
    """A node whose status lists the images."""

    @property
    def node(self) -> Object | None:
        """The Node at the API, as last seen."""

    @property
    def stock(self) -> "ImageStock | None":
        """The images that its containers run from; None where all are simulated."""


class ImageStock(Protocol):
    """The images that containers of nodes run from: a host's own, or another runtime's.

    `place`: where they are on this machine; empty where that is the pods' disk, or not known.
    """

    place: str

    async def open(self) -> None:
        """Be ready for looks. Raises NodeError, OSError."""

    async def close(self) -> None: ...

    def listed(self) -> list[dict[str, Any]]:
        """The images as a node's status lists them."""

    async def look(self) -> bool:
        """Whether they are others than at the look before. Raises NodeError, OSError."""

    async def collect(self) -> tuple[int, int]:
        """Remove what nobody needs when the disk gets full; bytes that were short, and that still are.

        Raises NodeError, OSError.
        """

    async def reclaim(self) -> bool:
        """Remove all that go by themselves and nobody uses; whether there was any."""


async def watch(stock: ImageStock, nodes: Mapping[str, N], mark: Callable[[N], None], events: Events) -> None:
    """Mark its nodes when the images are others than before, whoever changed them; collect those nobody needs.

    The end of this is the end of the stock.
    """
    try:
        await stock.open()
        await _watch(stock, nodes, mark, events)
    finally:
        await stock.close()


async def _watch(stock: ImageStock, nodes: Mapping[str, N], mark: Callable[[N], None], events: Events) -> None:
    looks, told = 0, ""

    def fail(reason: str, message: str) -> None:
        for _, known in _known(stock, nodes):
            events.record(known, "Warning", reason, message)

    while True:
        try:
            if await stock.look():
                for node, _ in _known(stock, nodes):
                    mark(node)
            if looks % LOOKS_PER_COLLECTION == LOOKS_PER_COLLECTION - 1:
                told = _too_little(*await stock.collect())
        except (NodeError, OSError) as e:
            if str(e) != told:
                fail("ImageGCFailed", str(e))
            told = str(e)
        else:
            if told:
                fail("FreeDiskSpaceFailed", told)
            told = ""
        looks += 1
        await asyncio.sleep(LOOK_S)


def _too_little(short: int, left: int) -> str:
    if not left:
        return ""
    text = f"Attempted to free {short} bytes, but only found {max(0, short - left)} bytes eligible to free."
    return f"Failed to garbage collect required amount of images. {text}"


def _known(stock: ImageStock, nodes: Mapping[str, N]) -> Iterator[tuple[N, Object]]:
    """The nodes of a stock that are at the API."""
    for node in nodes.values():
        if node.stock is stock and node.node is not None:
            yield node, node.node
