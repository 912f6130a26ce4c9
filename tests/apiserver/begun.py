"""What each new cluster has, made once for all tests of a process: most of a test's time would go there.

A server over such an etcd finds there what servers make for every cluster alike. What is a cluster's own (its
addresses, its authorities) is left to the server of the test.
"""

import random
from dataclasses import dataclass

from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.etcd import kv_pb2
from rayplane.storage.env import Env, SystemClock
from tests.apiserver.fake_etcd import FakeEtcd

_OWN = (
    b"/registry/services/",
    b"/registry/servicecidrs/",
    b"/registry/ipaddresses/",
    b"/registry/configmaps/",
    b"/rayplane/allocations/",
)


@dataclass(frozen=True)
class _Begun:
    live: dict[bytes, kv_pb2.KeyValue]
    history: list[tuple[int, kv_pb2.Event]]


_begun: list[_Begun] = []


async def begin(etcd: FakeEtcd) -> None:
    """Make a new etcd as a first server left one, without what was that server's own."""
    assert etcd.revision == 1, "it is not new"
    if not _begun:
        _begun.append(await _first())
    found = _begun[0]
    etcd.live.update(found.live)
    etcd.history += found.history
    etcd.revision, _ = found.history[-1]  # watches hear of no later one


async def _first() -> _Begun:
    etcd, network = FakeEtcd(), MemoryNetwork(Fabric(), "first")
    config = ApiServerConfig(name="first", grpc_address="first:20000", https_address=None)
    env = Env(SystemClock(), random.Random(0), None)  # type: ignore[arg-type]
    server = ApiServer(config, env, network, etcd=etcd)  # type: ignore[arg-type]
    await server.start()
    await server.stop()
    await network.close()
    live = {key: kv for key, kv in etcd.live.items() if not kv.lease and not key.startswith(_OWN)}
    return _Begun(live, [(at, event) for at, event in etcd.history if event.kv.key in live])
