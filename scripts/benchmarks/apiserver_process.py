"""One API server as a process, for `api`: `python -m scripts.benchmarks.apiserver_process < JOB`.

JOB (JSON): etcd endpoints, directory of certificates, host:port of REST and of gRPC. Ends when it is told to (SIGTERM).
It is what an actor on Ray runs, with the same loop.
"""

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from rayplane.storage.env import settle_heap
from rayplane.storage.process import grow_heap


async def serve(job: dict[str, Any]) -> None:
    """Until SIGTERM."""
    # Imported here as an actor does: what it runs, once the collector knows.
    from rayplane.control_plane.apiserver.config import ApiServerConfig
    from rayplane.control_plane.apiserver.server import ApiServer
    from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
    from rayplane.control_plane.rpc.tls import Credentials
    from rayplane.storage.env import Env, LocalDisk, SystemClock

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    network = GrpcNetwork(Credentials.read(Path(job["credentials"])))
    config = ApiServerConfig(
        etcd_endpoints=tuple(job["endpoints"]),
        https_address=job["https"],
        grpc_address=job["grpc"],
        tls_dir=job["credentials"],
    )
    env = Env(clock=SystemClock(), rng=random.Random(), disk=LocalDisk(job["data"]))
    server = ApiServer(config, env, network)
    await server.start()
    settle_heap()
    await ended.wait()
    await server.stop()
    await network.close()


if __name__ == "__main__":
    grow_heap()
    uvloop.run(serve(json.load(sys.stdin)))
