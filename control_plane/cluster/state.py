"""The state directory of a cluster on the machine that brought it up, readable by its owner only.

cluster.json      configuration, address plan, topology at `up`, how to reach the host that runs it
pki/              authority, token key, keys of what is encrypted in etcd, the administrator's certificate
kubeconfig        for kubectl
data/ACTOR/       each actor's disk (on the machine the actor runs on)
logs/             each actor's log
broken.json       what chaos has broken and not healed yet
lock              held by the command that brings it up or down
chaos.lock        held by the command that puts it to a trial
clock             by how much its time has been led ahead of the machine's
test-env          says that it is deleted by `rayplane test-env stop`, and with who asked for it
.rayplane         says that the directory is ours

Nothing else in it is ever deleted: who adds a name adds it to `_NAMES`.
"""

import contextlib
import json
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig, check_name
from rayplane.control_plane.cluster.errors import ClusterError, NewerState, NotUp, UsageError
from rayplane.control_plane.cluster.ours import TEST_ENV, is_marked, mark, remove, remove_known
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.control_plane.component_base.version import VERSION
from rayplane.storage.env import AheadClock, Clock, DiskError, LocalDisk
from rayplane.storage.env.private import make_private_dir, narrow, write_private
from rayplane.storage.formats import STATE, CorruptMark, Mark, NewerFormat, check

