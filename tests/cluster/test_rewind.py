"""What a rewinding writes: people's wishes as they were, and nothing that is the cluster's own."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster import rewind
from rayplane.control_plane.cluster.history import Resource
from rayplane.control_plane.cluster.rewind import Plan, carry_out, plan

THINGS = Resource("things", True)


def thing(kind: str, name: str = "x", *, version: str = "v1", namespace: str = "default", **more: Any) -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"apiVersion": version, "kind": kind, "metadata": metadata | more.pop("metadata", {}), **more}


def planned(then: Sequence[Object], now: Sequence[Object], **options: Any) -> Plan:
    return plan([(THINGS, then)], [(THINGS, now)], **options)


def deeds(made: Plan) -> list[tuple[str, str]]:
    return [(step.deed, meta.name(step.obj)) for step in made.steps]


def test_what_is_as_it_was_is_not_written() -> None:
    one = thing("ConfigMap", data={"a": "1"})
    later = copy.deepcopy(one)
    later["metadata"] |= {"resourceVersion": "9", "generation": 3, "managedFields": [{}]}
    assert planned([one], [later]).steps == []


def test_a_changed_object_is_written_over_what_there_is_now() -> None:
    old = thing("Deployment", version="apps/v1", spec={"replicas": 1}, status={"replicas": 1})
    old["metadata"]["labels"] = {"tier": "web"}
    new = thing("Deployment", version="apps/v1", spec={"replicas": 5}, status={"replicas": 5})
    counted = {"deployment.kubernetes.io/revision": "4"}
    new["metadata"] |= {"resourceVersion": "9", "annotations": counted, "ownerReferences": [{"uid": "o"}]}
    [step] = planned([old], [new]).steps
    assert step.deed == "update"
    assert (step.obj["spec"], step.obj["status"]) == ({"replicas": 1}, {"replicas": 5})
    assert step.obj["metadata"]["resourceVersion"] == "9", "whoever writes meanwhile is not overwritten"
    assert (meta.labels(step.obj), meta.annotations(step.obj)) == ({"tier": "web"}, counted)
    assert step.obj["metadata"]["ownerReferences"] == [{"uid": "o"}]


def test_what_went_is_made_anew_and_what_came_is_deleted() -> None:
    old = thing("Pod", "lone", spec={"nodeName": "node-0", "containers": []}, status={"phase": "Running"})
    old["metadata"]["ownerReferences"] = [{"uid": "uid-alive"}, {"uid": "uid-dead"}]
    alive = thing("ConfigMap", "alive")
    made = planned([old, alive], [alive, thing("ConfigMap", "later")])
    assert deeds(made) == [("delete", "later"), ("create", "lone")]
    pod = made.steps[1].obj
    assert pod["spec"] == {"containers": []} and "status" not in pod
    assert pod["metadata"] == {"name": "lone", "namespace": "default", "ownerReferences": [{"uid": "uid-alive"}]}


def test_what_belonged_to_objects_of_other_kinds_still_does_where_these_live() -> None:
    old = thing("Secret", "s")
    references = [{"apiVersion": "apps/v1", "kind": "Deployment", "uid": uid} for uid in ("lives", "gone")]
    old["metadata"]["ownerReferences"] = references
    assert rewind.owners([(THINGS, [old, thing("ConfigMap")])]) == [("apps/v1", "Deployment")]
    [step] = planned([old], [], alive={"lives"}).steps
    assert step.obj["metadata"]["ownerReferences"] == references[:1]


def test_a_job_looks_for_pods_of_its_own_and_one_that_had_ended_is_not_run_again() -> None:
    labels = {"app": "a", "controller-uid": "1", "batch.kubernetes.io/controller-uid": "1", "job-name": "j"}
    spec = {"selector": {"matchLabels": {"controller-uid": "1"}}, "template": {"metadata": {"labels": labels}}}
    job = thing("Job", "j", version="batch/v1", spec=spec)
    [step] = planned([job], []).steps
    assert step.obj["spec"] == {"template": {"metadata": {"labels": {"app": "a"}}}}
    done = thing("Job", "j", version="batch/v1", status={"conditions": [{"type": "Complete", "status": "True"}]})
    made = planned([done, thing("Pod", "p", status={"phase": "Succeeded"})], [])
    assert made.steps == [] and {reason for _, reason in made.left} == {"had ended"}


def test_what_no_update_can_change_is_deleted_and_made_anew() -> None:
    def job(uid: str, **more: Any) -> Object:
        selector = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        return thing("Job", "j", version="batch/v1", spec={"selector": selector}, metadata={"uid": uid}, **more)

    made = planned([job("one")], [job("two")])
    assert deeds(made) == [("replace", "j")] and meta.uid(made.steps[0].present) == "two"
    ended = job("one", status={"conditions": [{"type": "Complete", "status": "True"}]})
    assert planned([ended], [job("two")]).steps == [], "it is not run again, and what runs goes on"
    for kind in ("ConfigMap", "Secret"):
        old, new = thing(kind, data={"a": "1"}), thing(kind, data={"a": "2"}, immutable=True)
        assert deeds(planned([old], [new])) == [("replace", "x")]
        assert deeds(planned([new], [old])) == [("update", "x")]


@pytest.mark.parametrize(
    ("kind", "version", "field"),
    [
        ("RoleBinding", "rbac.authorization.k8s.io/v1", "roleRef"),
        ("Secret", "v1", "type"),
        ("RuntimeClass", "node.k8s.io/v1", "handler"),
        ("PriorityClass", "scheduling.k8s.io/v1", "value"),
        ("StorageClass", "storage.k8s.io/v1", "provisioner"),
        ("Job", "batch/v1", "spec"),
    ],
)
def test_another_object_of_the_name_is_updated_where_that_can_lead_back(kind: str, version: str, field: str) -> None:
    def one(value: str, uid: str) -> Object:
        fixed: Any = {"completions": value} if field == "spec" else value
        return thing(kind, version=version, metadata={"uid": uid, "labels": {"uid": uid}}, **{field: fixed})

    assert deeds(planned([one("a", "1")], [one("b", "2")])) == [("replace", "x")]
    assert deeds(planned([one("a", "1")], [one("a", "2")])) == [("update", "x")]


def test_another_service_of_the_name_keeps_the_addresses_that_it_was_given() -> None:
    def service(uid: str, ip: str, node_port: int, **more: Any) -> Object:
        ports = [{"port": 80, "protocol": "TCP", "nodePort": node_port}]
        return thing(
            "Service", spec={"clusterIP": ip, "clusterIPs": [ip], "ports": ports, **more}, metadata={"uid": uid}
        )

    old, new = service("1", "10.0.0.1", 30001), service("2", "10.0.0.2", 30002)
    assert planned([old], [new]).steps == []
    [step] = planned([service("1", "10.0.0.1", 30001, selector={"a": "b"})], [new]).steps
    assert step.deed == "update" and step.obj["spec"] == {**new["spec"], "selector": {"a": "b"}}
    assert deeds(planned([service("1", "None", 0)], [new])) == [("replace", "x")]
    moved = service("2", "10.0.0.1", 30002)
    [step] = planned([service("2", "10.0.0.1", 30001)], [moved]).steps
    assert step.obj["spec"]["ports"][0]["nodePort"] == 30001, "it is the same one, and somebody wished for another port"


def test_what_others_make_or_own_is_left() -> None:
    owned = thing("Pod", "p")
    owned["metadata"]["ownerReferences"] = [{"uid": "r", "controller": True}]
    mine = [
        owned,
        thing("Node", "n", namespace=""),
        thing("PersistentVolumeClaim", "c"),
        thing("ConfigMap", "kube-root-ca.crt"),
        thing("Secret", "t", type="kubernetes.io/service-account-token"),
        thing("ConfigMap", "s", namespace="kube-system"),
    ]
    for then, now in ((mine, []), ([], mine)):
        made = planned(then, now)
        assert made.steps == [] and made.left.total() == len(mine)
    assert deeds(planned([], mine, system=True)) == [("delete", "s")]


def test_a_label_alone_makes_nothing_the_clusters_own() -> None:
    def role(name: str) -> Object:
        labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
        version = "rbac.authorization.k8s.io/v1"
        return thing("ClusterRole", name, version=version, namespace="", metadata={"labels": labels})

    roles = [role(name) for name in ("system:gone-since", "cluster-admin", "mine")]
    assert deeds(planned([], roles)) == [("delete", "mine")]
    assert deeds(planned(roles, [])) == [("create", "mine")]


def test_a_namespace_that_has_claims_is_left_with_their_bytes_and_what_else_came_is_deleted() -> None:
    came = [thing("Namespace", "kept", namespace=""), thing("Namespace", "bare", namespace="")]
    claim = thing("PersistentVolumeClaim", namespace="kept")
    held = rewind.holders([claim], [(THINGS, came)])
    made = planned([], [*came, thing("ConfigMap", "c", namespace="kept")], held=held)
    assert deeds(made) == [("delete", "c"), ("delete", "bare")]
    assert dict(made.left) == {("Namespace", "hold bytes, which have no past"): 1}


def test_what_claims_would_go_with_is_left_whether_it_came_since_or_is_another_now() -> None:
    def owned(by: str, kind: str, name: str, **more: Any) -> Object:
        return thing(kind, name, metadata={"ownerReferences": [{"uid": f"uid-{by}"}]}, **more)

    names = {"group": "db.example", "names": {"kind": "Database"}}
    definition = thing("CustomResourceDefinition", "dbs", version="apiextensions.k8s.io/v1", namespace="", spec=names)
    now = [
        thing("Database", "db", version="db.example/v1"),
        definition,
        owned("db", "StatefulSet", "sts", version="apps/v1", spec={"selector": 2}),
        thing("ConfigMap", "free"),
    ]
    held = rewind.holders([owned("sts", "PersistentVolumeClaim", "data")], [(THINGS, now)])
    assert held == {"uid-sts", "uid-db", "uid-dbs"}
    made = planned([], now, held=held)
    assert deeds(made) == [("delete", "free")] and {reason for _, reason in made.left} == {rewind._BYTES}
    before = thing("StatefulSet", "sts", version="apps/v1", spec={"selector": 1}, metadata={"uid": "before"})
    assert planned([before], [now[2]], held=held).steps == [], "another of its name was there"
    assert deeds(planned([before], [now[2]])) == [("replace", "sts")]


def test_a_pod_that_runs_keeps_what_it_runs() -> None:
    old, new = thing("Pod", spec={"a": 1}), thing("Pod", spec={"a": 2}, metadata={"labels": {"new": "yes"}})
    [step] = planned([old], [new]).steps
    assert (step.obj["spec"], meta.labels(step.obj)) == ({"a": 2}, {})


def test_what_others_need_comes_first_and_what_may_refuse_them_last() -> None:
    hook = thing("ValidatingWebhookConfiguration", "hook", version="admissionregistration.k8s.io/v1", namespace="")
    space, work, data = (
        thing("Namespace", "ns", namespace=""),
        thing("Deployment", "d", version="apps/v1"),
        thing("Secret", "s"),
    )
    assert deeds(planned([hook, work, data, space], [])) == [("create", name) for name in ("ns", "s", "d", "hook")]
    assert deeds(planned([], [hook, work, data, space])) == [("delete", name) for name in ("hook", "d", "s", "ns")]


def test_an_object_on_its_way_out_counts_as_gone() -> None:
    going = thing("ConfigMap", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert planned([going], []).steps == [] and planned([], [going]).steps == []
    assert deeds(planned([thing("ConfigMap")], [going])) == [("create", "x")]


class Api:
    """An API that takes objects once that was tried so often."""

    def __init__(self, missing: int, error: ApiError | None = None) -> None:
        self.missing, self.created, self.error = missing, 0, error or NotFound("not yet")

    async def create(self, resource: str, obj: Object, *, field_manager: str) -> Object:
        if self.missing:
            self.missing -= 1
            raise self.error
        self.created += 1
        return obj

    async def update(self, resource: str, obj: Object, *, field_manager: str) -> Object:
        raise Conflict("somebody wrote")

    async def delete(self, resource: str, name: str, namespace: str, *, uid: str, propagation: str) -> Object:
        raise NotFound("gone")


async def outcomes(api: Api, then: list[Object], now: list[Object]) -> list[bool]:
    return [error is None async for _, error in carry_out(api, planned(then, now).steps)]  # type: ignore[arg-type]


async def test_what_is_not_there_yet_is_waited_for_and_others_writes_win(monkeypatch: Any) -> None:
    monkeypatch.setattr(rewind, "PAUSE_S", 0)
    assert await outcomes(Api(2), [thing("ConfigMap")], []) == [True]
    assert await outcomes(Api(99), [thing("ConfigMap")], []) == [False]
    assert await outcomes(Api(0), [], [thing("ConfigMap")]) == [True], "it is gone already"
    assert await outcomes(Api(0), [thing("ConfigMap", data={})], [thing("ConfigMap", data={"a": "1"})]) == [False]


async def test_a_namespace_on_its_way_out_is_waited_for_and_other_refusals_are_not(monkeypatch: Any) -> None:
    monkeypatch.setattr(rewind, "PAUSE_S", 0)
    ending = Forbidden("being terminated", details={"causes": [{"reason": "NamespaceTerminating"}]})
    assert await outcomes(Api(2, ending), [thing("ConfigMap")], []) == [True]
    assert await outcomes(Api(99, ending), [thing("ConfigMap")], []) == [False]
    assert await outcomes(Api(1, Forbidden("quota")), [thing("ConfigMap")], []) == [False]


class Store(Api):
    """An API with one object that goes some tries after it is deleted; it takes what it is not `refusing`."""

    def __init__(self, obj: Object, *, lingers: int = 2, refusing: Any = None, keeps: bool = False) -> None:
        super().__init__(0)
        self.obj: Object | None = obj
        self.lingers, self.refusing, self.keeps = lingers, refusing, keeps

    async def create(self, resource: str, obj: Object, *, field_manager: str) -> Object:
        self.lingers -= 1
        if self.obj is not None and self.lingers >= 0:
            raise AlreadyExists("being deleted")
        self.obj = None
        if obj["data"] == self.refusing:
            raise Forbidden("quota")
        self.obj = obj
        return obj

    async def delete(self, resource: str, name: str, namespace: str, *, uid: str, propagation: str) -> Object:
        if self.keeps:
            raise Forbidden("protected")
        return {}


async def test_what_is_replaced_is_there_again_where_the_one_of_before_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(rewind, "PAUSE_S", 0)
    old, new = thing("ConfigMap", data={"a": "1"}), thing("ConfigMap", data={"a": "2"}, immutable=True)
    for store, there, told in (
        (Store(new), old, ""),
        (Store(new, refusing=old["data"]), new, "quota; what there was is made anew"),
        (Store(new, keeps=True), new, "protected"),
    ):
        [(step, error)] = [one async for one in carry_out(store, planned([old], [new]).steps)]  # type: ignore[arg-type]
        assert step.deed == "replace" and (error.message if error else "") == told
        assert store.obj is not None and store.obj["data"] == there["data"]


async def test_a_namespace_that_got_claims_meanwhile_is_left() -> None:
    class Claimed(Api):
        async def list(self, resource: str, namespace: str) -> Any:
            return SimpleNamespace(items=[thing("PersistentVolumeClaim")] if namespace == "got" else [])

    came = [thing("Namespace", name, namespace="") for name in ("got", "none")]
    assert await outcomes(Claimed(0), [], came) == [False, True]
