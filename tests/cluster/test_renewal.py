"""Certificates are renewed in time, and without a restart."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2

from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster import callers, outside, specs
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.pki import ACTOR_VALIDITY, Secrets, identity_of_actor, issue, renewed
from rayplane.control_plane.cluster.renewal import (
    RENEW_AT,
    Renewal,
    SupervisorKnown,
    _newest,
    newest,
    own_dir,
    renew_admin,
    tls_dir,
    write_admin,
)
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.identities import FRONT_PROXY
from rayplane.control_plane.rpc import Context, Identity, RpcError, Service, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.tls import (
    INTERNAL_SERVER_NAME,
    Authority,
    Credentials,
    Request,
    front_proxy_dir,
    identity_of,
)
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import objects_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.harness import cluster

NOW = datetime.now(UTC)
DUE = ACTOR_VALIDITY * RENEW_AT + timedelta(days=1)


class FakeClock:
    def __init__(self, now: datetime = NOW) -> None:
        self.moment = now

    def now(self) -> datetime:
        return self.moment


class Shown:
    """A network that remembers what it was told to show."""

    def __init__(self) -> None:
        self.credentials: list[Credentials] = []

    def renew(self, credentials: Credentials) -> None:
        self.credentials.append(credentials)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test")


def serial(cert: bytes) -> int:
    return x509.load_pem_x509_certificate(cert).serial_number


# --- one certificate ----------------------------------------------------------------------------


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue("x", ["g"], validity=ACTOR_VALIDITY)
    clock, shown = FakeClock(), Shown()
    keeper = Renewal(first, tmp_path, clock, shown)

    async def ask(request: bytes) -> bytes:
        return authority.sign(request, Identity("x", ("g",)), hosts=(), now=clock.now(), validity=ACTOR_VALIDITY)

    async def scenario() -> None:
        assert not await keeper.check(ask)
        clock.moment += DUE
        assert await keeper.check(ask)
        assert not await keeper.check(ask)

    asyncio.run(scenario())
    (second,) = shown.credentials
    assert second.key != first.key and serial(second.cert) != serial(first.cert)
    assert identity_of(second.cert) == identity_of(first.cert)
    assert second.life[1] - clock.now() == timedelta(days=90) - timedelta(microseconds=clock.now().microsecond)
    assert Credentials.read(tmp_path) == second


@pytest.mark.parametrize("days", [61, 180, 2000])
def test_where_time_was_led_far_ahead_a_certificate_is_renewed_once(tmp_path: Path, days: int) -> None:
    """It begins at the machine's present, and ends by the cluster's."""
    ahead, secrets, shown = timedelta(days=days), Secrets.create("x"), Shown()
    instance = Instance("member-0", Role.MEMBER, Machine())
    clock = FakeClock(NOW + ahead)
    keeper = Renewal(issue(secrets.authority, instance, "10.0.0.1"), tmp_path, clock, shown)

    async def ask(request: bytes) -> bytes:
        return renewed(secrets.authority, instance, "10.0.0.1", request=request, now=NOW, ahead=ahead)

    async def scenario() -> None:
        assert await keeper.check(ask) and not await keeper.check(ask)
        assert keeper._pause_s(1e9) == pytest.approx(timedelta(days=60).total_seconds(), abs=3600)
        clock.moment += DUE
        assert await keeper.check(ask)

    asyncio.run(scenario())


def test_where_time_was_led_far_ahead_the_administrators_certificate_is_not_renewed_by_each_command(
    tmp_path: Path,
) -> None:
    directory, secrets = StateDir(tmp_path), Secrets.create("x")
    directory.write_ahead_s(timedelta(days=2000).total_seconds())
    secrets.write(directory.pki)
    instances = (Instance("load-balancer", Role.LOAD_BALANCER, Machine(), {"https": 1}),)
    state = ClusterState(ClusterConfig(), AddressPlan(0), Topology(instances), running=True, host={})
    write_admin(directory, state, secrets, NOW)
    assert not renew_admin(directory, state, NOW)
    assert renew_admin(directory, state, NOW + timedelta(days=250))


@pytest.mark.parametrize("is_renewed", [False, True])
def test_a_certificate_that_is_shown_for_a_while_is_renewed_in_time_or_gives_way(
    authority: Authority, tmp_path: Path, is_renewed: bool
) -> None:
    first, directory = authority.issue("x", validity=ACTOR_VALIDITY), tmp_path / "x-tls"
    first.write(directory)
    clock, shown = FakeClock(), Shown()
    keeper = Renewal(first, directory, clock, shown)
    short = authority.issue("x", life=(NOW, NOW + timedelta(seconds=30)))

    async def ask(request: bytes) -> bytes:
        if not is_renewed:
            raise OSError("nobody believes it any more")
        return authority.sign(request, Identity("x"), hosts=(), now=clock.now(), validity=ACTOR_VALIDITY)

    async def main() -> None:
        task = asyncio.create_task(keeper.run(ask, every_s=600.0))
        await asyncio.sleep(1.0)
        keeper.show(short)
        assert Credentials.read(directory) == short and _newest(first, directory) == first, "as after a restart"
        clock.moment += timedelta(seconds=20.0)
        await asyncio.sleep(20.0)
        keeper.show_own()
        await cancel_and_wait(task)

    VirtualLoop().run(main())
    assert shown.credentials[0] == short and len(shown.credentials) == 2
    assert (shown.credentials[1] == first) != is_renewed
    assert Credentials.read(directory) == shown.credentials[1] and not own_dir(directory).exists()


def test_a_certificate_that_lacks_a_machine_is_renewed_at_once_and_once(authority: Authority, tmp_path: Path) -> None:
    """A load balancer there would lead to a server that is not taken for itself."""
    shown, machines = Shown(), ["192.0.2.1"]
    first = authority.issue("x", hosts=machines, validity=ACTOR_VALIDITY)
    keeper = Renewal(first, tmp_path, FakeClock(), shown, named=lambda: machines)
    issued = [["192.0.2.1", "192.0.2.2"], ["192.0.2.1"]]

    async def ask(request: bytes) -> bytes:
        return authority.sign(request, Identity("x"), hosts=issued.pop(0), now=NOW, validity=ACTOR_VALIDITY)

    async def scenario() -> None:
        assert not await keeper.check(ask)
        machines.append("192.0.2.2")
        assert await keeper.check(ask) and not await keeper.check(ask)
        machines.append("192.0.2.3")
        assert await keeper.check(ask) and not await keeper.check(ask), "though nobody gives it that name"

    asyncio.run(scenario())
    assert shown.credentials[0].addresses == {"192.0.2.1", "192.0.2.2"}
    assert authority.issue("x").addresses == frozenset()


def test_nothing_is_shown_that_is_no_certificate_of_the_cluster(authority: Authority, tmp_path: Path) -> None:
    other, shown = Authority.create("other"), Shown()
    keeper = Renewal(authority.issue("x", validity=ACTOR_VALIDITY), tmp_path, FakeClock(NOW + DUE), shown)

    async def of_another_authority(request: bytes) -> bytes:
        return other.sign(request, Identity("x"), hosts=(), now=NOW, validity=ACTOR_VALIDITY)

    async def of_another_key(request: bytes) -> bytes:
        return authority.issue("x").cert

    async def rubbish(request: bytes) -> bytes:
        return b"no"

    for answer in (of_another_authority, of_another_key, rubbish):
        with pytest.raises(OSError, match="no certificate of this cluster"):
            asyncio.run(keeper.check(answer))
    assert shown.credentials == [] and list(tmp_path.iterdir()) == []


async def test_a_supervisor_that_is_away_is_asked_again(authority: Authority, tmp_path: Path) -> None:
    shown, asked = Shown(), 0
    keeper = Renewal(authority.issue("x", validity=ACTOR_VALIDITY), tmp_path, FakeClock(NOW + DUE), shown)

    async def ask(request: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "away")
        return authority.sign(request, Identity("x"), hosts=(), now=NOW + DUE, validity=ACTOR_VALIDITY)

    task = asyncio.create_task(keeper.run(ask, every_s=0.0))
    async with asyncio.timeout(20):
        while not shown.credentials:
            await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert asked == 3


def test_an_actor_that_restarts_goes_on_with_what_it_renewed(tmp_path: Path) -> None:
    """Ray starts it with the arguments of its first start, whose certificate may have expired since."""
    secrets = Secrets.create("x")
    spec = _spec(secrets, tmp_path)
    assert spec.credentials is not None
    assert newest(spec) == spec
    later = secrets.authority.issue("x", now=NOW + DUE, validity=ACTOR_VALIDITY)
    later.write(tls_dir(spec))
    assert newest(spec) == replace(spec, credentials=later)
    # Not one of another cluster, nor what is broken.
    Authority.create("other").issue("x", now=NOW + DUE).write(tls_dir(spec))
    assert newest(spec) == spec
    (tls_dir(spec) / "tls.pem").write_bytes(b"")
    assert newest(spec) == spec


def test_an_actor_of_a_newer_version_does_not_show_what_an_older_one_issued(tmp_path: Path) -> None:
    """That lasted ten years, and was for other groups."""
    secrets = Secrets.create("x")
    spec = _spec(secrets, tmp_path)
    old = secrets.authority.issue("system:etcd:member-0", now=NOW - timedelta(days=1), validity=timedelta(days=3650))
    old.write(tls_dir(spec))
    assert newest(spec) == spec


def test_an_api_server_goes_on_with_both_that_it_renewed(tmp_path: Path) -> None:
    secrets = Secrets.create("x")
    spec = _spec(secrets, tmp_path, Instance("apiserver-0", Role.APISERVER, Machine()))
    assert spec.front_proxy is not None and newest(spec) == spec
    assert identity_of(spec.front_proxy.cert) == Identity(FRONT_PROXY)
    later = secrets.authority.issue("x", now=NOW + DUE, validity=ACTOR_VALIDITY)
    later.write(front_proxy_dir(tls_dir(spec)))
    assert newest(spec) == replace(spec, front_proxy=later)
    assert _spec(secrets, tmp_path).front_proxy is None


def test_a_supervisor_is_asked_where_it_is_by_now(tmp_path: Path) -> None:
    """Its machine was lost after the actor's spec was made."""
    supervisor = Instance("supervisor", Role.SUPERVISOR, Machine("lost"), {"grpc": 1})
    server = Instance("apiserver-0", Role.APISERVER, Machine("a"), {"grpc": 1})
    member = Instance("member-0", Role.MEMBER, Machine())
    spec = replace(_spec(Secrets.create("x"), tmp_path), topology=Topology((supervisor, server, member)))

    class Told:
        async def Endpoints(
            self, request: objects_pb2.EndpointsRequest, context: Context
        ) -> objects_pb2.EndpointsResponse:
            return objects_pb2.EndpointsResponse(grpc=["a:1"], supervisors=["elsewhere:1"])

    class Signs:
        async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
            return pb.RenewResponse(certificate=f"of {request.name}".encode() + request.csr)

    async def main() -> None:
        fabric = Fabric()
        one, other = objects_pb2.DESCRIPTOR.services_by_name["Discovery"], pb.DESCRIPTOR.services_by_name["Supervisor"]
        told = Service(one, Told(), callers=callers.DISCOVERY)
        await MemoryNetwork(fabric, "a").serve("a:1", [told])
        await MemoryNetwork(fabric, "s").serve("elsewhere:1", [Service(other, Signs(), callers=callers.SUPERVISOR)])
        ask = SupervisorKnown(spec, MemoryNetwork(fabric, "m")).ask()
        assert await ask(b" here") == b"of member-0 here"

    VirtualLoop().run(main())


