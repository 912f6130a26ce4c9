"""Deletes as clients meet them: finalizers, grace periods, propagation, preconditions, whole collections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.test_patches import Api, api, config_map  # noqa: F401

NAMESPACE = "/api/v1/namespaces/default"
MAPS, PODS = f"{NAMESPACE}/configmaps", f"{NAMESPACE}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
Object = dict[str, Any]


def held(name: str = "c", *finalizers: str) -> Object:
    return {**config_map(name), "metadata": {"name": name, "finalizers": [*finalizers]}}


def pod(name: str = "p", **metadata: Any) -> Object:
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


async def a_pod(api: Api, **metadata: Any) -> Object:  # noqa: F811
    await api.made(f"{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
    made: Object = await api.made(PODS, pod(**metadata))
    return made


def marks(o: Object) -> tuple[bool, int | None, list[str]]:
    meta = o["metadata"]
    return "deletionTimestamp" in meta, meta.get("deletionGracePeriodSeconds"), meta.get("finalizers") or []


async def test_the_last_finalizer_that_goes_takes_the_object_along(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, held("c", "example.com/a", "example.com/b"))
    code, marked = await api("DELETE", f"{MAPS}/c")
    assert (code, marks(marked)) == (200, (True, 0, ["example.com/a", "example.com/b"]))
    code, again = await api("DELETE", f"{MAPS}/c")
    assert (code, again) == (200, marked), "a second request changes nothing"
    code, refused = await api.patch("merge", f"{MAPS}/c", {"metadata": {"finalizers": ["example.com/new"]}})
    assert code == 422
    assert "no new finalizers can be added if the object is being deleted" in refused["message"]
    code, put = await api("PUT", f"{MAPS}/c", held("c", "example.com/b"))
    assert (code, marks(put)) == (200, (True, 0, ["example.com/b"]))
    code, last = await api("PUT", f"{MAPS}/c", held("c"))
    assert (code, last["kind"], marks(last)) == (200, "ConfigMap", (True, 0, []))
    assert (await api("GET", f"{MAPS}/c"))[0] == 404


async def test_an_update_can_neither_begin_a_deletion_nor_undo_one(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, held("c", "example.com/a"))
    begin = {"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}}
    code, refused = await api.patch("merge", f"{MAPS}/c", begin)
    assert (code, refused["reason"]) == (422, "Invalid")
    assert refused["message"] == (
        'ConfigMap "c" is invalid: metadata.deletionTimestamp: Invalid value: 2001-01-01 00:00:00 +0000 UTC: '
        "field is immutable"
    )
    code, marked = await api("DELETE", f"{MAPS}/c")
    undo = {"metadata": {"deletionTimestamp": None, "deletionGracePeriodSeconds": None, "labels": {"a": "b"}}}
    code, kept = await api.patch("merge", f"{MAPS}/c", undo)
    assert (code, marks(kept), kept["metadata"]["labels"]) == (200, marks(marked), {"a": "b"})
    assert kept["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]


async def test_a_name_is_taken_while_its_object_is_being_deleted(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, held("c", "example.com/a"))
    await api("DELETE", f"{MAPS}/c")
    code, refused = await api("POST", MAPS, config_map("c"))
    assert (code, refused["reason"]) == (409, "AlreadyExists")
    assert refused["message"] == 'object is being deleted: configmaps "c" already exists'


@pytest.mark.parametrize(
    ("options", "finalizers", "code"),
    [
        ({"propagationPolicy": "Foreground"}, ["foregroundDeletion"], 200),
        ({"propagationPolicy": "Orphan"}, ["orphan"], 200),
        ({"orphanDependents": True}, ["orphan"], 200),
        ({"propagationPolicy": "Background"}, None, 200),
        ({"orphanDependents": False}, None, 200),
        ({}, None, 200),
    ],
)
async def test_what_becomes_of_dependents_is_kept_as_a_finalizer(
    api: Api,  # noqa: F811
    options: Object,
    finalizers: list[str] | None,
    code: int,
) -> None:
    await api.made(MAPS, config_map())
    answered, said = await api("DELETE", f"{MAPS}/c", options)
    assert answered == code
    if finalizers is None:
        assert (said["kind"], said["status"]) == ("Status", "Success")
        assert (await api("GET", f"{MAPS}/c"))[0] == 404
    else:
        assert marks(said) == (True, 0, finalizers)


async def test_what_becomes_of_dependents_may_be_said_anew_while_it_waits(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, held("c", "example.com/a"))
    for policy, wanted in (("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"]), ("Background", [])):
        code, said = await api("DELETE", f"{MAPS}/c", {"propagationPolicy": policy})
        assert (code, marks(said)) == (200, (True, 0, ["example.com/a", *wanted]))
    code, said = await api("DELETE", f"{MAPS}/c", {"orphanDependents": False})
    assert (code, marks(said)[2]) == (202, ["example.com/a"]), "asked in the oldest way, it is accepted"


async def test_nothing_depends_on_an_event(api: Api) -> None:  # noqa: F811
    about = {"kind": "Pod", "name": "p", "namespace": "default"}
    events = f"{NAMESPACE}/events"
    await api.made(events, {"metadata": {"name": "e"}, "involvedObject": about})
    code, said = await api("DELETE", f"{events}/e", {"propagationPolicy": "Foreground"})
    assert (code, said["kind"]) == (200, "Status")


async def test_jobs_leave_their_pods_unless_told_otherwise(api: Api) -> None:  # noqa: F811
    jobs = "/apis/batch/v1/namespaces/default/jobs"
    template = {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}
    await api.made(jobs, {"metadata": {"name": "j"}, "spec": {"template": template}})
    code, said = await api("DELETE", f"{jobs}/j")
    assert (code, marks(said)) == (200, (True, 0, ["orphan"]))
    assert said["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        (
            {"propagationPolicy": "Orphan", "orphanDependents": True},
            "propagationPolicy",
            'Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set',
        ),
        (
            {"propagationPolicy": "Sideways"},
            "propagationPolicy",
            'Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil"',
        ),
        ({"dryRun": ["Some"]}, "dryRun", 'Unsupported value: ["Some"]: supported values: "All"'),
    ],
)
async def test_options_that_contradict_are_refused(api: Api, options: Object, field: str, text: str) -> None:  # noqa: F811
    await api.made(MAPS, config_map())
    for path in (f"{MAPS}/c", MAPS):
        code, refused = await api("DELETE", path, options)
        assert (code, refused["reason"]) == (422, "Invalid")
        assert refused["message"] == f'DeleteOptions.meta.k8s.io "" is invalid: {field}: {text}'
    assert (await api("GET", f"{MAPS}/c"))[0] == 200


async def test_an_object_that_was_replaced_or_changed_is_not_the_one_to_delete(api: Api) -> None:  # noqa: F811
    made = await api.made(MAPS, config_map())
    uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
    code, refused = await api("DELETE", f"{MAPS}/c", {"preconditions": {"uid": "other"}})
    assert (code, refused["reason"]) == (409, "Conflict")
    assert refused["message"] == (
        'Operation cannot be fulfilled on ConfigMap "c": the UID in the precondition (other) does not match the UID in '
        f"record ({uid}). The object might have been deleted and then recreated"
    )
    code, refused = await api("DELETE", f"{MAPS}/c?resourceVersion=1")
    assert code == 409
    assert refused["message"] == (
        'Operation cannot be fulfilled on ConfigMap "c": the ResourceVersion in the precondition (1) does not match '
        f"the ResourceVersion in record ({version}). The object might have been modified"
    )
    deployment = {"metadata": {"name": "d"}, "spec": deployment_spec()}
    await api.made(DEPLOYMENTS, deployment)
    refused = (await api("DELETE", f"{DEPLOYMENTS}/d?uid=other"))[1]
    assert refused["message"].startswith('Operation cannot be fulfilled on Deployment.apps "d"')
    assert refused["details"] == {"name": "d", "group": "apps", "kind": "Deployment"}
    kept = {"uid": uid, "resourceVersion": version}
    assert (await api("DELETE", f"{MAPS}/c", {"preconditions": kept}))[0] == 200


def deployment_spec() -> Object:
    labels = {"app": "d"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {"selector": {"matchLabels": labels}, "template": template}


async def test_a_body_says_all_and_the_query_only_where_there_is_none(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, config_map())
    code, said = await api("DELETE", f"{MAPS}/c?propagationPolicy=Orphan&dryRun=All")
    assert (code, marks(said)) == (200, (True, 0, ["orphan"]))
    code, said = await api("DELETE", f"{MAPS}/c?propagationPolicy=Orphan&dryRun=All", {"kind": "DeleteOptions"})
    assert (code, said["kind"]) == (200, "Status")
    assert (await api("GET", f"{MAPS}/c"))[0] == 404


# --- grace periods ------------------------------------------------------------------------------


async def test_a_pod_ends_no_later_than_it_was_told_first(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    code, said = await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 60})
    assert (code, said["kind"], marks(said)) == (200, "Pod", (True, 60, []))
    assert said["metadata"]["generation"] == 2
    for options in ({"gracePeriodSeconds": 90}, {"gracePeriodSeconds": 60}, {}, {"propagationPolicy": "Orphan"}):
        code, again = await api("DELETE", f"{PODS}/p", options)
        assert (code, again) == (200, said)
    code, sooner = await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 10})
    assert marks(sooner) == (True, 10, [])
    assert sooner["metadata"]["deletionTimestamp"] < said["metadata"]["deletionTimestamp"]
    assert sooner["metadata"]["generation"] == 2
    code, gone = await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (code, gone["kind"], marks(gone)) == (200, "Pod", (True, 0, []))
    assert (await api("GET", f"{PODS}/p"))[0] == 404


async def test_a_pod_that_ended_waits_for_its_grace_period_too(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    await api("DELETE", f"{PODS}/p")
    await api.patch("merge", f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    code, said = await api("DELETE", f"{PODS}/p")
    assert (code, marks(said)) == (200, (True, 30, []))
    assert (await api("GET", f"{PODS}/p"))[0] == 200


async def test_a_negative_grace_period_is_a_second(api: Api) -> None:  # noqa: F811
    await a_pod(api)
    assert marks((await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": -5}))[1]) == (True, 1, [])


async def test_finalizers_outlast_the_grace_period_of_a_pod(api: Api) -> None:  # noqa: F811
    await a_pod(api, finalizers=["example.com/a"])
    code, said = await api("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (code, marks(said)) == (200, (True, 0, ["example.com/a"]))
    code, said = await api("DELETE", f"{PODS}/p", {"propagationPolicy": "Foreground"})
    assert marks(said) == (True, 0, ["example.com/a", "foregroundDeletion"])
    assert (await api.patch("merge", f"{PODS}/p", {"metadata": {"finalizers": None}}))[0] == 200
    assert (await api("GET", f"{PODS}/p"))[0] == 404


async def test_a_finalizer_that_goes_early_leaves_a_pod_its_grace_period(api: Api) -> None:  # noqa: F811
    await a_pod(api, finalizers=["example.com/a"])
    await api("DELETE", f"{PODS}/p")
    code, said = await api.patch("merge", f"{PODS}/p", {"metadata": {"finalizers": None}})
    assert (code, marks(said)) == (200, (True, 30, []))
    assert (await api("GET", f"{PODS}/p"))[0] == 200


async def test_what_goes_at_once_is_shown_as_it_was(api: Api) -> None:  # noqa: F811
    services = f"{NAMESPACE}/services"
    made = await api.made(services, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
    code, gone = await api("DELETE", f"{services}/s")
    assert (code, gone["metadata"]["uid"], marks(gone)) == (200, made["metadata"]["uid"], (False, None, []))


# --- what ends by rules of its own --------------------------------------------------------------


async def test_a_namespace_is_only_marked(api: Api) -> None:  # noqa: F811
    made = await api.made("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    path = "/api/v1/namespaces/shop"
    code, refused = await api("DELETE", path, {"preconditions": {"uid": "other"}})
    assert code == 409
    assert refused["message"] == (
        'Operation cannot be fulfilled on namespaces "shop": Precondition failed: UID in precondition: other, UID in '
        f"object meta: {made['metadata']['uid']}"
    )
    code, said = await api("DELETE", path, {"gracePeriodSeconds": 30})
    assert (code, marks(said), said["status"]["phase"]) == (200, (True, None, []), "Terminating")
    code, again = await api("DELETE", path, {"propagationPolicy": "Orphan"})
    assert (code, again) == (200, said)
    code, refused = await api("POST", "/api/v1/namespaces/shop/configmaps", config_map())
    assert (code, refused["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")


# --- collections --------------------------------------------------------------------------------


async def test_a_collection_is_deleted_as_its_options_say(api: Api) -> None:  # noqa: F811
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "1"}), ("c", {"x": "2"})):
        await api.made(MAPS, {**config_map(name), "metadata": {"name": name, "labels": labels}})
    code, listed = await api("DELETE", f"{MAPS}?labelSelector=x%3D1&dryRun=All")
    assert (code, listed["kind"], names(listed)) == (200, "ConfigMapList", ["a", "b"])
    assert names((await api("GET", MAPS))[1]) == ["a", "b", "c"]
    code, listed = await api("DELETE", f"{MAPS}?fieldSelector=metadata.name%3Dc", {"propagationPolicy": "Foreground"})
    assert (code, names(listed), marks(listed["items"][0])) == (200, ["c"], (False, None, []))
    assert marks((await api("GET", f"{MAPS}/c"))[1]) == (True, 0, ["foregroundDeletion"])
    code, listed = await api("DELETE", f"{MAPS}?limit=1")
    assert (code, names(listed)) == (200, ["a"])
    assert listed["metadata"]["continue"]
    assert names((await api("GET", MAPS))[1]) == ["b", "c"]
    code, refused = await api("DELETE", MAPS, {"preconditions": {"uid": "other"}})
    assert (code, refused["reason"]) == (409, "Conflict")


def names(listed: Object) -> list[str]:
    return [one["metadata"]["name"] for one in listed["items"]]
