"""A trial of whether this machine lets its user isolate pods.

Run as a program by itself, because whoever enters a user namespace does not come back.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A machine's answer. `why`: what stands in the way, empty when nothing does."""

    works: bool
    why: str = ""


def probe() -> Found:
    """Try to run a container. What it needs is made and gone again."""
    here = os.path.abspath(__file__)
    try:
        done = subprocess.run([sys.executable, "-I", here], capture_output=True, timeout=TRY_S, check=False, cwd="/")
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        return Found(False, str(e) or type(e).__name__)
    return Found(answer["works"], answer["why"])


def _attempt(directory: str) -> None:
    """Make everything that a pod has, and run a program there. Raises what stands in the way."""
    from rayplane.node.runtime.isolation import launch, memory, namespaces
    from rayplane.node.runtime.isolation.apart import go_apart
    from rayplane.node.runtime.isolation.entrance import isolate
    from rayplane.node.runtime.isolation.mounts import furnish
    from rayplane.node.runtime.isolation.network import MachineNetwork, prepare_pod
    from rayplane.node.runtime.isolation.rootfs import SKELETON, STAGE, Box, machine_of, plan, skeleton
    from rayplane.node.runtime.isolation.users import Identity

    isolate(0, [directory])
    go_apart()
    furnish(SKELETON, skeleton(machine_of([])))
    network = MachineNetwork()
    network.add_node("10.0.0.1", "10.0.0.0/24")
    pod = namespaces.make(("user", "net", "ipc", "uts"), prepare_pod)
    network.add_pod("probe", "10.0.0.2", "10.0.0.1", pod.fds["net"])
    message = {
        "argv": ["true"],
        "env": {"PATH": "/usr/bin:/bin"},
        "cwd": "/",
        "tty": False,
        "identity": Identity(uid=1, gid=1).to_json(),
        "host_pid": False,
        "oom_score": 0,
        "processes": namespaces.PROCESSES_MAX,
        "mounts": plan(machine_of([]), Box(f"{STAGE}/0", {}, shm=memory.place(memory.MACHINE, memory.SHM))),
    }
    with open(os.devnull, "r+b") as nothing:
        started = launch.start(message, pod, [nothing.fileno()] * 3)
    failure = started.failure()
    _, status = os.waitpid(started.pid, 0)
    if failure is not None or status:
        raise failure or OSError(f"a program ended with status {status}")


def _main() -> None:
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))
    from rayplane.node.runtime.isolation.users import RANGE_FIRST

    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        if os.geteuid() == 0:
            os.chown(directory, RANGE_FIRST, RANGE_FIRST)
        if os.fork() == 0:
            # It does not come out again; whoever waits has the directory to remove.
            try:
                _attempt(directory)
                why = ""
            except Exception as e:  # whatever it is: that is the answer
                why = str(e) or type(e).__name__
            os.write(1, json.dumps({"works": not why, "why": why}).encode())
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    _main()
