"""A cluster that a Python program brings up, uses and takes down."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, cast

from rayplane.control_plane.client.blocking import Client
from rayplane.control_plane.cluster import envtest, launch, stages
from rayplane.control_plane.cluster.access import access, endpoints
from rayplane.control_plane.cluster.advancing import advance
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.guardian import DOWN, guard
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.testing.chaos import Chaos
from rayplane.control_plane.testing.commands import NOW, CommandFailed, Commands

_up: "dict[str, Cluster]" = {}


class Flags(TypedDict, total=False):
    """The flags of `rayplane up` that are a ClusterConfig's; what is left out is as there."""

    address: str
    members: int
    apiservers: int
    schedulers: int
    controllers: int
    nodes: int
    nodes_per_host: int
    node_cpu: str
    node_memory: str
    autoscale: str
    unneeded_time: str
    ui: str
    runtime: str
    isolation: str
    network_policy: str
    egress: str
    egress_allow: str
    scheduling: str
    scheduler_config: str
    pull: str
    missing_images: str
    kubelet_config: str
    timing: str
    history: str
    audit_policy: str
    authentication_config: str
    authorization_config: str
    admission_config: str
    admission_config_file: str
    audit_policy_file: str
    authentication_config_file: str
    authorization_config_file: str
    authentication_webhook: str
    enable_admission_plugins: str
    disable_admission_plugins: str
    ray_tls: bool
    log_format: str


class Options(Flags, total=False):
    """All flags of `rayplane up`, and what its files say in place of their paths."""

    stages: Sequence[str | os.PathLike[str]]
    """Stages to put in: each one that comes along (`rayplane stages`), or a file or folder."""
    encryption_config: str
    """An EncryptionConfiguration of the API servers, in place of the cluster's own."""


