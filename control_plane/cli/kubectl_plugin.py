"""`kubectl rayplane`: the same commands, on the cluster that kubectl is talking to."""

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import HOME

SAID = ("--name", "--state-dir")
WITHOUT_CLUSTER = ("completion", "debug", "join", "learn", "replay", "simulate", "stages", "test-env")
"""Commands that take none, or one that is elsewhere."""
NAME_VARIABLE, STATE_VARIABLE = "RAYPLANE_NAME", "RAYPLANE_STATE_DIR"


def chosen(arguments: Sequence[str], environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Variables that make commands find kubectl's cluster; none where the arguments say which, or none is taken.

    Raises ClusterError where the kubeconfig leads elsewhere.
    """
    own = list(takewhile(lambda word: word != "--", arguments))
    if not own or any(word.partition("=")[0] in (*SAID, "--help") for word in own):
        return {}
    if own[0] in ("up", *WITHOUT_CLUSTER) or own[:2] == ["chaos", "schema"]:
        return {}
    context, server = _current(environ, home)
    beside = [file.parent for file in _files(environ, home) if (file.parent / "cluster.json").is_file()]
    known = [path.parent for path in sorted(home.glob(f"{HOME}/*/cluster.json"))]
    for directory in dict.fromkeys((*beside, *known)):
        if server in _servers(_read(directory / "kubeconfig")).values():
            usual = directory == home / HOME / directory.name
            # Both: what the environment says of another cluster does not count.
            return {NAME_VARIABLE: directory.name if usual else "", STATE_VARIABLE: "" if usual else str(directory)}
    if not server:
        where = f"kubectl's context {context!r} leads to no server" if context else "kubectl has no current context"
        raise ClusterError(f"{where}: run `export KUBECONFIG=$(rayplane kubeconfig)`, or give --name")
    raise ClusterError(
        f"kubectl's context {context!r} leads to {server}, which is no cluster of rayplane on this "
        "machine: choose another context, or give --name"
    )


def _current(environ: Mapping[str, str], home: Path) -> tuple[str, str]:
    """The current context and the server that it leads to. Of what several files say, the first has the word."""
    files = [_read(file) for file in _files(environ, home)]
    context = next((str(one["current-context"]) for one in files if one.get("current-context")), "")
    contexts: dict[str, dict[str, Any]] = {}
    servers: dict[str, str] = {}
    for one in reversed(files):
        contexts |= _named(one, "contexts", "context")
        servers |= _servers(one)
    return context, servers.get(str(contexts.get(context, {}).get("cluster")), "")


def _files(environ: Mapping[str, str], home: Path) -> list[Path]:
    said = [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return said or [home / ".kube" / "config"]


def _read(file: Path) -> dict[str, Any]:
    """What is said there. Raises ClusterError where it is no YAML."""
    import yaml  # imported here: others only take names of this module

    try:
        found = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ClusterError(f"{file} is no kubeconfig: choose another with KUBECONFIG, or give --name ({e})") from e
    return found if isinstance(found, dict) else {}


def _named(config: dict[str, Any], entries: str, inner: str) -> dict[str, dict[str, Any]]:
    """The entries of a list by their names, as far as it has the form of one."""
    said = config.get(entries)
    found = (
        {str(one.get("name")): one.get(inner) for one in said if isinstance(one, dict)}
        if isinstance(said, list)
        else {}
    )
    return {name: one if isinstance(one, dict) else {} for name, one in found.items()}


def _servers(config: dict[str, Any]) -> dict[str, str]:
    return {name: str(one.get("server", "")) for name, one in _named(config, "clusters", "cluster").items()}
