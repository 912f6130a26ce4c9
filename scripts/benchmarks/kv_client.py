"""The etcd clients of `kv`, in a process of their own: `python -m scripts.benchmarks.kv_client < JOB`.

Prints a line when the clock starts, and one with the figures (JSON) when it stops.

JOB (JSON): endpoints, credentials directory, operation (put, range, serializable), clients, seconds, value bytes.
Each client is a task that calls again as soon as it has its answer. Requests are encoded before the clock starts and
answers are not decoded, so that what is measured is the server's work as far as a Python client can make it so.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials
from rayplane.proto.etcd import rpc_pb2 as pb

KEYS = 1000
# Real clients multiplex calls over few connections, too.
CONNECTIONS = 8
CALL_TIMEOUT_S = 20.0
WARM_UP_S = 0.5


def _requests(operation: str, value_bytes: int) -> tuple[str, list[bytes]]:
    keys = [b"/bench/%06d" % n for n in range(KEYS)]
    if operation == "put":
        value = b"v" * value_bytes
        return "/etcdserverpb.KV/Put", [pb.PutRequest(key=k, value=value).SerializeToString() for k in keys]
    serializable = operation == "serializable"
    requests = [pb.RangeRequest(key=k, serializable=serializable).SerializeToString() for k in keys]
    return "/etcdserverpb.KV/Range", requests


def _channels(endpoints: list[str], credentials: Credentials, clients: int) -> list[grpc.aio.Channel]:
    options = (("grpc.ssl_target_name_override", INTERNAL_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1))
    count = max(len(endpoints), min(clients, CONNECTIONS) // len(endpoints) * len(endpoints))
    return [
        grpc.aio.secure_channel(endpoints[n % len(endpoints)], credentials.grpc_channel(), options=options)
        for n in range(count)
    ]


async def _fill(channel: grpc.aio.Channel, value_bytes: int) -> None:
    """Put what is read."""
    path, requests = _requests("put", value_bytes)
    put = channel.unary_unary(path)
    for at in range(0, KEYS, 50):
        await asyncio.gather(*(put(r, timeout=CALL_TIMEOUT_S) for r in requests[at : at + 50]))


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Latencies of the calls that began in time, seconds until the last ended, and what this process itself used."""
    path, requests = _requests(job["operation"], job["value_bytes"])
    channels = _channels(job["endpoints"], Credentials.read(Path(job["credentials"])), job["clients"])
    calls = [c.unary_unary(path) for c in channels]
    if job["operation"] != "put":
        await _fill(channels[0], job["value_bytes"])
    latencies, errors, loop = list[float](), dict[str, int](), asyncio.get_running_loop()
    answered = [loop.create_future() for _ in range(job["clients"])]
    begin = end = float("inf")

    async def client(number: int) -> None:
        call, first = calls[number % len(calls)], answered[number]
        turn, counted = number * 7919, 0
        # One answer at least is measured, however long it takes: what is slow is not nothing.
        while (start := time.perf_counter()) < end or (not counted and start < end + CALL_TIMEOUT_S):
            try:
                await call(requests[turn % KEYS], timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as e:
                errors[e.code().name] = errors.get(e.code().name, 0) + 1
                await asyncio.sleep(0.05)
                continue
            if not first.done():
                first.set_result(None)
            turn, counted = turn + 1, counted + (start >= begin)
            if counted:
                latencies.append((time.perf_counter() - start) * 1000)

    clients = [loop.create_task(client(n)) for n in range(job["clients"])]
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await asyncio.gather(*answered)  # all are connected
    await asyncio.sleep(WARM_UP_S)
    begin, cpu = time.perf_counter(), time.process_time()
    end = begin + job["seconds"]
    print("begin", flush=True)
    await asyncio.gather(*clients)
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    for channel in channels:
        await channel.close()
    return {
        "latencies_ms": [round(v, 3) for v in latencies],
        "errors": errors,
        "seconds": seconds,
        "client_cores": round(used / seconds, 2),
    }


def main() -> None:
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
