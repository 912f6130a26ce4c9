"""The terminal of a process in a container, made there: by a name that its programs find (pts(4), ioctl_tty(2)).

A terminal of the machine would have a name of the machine's, where something else or nothing is in a container.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Sequence

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.users import maps_many
from rayplane.node.shim.consoles import hand_over

_MAKER, _CONSOLE = "/dev/ptmx", "/dev/console"
_MAKER_NUMBER = os.makedev(5, 2)
_UNLOCK, _NUMBER, _PEER = 0x4004_5431, 0x8004_5430, 0x5441
_WHOLE = struct.Struct("i")
_SIDE_MAX = 65_535


def make_terminal(size: Sequence[int], uid: int, *, is_console: bool = False) -> None:
    """Have a terminal of `size`, columns and rows, for the standard streams, and hand its other end over by the first.

    For a process in its container, alone in its session. `uid`: whose the terminal is; `is_console`: it is at
    /dev/console too, as of a container's main process.
    """
    other = os.open(_MAKER, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(other)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _MAKER_NUMBER:
        raise OSError(errno.ENODEV, "it makes no terminals", _MAKER)
    fcntl.ioctl(other, _UNLOCK, _WHOLE.pack(0))
    if all(size):
        columns, rows = (min(side, _SIDE_MAX) for side in size)
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    # By the descriptor and not by a name: whoever is in the container already may have put something there.
    terminal = fcntl.ioctl(other, _PEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if maps_many():
        os.fchown(terminal, uid, -1)
    number = _WHOLE.unpack(fcntl.ioctl(other, _NUMBER, bytes(_WHOLE.size)))[0]
    hand_over(0, other)
    os.close(other)
    for stream in range(3):
        os.dup2(terminal, stream, inheritable=True)
    os.close(terminal)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if is_console:
        # A pod may have mounted something of its own there.
        with contextlib.suppress(OSError):
            os.close(os.open(_CONSOLE, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))
            syscalls.mount(f"/dev/pts/{number}", _CONSOLE, "", syscalls.MS_BIND)
