"""Messages with which containers say why they ended (core/v1 Container, terminationMessagePath)."""

from typing import Any

from rayplane.node.runtime.logfile import LogFile
from rayplane.node.runtime.tree import TERMINATION_LOG
from rayplane.storage.beneath import Beneath

MESSAGE_MAX = 4096
FALLBACK_MESSAGE_MAX, FALLBACK_LINES_MAX = 2048, 80


def termination_message(files: Beneath, log: LogFile, container: dict[str, Any], code: int) -> str:
    """What a container that exited with `code` left in its file, or the end of its log where it asks for that."""
    try:
        message = files.read_end(TERMINATION_LOG, MESSAGE_MAX)
    except OSError:
        message = b""
    if not message and code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        message = log.tail(FALLBACK_MESSAGE_MAX, FALLBACK_LINES_MAX)
    return message.decode(errors="replace")
