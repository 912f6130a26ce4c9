"""What a client is told of a write, whatever becomes of the requests to etcd: lost before, lost after, applied late."""

import asyncio
import random
from collections.abc import Sequence

import grpc
import pytest

from rayplane.control_plane import etcd_errors
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, NotFound, ServiceUnavailable, Timeout
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.storage.encryption import Encryption
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.storage.hearing import Hearing
from rayplane.control_plane.apiserver.storage.outcomes import SPAN_S, surely_not_done
from rayplane.control_plane.apiserver.storage.store import Storage, Write
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.etcd import kv_pb2
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.apiserver.fake_etcd import FakeEtcd

MAPS = builtin_registry().by_name("configmaps")
LEASES = builtin_registry().by_name("leases.coordination.k8s.io")


class StormyEtcd(FakeEtcd):
    """An etcd that loses requests and answers; some requests are held up and applied when nobody counts on them."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.calm = False
        self.late: dict[asyncio.Task[None], None] = {}

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        timeout: float = 5,
    ) -> pb.TxnResponse:
        await asyncio.sleep(self.rng.uniform(0, 0.02))
        fates = ("done", "done", "refused", "unsent", "lost", "cut", "broken", "late")
        fate = "done" if self.calm else self.rng.choice(fates)
        if fate == "refused":
            raise etcd_errors.NoLeader()
        if fate == "unsent":
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "cannot connect", unsent=True)
        if fate == "lost":
            raise etcd_errors.LeaderChanged()
        if fate == "late":
            task = asyncio.get_running_loop().create_task(self._late(compare, success, failure))
            self.late[task] = None
            task.add_done_callback(lambda t: self.late.pop(t, None))
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        answer = await super().txn(compare, success, failure)
        if fate == "cut":
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
        if fate == "broken":
            raise RpcError(grpc.StatusCode.INTERNAL, "the answer ended within a message")
        return answer

    async def _late(self, *txn: Sequence) -> None:
        await asyncio.sleep(self.rng.expovariate(1.0))
        await super().txn(*txn)

    async def range(self, key: bytes, range_end: bytes = b"", *, timeout: float = 5, **options) -> pb.RangeResponse:  # type: ignore[no-untyped-def]
        if not self.calm and self.rng.random() < 0.2:
            raise etcd_errors.Timeout()
        return await super().range(key, range_end, timeout=timeout, **options)

    def writes(self, name: str) -> list[kv_pb2.Event]:
        return [e for _, e in self.history if e.kv.key.endswith(f"/{name}".encode())]


def storage_of(etcd: FakeEtcd) -> Storage:
    encryption = Encryption.parse(b"", random.randbytes)
    return Storage(etcd, Hearing(SPAN_S), server="s", update_attempts=32, encryption=encryption)  # type: ignore[arg-type]


def config_map(name: str, uid: str, **data: str) -> Object:
    meta = {"name": name, "namespace": "d", "uid": uid}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": data}


def lease(name: str, uid: str) -> Object:
    meta = {"name": name, "namespace": "d", "uid": uid}
    return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta}


async def test_a_write_of_a_term_stays_as_its_caller_made_it() -> None:
    """Asked for again it would begin the term twice, in one transaction that etcd refuses."""
    write = Write(lease("boss", "uid"))
    write.object["metadata"]["namespace"] = "kube-system"
    await storage_of(etcd := FakeEtcd()).create(LEASES, write)
    assert not write.effects and len(etcd.history) > 1, "the term has begun beside the Lease"


async def _create_and_delete(etcd: StormyEtcd, storage: Storage, name: str) -> None:
    """Nobody else has this name."""
    try:
        made = await storage.create(MAPS, Write(config_map(name, f"uid-{name}")))
        assert made.uid == f"uid-{name}"
    except ServiceUnavailable:
        await _calm(etcd)
        assert not etcd.writes(name), "told that nothing was done"
        return
    except Timeout as e:
        assert e.retry_after is None, "client-go would try again by itself"
        return

    async def remove(entry: Entry | None) -> Write:
        assert entry is not None
        return Write(entry.fresh_object(), delete=True)

    try:
        await storage.update(MAPS, "d", name, remove)
    except NotFound:
        raise AssertionError("a delete that went through was told that there is nothing") from None
    except ApiError:
        return
    await _calm(etcd)
    assert f"/registry/configmaps/d/{name}".encode() not in etcd.live, "it came back"


async def _update(etcd: StormyEtcd, storage: Storage, name: str) -> None:
    """Two writers; each of its values is in the history once if the update was acknowledged, and never if refused."""

    async def one(writer: str) -> None:
        for turn in range(6):
            value = f"{writer}{turn}"
            seen: list[int] = []

            async def change(entry: Entry | None, value: str = value, seen: list[int] = seen) -> Write:
                assert entry is not None
                if seen and entry.revision != seen[0]:
                    raise Conflict("the object has been modified")
                seen[:] = [entry.revision]
                return Write({**entry.fresh_object(), "data": {"value": value}})

            told: ApiError | None = None
            try:
                await storage.update(MAPS, "d", name, change)
            except ApiError as e:
                told = e
            found = sum(f'"{value}"'.encode() in e.kv.value for e in etcd.writes(name))
            if told is None:
                assert found == 1
            elif not isinstance(told, Timeout):
                assert found == 0, f"{told!r} for an update that was done"

    await asyncio.gather(one("a"), one("b"))


async def _change_and_delete(etcd: StormyEtcd, storage: Storage, name: str) -> None:
    """One deletes what another changes: who is told that there is nothing has changed nothing."""

    async def change(entry: Entry | None) -> Write:
        assert entry is not None
        return Write({**entry.fresh_object(), "data": {"value": f"of-{name}"}})

    async def remove(entry: Entry | None) -> Write:
        assert entry is not None
        return Write(entry.fresh_object(), delete=True)

    told = await asyncio.gather(
        *(storage.update(MAPS, "d", name, one) for one in (change, remove)), return_exceptions=True
    )
    await _calm(etcd)
    done = sum(f'"of-{name}"'.encode() in e.kv.value for e in etcd.writes(name))
    assert done == 1 if not isinstance(told[0], BaseException) else isinstance(told[0], Timeout) or done == 0, told[0]


async def _renew(etcd: StormyEtcd, storage: Storage, name: str) -> None:
    """Its only writer: what it meets is its own, also where its renewals travel with those of others."""
    mine = etcd.live[f"/registry/leases/d/{name}".encode()].mod_revision
    for turn in range(6):

        async def change(entry: Entry | None, turn: int = turn, mine: int = mine) -> Write:
            assert entry is not None
            if entry.revision != mine:
                raise Conflict("the object has been modified")
            return Write({**entry.fresh_object(), "spec": {"leaseTransitions": turn}})

        try:
            mine = (await storage.update(LEASES, "d", name, change))[0].revision
        except (Timeout, ServiceUnavailable):
            return


async def _calm(etcd: StormyEtcd) -> None:
    while etcd.late:
        await asyncio.wait([*etcd.late])


@pytest.mark.parametrize("seed", range(12))
def test_no_client_is_told_the_wrong_thing(seed: int) -> None:
    async def main() -> None:
        etcd = StormyEtcd(random.Random(seed))
        storage = storage_of(etcd)
        etcd.calm = True
        for name in ("shared", *(f"d{n}" for n in range(15))):
            await storage.create(MAPS, Write(config_map(name, f"uid-{name}")))
        for name in (f"r{n}" for n in range(20)):
            await storage.create(LEASES, Write(lease(name, f"uid-{name}")))
        etcd.calm = False
        await asyncio.gather(
            *(_create_and_delete(etcd, storage, f"c{n}") for n in range(25)), _update(etcd, storage, "shared")
        )
        answers = await asyncio.gather(
            *(storage.create(LEASES, Write(lease(f"l{n}", f"u{n}"))) for n in range(20)), return_exceptions=True
        )
        assert not [a for a in answers if isinstance(a, AlreadyExists)]
        await asyncio.gather(*(_renew(etcd, storage, f"r{n}") for n in range(20)))
        await asyncio.gather(*(_change_and_delete(etcd, storage, f"d{n}") for n in range(15)))
        await storage.stop()

    VirtualLoop().run(main())


def test_a_create_waits_for_a_leader_and_then_says_that_nothing_was_done() -> None:
    async def main() -> None:
        etcd = FakeEtcd()
        storage = storage_of(etcd)
        etcd.down = etcd_errors.NoLeader()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ServiceUnavailable) as told:
            await storage.create(MAPS, Write(config_map("a", "u")))
        assert SPAN_S - 1 <= loop.time() - began <= SPAN_S + 1
        assert told.value.retry_after == 1
        etcd.down = etcd_errors.Timeout()
        with pytest.raises(Timeout) as unknown:
            await storage.create(MAPS, Write(config_map("a", "u")))
        assert unknown.value.retry_after is None

    VirtualLoop().run(main())


def test_servers_of_one_name_and_a_lost_fence_only_cost_a_try() -> None:
    async def main() -> None:
        etcd = FakeEtcd()
        one, two = (storage_of(etcd) for _ in range(2))
        for n in range(4):
            etcd.lose_answers = 1
            await one.create(MAPS, Write(config_map(f"one{n}", f"one{n}")))
            await two.create(MAPS, Write(config_map(f"two{n}", f"two{n}")))
        await etcd.delete(b"/rayplane/fences/s")
        await one.create(MAPS, Write(config_map("last", "last")))
        with pytest.raises(AlreadyExists):
            await two.create(MAPS, Write(config_map("last", "other")))

    VirtualLoop().run(main())


def test_only_what_a_member_refused_is_surely_not_done() -> None:
    for done in (
        etcd_errors.LeaderChanged(),
        etcd_errors.Timeout(),
        etcd_errors.Stopped(),
        etcd_errors.TimeoutConnectionLost(),
    ):
        assert not surely_not_done(done)
    for refused in (
        etcd_errors.NoLeader(),
        etcd_errors.TooManyRequests(),
        etcd_errors.RequestTooLarge(),
        etcd_errors.NoSpace(),
    ):
        assert surely_not_done(refused)
    assert not surely_not_done(
        RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server reset the call (HTTP/2 error 11)")
    )
    assert not surely_not_done(RpcError(grpc.StatusCode.INTERNAL, "the answer ended within a message"))
