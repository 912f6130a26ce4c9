"""The socket of CRI, and what is served there, put together."""

import logging
from collections.abc import Callable, Iterable

from rayplane.control_plane.rpc import Service
from rayplane.control_plane.rpc.unix import UnixListener
from rayplane.node import callers
from rayplane.node.cri.events import EventFeed
from rayplane.node.cri.images import ImageService, NamedImages
from rayplane.node.cri.inventory import Inventory
from rayplane.node.cri.log_copies import LogCopies
from rayplane.node.cri.own_pods import Ground, OwnPods
from rayplane.node.cri.service import Parts
from rayplane.node.cri.stats import RuntimeService
from rayplane.node.cri.stored_images import StoredImages
from rayplane.node.cri.streams import StreamServer
from rayplane.node.cri.views import KubeletPod, nanoseconds
from rayplane.node.streaming.sessions import Sessions
from rayplane.proto.cri import cri_pb2 as pb

log = logging.getLogger(__name__)

SERVICES = pb.DESCRIPTOR.services_by_name
REQUEST_BYTES_MAX = 16 * 1024 * 1024


class CriServer:
    """CRI at a path of this machine. `pods`: those of the host's kubelets, at each call."""

    def __init__(
        self,
        path: str,
        ground: Ground,
        pods: Callable[[], Iterable[KubeletPod]],
        sessions: Sessions,
    ) -> None:
        self.path = path
        stored = StoredImages(ground.images, self._image_names) if ground.images is not None else None
        self.own = OwnPods(ground, self._changed, stored)
        self._streams = StreamServer(sessions)
        self._logs = LogCopies(f"{path}-logs")
        self._inventory = Inventory(pods, self.own)

        def now() -> int:
            return nanoseconds(ground.env.timestamp())

        self._events = EventFeed(self._inventory, now)
        store = stored or NamedImages(self._image_names)
        parts = Parts(self._inventory, self.own, ground, store, self._streams, self._events, self._logs, now)
        handlers = {"RuntimeService": RuntimeService(parts), "ImageService": ImageService(store, now)}
        self._listener = UnixListener(
            [
                Service(SERVICES[name], handler, callers=callers.CRI[name], request_bytes_max=REQUEST_BYTES_MAX)
                for name, handler in handlers.items()
            ]
        )

    def _changed(self) -> None:
        self._events.kick()

    def _image_names(self) -> Iterable[str]:
        return [entry.status.image.image for entry in self._inventory.containers() if entry.own is None]

    async def start(self) -> None:
        """Raises OSError."""
        await self._listener.listen(self.path)

    async def stop(self) -> None:
        """End what clients made, and every call."""
        await self._listener.stop()
        await self._streams.stop()
        await self.own.close()
        self._logs.clear()
