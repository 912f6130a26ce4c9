"""Errors of a cluster as a whole; each message says what to do."""

import errno
from typing import Final

_ROOM: Final = "make room there, or choose another place"
_ADVICE: Final = {
    errno.ENOENT: "check its name",
    errno.ENOTDIR: "check its name",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "check whose it is, and its mode",
    errno.EPERM: "check whose it is, and its mode",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "choose another place",
    errno.EADDRINUSE: "another program has that port: end it, or choose another port",
    errno.EMFILE: "allow more open files with `ulimit -n`",
}


def refusal(error: OSError) -> str:
    """What the system refused, and what to do where that is known."""
    said = str(error.strerror or error)
    return f"{said}; {_ADVICE[error.errno]}" if error.errno in _ADVICE else said


class ClusterError(Exception):
    """The command failed: exit code 1."""

    code = "FAILED_PRECONDITION"


class UsageError(ClusterError):
    """The command makes no sense as given: exit code 2."""

    code = "INVALID_ARGUMENT"


class NotThere(ClusterError):
    """Something that was asked about is not there."""

    code = "NOT_FOUND"


class NobodyAnswers(ClusterError):
    """Nobody who could tell answers now."""

    code = "UNAVAILABLE"


class AlreadyUp(ClusterError):
    """A cluster of that name runs already."""


class Busy(ClusterError):
    """Another command has the cluster's state; it may be waited for."""


class SlotTaken(ClusterError):
    """Another cluster has the addresses of this one."""


class NewerState(ClusterError):
    """The cluster's state was written by a newer build, with which it has to be started, stopped and deleted."""


class NotUp(ClusterError):
    """No cluster of that name runs."""


class NotTrusted(ClusterError):
    """A server that cannot be shown to be of the cluster that somebody wants to join."""


class NotAdmitted(ClusterError):
    """The cluster does not give whoever joins what it asks for."""


class StartFailed(ClusterError):
    """A component could not be started."""


class TimeStands(ClusterError):
    """The time of the cluster cannot be led forward: a part of it has a process of its own, with the machine's time."""


class PortTaken(StartFailed):
    """Another program has a port that a component was to listen on: it needs others, and its machine is well."""


class DataLost(StartFailed):
    """A member does not have any more what it acknowledged: it can never come back, another must take its place."""
