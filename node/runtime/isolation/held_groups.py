"""Control groups of hosts that are there, and those that killed hosts have left.

A host holds its group by the kernel's locks (flock(2)), which go with its process. What nobody holds is killed and
removed, wherever below the machine's groups it is: the next host may begin in other groups than the one before.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rayplane.node.runtime.isolation.cgroups import PREFIX, Group, mounted

_PASSES = 100  # who looks for what is left may find a group before its host holds it
_PAUSE_S = 0.01


def held(group: Group) -> list[int]:
    """Descriptors: a group, made here, is its host's while they are open. Raises OSError."""
    for _ in range(_PASSES):
        with contextlib.ExitStack() as unless_held, contextlib.suppress(FileNotFoundError, BlockingIOError):
            group.make(hands_on=True)
            fds = []
            for path in group.paths:
                fds.append(_opened(path))
                unless_held.callback(os.close, fds[-1])
                # Any user of the machine may hold one locked: nobody is waited for without an end.
                fcntl.flock(fds[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
            if all(os.path.samestat(os.fstat(fd), os.stat(path)) for fd, path in zip(fds, group.paths, strict=True)):
                unless_held.pop_all()
                return fds
        time.sleep(_PAUSE_S)
    raise OSError(errno.EBUSY, "somebody removes it again and again, or keeps it locked", group.paths[0])


def remove_left(places: Sequence[str] | None = None) -> None:
    """Kill and remove what nobody holds, as far as this user may. `places`: below them; else all of the machine's."""
    for path in [*_groups(_mounts() if places is None else places)]:
        with contextlib.suppress(OSError):  # another user's, or it went
            fd = _opened(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Group({"": path}, 2).remove()
            finally:
                os.close(fd)


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _mounts() -> set[str]:
    try:
        return {*mounted(Path("/proc/self/mountinfo").read_text()).values()}
    except OSError:
        return set()


def _groups(places: Sequence[str] | set[str]) -> Iterator[str]:
    for place in places:
        for directory, names, _ in os.walk(place):
            ours = [name for name in names if name.startswith(PREFIX)]
            yield from (f"{directory}/{name}" for name in ours if os.access(f"{directory}/{name}", os.W_OK))
            names[:] = [name for name in names if name not in ours]
