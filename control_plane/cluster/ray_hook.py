"""A hook for what `ray start` has no option for: run through RAY_START_HOOK before it uses its parameters.

Of Ray's own processes a cluster needs two: the server of the head's tables (GCS) and the raylet, which starts workers.
The others, a fifth of an idle cluster's memory, are left out here: the dashboard's server and agent, the agent of
runtime environments (our own Ray is given none, all its machines are this one), and the command itself, which only
waits. Ray has no options for that, so some of its functions are replaced in this one process.

It has a sign of the cluster's slot: there may be a moment in which none of the actors runs.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster import signs

#: Ends with its standard input, a pipe from the raylet (`enable_pipe_based_agent_to_parent_health_check`).
#: A shell takes the options that the raylet adds.
_AGENT = ["sh", "-c", "exec cat"]
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
#: Where agents listen; the raylet waits until each is told. Ray's word for "nowhere" is -1.
_PORTS = (
    "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "METRICS_AGENT_PORT_NAME",
    "METRICS_EXPORT_PORT_NAME",
    "RUNTIME_ENV_AGENT_PORT_NAME",
)
_NOWHERE = -1
#: The variable that tells the cluster's slot.
SLOT = "RAYPLANE_SLOT"
_HERE = Path(__file__).parent


def settle(parameters: Any, head: bool) -> None:
    """Leave out what nothing here uses."""
    import ray
    from ray._private import node, services

    # `_wait` keeps it.
    sign = signs.hold(int(os.environ[SLOT]))
    os.set_inheritable(sign.detach(), True)
    parameters.ray_client_server_port = None
    parameters.setup_worker_path = str(_HERE / "ray_worker.py")
    of_nodes: Any = node.Node
    of_nodes.start_api_server = lambda *_, **__: None
    # The command asks once a second which of its children have ended.
    of_nodes.dead_processes = lambda _: _wait()
    # Releases with other ways for ports keep their agents.
    if all(hasattr(ray._raylet, name) for name in ("persist_port", *_PORTS)):
        services.start_ray_process = _without_agents(services.start_ray_process, ray._raylet)


def _without_agents(start: Callable[..., Any], raylet: Any) -> Callable[..., Any]:
    def lean(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == "raylet":
            given = dict(word[2:].partition("=")[::2] for word in command)
            for port in _PORTS:
                raylet.persist_port(given["session_dir"], given["node_id"], getattr(raylet, port), _NOWHERE)
            command = [_agent(word) for word in command]
        return start(command, process_type, **options)

    return lean


def _agent(word: str) -> str:
    return next((option + subprocess.list2cmdline(_AGENT) for option in _AGENTS if word.startswith(option)), word)


def _wait() -> None:
    """Go on as a program that needs a twentieth of the memory; Ray's processes stay its children."""
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(_HERE / "ray_wait.py"), *sys.argv[1:]])
