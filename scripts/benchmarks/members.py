"""rayplane's etcd members as processes of their own on loopback, for tests and benchmarks.

async with running_members(3, root) as members:
    EtcdClient(network, [m.client for m in members])
    members[0].kill(); await members[0].wait(); await members[0].start()
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from scripts.benchmarks.machine import ends_with_its_parent

LOOPBACK = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class MemberFailed(RuntimeError):
    """The process ended instead of listening; the text is the last line it wrote."""


class MemberProcess:
    """One member; its addresses and data directory outlive its process."""

    def __init__(
        self, name: str, root: Path, *, client: str, peer: str, cluster: str = "", tls: Path | None = None
    ) -> None:
        """`cluster` as --initial-cluster; `tls`: a directory with ca.crt, tls.crt and tls.key."""
        self.name, self.client, self.peer = name, client, peer
        self.data_dir, self.log = root / name, root / f"{name}.log"
        self.flags: list[str] = []
        """More of the command line, for the next start."""
        self.about: dict[str, Any] = {}
        """What it printed when it listened last: name, member_id, cluster_id, client_url, peer_url."""
        self.process: asyncio.subprocess.Process | None = None
        self._tls, self._scheme = tls, "https" if tls is not None else "http"
        self._cluster = cluster or f"{name}={self.peer_url}"

    @property
    def peer_url(self) -> str:
        return f"{self._scheme}://{self.peer}"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def command(self) -> list[str]:
        certificates = []
        if self._tls is not None:
            for prefix in ("", "peer-"):
                certificates += [f"--{prefix}cert-file={self._tls}/tls.crt", f"--{prefix}key-file={self._tls}/tls.key"]
                certificates += [f"--{prefix}trusted-ca-file={self._tls}/ca.crt"]
        return [
            *(
                sys.executable,
                "-m",
                "rayplane.control_plane.etcd",
                f"--name={self.name}",
                f"--data-dir={self.data_dir}",
            ),
            *(f"--listen-client-urls={self._scheme}://{self.client}", f"--listen-peer-urls={self.peer_url}"),
            *(f"--initial-cluster={self._cluster}", *certificates, *self.flags),
        ]

    async def launch(self, env: Mapping[str, str] | None = None) -> None:
        """Start the process and return at once. `env`: added to this process's environment."""
        assert not self.running, f"{self.name} runs already"
        with self._open_log() as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=ends_with_its_parent,
            )

    async def listening(self) -> None:
        """Wait until it listens. Raises MemberFailed if it ends before."""
        assert self.process is not None and self.process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await self.process.stdout.readline()
        if not line:
            code = await self.wait()
            raise MemberFailed(f"{self.name} ended with {code}: {self.last_words()}")
        self.about = orjson.loads(line)

    async def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it listens. Raises MemberFailed."""
        await self.launch(env)
        await self.listening()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; the exit code, or minus the signal's number."""
        assert self.process is not None
        return await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL if that does not end it; the exit code."""
        self.kill(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def last_words(self) -> str:
        """The last line it wrote to standard error."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing was said"

    def _open_log(self) -> IO[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return open(self.log, "ab")


def new_members(
    count: int, root: Path, *, tls: Path | None = None, rng: random.Random | None = None
) -> list[MemberProcess]:
    """Founders m0, m1, ... of one cluster, on free ports of loopback; not started."""
    rng, taken = rng or random.Random(), set[int]()
    addresses: list[str] = []
    for _ in range(2 * count):
        port = free_port(LOOPBACK, taken, rng)
        taken.add(port)
        addresses.append(f"{LOOPBACK}:{port}")
    scheme = "https" if tls is not None else "http"
    cluster = ",".join(f"m{n}={scheme}://{addresses[2 * n + 1]}" for n in range(count))
    return [
        MemberProcess(f"m{n}", root, client=addresses[2 * n], peer=addresses[2 * n + 1], cluster=cluster, tls=tls)
        for n in range(count)
    ]


@contextlib.asynccontextmanager
async def running_members(
    count: int, root: Path, *, flags: Sequence[str] = (), tls: Path | None = None
) -> AsyncIterator[list[MemberProcess]]:
    """Founders that listen; all are ended in the end, their data stays."""
    members = new_members(count, root, tls=tls)
    try:
        for member in members:
            member.flags += flags
            await member.launch()
        for member in members:
            await member.listening()
        yield members
    finally:
        await end_members(members)


async def end_members(members: Sequence[MemberProcess]) -> None:
    """SIGTERM to all that run, then wait for them."""
    for member in members:
        member.kill(signal.SIGTERM)
    for member in members:
        if member.running:
            await member.stop()


@contextlib.asynccontextmanager
async def members_alone(count: int) -> AsyncIterator[tuple[list[str], Path, list[int], EtcdClient]]:
    """Members with TLS that have a leader: their endpoints, credentials, processes and a client. Deleted in the end."""
    root = Path(tempfile.mkdtemp(prefix="rp-members-"))
    authority = Secrets.create("bench").authority
    # Whoever shows it may do anything, so that an API server and its clients can show it too.
    credentials = authority.issue("bench", [MASTERS], hosts=[LOOPBACK, "localhost"])
    credentials.write(root / "tls")
    network = GrpcNetwork(credentials)
    try:
        async with running_members(count, root / "data", tls=root / "tls") as members:
            endpoints = [m.client for m in members]
            etcd = EtcdClient(network, endpoints)
            async with asyncio.timeout(START_TIMEOUT_S):
                while not (await etcd.status(endpoints[0])).leader:
                    await asyncio.sleep(0.1)
            yield endpoints, root / "tls", [m.pid for m in members], etcd
    finally:
        await network.close()
        shutil.rmtree(root, ignore_errors=True)
