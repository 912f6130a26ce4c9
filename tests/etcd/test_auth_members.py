"""Members with authentication on: tokens, permissions and their order, through faults, restarts and restores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server import restore_member
from rayplane.control_plane.rpc import Identity, RpcError
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.auth_pb2 import Permission, UserAddOptions
from tests.etcd.harness import EtcdCluster, etcd_cluster
from tests.etcd.test_auth import BOTH, GET, PUT, op


class Client:
    """One user of a cluster, with the token that one of the members gave it."""

    def __init__(self, cluster: EtcdCluster, token: str = "") -> None:
        self.cluster = cluster
        self.metadata = {"token": token} if token else {}

    def stub(self, service: str, endpoint: int = 0) -> Any:
        inner = self.cluster.stub(service, endpoint)
        metadata = self.metadata

        class WithToken:
            def __getattr__(self, name: str) -> Any:
                return lambda request: getattr(inner, name)(request, metadata=metadata)

        return WithToken()

    async def put(self, key: bytes, value: bytes = b"", endpoint: int = 0) -> Any:
        return await self.stub("KV", endpoint).Put(pb.PutRequest(key=key, value=value))

    async def get(self, key: bytes, endpoint: int = 0, **options: Any) -> Any:
        return await self.stub("KV", endpoint).Range(pb.RangeRequest(key=key, **options))

    async def auth(self, name: str, request: Any, endpoint: int = 0) -> Any:
        return await getattr(self.stub("Auth", endpoint), name)(request)


async def login(cluster: EtcdCluster, user: str, password: str | None = None, endpoint: int = 0) -> Client:
    request = pb.AuthenticateRequest(name=user, password=user if password is None else password)
    return Client(cluster, (await cluster.stub("Auth", endpoint).Authenticate(request)).token)


@contextlib.asynccontextmanager
async def refused(error: type[errors.EtcdError]) -> AsyncIterator[None]:
    with pytest.raises(RpcError) as caught:
        yield
    assert (caught.value.code, caught.value.message) == (error.status, error.prefix + error.text)


async def add_user(client: Client, name: str, *roles: str) -> None:
    await client.auth("UserAdd", pb.AuthUserAddRequest(name=name, password=name))
    for role in roles:
        await client.auth("UserGrantRole", pb.AuthUserGrantRoleRequest(user=name, role=role))


async def grant(client: Client, role: str, kind: int, key: bytes, end: bytes = b"", endpoint: int = 0) -> Any:
    permission = Permission(permType=kind, key=key, range_end=end)  # type: ignore[arg-type]
    return await client.auth(
        "RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=role, perm=permission), endpoint
    )


@contextlib.asynccontextmanager
async def guarded(members: int = 1, **options: Any) -> AsyncIterator[tuple[EtcdCluster, Client, Client]]:
    """Members with authentication on: (cluster, root, u). u may read and write a..c. Passwords are the names."""
    async with etcd_cluster(members, **({"bcrypt_cost": 4} | options)) as cluster:
        anyone = Client(cluster)
        await anyone.auth("RoleAdd", pb.AuthRoleAddRequest(name="r"))
        await grant(anyone, "r", BOTH, b"a", b"c")
        await add_user(anyone, "root", "root")
        await add_user(anyone, "u", "r")
        await anyone.auth("AuthEnable", pb.AuthEnableRequest())
        yield cluster, await login(cluster, "root"), await login(cluster, "u")


async def test_every_member_knows_a_token_as_soon_as_it_is_given_out() -> None:
    async with guarded(3) as (cluster, root, user):
        for giver in range(3):
            client = await login(cluster, "u", endpoint=giver)
            for member in range(3):
                await client.put(b"a", b"%d" % member, endpoint=member)
                await client.get(b"a", endpoint=member, serializable=True)
        tokens = {client.metadata["token"] for client in (root, user)}
        assert all(len(t.partition(".")[0]) == 16 for t in tokens) and len(tokens) == 2
        async with refused(errors.InvalidAuthToken):
            await Client(cluster, "made.99999").put(b"a")
        async with refused(errors.InvalidAuthToken):
            await Client(cluster, "made.1").get(b"a")
        async with refused(errors.InvalidAuthToken):
            await Client(cluster, "made").get(b"a")
        authorization = Client(cluster)
        authorization.metadata = {"authorization": user.metadata["token"]}
        await authorization.put(b"a")


class SlowTo:
    """Messages between members take long to reach one of them."""

    host = ""

    def delay(self, source: str, target: str) -> float:
        return 0.05 if target == self.host and source != "client" else 0.0


async def test_a_member_that_has_not_heard_of_a_token_waits_for_it() -> None:
    link = SlowTo()
    async with guarded(3, fabric=Fabric(link)) as (cluster, _, _):
        leader = await cluster.wait_leader()
        late = next(m for m in cluster.members if m is not leader)
        link.host = cluster.name_of(late)
        client = await login(cluster, "u", endpoint=cluster.endpoints.index(leader.client_address))
        assert late.machine.auth.issued < leader.machine.auth.issued
        await client.get(b"a", endpoint=cluster.endpoints.index(late.client_address), serializable=True)


async def test_what_a_user_may_is_what_its_roles_say() -> None:
    async with guarded() as (_, root, user):
        await user.put(b"a")
        assert (await user.get(b"a", range_end=b"c")).count == 1
        txn = pb.TxnRequest(success=[op(GET(key=b"a")), op(GET(key=b"z"))])
        kv = user.stub("KV")
        for call in (
            user.put(b"c"),
            user.get(b"a", range_end=b"c\0"),
            user.get(b"z", serializable=True),
            kv.DeleteRange(pb.DeleteRangeRequest(key=b"a", range_end=b"\0")),
            kv.Txn(txn),
            kv.Txn(pb.TxnRequest(success=[op(PUT(key=b"c"))])),
            kv.Compact(pb.CompactionRequest(revision=1)),
            user.auth("UserList", pb.AuthUserListRequest()),
            user.auth("RoleAdd", pb.AuthRoleAddRequest(name="x")),
            user.auth("UserGet", pb.AuthUserGetRequest(name="root")),
            user.auth("RoleGet", pb.AuthRoleGetRequest(role="root")),
            user.auth("AuthDisable", pb.AuthDisableRequest()),
            user.auth("AuthStatus", pb.AuthStatusRequest()),
            user.stub("Maintenance").Defragment(pb.DefragmentRequest()),
            user.stub("Maintenance").Hash(pb.HashRequest()),
            user.stub("Maintenance").HashKV(pb.HashKVRequest()),
            user.stub("Maintenance").MoveLeader(pb.MoveLeaderRequest(targetID=1)),
            user.stub("Maintenance").Alarm(pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.NOSPACE)),
            user.stub("Cluster").MemberAdd(pb.MemberAddRequest(peerURLs=["http://x:1"])),
            user.stub("Cluster").MemberRemove(pb.MemberRemoveRequest(ID=1)),
            user.stub("Cluster").MemberUpdate(pb.MemberUpdateRequest(ID=1, peerURLs=["http://x:1"])),
            user.stub("Cluster").MemberPromote(pb.MemberPromoteRequest(ID=1)),
            anext(aiter(user.stub("Maintenance").Snapshot(pb.SnapshotRequest()))),
        ):
            async with refused(errors.PermissionDenied):
                await call
        assert list((await user.auth("UserGet", pb.AuthUserGetRequest(name="u"))).roles) == ["r"]
        assert (await user.auth("RoleGet", pb.AuthRoleGetRequest(role="r"))).perm[0].range_end == b"c"
        assert (await user.stub("Cluster").MemberList(pb.MemberListRequest())).members
        assert list((await root.auth("UserList", pb.AuthUserListRequest())).users) == ["root", "u"]
        assert (await root.auth("AuthStatus", pb.AuthStatusRequest())).enabled


async def test_nobody_may_nothing_once_authentication_is_on() -> None:
    async with guarded() as (cluster, root, _):
        nobody = Client(cluster)
        for call in (
            nobody.put(b"a"),
            nobody.get(b"a"),
            nobody.stub("KV").Txn(pb.TxnRequest(success=[op(GET(key=b"a"))])),
            nobody.stub("KV").Compact(pb.CompactionRequest(revision=1)),
            nobody.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=5)),
            nobody.stub("Lease").LeaseLeases(pb.LeaseLeasesRequest()),
            nobody.stub("Cluster").MemberAdd(pb.MemberAddRequest(peerURLs=["http://x:1"])),
            nobody.stub("Maintenance").Alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE)),
            nobody.auth("UserAdd", pb.AuthUserAddRequest(name="x", password="x")),
            nobody.auth("AuthDisable", pb.AuthDisableRequest()),
        ):
            async with refused(errors.UserEmpty):
                await call
        # Clients look for members before they log in, monitors never do.
        await nobody.stub("Cluster").MemberList(pb.MemberListRequest())
        await nobody.stub("Maintenance").Status(pb.StatusRequest())
        await nobody.stub("Maintenance").Alarm(pb.AlarmRequest())
        for name, password in (("u", "wrong"), ("ghost", ""), ("u", "")):
            async with refused(errors.AuthFailed):
                await login(cluster, name, password)
        options = UserAddOptions(no_password=True)
        await root.auth("UserAdd", pb.AuthUserAddRequest(name="cert", options=options))
        async with refused(errors.NoPasswordUser):
            await login(cluster, "cert")
        await root.auth("AuthDisable", pb.AuthDisableRequest())
        await nobody.put(b"a")
        async with refused(errors.AuthNotEnabled):
            await login(cluster, "u")


async def test_a_new_password_ends_the_tokens_of_the_old_one() -> None:
    async with guarded(3) as (cluster, root, user):
        await user.put(b"a", endpoint=2)
        await root.auth("UserChangePassword", pb.AuthUserChangePasswordRequest(name="u", password="new"))
        await cluster.applied_everywhere()
        for member in range(3):
            async with refused(errors.InvalidAuthToken):
                await user.put(b"a", endpoint=member)
        async with refused(errors.AuthFailed):
            await login(cluster, "u")
        await (await login(cluster, "u", "new")).put(b"a")


async def test_a_certificate_speaks_for_its_user_or_for_root() -> None:
    async with guarded() as (cluster, _, user):
        for identity, may_b, may_z in (
            (Identity("u"), True, False),
            (Identity("stranger"), False, False),
            (Identity("system:apiserver", ("system:masters",)), True, True),
        ):
            cluster.network = MemoryNetwork(cluster.fabric, "client", identity)
            client = Client(cluster)
            for key, may in ((b"b", may_b), (b"z", may_z)):
                if may:
                    await client.put(key)
                else:
                    async with refused(errors.PermissionDenied):
                        await client.put(key)
        # A token says more than a certificate.
        async with refused(errors.PermissionDenied):
            await Client(cluster, user.metadata["token"]).put(b"z")


async def test_a_watch_needs_permission_to_read_its_range() -> None:
    async with guarded() as (_, _, user):
        wanted = [
            (pb.WatchCreateRequest(key=b"a", range_end=b"c"), ""),
            (pb.WatchCreateRequest(key=b"a", range_end=b"\0"), "PermissionDenied desc = etcdserver: permission denied"),
            (pb.WatchCreateRequest(key=b"z"), "PermissionDenied desc = etcdserver: permission denied"),
        ]
        nobody = "InvalidArgument desc = etcdserver: user name is empty"
        bad = "Unauthenticated desc = etcdserver: invalid auth token"
        for client, create, reason in (
            *((user, create, reason) for create, reason in wanted),
            (Client(user.cluster), wanted[0][0], nobody),
            (Client(user.cluster, "bad.1"), wanted[0][0], bad),
        ):
            answer = await first_answer(client, create)
            assert (answer.created, answer.canceled) == (True, bool(reason))
            assert answer.cancel_reason == (f"rpc error: code = {reason}" if reason else "")
            assert answer.watch_id == (-1 if reason else 0)


async def first_answer(client: Client, create: pb.WatchCreateRequest) -> pb.WatchResponse:
    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield pb.WatchRequest(create_request=create)
        await asyncio.Event().wait()

    async with contextlib.aclosing(client.stub("Watch").Watch(requests())) as stream:
        async for answer in stream:
            return answer
    raise AssertionError("the stream ended without an answer")


async def test_leases_are_for_those_who_may_touch_their_keys() -> None:
    async with guarded() as (_, root, user):
        lease = await root.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=60))
        await user.stub("Lease").LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease.ID, keys=True))
        await root.stub("KV").Put(pb.PutRequest(key=b"z", lease=lease.ID))
        leases = user.stub("Lease")
        for call in (
            leases.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease.ID)),
            leases.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease.ID, keys=True)),
            leases.LeaseLeases(pb.LeaseLeasesRequest()),
            user.stub("KV").Put(pb.PutRequest(key=b"a", lease=lease.ID)),
            anext(aiter(leases.LeaseKeepAlive(once(pb.LeaseKeepAliveRequest(ID=lease.ID))))),
        ):
            async with refused(errors.PermissionDenied):
                await call
        assert (await leases.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease.ID))).grantedTTL == 60


async def once(request: Any) -> AsyncIterator[Any]:
    yield request


async def test_a_lease_runs_out_by_itself_under_authentication() -> None:
    async with guarded(3) as (_, root, _user):
        lease = await root.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=1))
        await root.stub("KV").Put(pb.PutRequest(key=b"a", lease=lease.ID))
        async with asyncio.timeout(60):
            while (await root.get(b"a")).count:
                await asyncio.sleep(0.05)


async def test_grants_and_writes_keep_the_order_of_the_log() -> None:
    """Writers that race with revocations and grants: each write stands on a grant that was in force at its place."""
    async with guarded(3) as (cluster, root, _):
        done = False
        outcomes: list[bool] = []

        async def write(member: int) -> None:
            client = await login(cluster, "u", endpoint=member)
            while not done:
                try:
                    await client.put(b"a", endpoint=member)
                    outcomes.append(True)
                except RpcError as e:
                    assert e.message in (
                        errors.PREFIX + errors.PermissionDenied.text,
                        errors.PREFIX + errors.AuthOldRevision.text,
                    )
                    outcomes.append(False)
                await asyncio.sleep(0)

        writers = [asyncio.create_task(write(member)) for member in range(3)]
        revoke = pb.AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c")
        for turn in range(10):
            closed = await root.auth("RoleRevokePermission", revoke, turn % 3)
            for _ in range(3):
                async with refused(errors.PermissionDenied):
                    await (await login(cluster, "u", endpoint=turn % 3)).put(b"a", endpoint=turn % 3)
            opened = await grant(root, "r", BOTH, b"a", b"c", (turn + 1) % 3)
            assert opened.header.revision == closed.header.revision, "nothing was written while nobody might"
            seen = len(outcomes)
            while True not in outcomes[seen:]:
                await asyncio.sleep(0.001)
        done = True
        await asyncio.gather(*writers)
        assert False in outcomes


async def test_authentication_outlives_its_leader_and_every_restart() -> None:
    async with guarded(3) as (cluster, root, user):
        leader = cluster.name_of(await cluster.wait_leader())
        await cluster.kill(leader)
        await cluster.wait_leader()
        for endpoint in range(2):
            await user.put(b"a", endpoint=endpoint)
            async with refused(errors.PermissionDenied):
                await user.put(b"z", endpoint=endpoint)
            async with refused(errors.UserEmpty):
                await Client(cluster).put(b"a", endpoint=endpoint)
        await cluster.start(leader)
        revision = (await root.auth("AuthStatus", pb.AuthStatusRequest())).authRevision
        for name in list(cluster.nodes):
            await cluster.stop(name)
        await cluster.start_all()
        async with refused(errors.UserEmpty):
            await Client(cluster).get(b"a")
        again = await login(cluster, "root")
        status = await again.auth("AuthStatus", pb.AuthStatusRequest())
        assert (status.enabled, status.authRevision) == (True, revision)
        assert again.metadata["token"].partition(".")[2] not in (
            root.metadata["token"].partition(".")[2],
            user.metadata["token"].partition(".")[2],
        )


async def test_a_member_that_lags_gets_the_users_with_the_snapshot() -> None:
    async with guarded(3, snapshot_count=20, catch_up_entries=5) as (cluster, root, user):
        follower = next(n for n in cluster.nodes if n != cluster.name_of(cluster.leader() or cluster.members[0]))
        await cluster.stop(follower)
        await add_user(root, "late", "r")
        await root.auth("UserChangePassword", pb.AuthUserChangePasswordRequest(name="u", password="new"))
        for number in range(60):
            await root.put(b"k%d" % number)
        member = await cluster.start(follower)
        await cluster.applied_everywhere()
        assert member.machine.auth.users() == ["late", "root", "u"]
        at = cluster.endpoints.index(member.client_address)
        client = await login(cluster, "late", endpoint=at)
        await client.put(b"a", endpoint=at)
        async with refused(errors.PermissionDenied):
            await client.get(b"z", endpoint=at, serializable=True)
        async with refused(errors.InvalidAuthToken):
            await user.put(b"a", endpoint=at)


async def test_a_backup_holds_the_users() -> None:
    async with guarded() as (cluster, _, _):
        chunks = list(cluster.members[0].store.snapshot())
    async with etcd_cluster(1, start=False, bcrypt_cost=4) as restored:
        node = restored.nodes["m0"]
        await restore_member(node.config, node.disk, chunks)
        await restored.start_all()
        async with refused(errors.UserEmpty):
            await restored.put(b"a", b"")
        await (await login(restored, "u")).put(b"a")


async def test_tokens_may_be_signed_instead(tmp_path: Any) -> None:
    (tmp_path / "key").write_bytes(b"s" * 64)
    option = f"jwt,sign-method=HS256,priv-key={tmp_path / 'key'}"
    async with guarded(3, auth_token=option) as (_, root, user):
        for endpoint in range(3):
            await user.put(b"a", endpoint=endpoint)
            async with refused(errors.PermissionDenied):
                await user.put(b"z", endpoint=endpoint)
        await root.auth("RoleAdd", pb.AuthRoleAddRequest(name="x"))
        async with refused(errors.AuthOldRevision):
            await user.put(b"a")
        async with refused(errors.InvalidAuthToken):
            await Client(user.cluster, user.metadata["token"] + "x").put(b"a")


async def test_the_same_seed_gives_the_same_tokens() -> None:
    tokens = []
    for _ in range(2):
        async with guarded() as (_, root, user):
            tokens.append((root.metadata, user.metadata))
    assert tokens[0] == tokens[1]
