"""What is known of a cluster on the machine that brought it up: one directory, readable by its owner only.

cluster.json      configuration, address plan, topology at `up`, how to reach the host that runs it
pki/              authority, token key, keys of what is encrypted in etcd, the administrator's certificate
kubeconfig        for kubectl
data/ACTOR/       each actor's disk (on the machine the actor runs on)
logs/             each actor's log
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.cluster.config import AddressPlan, ClusterConfig
from control_plane.cluster.errors import ClusterError, NotUp
from control_plane.cluster.topology import Topology
from storage.env import DiskError, LocalDisk


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The content of cluster.json."""

    config: ClusterConfig
    plan: AddressPlan
    topology: Topology
    running: bool
    """Set before anything is started, cleared after everything is stopped."""
    host: dict[str, Any]
    """What the host needs to find its processes again (Ray address and pid, or the pid of the one process)."""
    encrypted: bool = False
    """Whether some of what is in etcd may be encrypted: without the keys it could not be read any more."""

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.to_json(),
            "slot": self.plan.slot,
            "topology": self.topology.to_json(),
            "running": self.running,
            "host": self.host,
            "encrypted": self.encrypted,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ClusterState":
        return ClusterState(
            config=ClusterConfig.from_json(data["config"]),
            plan=AddressPlan(data["slot"]),
            topology=Topology.from_json(data["topology"]),
            running=data["running"],
            host=data["host"],
            encrypted=data.get("encrypted", False),
        )


class StateDir:
    """The directory; made when first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(name: str, state_dir: str | None) -> "StateDir":
        return StateDir(Path(state_dir) if state_dir else Path.home() / ".rayplane" / name)

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def admin(self) -> Path:
        return self.pki / "admin"

    def create(self) -> LocalDisk:
        """Make the directory; ClusterError when that is impossible."""
        try:
            disk = LocalDisk(self.path)
            os.chmod(self.path, 0o700)
            self.logs.mkdir(exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise DiskError(f"cannot write to {self.path}; choose a writable --state-dir")
        except (DiskError, OSError) as e:
            raise ClusterError(f"{e}; choose a writable --state-dir") from e
        return disk

    def read(self) -> ClusterState | None:
        """None when there never was a cluster here."""
        try:
            return ClusterState.from_json(json.loads((self.path / "cluster.json").read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as e:
            raise ClusterError(f"{self.path / 'cluster.json'} is damaged ({e}); run `rayplane down --purge`") from e

    def read_running(self) -> ClusterState:
        state = self.read()
        if state is None or not state.running:
            raise NotUp(f"no cluster is up in {self.path}; run `rayplane up`")
        return state

    def write(self, state: ClusterState) -> None:
        temporary = self.path / "cluster.json.tmp"
        temporary.write_text(json.dumps(state.to_json(), indent=1))
        os.replace(temporary, self.path / "cluster.json")

    def purge(self, *, keep_logs: bool = False) -> None:
        """Delete everything, data included."""
        if not keep_logs:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for entry in self.path.iterdir():
            if entry.is_dir() and entry != self.logs:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.is_file():
                entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Only what is empty.
            self.logs.rmdir()
            self.path.rmdir()
