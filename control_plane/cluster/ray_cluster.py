"""A Ray cluster of our own, for a cluster that was not told to join one.

`ray start --block` keeps Ray's processes as its children, in a session of its own; ending it ends them. Token
authentication is on; usage statistics, dashboard, agents and the server for Ray's own clients are off (`ray_hook`).
Nothing listens beyond loopback: Ray's processes listen on 127.0.0.1 alone where that is the node's address, and
everywhere otherwise.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.ours import is_marked, mark, remove_known
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.ports import can_bind
from rayplane.control_plane.cluster.ray_hook import SLOT
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.storage.env.private import narrow
from rayplane.storage.env.sockets import short_directory

LOOPBACK = "127.0.0.1"
# All of rayplane, as it is imported: in a checkout a folder of links, which Ray follows when it packs it.
PACKAGE = Path(__file__).parents[2]
#: What of it is not packed: times of files are lost on the way, so that all would be compiled anew anyway, and with
#: each module that is compiled here the package would be another, which Ray has to be sent.
NOT_PACKED = ("__pycache__",)
# In fair time (`patience`).
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 3.0
LOG_TAIL_BYTES = 8192
# Objects never travel through Ray; this is the least it accepts.
OBJECT_STORE_BYTES = 80_000_000
POLL_S = 0.05
# What Ray says when it gave up on its own processes because they were slow (30 s are fixed in `ray start`). Its exit
# code is the same whatever went wrong: only these words tell, and they are read here alone.
_WAS_SLOW = ("timed out during startup", "has become overloaded", "Failed to get node info", "failed to register")
# Ray's own limits on starting and answering (ray_config_def.h, _private/node.py). On a busy machine its defaults end
# what is only slow; a process that is dead is noticed by its closed socket, not by these.
_UNHURRIED = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_rpc_server_connect_timeout_s": "30",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "180",
    "RAY_health_check_failure_threshold": "20",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "30000",
    "RAY_pop_worker_max_retries": "-1",
    "RAY_raylet_client_connect_timeout_milliseconds": "5000",
    "RAY_raylet_client_num_connect_attempts": "120",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
}
# What an idle Ray does by its clocks: looks at memory, garbage, objects and workers, counts and reports. Nothing here
# asks for it, and the kernel, not Ray, says who may have how much memory.
_IDLE = {
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_event_stats_print_interval_ms": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "0",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_raylet_check_gc_period_milliseconds": "1000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_core_worker_internal_heartbeat_ms": "5000",
    "RAY_kill_idle_workers_interval_ms": "5000",
    "RAY_local_fs_monitor_interval_ms": "60000",
    "RAY_start_python_gc_manager_thread": "0",
    # What stands in for its agents (`ray_hook`) ends with the raylet by that.
    "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
}
_PREFIX, _TEMPORARY, _TLS = "rayplane-", "ray", "tls"
# Ray keeps Unix sockets there: rayplane-abcdefgh/ray/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store
_SOCKETS_BYTES = 90
# Of a cluster whose rayplane gave Ray the directory itself and put no marker in it.
_UNMARKED = ("session_latest", "ray_current_cluster")


def reserve(port: int, token: str, tls: Credentials | None = None, *, slot: int) -> dict[str, Any]:
    """What to remember about a Ray cluster before it is started, so that it can be ended whatever happens."""
    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=short_directory(_SOCKETS_BYTES))
    mark(Path(directory))
    if tls is not None:
        tls.write(Path(directory, _TLS))
    of_ray = {"owned": True, "pid": 0, "port": port, "token": token, "dir": directory, "tls": tls is not None}
    return of_ray | {"slot": slot}


def start(host: dict[str, Any], log_file: Path) -> int:
    """Start the head; its process id. Returns before it answers."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", str(host["port"]), "--node-ip-address", LOOPBACK),
        *("--include-dashboard", "false", "--disable-usage-stats", "--include-log-monitor", "false"),
        # Actors are light and take no CPU shares; this only bounds how many start at once.
        *("--num-cpus", "64", "--object-store-memory", str(OBJECT_STORE_BYTES)),
        "--no-monitor",
        # Without these Ray reserves a range of ports for workers, and ours may lie in it.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        # Ray opens the folder that it is given to everybody; the one above it is closed.
        *("--temp-dir", str(Path(host["dir"], _TEMPORARY))),
    ]
    variables = os.environ | environment(host) | {"RAY_START_HOOK": "rayplane.control_plane.cluster.ray_hook.settle"}
    variables[SLOT] = str(host["slot"])
    return processes.start(command, log_file, environment=variables)


def process(host: dict[str, Any], name: str) -> int:
    """The process id of our own Ray's `gcs` or `raylet` on this machine, where its head runs. Raises ClusterError."""
    if host.get("owned"):
        for pid in processes_of(host):
            program, *_ = processes.arguments(pid) or [b""]
            if os.path.basename(program).decode(errors="replace").removesuffix("_server") == name:
                return pid
    raise ClusterError(f"no {name} of a Ray that `rayplane up` has started runs on this machine")


