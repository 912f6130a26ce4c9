"""The past of a cluster by the command line: seen, compared, gone on from, gone back to."""

import json
from dataclasses import replace

import pytest

from tests.e2e.conftest import running
from tests.e2e.harness import Cluster, until

SMALL = ("--members", "1", "--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")


def colour(cluster: Cluster, *more: str) -> str:
    read = ("get", "configmap", "settings", "-o", "jsonpath={.data.colour}")
    return cluster.rayplane(*read, *more).stdout.strip()


@pytest.mark.turn(0, of=2)
def test_a_cluster_is_compared_forked_and_rewound(lone_cluster: Cluster) -> None:
    with running(lone_cluster, "--host", "process", "--history", "1h", *SMALL) as cluster:
        kubectl = cluster.kubectl()
        kubectl("create", "configmap", "doomed", "--from-literal=a=b")
        kubectl("create", "secret", "generic", "door", "--from-literal=key=1")
        kubectl("create", "configmap", "settings", "--from-literal=colour=red")
        then: str = kubectl.json("get", "configmap", "settings")["metadata"]["resourceVersion"]
        kubectl("patch", "configmap", "settings", "-p", '{"data":{"colour":"blue"}}')
        kubectl("delete", "configmap", "doomed")
        kubectl("create", "namespace", "later")

        assert (colour(cluster, "--at", then), colour(cluster)) == ("red", "blue")
        done = cluster.rayplane("get", "pods", "--at", "-2h", code=1)
        assert "the oldest instant is revision" in done.stderr

        found = json.loads(cluster.rayplane("diff", "--from", then, "-o", "json", "configmaps", "ns").stdout)
        assert found["from"]["revision"] == int(then) and found["to"]["time"]
        told = {(one["change"], one["name"]): one for one in found["changes"] if one["name"] != "kube-root-ca.crt"}
        assert told.keys() == {("changed", "settings"), ("deleted", "doomed"), ("created", "later")}
        [field] = told["changed", "settings"]["fields"]
        assert (field["path"], field["before"], field["after"]) == ("data.colour", "red", "blue")
        assert field["manager"] == "kubectl-patch"

        other = replace(cluster, name="e2e-other")
        try:
            other.rayplane("fork", cluster.name, "--at", then)
            assert (colour(other), colour(cluster)) == ("red", "blue"), "each goes its own way"
            assert other.kubectl()("get", "secret", "door", "-o", "jsonpath={.data.key}") == "MQ=="
            assert "later" not in other.kubectl()("get", "namespaces", "-o", "name")
        finally:
            other.rayplane("down", "--purge")

        assert "--yes" in cluster.rayplane("rewind", "--to", then, code=2).stderr
        assert "settings would be updated" in cluster.rayplane("rewind", "--to", then, "--dry-run").stdout
        assert colour(cluster) == "blue"
        cluster.rayplane("rewind", "--to", then, "--yes")
        assert colour(cluster) == "red"
        assert kubectl("get", "configmap", "doomed", "-o", "jsonpath={.data.a}") == "b"
        until("what came since is gone", lambda: "later" not in kubectl("get", "namespaces", "-o", "name"))
