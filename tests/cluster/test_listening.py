"""The list of ports."""

import pytest

from rayplane.control_plane.cluster.config import AddressPlan
from rayplane.control_plane.cluster.listening import RULES, Listener, listeners, of_traffic, who
from rayplane.control_plane.cluster.topology import PORTS
from rayplane.control_plane.rpc import EVERYONE, Callers, each
from tests.cluster.harness import cluster


def listener(address: str) -> Listener:
    return Listener(owner="x", address=address, speaks="", callers="")


def test_every_port_that_an_actor_may_have_says_what_it_speaks_and_who_may_call() -> None:
    assert set(RULES) == {(role, label) for role, labels in PORTS.items() for label in labels}
    assert all(speaks and callers for speaks, callers in RULES.values())


def test_who_may_call_a_port_is_what_the_policies_of_its_services_say() -> None:
    operators, olga = Callers.of(groups=("operators",)), Callers.of(users=("olga",))
    assert who(each(operators, "Get", "Put") | each(olga, "Delete")) == "group operators, user olga"
    assert who(each(olga, "Get") | each(EVERYONE, "Renew")) == "user olga; each actor for itself: Renew"


@pytest.mark.parametrize(
    ("address", "host", "port", "covered"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "127.0.0.1", 81, False),
        ("127.0.0.1:80", "127.0.0.2", 80, False),
        ("127.0.0.1:80", "0.0.0.0", 80, False),
        ("127.16.0.0/13:*", "127.23.255.255", 1, True),
        ("127.16.0.0/13:*", "127.24.0.0", 1, False),
        ("127.16.0.0/13:30000-32767", "127.16.0.1", 32767, True),
        ("127.16.0.0/13:30000-32767", "127.16.0.1", 32768, False),
    ],
)
def test_which_sockets_a_row_stands_for(address: str, host: str, port: int, covered: bool) -> None:
    assert listener(address).covers(host, port) is covered


def test_addresses_that_a_service_names_itself_have_rows_of_their_own() -> None:
    spec = {"clusterIP": "127.24.0.9", "externalIPs": ["10.0.0.9"], "ports": [{"port": 80, "nodePort": 30001}]}
    rows = of_traffic(AddressPlan(0), [{"metadata": {"namespace": "a", "name": "web"}, "spec": spec}])
    assert {(r.owner, r.address) for r in rows} >= {
        ("service a/web", "10.0.0.9:80"),
        ("services (1)", "127.24.0.0/16:*"),
        ("node ports (1)", "127.16.0.0/13:30000-32767"),
        ("ingress", "127.25.0.1:8080"),
        ("cluster DNS", "127.24.0.10:*"),
    }


async def test_every_actor_of_a_running_cluster_is_listed() -> None:
    async with cluster(members=1, apiservers=1, nodes=1) as running:
        rows = await listeners(running.access)
    wanted = {(i.name, f"{i.machine.address}:{p}") for i in running.topology.instances for p in i.ports.values()}
    host, port = running.state.plan.claim_address
    assert {(r.owner, r.address) for r in rows} == wanted | {("supervisor", f"{host}:{port}")}
