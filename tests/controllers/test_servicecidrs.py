"""Blocks of service addresses are ready and stay while they are needed; each address in use is an object."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.servicecidrs import (
    ADDRESSES,
    BLOCKS,
    DELETION_GRACE_S,
    FINALIZER,
    ServiceCidrController,
)
from tests.controllers.cluster import Cluster


class Served(Cluster):
    """Services with addresses, and blocks of them."""

    def __init__(self) -> None:
        super().__init__(ServiceCidrController())

    def block(self, name: str, *cidrs: str) -> None:
        self.add(BLOCKS, name, spec={"cidrs": list(cidrs)})
        self.settle()

    def service(self, name: str, *addresses: str, **spec: Any) -> None:
        own = {"clusterIP": addresses[0], "clusterIPs": list(addresses)} if addresses else {}
        self.add("services", name, spec={**own, **spec})
        self.settle()

    def held(self) -> dict[str, str]:
        return {meta.name(one): meta.spec(one)["parentRef"]["name"] for one in self.list(ADDRESSES)}

    def ready(self, name: str) -> tuple[str, str]:
        found = meta.get_condition(self.require(BLOCKS, "", name), "Ready") or {}
        return found["status"], found["message"]

    def drop(self, name: str) -> None:
        self.delete_object(BLOCKS, self.require(BLOCKS, "", name))
        self.settle()


@pytest.fixture
def cluster() -> Served:
    return Served()


def test_a_block_is_ready_and_protected(cluster: Served) -> None:
    cluster.block("a", "10.0.0.0/24")
    assert cluster.ready("a") == ("True", "Kubernetes Service CIDR is ready")
    assert meta.finalizers(cluster.require(BLOCKS, "", "a")) == [FINALIZER]


def test_each_address_is_an_object_as_long_as_its_service_has_it(cluster: Served) -> None:
    cluster.service("web", "10.0.0.5", "fd00::5")
    assert cluster.held() == {"10.0.0.5": "web", "fd00::5": "web"}
    made = cluster.require(ADDRESSES, "", "fd00::5")
    assert made["metadata"]["labels"] == {
        "ipaddress.kubernetes.io/ip-family": "IPv6",
        "ipaddress.kubernetes.io/managed-by": "ipallocator",
    }
    assert made["spec"]["parentRef"] == {"group": "", "resource": "services", "namespace": "default", "name": "web"}
    cluster.change("services", "web", spec={"clusterIPs": ["10.0.0.5"]})
    cluster.settle()
    assert cluster.held() == {"10.0.0.5": "web"}
    cluster.remove("services", "default/web")
    cluster.settle()
    assert cluster.held() == {}


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": "10.0.0.9"}, {}])
def test_services_without_an_address(cluster: Served, spec: dict[str, Any]) -> None:
    cluster.service("web", **spec)
    assert cluster.held() == {}


def test_an_address_that_goes_from_one_service_to_another(cluster: Served) -> None:
    cluster.service("web", "10.0.0.5")
    cluster.remove("services", "default/web")
    cluster.add("services", "next", spec={"clusterIP": "10.0.0.5"})
    cluster.settle()
    cluster.advance(2)
    assert cluster.held() == {"10.0.0.5": "next"}


def test_what_somebody_removed_is_made_again_and_what_users_made_stays(cluster: Served) -> None:
    cluster.service("web", "10.0.0.5")
    cluster.remove(ADDRESSES, "10.0.0.5")
    own = {"parentRef": {"resource": "services", "namespace": "default", "name": "nobody"}}
    cluster.add(ADDRESSES, "10.0.0.6", spec=own)
    cluster.settle()
    assert cluster.held() == {"10.0.0.5": "web", "10.0.0.6": "nobody"}


def test_a_block_goes_when_nobody_needs_it(cluster: Served) -> None:
    cluster.block("a", "10.0.0.0/24")
    cluster.service("web", "10.0.0.5")
    cluster.service("elsewhere", "10.1.0.5")
    cluster.drop("a")
    cluster.advance(DELETION_GRACE_S + 1)
    why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
    assert cluster.ready("a") == ("False", why)
    cluster.remove("services", "default/web")
    cluster.advance(1)
    assert cluster.get(BLOCKS, "", "a") is None


def test_another_block_may_take_over_its_addresses(cluster: Served) -> None:
    cluster.block("a", "10.0.0.0/24")
    cluster.service("web", "10.0.0.5")
    cluster.drop("a")
    cluster.block("b", "10.0.0.0/16")
    cluster.advance(DELETION_GRACE_S + 1)
    assert cluster.get(BLOCKS, "", "a") is None


def test_addresses_may_still_be_given_out_for_a_moment(cluster: Served) -> None:
    cluster.block("a", "10.0.0.0/24")
    cluster.drop("a")
    cluster.advance(DELETION_GRACE_S - 2)
    assert cluster.get(BLOCKS, "", "a") is not None
    cluster.advance(3)
    assert cluster.get(BLOCKS, "", "a") is None
