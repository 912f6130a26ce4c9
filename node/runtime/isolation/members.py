"""The shims of one cluster on one machine, which share its namespaces.

A file names them. Whoever comes takes its lock, joins one that lives, or makes the namespaces when there is none: they
went with the last.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def joining(path: str) -> Iterator[int]:
    """Join under the lock: the process whose namespaces to join, 0 for none. Named afterwards, unless it failed."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        living = [*_living(fd)]
        yield next((pid for pid, _ in living), 0)
        text = "".join(f"{pid} {born}\n" for pid, born in [*living, (os.getpid(), started(os.getpid()))])
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)


def _living(fd: int) -> Iterator[tuple[int, str]]:
    """Process id and start time of those named that are still there."""
    for line in os.pread(fd, 64 * 1024, 0).decode(errors="replace").splitlines():
        pid, _, born = line.partition(" ")
        if pid.isdigit() and born and started(int(pid)) == born:
            yield int(pid), born


def started(pid: int) -> str:
    """When a process began, in ticks since the machine did (proc_pid_stat(5)); empty for none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def network_id(members: str) -> str:
    """The name of the network that the shims named in a file share, while this machine runs.

    Of the path alone it cannot be told: containers of one machine may have different folders there.
    """
    with open("/proc/sys/kernel/random/boot_id") as f:
        boot = f.read().strip()
    path = os.path.realpath(members)
    place = ""
    with contextlib.suppress(OSError):  # then no shim will name itself there either
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        found = os.stat(os.path.dirname(path))
        place = f"{found.st_dev} {found.st_ino}"
    return hashlib.blake2s(f"{boot} {place} {path}".encode(), digest_size=16).hexdigest()
