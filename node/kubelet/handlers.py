"""Runtimes that pods ask for by their RuntimeClass: `simulated` and `process`, where a node has them.

Any other handler is no word of ours: such a pod runs as the node's pods do.
"""

import asyncio
import logging
from collections.abc import Collection

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.node.config import RUNTIME_CLASSES, RUNTIMES
from rayplane.node.lifecycle import Rejected

log = logging.getLogger(__name__)

RETRY_S = 1.0
_REASON = "RuntimeHandlerNotSupported"


class Handlers:
    """The handlers of one node. `default`: that of pods without a class."""

    def __init__(self, client: ApiClient, node: str, names: Collection[str], default: str) -> None:
        self._client = client
        self._node = node
        self._names = names
        self.default = default

    @staticmethod
    def is_asked(pod: Object) -> bool:
        """Tell whether a pod has a class, so that it has to be looked up."""
        return bool(meta.spec(pod).get("runtimeClassName"))

    async def of(self, pod: Object) -> str | Rejected:
        """The runtime of a pod, or why it has none here. Asks until the API answers."""
        name = meta.spec(pod).get("runtimeClassName")
        while name:
            try:
                handler = (await self._client.get(RUNTIME_CLASSES, name)).get("handler") or ""
            except NotFound:
                return Rejected(_REASON, f'runtimeclass.node.k8s.io "{name}" not found')
            except ApiError as e:
                log.info("the class of pod %s is not known yet: %s", meta.key(pod), e.message)
                await asyncio.sleep(RETRY_S)
                continue
            if handler not in RUNTIMES:
                break
            if handler not in self._names:
                return Rejected(_REASON, f'no runtime for "{handler}" is configured on node {self._node}')
            return str(handler)
        return self.default
