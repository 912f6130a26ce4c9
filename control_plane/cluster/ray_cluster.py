"""A Ray cluster of our own, for a cluster that was not told to join one.

`ray start --block` keeps Ray's processes as its children, in a session of its own; ending it ends them. Token
authentication is on, usage statistics and dashboard are off. Nothing listens beyond loopback.
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from control_plane.cluster.errors import ClusterError
from control_plane.cluster.ports import can_bind, free_port

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 3.0
# Objects never travel through Ray; this is the least it accepts.
OBJECT_STORE_BYTES = 80_000_000
POLL_S = 0.05


def reserve(rng: random.Random, token: str) -> dict[str, Any]:
    """What to remember about a Ray cluster before it is started, so that it can be ended whatever happens."""
    # Ray keeps Unix sockets there, whose paths must be short.
    directory = tempfile.mkdtemp(prefix="rayplane-")
    port = free_port(LOOPBACK, (), rng)
    return {
        "owned": True,
        "pid": 0,
        "port": port,
        "client_port": free_port(LOOPBACK, (port,), rng),
        "token": token,
        "dir": directory,
    }


def start(host: dict[str, Any], log_file: Path) -> int:
    """Start the head; its process id. Returns before it answers."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", str(host["port"]), "--node-ip-address", LOOPBACK),
        *("--include-dashboard", "false", "--disable-usage-stats", "--include-log-monitor", "false"),
        # Actors are light and take no CPU shares; this only bounds how many start at once.
        *("--num-cpus", "64", "--object-store-memory", str(OBJECT_STORE_BYTES)),
        # Nothing here uses the autoscaler or Ray's own client, but the latter cannot be turned off.
        *("--no-monitor", "--ray-client-server-port", str(host["client_port"])),
        # Without these Ray reserves a range of ports for workers, and ours may lie in it.
        *("--min-worker-port", "0", "--max-worker-port", "0", "--temp-dir", host["dir"]),
    ]
    with open(log_file, "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | environment(host),
        )
    return process.pid


def environment(host: dict[str, Any]) -> dict[str, str]:
    """The environment in which Ray's processes and their drivers must run."""
    variables = {"RAY_USAGE_STATS_ENABLED": "0"}
    if host["owned"]:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": host["token"]}
    return variables


def namespace(cluster: str) -> str:
    """A cluster's actors are named in a Ray namespace of their own."""
    return f"rayplane-{cluster}"


def connect(host: dict[str, Any], cluster: str, *, timeout: float = START_TIMEOUT_S) -> None:
    """Make this process a driver. Ray reads its environment when it is imported, hence the late import."""
    os.environ.update(environment(host))
    import ray

    address = f"{LOOPBACK}:{host['port']}" if host["owned"] else host["address"]
    if host["owned"]:
        _await_port(host, timeout)
    options: dict[str, Any] = {"_node_ip_address": LOOPBACK} if host["owned"] else {}
    if not host["owned"]:
        options["runtime_env"] = {"py_modules": _own_packages()}
    deadline = time.monotonic() + timeout
    while True:
        try:
            ray.init(
                address=address,
                namespace=namespace(cluster),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **options,
            )
            return
        except (ConnectionError, RuntimeError) as e:
            if time.monotonic() > deadline:
                raise ClusterError(f"Ray at {address} does not answer: {e}") from e
            time.sleep(POLL_S)


def stop(host: dict[str, Any]) -> None:
    """End Ray's processes and the actors in them, if any are left, and wait until they are gone."""
    session = host["pid"] if _is_ours(host) else 0
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while session and (left := _session_members(session)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {', '.join(map(str, left))} of Ray do not end; end them by hand")
        time.sleep(POLL_S)
    shutil.rmtree(host["dir"], ignore_errors=True)


def _await_port(host: dict[str, Any], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while can_bind(LOOPBACK, host["port"]):
        if host["pid"] and not _alive(host["pid"]):
            raise ClusterError("Ray did not start; see logs/ray.log in the state directory")
        if time.monotonic() > deadline:
            raise ClusterError(f"Ray did not listen on port {host['port']} in time; see logs/ray.log")
        time.sleep(POLL_S)


def _own_packages() -> list[str]:
    root = Path(__file__).parents[2]
    return [str(root / name) for name in ("control_plane", "node", "storage", "proto")]


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_ours(host: dict[str, Any]) -> bool:
    """Whether the session still is Ray's: its number is given to others only when the last of it has ended."""
    try:
        command = Path(f"/proc/{host['pid']}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return host["dir"].encode() in command or not _alive(host["pid"])  # a zombie has no command line


def _session_members(session: int) -> list[int]:
    """Processes of the session that `start` opened: everything Ray started stays in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found
