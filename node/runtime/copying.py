"""Commands of `kubectl cp`, with the container's paths in place of the machine's. Pure.

kubectl copies by `tar` in the container, with paths of the container. Here a program sees the machine's files, so these
commands, exactly as kubectl writes them, are given real paths; a directory to unpack into is made if it is not there.
"""

import re
import shlex
from collections.abc import Callable, Sequence

Place = Callable[[str, bool], str]
"""(path of the container, whether to make it a directory) to the real path."""

_RETRIED = re.compile(r"tar cf - (?P<path>.+) \| tail -c\+(?P<start>\d+)")


def copy_command(command: Sequence[str], place: Place) -> list[str] | None:
    """Return what to run instead; None where it is no command of `kubectl cp`. Raises what `place` does."""
    match [*command]:
        case ["test", "-d", path]:
            return ["test", "-d", place(path, False)]
        case ["tar", *options, "-xmf" | "-xf" as unpack, "-"]:
            return ["tar", *options, unpack, "-", "-C", place(".", True)]
        case ["tar", *options, "-xmf" | "-xf" as unpack, "-", "-C", path]:
            return ["tar", *options, unpack, "-", "-C", place(path, True)]
        case ["tar", "cf", "-", path]:
            return _pack(path, place)
        case ["sh", "-c", script] if found := _RETRIED.fullmatch(script):
            return ["sh", "-c", f"{shlex.join(_pack(found['path'], place))} | tail -c+{found['start']}"]
    return None


def _pack(path: str, place: Place) -> list[str]:
    """kubectl expects the names in the archive to begin with the path that it asked for."""
    real, wanted = place(path, False).lstrip("/"), path.strip("/")
    pattern = re.sub(r"([\\.*^$\[\],])", r"\\\1", real)
    name = re.sub(r"([\\&,])", r"\\\1", wanted)
    return ["tar", "cf", "-", f"--transform=s,^{pattern},{name},S", "--", f"/{real}"]
