"""Secrets with tokens of service accounts: they go with the account, and nothing else goes."""

from __future__ import annotations

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.serviceaccount import ServiceAccountController
from rayplane.control_plane.controllers.tokensecrets import TokenSecretController
from tests.controllers.cluster import Cluster

TOKEN = "kubernetes.io/service-account-token"


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(ServiceAccountController(), TokenSecretController())
    found.add("namespaces", "default", status={"phase": "Active"})
    found.settle()
    return found


def account(cluster: Cluster, name: str) -> Object:
    return cluster.get("serviceaccounts", "default", name) or cluster.add("serviceaccounts", name)


def secret(cluster: Cluster, name: str, of: str, *, uid: str = "", kind: str = TOKEN) -> None:
    notes = {"kubernetes.io/service-account.name": of, **({"kubernetes.io/service-account.uid": uid} if uid else {})}
    cluster.add("secrets", name, metadata={"annotations": notes}, type=kind)


def left(cluster: Cluster) -> list[str]:
    cluster.settle()
    return sorted(meta.name(s) for s in cluster.list("secrets"))


def test_token_secrets_go_with_their_account_and_no_others_do(cluster: Cluster) -> None:
    robot = account(cluster, "robot")
    secret(cluster, "by-name", "robot")
    secret(cluster, "by-uid", "robot", uid=meta.uid(robot))
    secret(cluster, "of-default", "default")
    secret(cluster, "opaque", "robot", kind="Opaque")
    assert left(cluster) == ["by-name", "by-uid", "of-default", "opaque"]
    cluster.delete_object("serviceaccounts", robot)
    assert left(cluster) == ["of-default", "opaque"]


def test_a_namesake_of_the_account_has_no_part_in_its_tokens(cluster: Cluster) -> None:
    earlier = meta.uid(account(cluster, "robot"))
    secret(cluster, "old", "robot", uid=earlier)
    cluster.remove_object("serviceaccounts", account(cluster, "robot"))
    account(cluster, "robot")
    secret(cluster, "new", "robot")
    assert left(cluster) == ["new"]


def test_the_default_account_comes_back_without_its_tokens(cluster: Cluster) -> None:
    before = account(cluster, "default")
    secret(cluster, "token", "default", uid=meta.uid(before))
    cluster.delete_object("serviceaccounts", before)
    assert left(cluster) == []
    assert meta.uid(account(cluster, "default")) != meta.uid(before)


def test_a_token_for_nobody_is_not_kept(cluster: Cluster) -> None:
    secret(cluster, "lost", "nobody")
    assert left(cluster) == []
