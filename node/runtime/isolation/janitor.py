"""A small process that removes a host's control groups when the host is gone, however it went."""

import os
import subprocess
from collections.abc import Sequence

#: Nobody's child: whoever ends the host with all its children does not end this one. It waits for the end of a pipe.
#: The number of a group's directory tells it from that of the host's next life. Processes that it may not see are 0.
_SCRIPT = """
exec 3<&0
(
    read -r _ <&3
    tries=0
    while [ $tries -lt 800 ]; do
        left=
        for one in "$@"; do
            number=${one%%:*} group=${one#*:}
            [ "$(stat -c %i "$group")" = "$number" ] || continue
            left=y
            [ -e "$group/cgroup.kill" ] && echo 1 > "$group/cgroup.kill"
            for pid in $(find "$group" -name cgroup.procs -exec cat {} +); do
                [ "$pid" = 0 ] || kill -9 "$pid"
            done
            find "$group" -depth -type d -exec rmdir {} \\;
        done
        [ -z "$left" ] && exit
        tries=$((tries + 1))
        if [ $tries -lt 200 ]; then sleep 0.05; else sleep 1; fi
    done
) < /dev/null > /dev/null 2>&1 &
"""


def watch(groups: Sequence[str]) -> int:
    """Have groups removed once the returned descriptor is closed. Raises OSError."""
    told = [f"{os.stat(group).st_ino}:{group}" for group in groups]
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        command = ["sh", "-c", _SCRIPT, "sh", *told]
        path = {"PATH": "/usr/bin:/bin"}
        subprocess.run(command, stdin=read, stdout=subprocess.DEVNULL, env=path, start_new_session=True, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        os.close(write)
        raise OSError(f"nobody can be had to remove control groups: {e}") from e
    finally:
        os.close(read)
    return write
