"""What controllers may do: each what its work takes, and what is dangerous those few alone whose work it is."""

from __future__ import annotations

import pytest

from rayplane.control_plane.api.authorization.controller_policy import ACCOUNTS
from rayplane.control_plane.controllers.accounts import ACCOUNTS as BY_CONTROLLER
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig
from tests.controllers.rights import allows

COLLECTOR, EMPTIER = "generic-garbage-collector", "namespace-controller"
WORKLOADS = {
    *("daemon-set-controller", "job-controller", "replicaset-controller", "replication-controller"),
    "statefulset-controller",
}
MIGRATOR = "storage-version-migrator-controller"

#: Who may do what, and nobody else.
ONLY: dict[tuple[str, str, str, str], set[str]] = {
    ("create", "pods", "ns", ""): {*WORKLOADS, MIGRATOR},
    ("patch", "pods", "ns", "p"): {*WORKLOADS, COLLECTOR, MIGRATOR, "chaos-controller"},
    ("delete", "nodes", "", "n"): {"node-controller", COLLECTOR, EMPTIER},
    ("delete", "secrets", "ns", "s"): {COLLECTOR, EMPTIER, "legacy-service-account-token-cleaner"},
    ("delete", "secrets", "kube-system", "s"): {
        *(COLLECTOR, EMPTIER, "legacy-service-account-token-cleaner", "token-cleaner")
    },
    ("get", "secrets", "ns", "s"): {COLLECTOR, EMPTIER},
    ("get", "secrets", "kube-system", "s"): {COLLECTOR, EMPTIER, "bootstrap-signer", "token-cleaner"},
    ("create", "secrets", "ns", ""): {MIGRATOR},
    ("create", "serviceaccounts", "ns", ""): {"service-account-controller", MIGRATOR},
    ("create", "serviceaccounts/token", "ns", ""): {MIGRATOR},
    ("create", "pods/exec", "ns", ""): {MIGRATOR},
    ("escalate", "clusterroles.rbac.authorization.k8s.io", "", "r"): {"clusterrole-aggregation-controller"},
    ("bind", "clusterroles.rbac.authorization.k8s.io", "", "r"): set(),
    ("update", "clusterroles.rbac.authorization.k8s.io", "", "r"): {"clusterrole-aggregation-controller", COLLECTOR},
    ("update", "clusterrolebindings.rbac.authorization.k8s.io", "", "b"): {COLLECTOR},
    ("impersonate", "serviceaccounts", "kube-system", "node-controller"): set(),
    ("impersonate", "users", "", "kubernetes-admin"): set(),
    ("patch", "certificatesigningrequests.certificates.k8s.io/approval", "", "r"): {
        *("certificate-controller", COLLECTOR, MIGRATOR)
    },
    ("approve", "signers.certificates.k8s.io", "", "kubernetes.io/kube-apiserver-client"): set(),
    ("update", "configmaps", "kube-public", "cluster-info"): {"bootstrap-signer", "root-ca-cert-publisher", COLLECTOR},
    ("update", "configmaps", "kube-public", "another"): {"root-ca-cert-publisher", COLLECTOR},
    ("update", "leases.coordination.k8s.io", "kube-system", "kube-controller-manager"): {COLLECTOR},
}


@pytest.mark.parametrize("right", ONLY, ids=lambda right: f"{right[0]} {right[1]}")
def test_only_those_may_whose_work_it_is(right: tuple[str, str, str, str]) -> None:
    assert {account for account in ACCOUNTS if allows(account, right)} == ONLY[right]


def test_every_controller_has_an_account_and_every_account_a_controller() -> None:
    config = ControllersConfig("i", ca_certificate="PEM", server="https://x", node_hosts="{}")
    names = [controller.name for controller in build_controllers(config)]
    assert sorted(names) == sorted(BY_CONTROLLER)
    assert {account for account in BY_CONTROLLER.values() if account} == {*ACCOUNTS}


def test_the_manager_itself_reads_and_leads_and_may_be_its_controllers() -> None:
    for account in ACCOUNTS:
        assert allows("", ("impersonate", "serviceaccounts", "kube-system", account))
    for right in (
        ("list", "widgets.example.org", "", ""),
        ("watch", "pods", "", ""),
        ("update", "leases.coordination.k8s.io", "kube-system", "kube-controller-manager"),
    ):
        assert allows("", right)
    for right in (
        ("impersonate", "serviceaccounts", "kube-system", "default"),
        ("impersonate", "serviceaccounts", "default", "node-controller"),
        ("impersonate", "users", "", "kubernetes-admin"),
        ("impersonate", "groups", "", "system:masters"),
        ("create", "pods", "ns", ""),
        ("update", "clusterroles.rbac.authorization.k8s.io", "", "r"),
    ):
        assert not allows("", right)
