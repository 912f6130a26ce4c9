"""The log of a container in another runtime: its host moves what is long away, and the runtime begins a new file.

What a host that died in between has left half done is done by its next life: until then the runtime writes on in the
file that was moved.
"""

import logging
import os

from rayplane.node.errors import NodeError
from rayplane.node.runtime.cri.client import CriClient
from rayplane.node.runtime.logfile import LogLimits
from rayplane.node.shim.container_log import generation
from rayplane.proto.cri import cri_pb2 as pb

log = logging.getLogger(__name__)


async def rotate(client: CriClient, ident: str, path: str, limits: LogLimits) -> None:
    """Have the runtime begin a new file at `path` where that is long, or was moved and not begun anew."""
    try:
        if not _moved(path, limits):
            return
        await client.call("ReopenContainerLog", pb.ReopenContainerLogRequest(container_id=ident))
    except OSError as e:
        log.info("the log of container %s goes on in the file that is long: %s", ident, e)
    except NodeError as e:
        log.info("the log of container %s goes on in the file that was moved: %s", ident, e)


def _moved(path: str, limits: LogLimits) -> bool:
    """Whether the runtime's file is one that was moved. Raises OSError."""
    try:
        if os.stat(path).st_size <= limits.file_bytes:
            return False
    except FileNotFoundError:
        return os.path.exists(generation(path, 1))
    # Older ones first: whoever dies in between has lost none but the oldest.
    for number in range(max(1, limits.files - 1), 0, -1):
        if os.path.exists(newer := generation(path, number - 1)):
            os.replace(newer, generation(path, number))
    return True
