"""Volumes of other people's CSI drivers: a node tells that it uses them, and uses them once they are attached to it.

A node's status lists them as in use for as long as pods have them, so that nobody detaches them, and the controllers
list there what is attached. Drivers that need no attaching are not asked for it. No such driver runs here: on simulated
nodes its volumes are mounted as data, on others nowhere.
Source: Kubernetes' kubelet (volume manager) and its attach-detach controller; API reference core/v1 NodeStatus.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.volumes import attachable_name
from rayplane.control_plane.client import ApiClient
from rayplane.node.errors import MountError
from rayplane.node.volumes.projected import mount_failed

WAIT_S = 10.0
"""So long one try of a pod's volumes waits for what is not attached yet."""
_DRIVERS = "csidrivers.storage.k8s.io"


class Nodes(Protocol):
    """A cache of nodes."""

    def get(self, namespace: str, name: str) -> Object | None: ...


class Attachments:
    """Uses of such volumes by the pods of a host's nodes. `tell`: a node's status is to be written soon."""

    def __init__(
        self,
        client: ApiClient,
        nodes: Nodes,
        tell: Callable[[str], None],
        *,
        simulated: Collection[str],
    ) -> None:
        self._client, self._nodes, self._tell = client, nodes, tell
        self._simulated = simulated
        self._users: dict[str, dict[str, set[str]]] = {}
        """By node and volume: the uids of pods."""
        self._changed: dict[str, asyncio.Event] = {}

    def in_use(self, node: str) -> list[str]:
        """The names of volumes as the node's status lists them."""
        return sorted(self._users.get(node, {}))

    def node_changed(self, node: str) -> None:
        """The cache shows another state of a node."""
        if (changed := self._changed.get(node)) is not None:
            changed.set()

    async def take(self, pod: Object, volume: str, source: Mapping[str, Any], *, node: str) -> None:
        """Use a volume for a pod: return when it is there. Raises MountError when that takes long, or cannot be."""
        driver = source["driver"]
        if await self._is_attached_at_all(driver):
            await self._attached(pod, volume, source, node=node)
        if node not in self._simulated:
            text = f"driver name {driver} not found in the list of registered CSI drivers"
            raise mount_failed(volume, text)

    async def _attached(self, pod: Object, volume: str, source: Mapping[str, Any], *, node: str) -> None:
        name = attachable_name(source["driver"], source["volumeHandle"])
        self._users.setdefault(node, {}).setdefault(name, set()).add(meta.uid(pod))
        self._tell(node)
        changed = self._changed.setdefault(node, asyncio.Event())
        try:
            async with asyncio.timeout(WAIT_S):
                while not self._is_ready(node, name):
                    changed.clear()
                    await changed.wait()
        except TimeoutError as e:
            waiting = f"unmounted volumes=[{volume}], unattached volumes=[{volume}], failed to process volumes=[]"
            raise MountError(f"Unable to attach or mount volumes: {waiting}: context deadline exceeded") from e

    def give_back(self, pod: Object, *, node: str) -> None:
        """A pod uses nothing any more."""
        used, uid = self._users.get(node, {}), meta.uid(pod)
        for name in [name for name, users in used.items() if uid in users]:
            used[name].discard(uid)
            if not used[name]:
                del used[name]
                self._tell(node)

    def _is_ready(self, node: str, name: str) -> bool:
        """Whether the node's use of a volume is known to all, and the volume attached."""
        status = meta.status(self._nodes.get("", node) or {})
        attached = {one.get("name") for one in status.get("volumesAttached") or ()}
        return name in (status.get("volumesInUse") or ()) and name in attached

    async def _is_attached_at_all(self, driver: str) -> bool:
        try:
            found = await self._client.get(_DRIVERS, driver)
        except NotFound:
            return True
        except ApiError as e:
            raise MountError(f"cannot read CSIDriver {driver}: {e.message}") from e
        return meta.spec(found).get("attachRequired") is not False
