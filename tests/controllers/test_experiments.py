"""Experiments of Chaos Mesh: whom they hit, what they do and undo, and what they say of it."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.marks import FAILED, KILLED
from tests.controllers.experiments import PODS, SCHEDULES, Experimented, experiment

WEB = {"web-0", "web-1", "web-2", "web-3"}


def failed_by(experiment: dict[str, Any]) -> str:
    return f"{FAILED}{meta.uid(experiment)}"


def test_one_pod_is_killed_once_and_no_later_one_of_its_name() -> None:
    c = Experimented()
    c.begin()
    [victim] = WEB - c.alive()
    assert c.phases() == {f"default/{victim}": "Injected"} and c.true() == {"Selected", "AllInjected"}
    assert c.found()["metadata"]["finalizers"] == ["chaos-mesh/records"]
    c.kubelet()
    c.pod(victim, "web", node="n1")
    c.advance(60)
    assert c.alive() == WEB | {"db-0"}
    assert ("e", "Applied", f"Successfully apply chaos for default/{victim}") in c.events


@pytest.mark.parametrize(
    ("selected", "hit"),
    [
        ({"mode": "all"}, 4),
        ({"mode": "fixed", "value": "2"}, 2),
        ({"mode": "fixed", "value": "9"}, 4),
        ({"mode": "fixed-percent", "value": "50"}, 2),
        ({"mode": "all", "selector": {"namespaces": ["default"]}}, 5),
        ({"mode": "all", "selector": {"namespaces": ["other"]}}, 0),
        ({"mode": "all", "selector": {"pods": {"default": ["web-1", "db-0", "none"]}}}, 2),
        ({"mode": "all", "selector": {"nodes": ["n1"]}}, 3),
        ({"mode": "all", "selector": {"nodeSelectors": {"disk": "fast"}}}, 2),
        ({"mode": "all", "selector": {"fieldSelectors": {"metadata.name": "web-2"}}}, 1),
        ({"mode": "all", "selector": {"podPhaseSelectors": ["Pending"]}}, 0),
        ({"mode": "all", "selector": {"podPhaseSelectors": ["Running"]}}, 5),
        ({"mode": "all", "selector": {"annotationSelectors": {"a": "b"}}}, 0),
        (
            {
                "mode": "all",
                "selector": {
                    "labelSelectors": {"tier": "back"},
                    "expressionSelectors": [{"key": "app", "operator": "NotIn", "values": ["web"]}],
                },
            },
            1,
        ),
    ],
)
def test_whom_a_selector_and_a_mode_mean(selected: dict[str, Any], hit: int) -> None:
    c = Experimented()
    c.node("n1")
    c.node("n2", metadata={"labels": {"disk": "fast"}})
    c.begin(action="pod-failure", **selected)
    assert len(c.failed()) == hit == len(c.phases())


def test_at_most_so_large_a_part_of_the_pods_is_hit_by_chance() -> None:
    c, hit = Experimented(), set()
    for n in range(30):
        c.begin(f"e{n}", action="pod-failure", mode="random-max-percent", value="50")
        hit.add(len(c.phases(f"e{n}")))
    assert {0, 1} <= hit <= {0, 1, 2}


def test_whom_chance_hits_differs() -> None:
    c = Experimented()
    hit: set[str] = set()
    for n in range(30):
        c.begin(f"e{n}", action="pod-failure")
        hit |= c.phases(f"e{n}").keys()
    assert hit == {f"default/{name}" for name in WEB}


def test_pods_fail_for_a_while() -> None:
    c = Experimented()
    c.begin(action="pod-failure", mode="all", duration="30s")
    assert c.failed() == WEB and c.true() == {"Selected", "AllInjected"}
    c.advance(29)
    assert c.failed() == WEB
    c.advance(2)
    assert c.failed() == set() and c.true() == {"Selected", "AllRecovered"}
    status = meta.status(c.found())["experiment"]
    assert status["desiredPhase"] == "Stop"
    assert {(one["injectedCount"], one["recoveredCount"]) for one in status["containerRecords"]} == {(1, 1)}


def test_experiments_on_one_pod_do_not_end_each_other() -> None:
    c = Experimented()
    only = {"pods": {"default": ["web-0"]}}
    c.begin("a", action="pod-failure", selector=only, duration="10s")
    c.begin("b", action="pod-failure", selector=only, duration="1m")
    c.advance(20)
    assert c.failed() == {"web-0"}
    c.advance(50)
    assert c.failed() == set()


def test_what_is_deleted_is_undone_before_it_goes() -> None:
    c = Experimented()
    c.begin(action="pod-failure", mode="all")
    c.advance(3600)
    assert c.failed() == WEB
    c.delete(PODS, "e", "default")
    assert c.get(PODS, "default", "e") is not None
    c.settle()
    assert c.failed() == set() and c.get(PODS, "default", "e") is None


def test_a_pause_undoes_and_its_end_does_again() -> None:
    c = Experimented()
    c.begin(action="pod-failure", mode="all")
    c.pause()
    assert c.failed() == set() and c.true() == {"Selected", "AllRecovered", "Paused"}
    c.pause(value=None)
    assert c.failed() == WEB and c.true() == {"Selected", "AllInjected"}


def test_containers_are_killed_and_once_for_each_time() -> None:
    c = Experimented()
    c.begin(action="container-kill", mode="all", containerNames=["main", "absent"])
    assert set(c.phases()) == {f"default/{name}/main" for name in WEB}
    marks = [v for pod in c.list("pods") for k, v in meta.annotations(pod).items() if k.startswith(KILLED)]
    assert marks == ["0:main"] * 4 and c.alive() == WEB | {"db-0"}


def test_who_comes_later_is_hit_where_nobody_was_there() -> None:
    c = Experimented()
    c.begin(selector={"labelSelectors": {"app": "late"}})
    assert c.true() == set() and "Failed to select targets: no pod is selected" in c.events[-1][2]
    c.advance(30)
    assert len([e for e in c.events if e[1] == "Failed"]) == 1, "it is told once"
    c.pod("late-0", "late", node="n1")
    c.advance(5)
    assert c.true() == {"Selected", "AllInjected"} and "late-0" not in c.alive()


def test_a_pod_that_is_gone_is_told_of() -> None:
    c = Experimented()
    c.create(PODS, experiment(action="pod-failure", selector={"pods": {"default": ["web-0"]}}))
    while not (meta.status(c.found()).get("experiment") or {}).get("containerRecords"):
        c.step()
    c.remove("pods", "default/web-0")
    c.pod("web-0", "web", node="n1")
    c.settle()
    assert c.failed() == set(), "a later pod of that name was not chosen"
    [record] = meta.status(c.found())["experiment"]["containerRecords"]
    assert record["events"][-1]["type"] == "Failed" and "gone" in c.events[-1][2]


def test_records_that_somebody_wrote_hit_nobody_whom_the_experiment_may_not() -> None:
    c = Experimented()
    system = c.pod("dns", "dns", node="n1", namespace="kube-system")
    c.begin("kill", mode="all", selector={"pods": {"default": ["web-0"]}})
    c.begin("fail", action="pod-failure", mode="all")
    for name in ("kill", "fail"):
        found = c.found(name)
        state = meta.status(found)["experiment"]
        forged = {**state["containerRecords"][0], "id": "kube-system/dns", "uid": meta.uid(system)}
        odd = [{**forged, "phase": "Not Injected"}, {**forged, "id": "default"}, {"id": "default/web-1"}]
        c.put(PODS, {**found, "status": {"experiment": {**state, "containerRecords": odd}}})
    c.settle()
    assert "dns" in c.alive() and "dns" not in c.failed()
    c.put("pods", {**system, "metadata": {**system["metadata"], "annotations": {failed_by(c.found("fail")): "true"}}})
    c.delete(PODS, "fail", "default")
    c.settle()
    assert "dns" in c.failed() and c.get(PODS, "default", "fail") is None


def test_marks_of_kills_go_with_their_experiments() -> None:
    c = Experimented()
    template = {**experiment()["spec"], "action": "container-kill", "mode": "all", "containerNames": ["main"]}
    c.create(SCHEDULES, schedule(podChaos=template))
    c.advance(100)
    for pod in c.list("pods"):
        assert len([name for name in meta.annotations(pod) if name.startswith(KILLED)]) <= 2


# --- schedules ------------------------------------------------------------------------------------


def schedule(**spec: Any) -> dict[str, Any]:
    template = experiment()["spec"]
    whole = {"schedule": "@every 10s", "type": "PodChaos", "podChaos": template, **spec}
    own = {"name": "s", "namespace": "default"}
    return {"apiVersion": mesh.API_VERSION, "kind": mesh.SCHEDULE, "metadata": own, "spec": whole}


def made(c: Experimented) -> list[str]:
    return sorted(meta.name(one) for one in c.list(PODS))


def test_an_experiment_is_made_at_each_time() -> None:
    c = Experimented()
    c.create(SCHEDULES, schedule(historyLimit=2))
    c.advance(9)
    assert made(c) == []
    c.advance(25)
    assert len(c.alive()) == 2 and len(made(c)) == 2, "three were made; two are kept"
    [owner] = c.list(PODS)[0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Schedule", "s", True)
    assert meta.labels(c.list(PODS)[0])["managed-by"] == "s"


def test_the_next_one_waits_for_the_last_unless_it_need_not() -> None:
    lasting = {**experiment()["spec"], "action": "pod-failure", "duration": "25s"}
    for policy, most in (("Forbid", 1), ("Allow", 3)):
        c = Experimented()
        c.create(SCHEDULES, schedule(podChaos=lasting, concurrencyPolicy=policy, historyLimit=9))
        running = []
        for _ in range(40):
            c.advance(1)
            running.append(len(meta.status(c.require(SCHEDULES, "default", "s")).get("active") or ()))
        assert max(running) == most


@pytest.mark.parametrize("more", [{}, {"action": "pod-failure", "duration": "2s"}])
@pytest.mark.parametrize("policy", ["Forbid", "Allow"])
def test_a_schedule_goes_on_where_nobody_was_there(policy: str, more: dict[str, str]) -> None:
    c = Experimented()
    template = {**experiment()["spec"], **more, "mode": "all", "selector": {"labelSelectors": {"app": "late"}}}
    c.create(SCHEDULES, schedule(podChaos=template, concurrencyPolicy=policy))
    c.advance(53)
    assert not meta.status(c.require(SCHEDULES, "default", "s")).get("active") and len(made(c)) == 1
    c.pod("late-0", "late", node="n1")
    c.advance(5)
    assert "late-0" in c.alive() - c.failed(), "what hit nobody in its time hits nobody later"
    c.advance(3)
    assert "late-0" not in c.alive() - c.failed()


def test_schedules_whose_long_names_begin_alike_have_experiments_of_their_own() -> None:
    c = Experimented()
    for end in ("a", "b"):
        one = schedule()
        one["metadata"]["name"] = "s" * 36 + "." + "s" * 9 + end
        c.create(SCHEDULES, one)
    c.advance(11)
    assert len(made(c)) == 2 and not any(".-" in name for name in made(c))


def test_a_paused_schedule_makes_nothing() -> None:
    c = Experimented()
    paused = schedule()
    paused["metadata"]["annotations"] = {mesh.PAUSE: "true"}
    c.create(SCHEDULES, paused)
    c.advance(60)
    assert made(c) == []
    c.patch(SCHEDULES, "s", "default", {"metadata": {"annotations": {mesh.PAUSE: None}}})
    c.settle()
    assert len(made(c)) == 1, "of the times that were missed the latest is served"


def test_what_is_too_late_is_not_made() -> None:
    c = Experimented()
    c.create(SCHEDULES, schedule(schedule="0 * * * *", startingDeadlineSeconds=5))
    c.seconds += 3590
    c.settle()
    assert made(c) == []
    c.seconds += 20
    c.patch(SCHEDULES, "s", "default", {"metadata": {"labels": {"a": "b"}}})
    c.settle()
    assert made(c) == []
