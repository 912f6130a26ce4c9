"""Formats of what is kept: numbers that only grow, and what a build does with each. Pure.

    older than its own   read as it is; the mark is raised when the first thing that older builds cannot read is written
    its own              read and written
    newer                refused with NewerFormat, which tells whose data it is and the way back

What has no mark is of the first format: builds that made no marks made it. An older build that knows marks so refuses
what it would misread, whereas one that may still go back (an upgrade that is under way) finds what it can read.
"""

import json
from dataclasses import dataclass

from rayplane.storage.errors import StorageError

FIRST = 1


class NewerFormat(StorageError):
    """The data was made by a newer build; the message tells the way back."""


class CorruptMark(StorageError):
    """The mark that tells a format cannot be read."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A kind of kept things, with the newest format that this build reads and writes."""

    what: str
    newest: int
    back: str
    """What to do beside starting the newer build."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The format of something kept, and the build that made it so; empty where that is not known."""

    format: int = FIRST
    build: str = ""

    def encode(self) -> bytes:
        return json.dumps({"format": self.format, "build": self.build}).encode()

    @staticmethod
    def decode(data: bytes | None, where: str) -> "Mark":
        """The mark of a file's content; None: there is none. Raises CorruptMark."""
        if data is None:
            return Mark()
        try:
            told = json.loads(data)
            mark = Mark(told["format"], told["build"])
            if type(mark.format) is int and mark.format >= FIRST and isinstance(mark.build, str):
                return mark
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise CorruptMark(f"{where} is damaged: put back a copy of the directory it is in, or restore a snapshot")


_RESTORE = "restore a snapshot with `rayplane restore FILE --name OTHER`"

#: Format 2: the log may have many transactions in one entry, and says which builds can read it.
MEMBER = Kept("an etcd member's data", 2, _RESTORE)
#: Format 2: replicas of volumes may be known to be lost and not filled again.
NODE_HOST = Kept("a node host's data", 2, "give this node an empty directory and let its replicas be filled by others")
SUPERVISOR = Kept("what a supervisor remembers", 1, "delete it: members know the rest")
#: Format 2: an actor may run another build than the one that brought the cluster up.
STATE = Kept("the state of a cluster", 2, f"run `rayplane down` with that build and {_RESTORE}")


def check(kept: Kept, mark: Mark, *, where: str, build: str) -> None:
    """Raises NewerFormat for what this build, which has the given name, cannot read."""
    if mark.format > kept.newest:
        made = f"rayplane {mark.build}" if mark.build else "a newer rayplane"
        raise NewerFormat(
            f"{where}: {kept.what} of format {mark.format}, made by {made}; this is rayplane {build or 'of no name'}, "
            f"which reads up to {kept.newest}: start it with that build, or {kept.back}"
        )


def raised(mark: Mark, to: int, build: str) -> Mark | None:
    """The mark to be written before the first thing of a format is; None where the one that is there says so."""
    return Mark(to, build) if to > mark.format else None