def _spec(secrets: Secrets, directory: Path, instance: Instance | None = None) -> Spec:
    instance = instance or Instance("member-0", Role.MEMBER, Machine())
    maker = SpecMaker(config=ClusterConfig(), plan=AddressPlan(0), secrets=secrets, state_dir=str(directory))
    return maker.make(instance, Topology((instance,)), restarted=False)


# --- servers and clients ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(credentials: Credentials) -> AsyncIterator[tuple[GrpcNetwork, str]]:
    network = GrpcNetwork(credentials)
    server = await network.serve("127.0.0.1:0", [])
    try:
        yield network, server.address
    finally:
        await server.stop()
        await network.close()


async def health(network: GrpcNetwork, address: str) -> int:
    stub = Stub(network.channel(address), health_pb2.DESCRIPTOR.services_by_name["Health"])
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    return int(answer.status)


async def shown_by(address: str, mine: Credentials) -> int:
    """The serial number of the certificate that a server shows to a newcomer."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=mine.ca.decode())
    mine.load(context)
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=INTERNAL_SERVER_NAME)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.close()


async def test_a_renewed_certificate_is_shown_to_newcomers_and_calls_go_on(authority: Authority) -> None:
    first, second = (authority.issue("x") for _ in range(2))
    async with serving(first) as (network, address):
        assert await health(network, address) == 1
        assert await shown_by(address, first) == serial(first.cert)
        network.renew(second)
        assert await shown_by(address, first) == serial(second.cert)
        assert await health(network, address) == 1


async def test_who_shows_an_expired_certificate_is_refused_until_it_renews(authority: Authority) -> None:
    expired = authority.issue("x", now=NOW - timedelta(days=91), validity=ACTOR_VALIDITY)
    async with serving(authority.issue("server")) as (_, address):
        client = GrpcNetwork(expired)
        try:
            with pytest.raises(RpcError) as refused:
                await health(client, address)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            client.renew(authority.issue("x"))
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(RpcError):  # the channel waits a moment after a failure
                        assert await health(client, address) == 1
                        break
                    await asyncio.sleep(0.01)
        finally:
            await client.close()


def test_an_https_server_shows_what_its_directory_holds_now(authority: Authority, tmp_path: Path) -> None:
    first, second = (authority.issue("x") for _ in range(2))
    first.write(tmp_path)
    server, client = first.ssl_server(tmp_path), ssl.create_default_context(cadata=authority.cert.decode())

    def handshake() -> int:
        a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = client.wrap_bio(a, b, server_hostname=INTERNAL_SERVER_NAME)
        other = server.wrap_bio(b, a, server_side=True)
        for side in (one, other, one, other):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        der = one.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    assert handshake() == serial(first.cert)
    second.write(tmp_path)
    handshake()  # notices
    assert handshake() == serial(second.cert)
    (tmp_path / "tls.pem").write_bytes(b"torn")
    handshake()
    assert handshake() == serial(second.cert)


# --- a cluster ----------------------------------------------------------------------------------


async def test_a_running_cluster_renews_all_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first ones are old: each server comes to show another, and everything goes on."""
    first: set[int] = set()
    fronts: set[int] = set()

    def proxy_long_ago(authority: Authority) -> Credentials:
        made = authority.issue(FRONT_PROXY, now=NOW - DUE, validity=ACTOR_VALIDITY)
        fronts.add(serial(made.cert))
        return made

    def issued_long_ago(authority: Authority, instance: Instance, service: str, machines: object) -> Credentials:
        identity = identity_of_actor(instance)
        made = authority.issue(
            identity.user, identity.groups, hosts=["127.0.0.1"], now=NOW - DUE, validity=ACTOR_VALIDITY
        )
        first.add(serial(made.cert))
        return made

    monkeypatch.setattr(specs, "issue", issued_long_ago)
    monkeypatch.setattr(specs, "issue_front_proxy", proxy_long_ago)
    monkeypatch.setattr(outside, "CHECK_EVERY_S", 0.1)
    async with cluster(members=1, apiservers=1, nodes=1) as running:
        admin = Credentials.read(running.directory.admin)
        addresses = [f"127.0.0.1:{p}" for i in running.topology.instances for p in i.ports.values()]

        async def all_are_new() -> bool:
            return first.isdisjoint([await shown_by(a, admin) for a in addresses])

        await running.until(all_are_new, "every server shows another certificate")
        assert len(addresses) > 5 and len(first) == len(running.topology.instances)
        assert (await running.api.list("nodes")).items
        [front] = running.state_dir.glob("data/apiserver-0-tls/front-proxy")

        async def front_is_new() -> bool:
            return serial(Credentials.read(front).cert) not in fronts

        await running.until(front_is_new, "the front proxy's certificate is another")
        assert identity_of(Credentials.read(front).cert) == Identity(FRONT_PROXY)
        kept = {serial(Credentials.read(d).cert) for d in running.state_dir.glob("data/*-tls")}
        assert len(kept) == len(first) and kept.isdisjoint(first)