HOME = ".rayplane"
"""Of the directories of a user's clusters, each named for its cluster."""
BROKEN = "broken.json"
MADE = "made.json"
CHAOS_LOCK = "chaos.lock"
BUILD_CACHE = "layers-of-builds"
"""What image builds keep for the next ones."""
BUILDS = "builds"
"""Where image builds work."""
CLOCK = "clock"
_NAMES = (
    *("cluster.json", "cluster.json.tmp", "kubeconfig", "pki", "data", "lock", "logs"),
    *(BROKEN, f"{BROKEN}.tmp", MADE, CHAOS_LOCK, BUILD_CACHE, BUILDS, TEST_ENV, CLOCK),
)
CRI_SOCKET = "cri.sock"
"""In the directory of a node host."""
_LOGS_OF_START = {"ray.log", "process.out", "process.log"}


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
    founded: bool = False
    """Whether it has been up once: whoever has no data from then on has lost it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.to_json(),
            **self.plan.to_json(),
            "topology": self.topology.to_json(),
            "running": self.running,
            "host": self.host,
            "encrypted": self.encrypted,
            "founded": self.founded,
            "mark": {"format": STATE.newest, "build": VERSION},
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ClusterState":
        return ClusterState(
            config=ClusterConfig.from_json(data["config"]),
            plan=AddressPlan.from_json(data),
            topology=Topology.from_json(data["topology"]),
            running=data["running"],
            host=data["host"],
            encrypted=data.get("encrypted", False),
            founded=data.get("founded", False),
        )


class StateDir:
    """The directory; made when first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(name: str, state_dir: str | None) -> "StateDir":
        """Raises UsageError for a name or a path that is none."""
        check_name(name)
        if state_dir and "\0" in state_dir:
            raise UsageError(f"--state-dir {state_dir!r} has a byte 0, which no path has; give another")
        # What is printed of it is used in other directories too.
        return StateDir((Path(state_dir) if state_dir else Path.home() / HOME / name).absolute())

    def flags(self, name: str) -> str:
        """With which a command finds the cluster again: empty, or ` --name N`, ` --state-dir DIR`."""
        named = "" if name == "default" else f" --name {name}"
        usual = self.path == StateDir.of(name, None).path
        return named if usual else f"{named} --state-dir {shlex.quote(str(self.path))}"

    def command(self, words: str) -> str:
        """A command line that means the cluster of this directory, whatever its state can tell."""
        name = self.path.name if self.path.parent == Path.home() / HOME else "default"
        return f"rayplane {words}{self.flags(name)}"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def cri_socket(self, node_host: str) -> Path:
        """Where a node host serves CRI, on the machine that it runs on."""
        return self.path / "data" / node_host / CRI_SOCKET

    @property
    def admin(self) -> Path:
        return self.pki / "admin"

    def create(self) -> LocalDisk:
        """Make the directory ours; ClusterError when that is impossible, or it is somebody else's."""
        try:
            if not self.is_ours() and self._holds_anything():
                raise ClusterError(f"{self.path} holds files and no cluster; choose a new or empty --state-dir")
            disk = LocalDisk(self.path)
            if os.stat(self.path).st_uid != os.geteuid():
                # Its owner could put other keys in the place of ours.
                raise ClusterError(f"{self.path} belongs to another user; choose a --state-dir of your own")
            os.chmod(self.path, 0o700)
            if not os.access(self.path, os.W_OK):
                raise DiskError(f"cannot write to {self.path}")
            mark(self.path)
            make_private_dir(self.logs)
            # An older rayplane left these wider. What pods wrote is not touched.
            for folder in (self.pki, self.logs):
                narrow(folder)
        except (DiskError, OSError) as e:
            raise ClusterError(f"{str(e).partition(';')[0]}; choose a writable --state-dir") from e
        return disk

    def is_ours(self) -> bool:
        """Whether rayplane made it.

        A version before the marker left a state that can be read, and keys; or, of an `up` that failed, its log alone.
        """
        if is_marked(self.path):
            return True
        with contextlib.suppress(ClusterError, OSError):
            if self.read() is not None:
                return (self.pki / "ca.key").is_file()
            logs = {p.name for p in self.logs.iterdir()} if os.listdir(self.path) == ["logs"] else set()
            return bool(logs) and logs <= _LOGS_OF_START
        return False

    def check_ours(self) -> None:
        """ClusterError where there is a directory and rayplane did not make it."""
        if self.path.exists() and not self.is_ours():
            raise ClusterError(f"{self.path} holds no cluster of rayplane; nothing was done")

    def check_called(self, name: str, *, name_by: str = "--name", directory_by: str = "--state-dir") -> None:
        """UsageError where the cluster here is another one than was named; a state that cannot be read names none.

        `name_by`, `directory_by`: what gives a command the two.
        """
        state = None
        with contextlib.suppress(ClusterError, OSError):
            state = self.read()
        if state is not None and state.config.name != name:
            called = state.config.name
            raise UsageError(
                f"the cluster in {self.path} is called {called!r}, not {name!r}: give {name_by} {called}, or the "
                f"{directory_by} of {name!r} (RAYPLANE_NAME and RAYPLANE_STATE_DIR count where an option is not given)"
            )

    def _holds_anything(self) -> bool:
        return self.path.is_dir() and bool(os.listdir(self.path))

    def read(self) -> ClusterState | None:
        """None when there never was a cluster here. Raises NewerState, ClusterError."""
        try:
            data = json.loads((self.path / "cluster.json").read_bytes())
            _check_format(data, str(self.path))
            return ClusterState.from_json(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NewerFormat as e:
            raise NewerState(str(e)) from e
        except (ValueError, KeyError, TypeError, CorruptMark) as e:
            again = f"`{self.command('down --purge')}` deletes all of it"
            raise ClusterError(f"{self.path / 'cluster.json'} is damaged ({e}); {again}") from e

    def read_running(self) -> ClusterState:
        state = self.read()
        if state is None or not state.running:
            others = ", ".join(other.config.name for other in self.others() if other.running)
            instead = f", or give the --name of one that is: {others}" if others else ""
            raise NotUp(f"no cluster is up in {self.path}; run `{self.command('up')}`{instead}")
        return state

    def read_reachable(self) -> ClusterState:
        """The state of a running cluster of which is known where it is. Raises NotUp, ClusterError."""
        state = self.read_running()
        if not (state.topology.of(Role.SUPERVISOR) and state.topology.of(Role.LOAD_BALANCER)):
            up = self.command("up")
            raise NotUp(
                f"the cluster in {self.path} is not up yet; wait for `{up}`, or run it again where it was ended"
            )
        return state

    def others(self) -> list[ClusterState]:
        """Clusters beside this one, where directories are named for them."""
        if self.path.parent.name != HOME:
            return []
        found = []
        for file in sorted(self.path.parent.glob("*/cluster.json")):
            with contextlib.suppress(ClusterError, OSError):
                if file.parent != self.path and (state := StateDir(file.parent).read()) is not None:
                    found.append(state)
        return found

    def write(self, state: ClusterState) -> None:
        write_private(self.path / "cluster.json", json.dumps(state.to_json(), indent=1).encode())

    def read_ahead_s(self) -> float:
        """By how many seconds the cluster's time is ahead of the machine's."""
        try:
            return float((self.path / CLOCK).read_text())
        except FileNotFoundError:
            return 0.0
        except ValueError as e:
            raise ClusterError(f"{self.path / CLOCK} is damaged ({e}); run `rayplane down --purge`") from e

    def write_ahead_s(self, ahead_s: float) -> None:
        write_private(self.path / CLOCK, f"{ahead_s!r}\n".encode())

    @property
    def clock(self) -> Clock:
        """The cluster's time."""
        return AheadClock(self.read_ahead_s)

    def purge(self, *, keep_logs: bool = False) -> list[str]:
        """Delete all that rayplane made, data included; the names of what it did not make, which stays.

        ClusterError, and nothing is deleted, where the directory is not ours.
        """
        self.check_ours()
        if not self.path.exists():
            return []
        if self.path.is_symlink():
            raise ClusterError(f"{self.path} is a symbolic link; give the directory itself as --state-dir")
        kept = keep_logs and self.logs.is_dir() and bool(os.listdir(self.logs))
        return remove_known(self.path, [n for n in _NAMES if n != "logs" or not kept])

    def forget_data(self) -> None:
        """Delete what the actors have on their disks here. ClusterError when it cannot be deleted."""
        data = self.path / "data"
        if self.is_ours():
            remove(data)
            state = self.read()
            if state is not None:
                self.write(replace(state, founded=False))
        if os.path.lexists(data):
            raise ClusterError(f"{data} cannot be deleted; see what is in it")


def _check_format(data: Any, where: str) -> None:
    """Whether this build reads such a state. Raises NewerFormat, CorruptMark."""
    told = json.dumps(data["mark"]).encode() if isinstance(data, dict) and "mark" in data else None
    check(STATE, Mark.decode(told, where), where=where, build=VERSION)
