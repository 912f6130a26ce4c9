"""Users, roles and permissions: the rules by themselves, without members."""

import asyncio
import base64
import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server import MemberConfig, RefusedToStart
from rayplane.control_plane.etcd.server.codec import CorruptEntry, Kind
from rayplane.control_plane.etcd.server.services.passwords import ProcessSecrets, SimulatedSecrets
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.auth.checks import authorize
from rayplane.control_plane.etcd.server.state_machine.auth.ranges import Ranges, is_valid_grant
from rayplane.control_plane.etcd.server.state_machine.auth.store import INTERNAL, NOBODY, AuthStore, Caller, as_caller
from rayplane.control_plane.etcd.server.state_machine.auth.tokens import SimpleTokens, number_of, parse_auth_token
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.auth_pb2 import Permission
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store

READ, WRITE, BOTH = Permission.READ, Permission.WRITE, Permission.READWRITE

# Ranges

ALPHABET = [bytes(k) for n in (1, 2) for k in itertools.product(b"\x00ab\xff", repeat=n)]
KEYS = st.sampled_from(ALPHABET)
ENDS = st.one_of(st.just(b""), st.just(b"\0"), KEYS)


def contains(key: bytes, end: bytes, probe: bytes) -> bool:
    return probe == key if not end else key <= probe and (end == b"\0" or probe < end)


@given(st.lists(st.tuples(KEYS, ENDS).filter(lambda g: is_valid_grant(*g)), max_size=5), KEYS, ENDS)
def test_a_range_is_covered_when_every_key_in_it_is_granted(
    grants: list[tuple[bytes, bytes]], key: bytes, end: bytes
) -> None:
    if not is_valid_grant(key, end):
        return
    # The keys at and right behind each boundary stand for all keys between boundaries.
    bounds = {b for pair in [*grants, (key, end)] for b in pair if b}
    probes = {p for b in bounds for p in (b, b + b"\0", b + b"\0\0")} | {b"\xff" * 9}
    wanted = [p for p in probes if contains(key, end, p)]
    model = all(any(contains(*g, p) for g in grants) for p in wanted)
    assert Ranges(grants).covers(key, end) == model


def test_neighbouring_grants_count_as_one() -> None:
    ranges = Ranges([(b"b", b"c"), (b"a", b"b"), (b"x", b"\0"), (b"p", b"")])
    assert ranges.covers(b"a", b"c")
    assert not ranges.covers(b"a", b"c\0")
    assert ranges.covers(b"y", b"\0") and not ranges.covers(b"c", b"\0")
    assert ranges.covers(b"p") and not ranges.covers(b"p\0") and ranges.covers(b"p", b"p\0")
    assert not Ranges().covers(b"a")
    # Turned around, as a request may be: its first key decides, as in etcd.
    assert ranges.covers(b"b", b"a") and not ranges.covers(b"d", b"a")


# The rules


