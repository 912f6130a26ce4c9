"""Terminals that processes make for themselves, where they are: the other end of one comes out by a socket."""

import os
import socket

_LONG = 16


def socket_pair() -> tuple[int, int]:
    """Descriptors: for whoever waits for the end of a terminal, and for the process that hands it over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours.detach(), theirs.detach()


def hand_over(way: int, terminal: int) -> None:
    """Raises OSError."""
    with socket.socket(fileno=os.dup(way)) as out:
        socket.send_fds(out, [b"."], [terminal])


def handed_over(way: int) -> int:
    """The end of a terminal that came by a socket, which is closed; -1 where none did."""
    with socket.socket(fileno=way) as incoming:
        try:
            _, fds, _, _ = socket.recv_fds(incoming, _LONG, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return -1
    return fds[0] if fds else -1
