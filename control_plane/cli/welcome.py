"""The answer of `rayplane` without a command: which clusters there are, and what to do next."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from rayplane.control_plane.cluster.access import answers
from rayplane.control_plane.cluster.errors import ClusterError, refusal
from rayplane.control_plane.cluster.state import HOME, ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Role

_NONE = (
    ("rayplane up --host process", "a cluster in one process, within seconds"),
    ("rayplane up", "one of actors, on Ray"),
    ("rayplane learn", "a tour through one, broken and healed step by step"),
    ("rayplane simulate failures --seed 1", "a cluster in virtual time, and what fails in it"),
)
_RUNS = (
    ("rayplane get pods -A", "its objects; `get KIND -w` goes on showing changes"),
    ("rayplane top", "all of it on this terminal"),
    ("rayplane dashboard", "all of it in a browser"),
    ("rayplane chaos kill leader", "break something, and see it heal"),
    ("rayplane down", "end it; its data stays"),
)


def welcome(home: Path) -> list[str]:
    """What to print for who has this home."""
    found = sorted(home.glob(f"{HOME}/*/cluster.json"))
    if not found:
        return ["No cluster is here yet. Begin with one of:", *_aligned(_NONE, ""), _HELP]
    return [*(line for path in found for line in _told(StateDir(path.parent))), _HELP]


_HELP = "All commands: rayplane --help"


def _told(directory: StateDir) -> list[str]:
    try:
        state = directory.read()
    except ClusterError as e:
        return [str(e)]
    except OSError as e:
        return [f"{e.filename}: {refusal(e)}"]
    return _of(directory, state) if state is not None else []


def _of(directory: StateDir, state: ClusterState) -> list[str]:
    name, flags = state.config.name, directory.flags(state.config.name)
    if not state.running:
        return [f"Cluster {name!r} is down; its data is kept.", *_aligned((("rayplane up", "go on from it"),), flags)]
    if not state.topology.of(Role.SUPERVISOR) or not asyncio.run(
        answers(state.topology.of(Role.SUPERVISOR)[0], "grpc")
    ):
        again = (("rayplane up", "bring back what does not run"), ("rayplane status", "what is wrong"))
        return [f"Cluster {name!r} should run, and does not answer.", *_aligned(again, flags)]
    use = f"  export KUBECONFIG={directory.kubeconfig}"
    return [f"Cluster {name!r} runs.", use, *_aligned(_RUNS, flags)]


def _aligned(commands: tuple[tuple[str, str], ...], flags: str) -> Iterator[str]:
    width = max(len(command) for command, _ in commands) + len(flags) + 3
    return (f"  {command + flags:{width}}{what}" for command, what in commands)
