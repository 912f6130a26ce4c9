"""A week of writes in minutes: what members hold in memory and on disk must not grow with what was written."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from rayplane.control_plane.cli.options import run
from rayplane.proto.etcd import rpc_pb2 as pb
from scripts.benchmarks.clusters import say
from scripts.benchmarks.machine import description
from scripts.benchmarks.members import MemberProcess, running_members
from scripts.benchmarks.report import Json, grows, show

CALL_TIMEOUT_S = 60.0
SAMPLE_S = 2.0
RETRY_S = 0.5
#: Growth below this, in MB, is no growth.
NOISE_MB = 16.0
BATCH_MAX = 128


@dataclass(frozen=True, slots=True)
class Load:
    """The writes of a run."""

    changes: int
    minutes: float
    keys: int
    value_bytes: int
    batch: int
    clients: int
    compact_s: float
    keep: int


def endurance(
    changes: Annotated[int, typer.Option(help="Changes to write; fewer if the time is over before.")] = 10_000_000,
    minutes: Annotated[float, typer.Option(help="Longest time to write.")] = 20,
    keys: Annotated[int, typer.Option(help="Different keys.")] = 3_000,
    value_bytes: Annotated[int, typer.Option(help="Size of a value.")] = 64,
    batch: Annotated[int, typer.Option(help="Puts in one transaction, which is one revision; 1 for plain puts.")] = 16,
    clients: Annotated[int, typer.Option(help="Clients that write at the same time.")] = 32,
    compact_s: Annotated[float, typer.Option(help="Seconds between two compactions.")] = 10,
    keep: Annotated[int, typer.Option(help="Revisions that a compaction leaves.")] = 10_000,
    members: Annotated[int, typer.Option(help="Members.")] = 1,
    json: Json = "",
) -> None:
    """Write for a long time; fail if memory or disk use grow with it."""
    if not 1 <= batch <= BATCH_MAX:
        raise typer.BadParameter(f"--batch {batch}: at most {BATCH_MAX} operations fit a transaction")
    machine = description()
    load = Load(changes, minutes, keys, value_bytes, batch, clients, compact_s, keep)
    samples, written, seconds = run(_write(load, members))
    rows = [_row(name, samples) for name in ("memory_mb", "resident_mb", "disk_mb")]
    notes = [
        f"{written:,} changes in {seconds:.0f} s ({written / seconds:,.0f}/s), {len(samples)} samples of "
        f"{members} member(s); half by changes written; memory is what is not backed by files"
    ]
    show("endurance", rows, machine, target=json, notes=notes)
    if any(row["grows"] for row in rows):
        sys.exit("bench: a member holds more the more was written")


def _row(name: str, samples: list[dict[str, float]]) -> dict[str, Any]:
    half = samples[-1]["written"] / 2
    first = max(s[name] for s in samples if s["written"] <= half)
    last = max(s[name] for s in samples if s["written"] > half)
    return {
        "figure": name,
        "first_half_max": round(first, 1),
        "second_half_max": round(last, 1),
        "at_the_end": round(samples[-1][name], 1),
        # Resident pages of the store's file are the system's cache: they may go up to the file's size.
        "grows": grows(first, last, NOISE_MB),
        "samples": [round(s[name], 1) for s in samples],
    }


async def _write(load: Load, count: int) -> tuple[list[dict[str, float]], int, float]:
    root = Path(tempfile.mkdtemp(prefix="rp-bench-"))
    try:
        async with running_members(count, root) as members:
            return await _Writer(load, members).run()
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _Writer:
    def __init__(self, load: Load, members: list[MemberProcess]) -> None:
        self._load, self._members = load, members
        self._channels = [grpc.aio.insecure_channel(m.client) for m in members]
        self._next = self._written = 0
        self._revision = 0
        self._begin = time.monotonic()
        self._samples: list[dict[str, float]] = []

    async def run(self) -> tuple[list[dict[str, float]], int, float]:
        compacting = asyncio.create_task(self._compact())
        sampling = asyncio.create_task(self._sample())
        try:
            await asyncio.gather(*(self._client(n) for n in range(self._load.clients)))
            seconds = time.monotonic() - self._begin
        finally:
            for task in (compacting, sampling):
                task.cancel()
            await asyncio.gather(compacting, sampling, return_exceptions=True)
            for channel in self._channels:
                await channel.close()
        self._take_sample()
        return self._samples, self._written, seconds

    async def _client(self, number: int) -> None:
        channel = self._channels[number % len(self._channels)]
        txn = channel.unary_unary("/etcdserverpb.KV/Txn", response_deserializer=pb.TxnResponse.FromString)
        end = self._begin + 60 * self._load.minutes
        while self._next < self._load.changes and time.monotonic() < end:
            first, self._next = self._next, self._next + self._load.batch
            try:
                answer = await txn(self._request(first), timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(RETRY_S)
                continue
            self._revision = max(self._revision, answer.header.revision)
            self._written += self._load.batch

    def _request(self, first: int) -> bytes:
        load = self._load
        value = (b"%d " % first).ljust(load.value_bytes, b"v")
        numbers = (n * 7919 % load.keys for n in range(first, first + load.batch))
        puts = [pb.RequestOp(request_put=pb.PutRequest(key=b"/endurance/%06d" % n, value=value)) for n in numbers]
        return pb.TxnRequest(success=puts).SerializeToString()

    async def _compact(self) -> None:
        call = self._channels[0].unary_unary("/etcdserverpb.KV/Compact")
        while True:
            await asyncio.sleep(self._load.compact_s)
            revision = self._revision - self._load.keep
            if revision > 0:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call(pb.CompactionRequest(revision=revision).SerializeToString(), timeout=CALL_TIMEOUT_S)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self._take_sample()
            sample = self._samples[-1]
            say.print(
                f"{self._written:,} changes, {sample['memory_mb']:.0f} MB memory, {sample['disk_mb']:.0f} MB on disk",
                end="\r",
            )

    def _take_sample(self) -> None:
        memory = [_memory(m.pid) for m in self._members]
        self._samples.append(
            {
                "written": self._written,
                "memory_mb": max(m["RssAnon"] for m in memory),
                "resident_mb": max(m["VmRSS"] for m in memory),
                "disk_mb": max(_disk_mb(m.data_dir) for m in self._members),
            }
        )


def _memory(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: int(rest.split()[0]) / 1024 for name, _, rest in (x.partition(":") for x in lines) if "kB" in rest}


def _disk_mb(root: Path) -> float:
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(directory, name)).st_blocks * 512
    return total / 2**20
