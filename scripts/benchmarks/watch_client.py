"""The watchers of `watch`, in a process of their own: `python -m scripts.benchmarks.watch_client < JOB`.

Prints a line when all watches are created and the clock starts, and one with the figures (JSON) when it stops.

JOB (JSON): endpoints, credentials directory ("" for none), watchers, connections, streams, puts per second, seconds,
value bytes. The watches are shared out over the streams, the streams over the connections, as clients multiplex them.
Puts come at an even pace, each with its time in its value. Of an answer only the watch id and the times are looked
at, so that what is measured is the server's work as far as a Python client can make it so.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb

PREFIX, END = b"/bench/watch/", b"/bench/watch0"
KEYS = 1000
CALL_TIMEOUT_S = 20.0
#: How long events may be on their way after the last put.
DRAIN_S = 10.0
#: Of each watch's lags this many are kept: of every n-th event.
LAGS_MAX = 200_000
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
_TIME = re.compile(rb"@(\d{20})@")


class Watchers:
    """All streams and what came on them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.created = 0
        self.answers = 0
        self.delivered = 0
        self.lags: list[float] = []
        self.all_created = asyncio.Event()
        self._skip = 0

    async def stream(self, channel: grpc.aio.Channel, watches: int) -> None:
        """One stream, until it is cancelled."""
        call = channel.stream_stream("/etcdserverpb.Watch/Watch")(self._requests(watches))
        async for answer in call:
            times = _TIME.findall(answer)
            if times:
                self._events(times)
            else:
                self._created(pb.WatchResponse.FromString(answer))

    async def _requests(self, watches: int) -> AsyncIterator[bytes]:
        create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=PREFIX, range_end=END)).SerializeToString()
        for _ in range(watches):
            yield create
        await asyncio.get_running_loop().create_future()

    def _created(self, answer: pb.WatchResponse) -> None:
        if answer.canceled:
            raise RuntimeError(f"a watch was refused: {answer.cancel_reason}")
        if answer.created:
            self.created += 1
            if self.created == self.job["watchers"]:
                self.all_created.set()

    def _events(self, times: list[bytes]) -> None:
        self.answers += 1
        self.delivered += len(times)
        self._skip -= 1
        if self._skip < 0:
            self._skip = self.job["watchers"] * self.job["rate"] * self.job["seconds"] // LAGS_MAX
            now = time.perf_counter_ns()
            self.lags += [(now - int(sent)) / 1e6 for sent in times]


async def _put(channel: grpc.aio.Channel, job: dict[str, Any]) -> tuple[int, int]:
    """Puts at an even pace, whether or not the ones before were answered; how many succeeded and failed."""
    call = channel.unary_unary("/etcdserverpb.KV/Put")
    pending: set[asyncio.Task[None]] = set()
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        value = (b"@%020d@" % time.perf_counter_ns()).ljust(job["value_bytes"], b"v")
        request = pb.PutRequest(key=PREFIX + b"%06d" % (number % KEYS), value=value)
        try:
            await call(request.SerializeToString(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            failed += 1

    begin, count = time.perf_counter(), int(job["rate"] * job["seconds"])
    for number in range(count):
        wait = begin + number / job["rate"] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.get_running_loop().create_task(one(number))
        pending.add(task)
        task.add_done_callback(pending.discard)
    if pending:
        await asyncio.wait(pending)
    return count - failed, failed


def _channel(endpoint: str, credentials: str) -> grpc.aio.Channel:
    if not credentials:
        return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
    options = (("grpc.ssl_target_name_override", INTERNAL_SERVER_NAME), *_OPTIONS)
    return grpc.aio.secure_channel(endpoint, Credentials.read(Path(credentials)).grpc_channel(), options=options)


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Events delivered, lags in milliseconds, and what this process itself used."""
    endpoints = job["endpoints"]
    channels = [_channel(endpoints[n % len(endpoints)], job["credentials"]) for n in range(job["connections"] + 1)]
    watchers = Watchers(job)
    shares = [
        job["watchers"] * (n + 1) // job["streams"] - job["watchers"] * n // job["streams"]
        for n in range(job["streams"])
    ]
    loop = asyncio.get_running_loop()
    streams = [
        loop.create_task(watchers.stream(channels[1 + n % job["connections"]], share)) for n, share in enumerate(shares)
    ]
    ready = loop.create_task(watchers.all_created.wait())
    await asyncio.wait([ready, *streams], return_when=asyncio.FIRST_COMPLETED)
    for stream in streams:
        if stream.done():
            await stream
    print("begin", flush=True)
    begin, cpu = time.perf_counter(), time.process_time()
    puts, failed = await _put(channels[0], job)
    last = time.perf_counter()
    expected = puts * job["watchers"]
    while watchers.delivered < expected and time.perf_counter() < last + DRAIN_S:
        await asyncio.sleep(0.01)
    end = time.perf_counter()
    figures = {
        "puts": puts,
        "failed": failed,
        "expected": expected,
        "delivered": watchers.delivered,
        "answers": watchers.answers,
        "seconds": end - begin,
        "drain_s": end - last,
        "lags_ms": [round(lag, 2) for lag in watchers.lags],
        "client_cores": (time.process_time() - cpu) / (end - begin),
    }
    await cancel_and_wait(*streams)
    for channel in channels:
        await channel.close()
    return figures


def main() -> None:
    """Read the job, do it, print what came of it."""
    print(json.dumps(asyncio.run(run(json.loads(sys.stdin.read())))), flush=True)


if __name__ == "__main__":
    main()