async def test_only_the_actor_itself_gets_its_next_certificate() -> None:
    async with cluster(members=1, apiservers=1, nodes=1) as running:
        asked = pb.RenewRequest(name="member-0", csr=Request().pem)
        with pytest.raises(RpcError) as refused:
            await running.supervisor.Renew(asked, timeout=10)
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
        member = running.topology.get("member-0")
        mine = GrpcNetwork(issue(running.secrets.authority, member, running.state.plan.first_service))
        try:
            endpoint = running.topology.of(Role.SUPERVISOR)[0].endpoint("grpc")
            stub = Stub(mine.channel(endpoint), pb.DESCRIPTOR.services_by_name["Supervisor"])
            answer = await stub.Renew(asked, timeout=10)
            assert identity_of(answer.certificate) == identity_of_actor(member)
            with pytest.raises(RpcError) as refused:
                await stub.Renew(pb.RenewRequest(name="apiserver-0", csr=Request().pem), timeout=10)
            assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(RpcError) as refused:
                await stub.Renew(pb.RenewRequest(name="member-0", csr=b"rubbish"), timeout=10)
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(RpcError, match="only API servers are front proxies"):
                await stub.Renew(pb.RenewRequest(name="member-0", csr=Request().pem, front_proxy=True), timeout=10)
        finally:
            await mine.close()


async def test_any_command_renews_the_administrators_certificate_in_its_last_third() -> None:
    async with cluster(members=1, apiservers=1, nodes=0) as running:
        directory, before = running.directory, Credentials.read(running.directory.admin)
        kubeconfig = directory.kubeconfig.read_bytes()
        assert not renew_admin(directory, running.state, NOW + timedelta(days=200))
        async with access(directory, FakeClock(NOW + timedelta(days=250))) as admin:
            assert isinstance(admin.api, ApiClient)
            after = Credentials.read(directory.admin)
            assert identity_of(after.cert) == identity_of(before.cert)
            assert after.life[1] > before.life[1]
            assert directory.kubeconfig.read_bytes() != kubeconfig
