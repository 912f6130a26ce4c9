"""Environments: Pythons that have a rayplane installed, which may be of another build than the one that asks."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.component_base.version import VERSION
from rayplane.storage.formats import MEMBER, NODE_HOST, STATE, SUPERVISOR

CARRIED_MODULE = "rayplane.control_plane.cluster.carried_process"
ASK = "--build"
ASK_TIMEOUT_S = 60.0
_FORMATS = {"member": MEMBER, "node-host": NODE_HOST, "supervisor": SUPERVISOR, "state": STATE}


@dataclass(frozen=True, slots=True)
class Build:
    """A build of rayplane: its version, the environment's Python, and the newest formats of data that it reads."""

    version: str
    python: str
    formats: dict[str, int]

    @staticmethod
    def own() -> "Build":
        return Build(VERSION, sys.executable, {name: kept.newest for name, kept in _FORMATS.items()})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def reads_less_than(self, other: "Build") -> list[str]:
        """Kinds of data of which it reads only older formats than the other one writes."""
        return sorted(kind for kind, newest in other.formats.items() if self.formats.get(kind, 1) < newest)


def environment() -> dict[str, str]:
    """The variables for another environment's Python: what leads to this one's packages is left out."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def build_of(python: str) -> Build:
    """The build that an environment has. Raises UsageError where it has none that can run parts of a cluster."""
    try:
        asked = subprocess.run(
            [python, "-m", CARRIED_MODULE, ASK],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
        told = json.loads(asked.stdout)
        return Build(str(told["version"]), python, {str(k): int(v) for k, v in told["formats"].items()})
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError) as e:
        said = (getattr(e, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
        why = said[-1] if said else str(e)
        raise UsageError(f"{python} has no rayplane that can take over parts of a cluster: {why}") from e


def check_reads_all(wanted: Build, present: Build) -> None:
    """Raises ClusterError where the data of the present build could not be read any more."""
    if less := wanted.reads_less_than(present):
        raise ClusterError(
            f"rayplane {wanted.version} cannot read what {present.version} writes ({', '.join(less)}): stay with that, "
            f"or bring up another cluster with it from a snapshot: `rayplane restore FILE --name OTHER`"
        )
