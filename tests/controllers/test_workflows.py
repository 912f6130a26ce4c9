"""Workflows of experiments: their order, their pauses, their deadlines, and that no step is done twice."""

from __future__ import annotations

from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.chaos_workflow import ABORT
from tests.controllers.experiments import PODS, SCHEDULES, WORKFLOWS, Experimented, experiment

KILL = experiment()["spec"]
FAIL = {**KILL, "action": "pod-failure", "mode": "all"}


def template(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "templateType": kind, **more}


SUITE = [
    template("all", "Serial", children=["kill", "rest", "both", "kill"]),
    template("kill", "PodChaos", podChaos=KILL),
    template("rest", "Suspend", deadline="10s"),
    template("both", "Parallel", deadline="30s", children=["fail", "rest"]),
    template("fail", "PodChaos", deadline="20s", podChaos=FAIL),
]


class Flowing(Experimented):
    def flow(self, *templates: dict[str, Any]) -> None:
        own = {"name": "w", "namespace": "default"}
        spec = {"entry": templates[0]["name"], "templates": [*templates]}
        self.create(WORKFLOWS, {"apiVersion": mesh.API_VERSION, "kind": mesh.WORKFLOW, "metadata": own, "spec": spec})
        self.settle()

    @property
    def told(self) -> dict[str, Any]:
        return meta.status(self.require(WORKFLOWS, "default", "w"))

    def over(self) -> dict[str, bool]:
        """The steps that have begun, and whether they are over."""
        return {one["name"]: "endTime" in one for one in self.told["nodes"]}

    def is_accomplished(self) -> bool:
        return meta.condition_is(self.require(WORKFLOWS, "default", "w"), "Accomplished")


def test_steps_go_one_after_another_and_side_by_side() -> None:
    c = Flowing()
    c.flow(*SUITE)
    assert len(c.alive()) == 4 and c.over() == {"all": False, "all/0-kill": True, "all/1-rest": False}
    c.advance(11)
    assert len(c.failed()) == 3, "after the pause"
    assert c.over()["all/2-both/1-rest"] is False, "at the same time another one"
    c.advance(11)
    assert c.over()["all/2-both/1-rest"] and c.failed(), "each to its own end"
    c.advance(11)
    assert not c.failed() and len(c.alive()) == 3, "what failed is as it was, and the last step kills"
    assert c.is_accomplished() and c.told["endTime"]
    [owner] = c.list(PODS)[0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Workflow", "w")
    made = len(c.list(PODS))
    c.advance(100)
    assert len(c.alive()) == 3 and len(c.list(PODS)) == made, "no step is done twice"


def test_what_is_not_over_at_a_deadline_is_ended() -> None:
    c = Flowing()
    forever = template("fail", "PodChaos", deadline="1h", podChaos=FAIL)
    c.flow(template("all", "Serial", deadline="15s", children=["fail", "rest"]), forever, SUITE[2])
    assert c.failed()
    c.advance(16)
    assert not c.failed() and not c.list(PODS) and c.is_accomplished()
    assert set(c.over()) == {"all", "all/0-fail"}, "later steps never begin"
    assert c.told["conditions"][1]["reason"] == "DeadlineExceed"


def test_a_schedule_makes_experiments_until_its_deadline() -> None:
    c = Flowing()
    every = {"schedule": "@every 5s", "type": "PodChaos", "podChaos": KILL, "historyLimit": 9}
    c.flow(template("often", "Schedule", deadline="12s", schedule=every))
    c.advance(13)
    assert len(c.alive()) == 3 and not c.list(SCHEDULES) and c.is_accomplished()


def test_whoever_aborts_a_workflow_ends_what_it_made() -> None:
    c = Flowing()
    c.flow(template("fail", "PodChaos", deadline="1h", podChaos=FAIL))
    c.patch(WORKFLOWS, "w", "default", {"metadata": {"annotations": {ABORT: "true"}}})
    c.settle()
    assert not c.failed() and c.is_accomplished()
    assert c.told["conditions"][1]["reason"] == "WorkflowAborted"