class Cluster(Commands):
    """A cluster that is up inside a `with` block.

        with rayplane.Cluster(nodes=2) as cluster:
            cluster.kubectl("create", "deployment", "web", "--image=nginx")
            cluster.kubectl("rollout", "status", "deployment/web")

    `host` is `process` (everything in one other process, up in a second or two) or `ray`. With a `state_dir` the data
    stays, and the next cluster with that directory goes on from it; otherwise it is deleted in the end. `name` is made
    up where it is empty. Whatever ends the program, a signal too, ends the cluster. Every method blocks: asyncio has
    AsyncCluster.

    Raises ClusterError, whose text says what to do; its UsageError for options that make no sense.
    """

    def __init__(
        self,
        *,
        name: str = "",
        host: str = PROCESS,
        state_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.name = name or f"py-{secrets.token_hex(4)}"
        wanted = options.pop("stages", ())
        if isinstance(wanted, str):
            raise UsageError(f"stages is a list, such as [{wanted!r}], not one text")
        self._stages = [os.fspath(one) for one in wanted]
        self._encryption = options.pop("encryption_config", "").encode()
        self._config = ClusterConfig(name=self.name, host=host, **cast(Flags, options))
        self._config.validate()
        self._state_dir = state_dir
        self._directory: StateDir | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    @classmethod
    def up(
        cls,
        *,
        name: str = "",
        host: str = PROCESS,
        state_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """A cluster that is up already; `down` ends it, as does the end of this program."""
        made = cls(name=name, host=host, state_dir=state_dir, **options)
        made.start()
        return made

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up and wait until it is ready. What was started is ended where that fails."""
        played = stages.read(self._stages)

        async def begin(directory: StateDir) -> None:
            await launch.up(self._config, directory, _unheard, encryption=self._encryption)
            await stages.put(directory, played)

        self._bring_up(begin)

    def _bring_up(self, begin: Callable[[StateDir], Coroutine[Any, Any, object]]) -> None:
        if self._directory is not None:
            raise UsageError(f"cluster {self.name!r} was started already: stop it first")
        directory = StateDir.of(self.name, os.fspath(self._state_dir or tempfile.mkdtemp(prefix="rayplane-")))
        guardian = guard(directory.path, purge=self._state_dir is None)
        try:
            asyncio.run(begin(directory))
        except BaseException:
            guardian.communicate(DOWN)
            raise
        self._directory, self._guardian = directory, guardian
        _up[self.name] = self

    def stop(self) -> None:
        """End every process of the cluster. Nothing is done when it was never started."""
        if self._directory is not None:
            asyncio.run(launch.down(self._directory, _unheard, purge=self._state_dir is None))
            self._directory = None
            _up.pop(self.name, None)
        if self._guardian is not None:
            self._guardian.communicate(DOWN)
            self._guardian = None

    def down(self) -> None:
        """The same as `stop`, as the command line calls it."""
        self.stop()

    @property
    def state_dir(self) -> Path:
        """Where its state is kept: keys, logs, data."""
        return self.directory.path

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, helm and every client of Kubernetes, with an administrator's certificate."""
        return self.directory.kubeconfig

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where everything is, and which certificate to show there, as `rayplane endpoints -o json` prints it."""
        return endpoints(self.directory, self.directory.read_reachable())

    def client(self) -> Client:
        """A client of its API, with an administrator's certificate; to be closed."""
        found = self.endpoints
        return Client(found["grpc"], ca=found["ca"], cert=found["cert"], key=found["key"])

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with KUBECONFIG for this cluster."""
        return os.environ | {"KUBECONFIG": str(self.kubeconfig)}

    def status(self) -> dict[str, Any]:
        """What `rayplane status -o json` prints; `healthy` in it says whether every part works."""

        async def ask() -> dict[str, Any]:
            async with access(self.directory) as admin:
                return await status(admin)

        return asyncio.run(ask())

    @property
    def chaos(self) -> Chaos:
        """What breaks it on purpose: `chaos.kill("leader")`."""
        return Chaos(lambda: self.directory)

    def advance(self, span: str | float) -> None:
        """Let time pass: "2h", or seconds. Every timer that falls due meanwhile goes off in its turn.

        Raises TimeStands where a part of it is a process of its own, as all are on Ray. So are pods that are real
        programs: they keep the machine's time.
        """
        asyncio.run(advance(self.directory, span))

    def snapshot(self, file: str | os.PathLike[str]) -> Path:
        """Write its state to a file, whole or not at all; `restore` goes back to it."""
        # With it comes etcd's store.
        from rayplane.control_plane.cluster.backup import backup

        asyncio.run(backup(self.directory, Path(file), _unheard))
        return Path(file)

    def fork(
        self, at: str | int = NOW, *, name: str = "", state_dir: str | os.PathLike[str] | None = None
    ) -> "Cluster":
        """A second cluster, up already, that goes on from what this one was; this one runs on.

        `at`: an instant, see Commands; now by default.
        """
        made = Cluster(name=name, state_dir=state_dir)
        made.start_as_fork(self, at)
        return made

    def start_as_fork(self, origin: "Cluster", at: str | int = NOW) -> None:
        """The same as `start`, but it goes on from what another was (see `fork`), whose options it gets."""
        # With it comes etcd's store.
        from rayplane.control_plane.cluster.backup import fork

        source = origin.directory

        async def begin(directory: StateDir) -> None:
            state, _ = await fork(source, directory, self.name, str(at), _unheard)
            self._config = state.config

        self._bring_up(begin)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a rayplane command against this cluster; its standard output. `run("chaos", "kill", "leader")`."""
        place = ("--name", self.name, "--state-dir", str(self.state_dir))
        command = [sys.executable, "-m", "rayplane.control_plane.cli.main", *arguments, *place]
        return _output(command, stdin, self.environment)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl against this cluster; its standard output. `kubectl("apply", "-f", "-", stdin=manifest)`."""
        return _output([envtest.kubectl(), *arguments], stdin, self.environment)

    @property
    def directory(self) -> StateDir:
        """The state directory, for `control_plane.cluster`. ClusterError when it is not up."""
        if self._directory is None:
            raise ClusterError(f"cluster {self.name!r} is not up: use it inside `with`, or call start()")
        return self._directory


def left() -> list[Cluster]:
    """The clusters of this process that are up."""
    return [*_up.values()]


def _unheard(progress: str) -> None:
    """What the command line shows while one waits is no answer to a program."""


def _output(command: list[str], stdin: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stdout + done.stderr)
    return done.stdout
