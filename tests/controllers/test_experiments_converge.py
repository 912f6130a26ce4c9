"""Whatever befalls the controllers: each experiment hits whom it chose, once, and all that it did is undone."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.marks import FAILED, stresses
from rayplane.control_plane.controllers.replicaset import ReplicaSetController
from tests.controllers.disturbed import FAULTS, Disturbed, Slot
from tests.controllers.experiments import PODS, SCHEDULES, STRESSES, WORKFLOWS, controllers, experiment
from tests.tiers import examples

SETS = "replicasets.apps"
POLITE = [fault for fault in FAULTS if fault != "kill"]
"""Here only experiments kill pods."""


class Laboratory(Disturbed):
    """A ReplicaSet of four pods and those who experiment on them."""

    def __init__(self, rng: random.Random, faults: set[str]) -> None:
        self.hit: dict[str, int] = {}
        """Of each experiment that kills: how many pods that were chosen by it went."""
        super().__init__(rng, faults)
        self.listeners.append(self._count)
        self.add("namespaces", "default", spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})

    def start(self) -> None:
        self.slots = []
        self.slots = [Slot(one, self) for one in (*controllers(), ReplicaSetController())]

    def _count(self, resource: str, _kind: str, old: Object | None, new: Object) -> None:
        if resource == "pods" and meta.is_deleting(new) and not (old and meta.is_deleting(old)):
            self.hit[meta.uid(new)] = self.hit.get(meta.uid(new), 0) + 1


def web(c: Disturbed) -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    c.add(SETS, "web", spec=spec)


def all_ready(c: Disturbed) -> None:
    c.until(lambda: meta.status(c.require(SETS, "default", "web")).get("readyReplicas") == 4)


def kill_two(c: Disturbed) -> None:
    c.create(PODS, experiment("kill", mode="fixed", value="2"))


def fail(c: Disturbed) -> None:
    c.create(PODS, experiment("fail", action="pod-failure", mode="all", duration="20s"))
    c.create(PODS, experiment("keep", action="pod-failure", mode="one"))


def pause(c: Disturbed) -> None:
    c.patch(PODS, "keep", "default", {"metadata": {"annotations": {mesh.PAUSE: "true"}}})


def schedule(c: Disturbed) -> None:
    failure = {**experiment()["spec"], "action": "pod-failure", "duration": "2s"}
    spec = {"schedule": "@every 5s", "type": "PodChaos", "podChaos": failure}
    own = {"name": "s", "namespace": "default"}
    c.create(SCHEDULES, {"apiVersion": mesh.API_VERSION, "kind": mesh.SCHEDULE, "metadata": own, "spec": spec})


def stress(c: Disturbed) -> None:
    spec = {**experiment(mode="all")["spec"], "stressors": {"cpu": {"workers": 1}}, "duration": "20s"}
    spec.pop("action")
    own = {"name": "stress", "namespace": "default"}
    c.create(STRESSES, {"apiVersion": mesh.API_VERSION, "kind": mesh.STRESS_CHAOS, "metadata": own, "spec": spec})


def flow(c: Disturbed) -> None:
    fail = {**experiment(mode="one")["spec"], "action": "pod-failure", "duration": "2s"}
    templates = [
        {"name": "all", "templateType": "Serial", "children": ["fail", "rest", "fail"]},
        {"name": "fail", "templateType": "PodChaos", "podChaos": fail},
        {"name": "rest", "templateType": "Suspend", "deadline": "3s"},
    ]
    own, spec = {"name": "w", "namespace": "default"}, {"entry": "all", "templates": templates}
    c.create(WORKFLOWS, {"apiVersion": mesh.API_VERSION, "kind": mesh.WORKFLOW, "metadata": own, "spec": spec})
    c.until(lambda: meta.condition_is(c.require(WORKFLOWS, "default", "w"), "Accomplished"))


def end(c: Disturbed) -> None:
    for resource, names in ((SCHEDULES, ["s"]), (PODS, ["keep"])):
        for name in names:
            c.delete(resource, name, "default")


def facts(c: Laboratory) -> dict[str, Any]:
    kill = meta.status(c.require(PODS, "default", "kill"))["experiment"]["containerRecords"]
    marks = [name for pod in c.list("pods") for name in meta.annotations(pod) if name.startswith(FAILED)]
    left = {meta.name(one): one["metadata"]["finalizers"] for one in c.list(PODS) if meta.is_deleting(one)}
    steps = [one for one in c.list(PODS) if (meta.controller_of(one) or {}).get("kind") == mesh.WORKFLOW]
    return {
        "steps": sorted(meta.status(one)["experiment"]["desiredPhase"] for one in steps),
        "still stressed": [meta.name(pod) for pod in c.list("pods") if [*stresses(meta.annotations(pod), "main")]],
        # Of two that were wanted as many as its controller knew of.
        "killed": 1 <= len(kill) <= 2 and {one["uid"]: 1 for one in kill} == c.hit,
        "phases": {one["phase"] for one in kill},
        "still failed": marks,
        "not let go": left,
        "kept": c.get(PODS, "default", "keep"),
        "pods": len(c.list("pods")),
    }


@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(POLITE), min_size=1))
@settings(max_examples=examples(15), deadline=None)
def test_experiments_end_as_they_should_whatever_befalls_them(seed: int, faults: set[str]) -> None:
    c = Laboratory(random.Random(seed), faults)
    c.run((web, all_ready, kill_two, fail, stress, schedule, flow, pause, end))
    assert facts(c) == {
        "steps": ["Stop", "Stop"],
        "still stressed": [],
        "killed": True,
        "phases": {"Injected"},
        "still failed": [],
        "not let go": {},
        "kept": None,
        "pods": 4,
    }