class Rules:
    """A store of users by itself, with requests applied to it at once."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(BUCKETS)
        self.tokens = SimpleTokens(300)
        self.auth = AuthStore(self.backend, self.tokens)
        self.lessor = Lessor()

    def do(self, kind: Kind, request: Any) -> Any:
        return self.auth.appliers[kind](request, 0.0)

    def user(self, name: str, *roles: str) -> None:
        hashed = base64.b64encode(b"hash of " + name.encode()).decode()
        self.do(Kind.USER_ADD, pb.AuthUserAddRequest(name=name, hashedPassword=hashed))
        for role in roles:
            self.do(Kind.USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user=name, role=role))

    def role(self, name: str, *grants: tuple[int, bytes, bytes]) -> None:
        self.do(Kind.ROLE_ADD, pb.AuthRoleAddRequest(name=name))
        for kind, key, end in grants:
            self.grant(name, kind, key, end)

    def grant(self, role: str, kind: int, key: bytes, end: bytes = b"") -> None:
        permission = Permission(permType=kind, key=key, range_end=end)  # type: ignore[arg-type]
        self.do(Kind.ROLE_GRANT_PERMISSION, pb.AuthRoleGrantPermissionRequest(name=role, perm=permission))

    def enable(self) -> None:
        self.do(Kind.AUTH_ENABLE, pb.AuthEnableRequest())

    def permits(self, caller: Caller | str, kind: Kind, request: Any) -> bool:
        who = Caller(caller, self.auth.revision) if isinstance(caller, str) else caller
        try:
            authorize(self.auth, self.lessor, who, kind, request)
        except errors.PermissionDenied:
            return False
        return True


def rules() -> Rules:
    """root; reader reads a..c, writer writes them, both reads and writes x."""
    made = Rules()
    made.role("r", (READ, b"a", b"c"))
    made.role("w", (WRITE, b"a", b"c"))
    made.role("b", (BOTH, b"x", b""))
    made.user("root", "root")
    for name, roles in (("reader", "r"), ("writer", "w"), ("both", "rwb"), ("none", "")):
        made.user(name, *roles)
    made.enable()
    return made


PUT, GET, DEL = pb.PutRequest, pb.RangeRequest, pb.DeleteRangeRequest


@pytest.mark.parametrize(
    ("kind", "request_", "permitted"),
    [
        (Kind.PUT, PUT(key=b"b"), "both root writer"),
        (Kind.PUT, PUT(key=b"c"), "root"),
        (Kind.PUT, PUT(key=b"b", prev_kv=True), "both root"),
        (Kind.DELETE_RANGE, DEL(key=b"a", range_end=b"c"), "both root writer"),
        (Kind.DELETE_RANGE, DEL(key=b"a", range_end=b"d"), "root"),
        (Kind.DELETE_RANGE, DEL(key=b"a", range_end=b"\0"), "root"),
        (Kind.DELETE_RANGE, DEL(key=b"a", range_end=b"c", prev_kv=True), "both root"),
        (Kind.LEASE_GRANT, pb.LeaseGrantRequest(TTL=9), "both none reader root writer"),
        (Kind.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=404), "both none reader root writer"),
        (Kind.ROLE_ADD, pb.AuthRoleAddRequest(name="n"), "root"),
        (Kind.AUTH_DISABLE, pb.AuthDisableRequest(), "root"),
        (Kind.USER_CHANGE_PASSWORD, pb.AuthUserChangePasswordRequest(name="reader"), "root"),
    ],
)
def test_who_may_do_what(kind: Kind, request_: Any, permitted: str) -> None:
    made = rules()
    assert " ".join(n for n in made.auth.users() if made.permits(n, kind, request_)) == permitted
    assert made.permits(INTERNAL, kind, request_)


def op(request: Any) -> pb.RequestOp:
    name = {PUT: "put", GET: "range", DEL: "delete_range", pb.TxnRequest: "txn"}[type(request)]
    return pb.RequestOp(**{f"request_{name}": request})


@pytest.mark.parametrize(
    ("transaction", "permitted"),
    [
        (pb.TxnRequest(compare=[pb.Compare(key=b"a")]), "both reader root"),
        (pb.TxnRequest(compare=[pb.Compare(key=b"a", range_end=b"z")]), "root"),
        (pb.TxnRequest(success=[op(PUT(key=b"a"))]), "both root writer"),
        (pb.TxnRequest(failure=[op(PUT(key=b"a", prev_kv=True))]), "both root"),
        (pb.TxnRequest(failure=[op(GET(key=b"a")), op(DEL(key=b"a"))]), "both root"),
        (pb.TxnRequest(success=[op(pb.TxnRequest(failure=[op(PUT(key=b"z"))]))]), "root"),
        (pb.TxnRequest(success=[op(pb.TxnRequest(compare=[pb.Compare(key=b"x")]))]), "both root"),
        (pb.TxnRequest(success=[op(DEL(key=b"a", prev_kv=True))]), "both root"),
    ],
)
def test_a_transaction_needs_what_all_its_branches_need(transaction: pb.TxnRequest, permitted: str) -> None:
    made = rules()
    assert " ".join(n for n in made.auth.users() if made.permits(n, Kind.TXN, transaction)) == permitted


def test_a_lease_belongs_to_those_who_may_write_its_keys() -> None:
    made = rules()
    made.lessor.grant(7, 60, 0.0)
    assert made.permits("none", Kind.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=7))
    made.lessor.attach(b"x", 7)
    made.lessor.attach(b"a", 7)
    for user, may in (("none", False), ("writer", False), ("both", True), ("root", True)):
        assert made.permits(user, Kind.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=7)) is may
        assert made.permits(user, Kind.PUT, PUT(key=b"b", lease=7)) is may


def test_callers_of_an_older_revision_and_unknown_ones_are_refused() -> None:
    made = rules()
    before = Caller("writer", made.auth.revision)
    assert made.permits(before, Kind.PUT, PUT(key=b"a"))
    made.do(Kind.ROLE_ADD, pb.AuthRoleAddRequest(name="unrelated"))
    with pytest.raises(errors.AuthOldRevision):
        made.permits(before, Kind.PUT, PUT(key=b"a"))
    with pytest.raises(errors.UserEmpty):
        made.permits(NOBODY, Kind.PUT, PUT(key=b"a"))
    with pytest.raises(errors.UserEmpty):
        made.permits(NOBODY, Kind.ROLE_ADD, pb.AuthRoleAddRequest(name="x"))
    with pytest.raises(errors.UserNotFound):
        made.permits("ghost", Kind.ROLE_ADD, pb.AuthRoleAddRequest(name="x"))
    assert not made.permits("ghost", Kind.PUT, PUT(key=b"a"))
    # What needs nobody's permission is not asked for one.
    assert made.permits(NOBODY, Kind.ALARM, pb.AlarmRequest())


def test_a_revocation_counts_at_once() -> None:
    made = rules()
    revocations: list[tuple[Kind, Any]] = [
        (Kind.ROLE_REVOKE_PERMISSION, pb.AuthRoleRevokePermissionRequest(role="w", key=b"a", range_end=b"c")),
        (Kind.USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest(name="writer", role="w")),
        (Kind.ROLE_DELETE, pb.AuthRoleDeleteRequest(role="w")),
        (Kind.USER_DELETE, pb.AuthUserDeleteRequest(name="writer")),
    ]
    for kind, request in revocations:
        made = rules()
        assert made.permits("writer", Kind.PUT, PUT(key=b"a"))
        made.do(kind, request)
        assert not made.permits("writer", Kind.PUT, PUT(key=b"a"))
    # A deleted role is not there again by its name.
    made = rules()
    made.do(Kind.ROLE_DELETE, pb.AuthRoleDeleteRequest(role="w"))
    made.role("w", (WRITE, b"a", b"c"))
    assert not made.permits("writer", Kind.PUT, PUT(key=b"a"))


def test_root_cannot_be_taken_away_while_authentication_is_on() -> None:
    made = Rules()
    with pytest.raises(errors.RootUserNotExist):
        made.enable()
    made.user("root")
    with pytest.raises(errors.RootRoleNotExist):
        made.enable()
    made.do(Kind.USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="root", role="root"))
    made.role("root")
    made.enable()
    for kind, request in (
        (Kind.USER_DELETE, pb.AuthUserDeleteRequest(name="root")),
        (Kind.ROLE_DELETE, pb.AuthRoleDeleteRequest(role="root")),
        (Kind.USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest(name="root", role="root")),
    ):
        with pytest.raises(errors.InvalidAuthManagement):
            made.do(kind, request)
    made.do(Kind.AUTH_DISABLE, pb.AuthDisableRequest())
    made.do(Kind.USER_DELETE, pb.AuthUserDeleteRequest(name="root"))


@pytest.mark.parametrize(
    ("kind", "request_", "error"),
    [
        (Kind.USER_ADD, pb.AuthUserAddRequest(), errors.UserEmpty),
        (Kind.USER_ADD, pb.AuthUserAddRequest(name="root"), errors.UserExists),
        (Kind.USER_ADD, pb.AuthUserAddRequest(name="n", hashedPassword="***"), errors.NoPasswordUser),
        (Kind.USER_DELETE, pb.AuthUserDeleteRequest(name="ghost"), errors.UserNotFound),
        (Kind.USER_CHANGE_PASSWORD, pb.AuthUserChangePasswordRequest(name="ghost"), errors.UserNotFound),
        (Kind.USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="root", role="ghost"), errors.RoleNotFound),
        (Kind.USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="ghost", role="r"), errors.UserNotFound),
        (Kind.USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest(name="none", role="r"), errors.RoleNotGranted),
        (Kind.ROLE_ADD, pb.AuthRoleAddRequest(), errors.RoleEmpty),
        (Kind.ROLE_ADD, pb.AuthRoleAddRequest(name="r"), errors.RoleExists),
        (Kind.ROLE_DELETE, pb.AuthRoleDeleteRequest(role="ghost"), errors.RoleNotFound),
        (Kind.ROLE_GRANT_PERMISSION, pb.AuthRoleGrantPermissionRequest(name="r"), errors.PermissionNotGiven),
        (
            Kind.ROLE_GRANT_PERMISSION,
            pb.AuthRoleGrantPermissionRequest(name="r", perm=Permission(key=b"b", range_end=b"a")),
            errors.InvalidAuthManagement,
        ),
        (
            Kind.ROLE_GRANT_PERMISSION,
            pb.AuthRoleGrantPermissionRequest(name="ghost", perm=Permission(key=b"b")),
            errors.RoleNotFound,
        ),
        (
            Kind.ROLE_REVOKE_PERMISSION,
            pb.AuthRoleRevokePermissionRequest(role="r", key=b"a"),
            errors.PermissionNotGranted,
        ),
    ],
)
def test_refused_changes_change_nothing(kind: Kind, request_: Any, error: type[errors.EtcdError]) -> None:
    made = rules()
    before = (made.auth.revision, list(made.backend.scan("auth_users")), list(made.backend.scan("auth_roles")))
    with pytest.raises(error):
        made.do(kind, request_)
    after = (made.auth.revision, list(made.backend.scan("auth_users")), list(made.backend.scan("auth_roles")))
    assert after == before


def test_everything_is_read_again_from_the_backend() -> None:
    made = rules()
    long = "n" * 2000
    made.user(long, "r")
    again = AuthStore(made.backend, SimpleTokens(300))
    again.load()
    assert (again.enabled, again.revision) == (True, made.auth.revision)
    assert again.users() == made.auth.users() and long in again.users()
    for user in again.users():
        assert again.roles_of(user) == made.auth.roles_of(user)
        assert again.password_of(user) == made.auth.password_of(user)
    for role in again.roles():
        assert again.permissions_of(role) == made.auth.permissions_of(role)
    again.tokens.assign("t.1", "u", 0.0)
    again.load()
    assert again.tokens.user_of("t.1", 0.0) == "u"
    made.do(Kind.USER_DELETE, pb.AuthUserDeleteRequest(name=long))
    again.load()
    assert long not in again.users()
    assert again.tokens.user_of("t.1", 0.0) is None, "it may have been ended by what was not seen"


def test_a_granted_range_is_changed_by_granting_it_again() -> None:
    made = rules()
    made.grant("r", WRITE, b"a", b"b")
    made.grant("r", BOTH, b"a", b"c")
    assert [(p.key, p.range_end, p.permType) for p in made.auth.permissions_of("r")] == [
        (b"a", b"b", WRITE),
        (b"a", b"c", BOTH),
    ]


def test_a_request_is_judged_where_it_is_applied() -> None:
    store = Store(MemoryBackend(BUCKETS))
    machine = StateMachine(store)
    put = pb.PutRequest(key=b"a", value=b"1")
    hashed = base64.b64encode(b"x").decode()
    for kind, request in (
        (Kind.USER_ADD, pb.AuthUserAddRequest(name="root", hashedPassword=hashed)),
        (Kind.USER_ADD, pb.AuthUserAddRequest(name="u", hashedPassword=hashed)),
        (Kind.USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="root", role="root")),
    ):
        machine.apply(kind, request, 0.0)
    # In somebody's name while nobody is asked for it: as proposed just before authentication was disabled.
    assert machine.apply(*as_caller(Kind.PUT, put, Caller("u", 1)), 0.0).header.revision == 2
    machine.apply(Kind.AUTH_ENABLE, pb.AuthEnableRequest(), 0.0)
    now = machine.auth.revision
    for kind, refused, error in (
        (Kind.PUT, put, errors.UserEmpty),  # proposed just before it was enabled
        (*as_caller(Kind.PUT, put, Caller("u", now)), errors.PermissionDenied),
        (*as_caller(Kind.PUT, put, Caller("root", now - 1)), errors.AuthOldRevision),
        (*as_caller(*as_caller(Kind.PUT, put, Caller("root", now)), INTERNAL), CorruptEntry),
        (Kind.AUTH_DISABLE, pb.AuthDisableRequest(), errors.UserEmpty),
    ):
        with pytest.raises(error):
            machine.apply(kind, refused, 0.0)
        assert store.revision == 2
    for caller in (Caller("root", now), INTERNAL):
        assert machine.apply(*as_caller(Kind.PUT, put, caller), 0.0).header.revision == store.revision
    assert store.revision == 4


# Tokens and passwords


def test_a_simple_token_lives_from_use_to_use() -> None:
    tokens = SimpleTokens(300)
    tokens.assign("t.1", "u", 0.0)
    tokens.assign("t.2", "v", 0.0)
    assert tokens.user_of("t.1", 299.0) == "u"
    assert tokens.user_of("t.2", 300.0) is None
    assert tokens.user_of("t.1", 598.0) == "u"
    tokens.forget_user("u")
    assert tokens.user_of("t.1", 599.0) is None and len(tokens) == 0
    assert [number_of(t) for t in ("abc.12", "abc", ".1", "a.b", "a.1.2", "a.-1")] == [12] + [None] * 5


class Now:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


def test_a_jwt_says_who_until_it_ends() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files = {"priv": private, "pub": public, "mac": b"s" * 64}
    maker = parse_auth_token("jwt,sign-method=ES256,priv-key=priv,ttl=1h30m", files.__getitem__)
    reader = parse_auth_token("jwt,sign-method=ES256,pub-key=pub", files.__getitem__)
    other = parse_auth_token("jwt,sign-method=HS256,priv-key=mac", files.__getitem__)
    assert maker is not None and reader is not None and other is not None
    clock = Now()
    token = maker.sign("u", 5, clock)
    assert reader.read(token, clock) == ("u", 5)
    assert other.read(token, clock) is None and reader.read(other.sign("u", 5, clock), clock) is None
    assert reader.read(token[:-8] + "AAAAAAAA", clock) is None
    clock.at += timedelta(minutes=90)
    assert reader.read(token, clock) is None
    with pytest.raises(errors.VerifyOnly):
        reader.sign("u", 5, clock)


@pytest.mark.parametrize(
    "option",
    [
        "other",
        "jwt",
        "jwt,sign-method=none",
        "jwt,sign-method=RS256",
        "jwt,sign-method=HS256,priv-key=missing",
        "jwt,sign-method=HS256,priv-key=k,ttl=soon",
        "jwt,sign-method=HS256,sign-method=HS256",
        "jwt,sign-method=RS256,priv-key=k",
    ],
)
def test_token_options_that_cannot_work_are_refused(option: str) -> None:
    def read(path: str) -> bytes:
        if path == "missing":
            raise FileNotFoundError(path)
        return b"k"

    with pytest.raises(RefusedToStart, match="auth_token"):
        parse_auth_token(option, read)
    assert parse_auth_token("simple", read) is None


def test_both_kinds_of_secrets_read_each_others_hashes() -> None:
    # In real time: one of them works in threads.
    asyncio.run(compare_secrets())


async def compare_secrets() -> None:
    simulated = SimulatedSecrets(random.Random(1), 4)
    for made in (simulated, ProcessSecrets(4)):
        hashed = await made.hash("pä\0ss")
        for judge in (simulated, ProcessSecrets(4)):
            assert await judge.matches("pä\0ss", hashed)
            assert not await judge.matches("pä", hashed)
            assert not await judge.matches("", b"")
        with pytest.raises(errors.PasswordTooLong):
            await made.hash("x" * 73)
        assert not await made.matches("x" * 73, await made.hash("x" * 72))
    again = SimulatedSecrets(random.Random(1), 4)
    assert (await again.hash("x"), again.token_prefix()) == (
        await (fresh := SimulatedSecrets(random.Random(1), 4)).hash("x"),
        fresh.token_prefix(),
    )


def test_settings_that_cannot_work_are_refused() -> None:
    good = MemberConfig(name="a", client_address="h:1", peer_address="h:2")
    for change in ({"bcrypt_cost": 3}, {"bcrypt_cost": 32}, {"auth_token_ttl_s": 0.0}):
        with pytest.raises(RefusedToStart):
            replace(good, **change).validate()