def environment(host: dict[str, Any]) -> dict[str, str]:
    """The environment in which Ray's processes and their drivers must run."""
    variables = {"RAY_USAGE_STATS_ENABLED": "0"}
    if host["owned"]:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": host["token"]} | _UNHURRIED | _IDLE
        # Whatever its name says: Ray keeps 127.0.0.1 as a node's address only where clusters of machines are off.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if host.get("tls"):
            names = {"RAY_TLS_SERVER_CERT": "tls.crt", "RAY_TLS_SERVER_KEY": "tls.key", "RAY_TLS_CA_CERT": "ca.crt"}
            variables |= {"RAY_USE_TLS": "1"} | {k: str(Path(host["dir"], _TLS, f)) for k, f in names.items()}
        # By default workers, so our actors, come after everything else on a busy machine.
        variables["RAY_worker_niceness"] = "0"
    return variables


def close_folders(host: dict[str, Any]) -> None:
    """Take back what Ray has opened to everybody in its folder. Call it when Ray is up."""
    if is_ours(host):
        narrow(Path(host["dir"]))


def listens_widely(host: dict[str, Any]) -> bool:
    """Whether the head of our own Ray can be reached from outside: another version may not do what this one does."""
    if not host.get("owned"):
        return False
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, port = local.partition(":")
            # Little-endian words; 127/8 as itself or mapped into IPv6, and ::1 (proc_net_tcp(5)).
            is_loopback = address[-8:].endswith("7F") or address == "00000000000000000000000001000000"
            if state == "0A" and int(port, 16) == host["port"] and not is_loopback:
                return True
    return False


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
        options["runtime_env"] = carrying()
    patience = Patience(timeout, time.monotonic())
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
            _still_there(host)
            patience.passed(time.monotonic(), slowdown())
            if patience.over:
                raise ClusterError(f"Ray at {address} does not answer: {e}") from e
            time.sleep(POLL_S)


def carrying() -> dict[str, Any]:
    """A runtime environment by which Ray's machines that have no rayplane get this one."""
    return {"py_modules": [str(PACKAGE)], "excludes": [*NOT_PACKED]}


def was_slow(host: dict[str, Any], log_file: Path) -> bool:
    """Whether `ray start` has ended because its own processes took it too long: it may be tried again."""
    if not host["owned"] or processes.is_alive(host["pid"]):
        return False
    with open(log_file, "rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
        said = log.read().decode(errors="replace")
    return took_too_long(said)


def took_too_long(said: str) -> bool:
    """Whether that is what `ray start` says when its own processes took it too long."""
    return any(sign in said for sign in _WAS_SLOW)


def stop(host: dict[str, Any]) -> None:
    """End Ray's processes and the actors in them, if any are left, and wait until they are gone."""
    session = host["pid"] if _leads_session(host) else 0
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while session and (left := processes.of_session(session)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {', '.join(map(str, left))} of Ray do not end; end them by hand")
        time.sleep(POLL_S)


def remove_folder(host: dict[str, Any]) -> None:
    """Delete what Ray kept. ClusterError when the folder is not one that rayplane made: it is left."""
    directory = Path(host["dir"])
    if is_ours(host):
        if not is_marked(directory):
            (directory / _UNMARKED[0]).unlink()
        sessions = [n for n in os.listdir(directory) if n.startswith("session_")]
        remove_known(directory, [_TEMPORARY, _TLS, *sessions, *_UNMARKED])
    elif directory.exists():
        raise ClusterError(f"{directory} is no folder that rayplane made for Ray: it is left as it is")


def is_ours(host: dict[str, Any]) -> bool:
    """Whether the folder that a state names is one that `reserve` made."""
    directory = Path(host["dir"])
    if not directory.name.startswith(_PREFIX) or directory.is_symlink() or not directory.is_dir():
        return False
    if is_marked(directory):
        return True
    return directory.stat().st_uid == os.geteuid() and (directory / _UNMARKED[0]).is_symlink()


def _await_port(host: dict[str, Any], timeout: float) -> None:
    patience = Patience(timeout, time.monotonic())
    while can_bind(LOOPBACK, host["port"]):
        _still_there(host)
        patience.passed(time.monotonic(), slowdown())
        if patience.over:
            raise ClusterError(f"Ray did not listen on port {host['port']} in time; see logs/ray.log")
        time.sleep(POLL_S)


def _still_there(host: dict[str, Any]) -> None:
    if host["owned"] and host["pid"] and not processes.is_alive(host["pid"]):
        raise ClusterError("Ray did not start; see logs/ray.log in the state directory")


def is_alive(host: dict[str, Any]) -> bool:
    """Whether the process that `start` started still runs."""
    return processes.is_alive(host["pid"])


def processes_of(host: dict[str, Any]) -> list[int]:
    """What still runs of that process and all that it started. May wait: not for an event loop."""
    return processes.of_session(host["pid"]) if host.get("pid") and _leads_session(host) else []


def _leads_session(host: dict[str, Any]) -> bool:
    """Whether the session still is Ray's: its number is given to others only when the last of it has ended."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    # One that was killed has no command line any more, and is a zombie a moment later.
    while processes.is_alive(host["pid"]):
        command = b"\0".join(processes.arguments(host["pid"]))
        if command or time.monotonic() > deadline:
            return host["dir"].encode() in command
        time.sleep(POLL_S)
    return True
