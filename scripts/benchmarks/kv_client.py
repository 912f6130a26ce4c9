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


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Latencies in milliseconds of all calls, and what this process itself used."""
    path, requests = _requests(job["operation"], job["value_bytes"])
    channels = _channels(job["endpoints"], Credentials.read(Path(job["credentials"])), job["clients"])
    calls = [c.unary_unary(path) for c in channels]
    if job["operation"] != "put":
        _, fill = _requests("put", job["value_bytes"])
        put = channels[0].unary_unary("/etcdserverpb.KV/Put")
        for at in range(0, KEYS, 50):
            await asyncio.gather(*(put(r, timeout=CALL_TIMEOUT_S) for r in fill[at : at + 50]))
    latencies: list[float] = []
    errors: dict[str, int] = {}
    begin = time.perf_counter() + WARM_UP_S
    end = begin + job["seconds"]

    async def client(number: int) -> None:
        call = calls[number % len(calls)]
        turn = number * 7919
        while (start := time.perf_counter()) < end:
            try:
                await call(requests[turn % KEYS], timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as e:
                errors[e.code().name] = errors.get(e.code().name, 0) + 1
                await asyncio.sleep(0.05)
                continue
            now = time.perf_counter()
            turn += 1
            if start >= begin and now <= end:
                latencies.append((now - start) * 1000)

    clients = [asyncio.ensure_future(client(n)) for n in range(job["clients"])]
    await asyncio.sleep(WARM_UP_S)
    print("begin", flush=True)
    cpu = time.process_time()
    await asyncio.gather(*clients)
    used = (time.process_time() - cpu) / job["seconds"]
    for channel in channels:
        await channel.close()
    return {"latencies_ms": [round(v, 3) for v in latencies], "errors": errors, "client_cores": round(used, 2)}


def main() -> None:
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
