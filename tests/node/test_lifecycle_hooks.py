"""The pod life cycle: hooks, ends in order, restart rules, resizes, and what else a node does to a pod."""

from typing import Any

import pytest

from rayplane.node.lifecycle import (
    Evicted,
    Exited,
    HoldResources,
    HookRan,
    Probed,
    Record,
    ResizePending,
    ResourcesHeld,
    Respecified,
    RunHook,
    SandboxReady,
    StartContainer,
    Started,
    StartProbe,
    StopContainer,
    StopRequested,
    TimerFired,
)
from rayplane.node.lifecycle.model import TimerKey
from tests.node.test_lifecycle import Life

PRE: dict[str, Any] = {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}
POST: dict[str, Any] = {"lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}


def begun(*names: str, **spec: Any) -> Life:
    """A pod whose containers of these names have been started, in a world that answers nothing by itself."""
    life = Life(obedient=False, **spec)
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    for name in names:
        life.step(Started(name, 1, f"id-{name}"))
    return life


def stops(life: Life) -> list[tuple[str, float]]:
    return [(e.container, e.grace_s) for e in life.effects if isinstance(e, StopContainer)]


def test_a_container_runs_once_its_hook_is_done_and_the_next_ones_wait_for_it() -> None:
    life = begun(containers=[{"name": "a", "readinessProbe": {}, **POST}, {"name": "b"}])
    assert life.runs() == {"a": "starting", "b": "idle"}
    life.step(Started("a", 1, "id"))
    assert life.effects[-1] == RunHook("a", 1, "postStart")
    assert (life.runs()["b"], life.status["phase"]) == ("idle", "Pending")
    assert life.container()["state"] == {"waiting": {"reason": "ContainerCreating"}}
    life.step(HookRan("a", 1, "postStart"))
    assert life.runs() == {"a": "running", "b": "starting"}
    assert StartProbe("a", 1, "readiness") in life.effects


def test_a_hook_that_fails_at_the_start_ends_the_container() -> None:
    life = begun("c", containers=[{"name": "c", **POST}], restartPolicy="Never")
    life.step(HookRan("c", 1, "postStart", "exit 1"))
    told = [(e.reason, e.message) for e in life.effects if isinstance(e, Record)][-2:]
    assert told == [("FailedPostStartHook", "PostStartHook failed: exit 1"), ("Killing", "FailedPostStartHook")]
    assert stops(life) == [("c", 30.0)]
    life.exit("c", 137)
    assert life.status["phase"] == "Failed"


@pytest.mark.parametrize(("took", "left"), [(0.0, 30.0), (5.0, 25.0), (29.5, 2.0), (30.0, 2.0)])
def test_what_a_hook_takes_at_the_end_is_taken_from_the_grace(took: float, left: float) -> None:
    life = begun("c", containers=[{"name": "c", **PRE}])
    life.step(StopRequested(30.0))
    assert life.effects[-1] == RunHook("c", 1, "preStop", 30.0)
    life.now += took
    life.step(HookRan("c", 1, "preStop", "too late" if took == 30 else ""))
    assert stops(life) == [("c", left)]
    assert ("FailedPreStopHook" in life.reasons()) is (took == 30)


def test_a_shorter_grace_does_not_wait_for_the_hook() -> None:
    life = begun("c", containers=[{"name": "c", **PRE}])
    life.step(StopRequested(30.0))
    life.step(StopRequested(1.0))
    assert stops(life) == [("c", 1.0)]
    life.step(HookRan("c", 1, "preStop"))
    assert stops(life) == [("c", 1.0)]


def test_without_grace_there_is_no_hook() -> None:
    life = begun("c", containers=[{"name": "c", **PRE}])
    life.step(StopRequested(0.0))
    assert stops(life) == [("c", 0.0)]
    assert not any(isinstance(e, RunHook) for e in life.effects)


def test_hooks_of_sidecars_run_at_once_and_the_sidecars_end_in_their_turn_with_what_is_left() -> None:
    sidecars = [{"name": name, "restartPolicy": "Always", **PRE} for name in ("s1", "s2")]
    life = begun("s1", "s2", "c", initContainers=sidecars)
    life.step(StopRequested(30.0))
    hooks = [e.container for e in life.effects if isinstance(e, RunHook)]
    assert (sorted(hooks), stops(life)) == (["s1", "s2"], [("c", 30.0)])
    life.step(HookRan("s1", 1, "preStop"))
    assert stops(life) == [("c", 30.0)]
    life.exit("c", 0, after=10.0)
    life.step(HookRan("s2", 1, "preStop"))
    assert stops(life)[1:] == [("s2", 20.0)]
    life.exit("s2", 0, after=19.0)
    assert stops(life)[2:] == [("s1", 2.0)]


def test_a_sidecar_without_a_hook_has_the_rest_of_the_grace() -> None:
    life = begun("s", "c", initContainers=[{"name": "s", "restartPolicy": "Always"}])
    life.step(StopRequested(30.0))
    life.exit("c", 0, after=12.0)
    assert stops(life) == [("c", 30.0), ("s", 18.0)]


def test_readiness_is_told_until_the_container_has_ended() -> None:
    life = begun("c", containers=[{"name": "c", "readinessProbe": {}, "livenessProbe": {}}])
    life.step(Probed("c", 1, "readiness", True))
    life.step(StopRequested(30.0))
    assert life.condition("Ready") == "True"
    life.step(Probed("c", 1, "readiness", False, "draining"))
    assert life.condition("Ready") == "False"
    life.step(Probed("c", 1, "liveness", False, "gone"))
    assert stops(life) == [("c", 30.0)]


def test_each_failure_of_a_probe_is_told_and_only_the_last_one_counts() -> None:
    life = begun("c", containers=[{"name": "c", "livenessProbe": {}}])
    life.step(Probed("c", 1, "liveness", False, "HTTP probe failed with statuscode: 500", decides=False))
    assert life.runs()["c"] == "running"
    (told,) = [e.message for e in life.effects if isinstance(e, Record) and e.reason == "Unhealthy"]
    assert told == "Liveness probe failed: HTTP probe failed with statuscode: 500"
    life.step(Probed("c", 1, "liveness", False, "HTTP probe failed with statuscode: 500"))
    assert life.runs()["c"] == "stopping"


def rule(action: str, operator: str, *codes: int) -> dict[str, Any]:
    return {"action": action, "exitCodes": {"operator": operator, "values": [*codes]}}


@pytest.mark.parametrize(
    ("policy", "rules", "code", "run"),
    [
        ("Never", [rule("Restart", "In", 42)], 42, "running"),
        ("Never", [rule("Restart", "In", 42)], 43, "done"),
        ("Never", [rule("Restart", "NotIn", 0, 1)], 2, "running"),
        ("Never", [rule("Restart", "NotIn", 0, 1)], 1, "done"),
        ("OnFailure", [rule("Restart", "In", 0)], 0, "running"),
    ],
)
def test_restart_rules_come_before_the_policy(policy: str, rules: list[Any], code: int, run: str) -> None:
    life = Life(containers=[{"name": "c", "restartPolicy": policy, "restartPolicyRules": rules}], restartPolicy="Never")
    life.step()
    life.exit("c", code)
    assert life.runs()["c"] == run


def test_a_rule_of_an_init_container_lets_it_try_again() -> None:
    inits = [{"name": "i", "restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "In", 7)]}]
    life = Life(initContainers=inits, restartPolicy="Never")
    life.step()
    life.exit("i", 7)
    assert life.runs()["i"] == "running"
    life.exit("i", 8)
    assert life.status["phase"] == "Failed"


def test_a_rule_may_have_the_whole_pod_begin_anew() -> None:
    rules = [rule("RestartAllContainers", "In", 9)]
    apps = [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}, {"name": "b"}]
    life = Life(initContainers=[{"name": "i"}], containers=apps, restartPolicy="Never")
    life.step()
    life.exit("i", 0)
    life.obedient = False
    life.step(Exited("a", 1, 9))
    assert stops(life) == [("b", 0.0)]
    assert life.condition("AllContainersRestarting") == "True"
    life.obedient = True
    life.exit("b", 137)
    assert life.runs() == {"i": "running", "a": "idle", "b": "idle"}
    life.exit("i", 0)
    assert life.runs() == {"i": "done", "a": "running", "b": "running"}
    assert [s["restartCount"] for s in life.status["containerStatuses"]] == [1, 1]


def test_messages_of_a_pods_containers_share_twelve_kibibytes() -> None:
    life = Life(containers=[{"name": f"c{n}"} for n in range(6)], restartPolicy="Never")
    life.step()
    for n in range(6):
        life.step(Exited(f"c{n}", 1, 1, 0, "\u00e9" * 2048))
    messages = [c["state"]["terminated"]["message"] for c in life.status["containerStatuses"]]
    assert {len(m.encode()) for m in messages} == {2048}


def test_conditions_say_of_which_generation_they_are() -> None:
    life = Life()
    life.pod["metadata"]["generation"] = 3
    life.step()
    assert {c["observedGeneration"] for c in life.status["conditions"]} == {3}
    assert life.status["observedGeneration"] == 3


def test_a_readiness_gate_that_is_not_true_is_named() -> None:
    life = Life(readinessGates=[{"conditionType": "a"}, {"conditionType": "b"}])
    life.pod["status"]["conditions"] = [{"type": "b", "status": "False"}]
    life.step()
    (ready,) = [c for c in life.status["conditions"] if c["type"] == "Ready"]
    missing = 'corresponding condition of pod readiness gate "a" does not exist.'
    assert ready["message"] == f'{missing}, the status of pod readiness gate "b" is not "True", but False'


def test_an_evicted_pod_fails_within_the_nodes_grace() -> None:
    life = begun("c")
    life.step(Evicted("Evicted", "The node was low on resource: memory. ", 1.0, ("TerminationByKubelet", "low")))
    assert stops(life) == [("c", 1.0)]
    life.exit("c", 137)
    assert (life.status["phase"], life.status["reason"]) == ("Failed", "Evicted")
    (target,) = [c for c in life.status["conditions"] if c["type"] == "DisruptionTarget"]
    assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")


def test_a_resize_is_in_force_at_once_or_with_the_next_run() -> None:
    small, large = ({"requests": {"cpu": n}} for n in ("1", "2"))
    apps = [{"name": "a", "resources": small}, {"name": "b", "resources": small}]
    life = begun("a", "b", containers=apps, restartPolicy="OnFailure")
    life.step(ResizePending("Deferred", "full"))
    pending = [c for c in life.status["conditions"] if c["type"] == "PodResizePending"]
    assert [(c["reason"], c["message"]) for c in pending] == [("Deferred", "full")]
    life.step(ResizePending("", ""))
    changed = tuple({**a, "resources": large} for a in apps)
    life.step(Respecified(changed, (("b", "Container b resize requires restart"),), told="{}"))
    held = [e for e in life.effects if isinstance(e, HoldResources)]
    assert held == [HoldResources(("a",))] and life.container(0)["resources"] == small
    life.step(ResourcesHeld("no memory"))
    (progress,) = [c for c in life.status["conditions"] if c["type"] == "PodResizeInProgress"]
    assert (progress["reason"], progress["message"]) == ("Error", "no memory")
    life.step(TimerFired(TimerKey("resize")))
    assert life.effects[-1] == HoldResources(("a",))
    life.step(ResourcesHeld())
    a, b = life.status["containerStatuses"]
    assert (a["resources"], a["allocatedResources"]) == (large, {"cpu": "2"})
    assert (b["resources"], b["allocatedResources"]) == (small, {"cpu": "2"})
    kinds = {c["type"] for c in life.status["conditions"]}
    assert "PodResizeInProgress" in kinds and "PodResizePending" not in kinds
    # It ends well, and runs again all the same.
    life.exit("b", 0)
    assert isinstance(life.effects[-1], StartContainer)
    life.step(Started("b", 2, "id"))
    assert life.container(1)["resources"] == large and life.container(1)["restartCount"] == 1
    assert "PodResizeInProgress" not in {c["type"] for c in life.status["conditions"]}


def test_a_container_tells_its_mounts_from_the_beginning_and_that_read_only_ends_at_the_volume() -> None:
    token = {"name": "token", "mountPath": "/var/run", "readOnly": True, "recursiveReadOnly": "IfPossible"}
    mounts = [{"name": "data", "mountPath": "/data", "subPath": "x"}, token]
    life = Life(containers=[{"name": "app", "volumeMounts": mounts}, {"name": "bare"}], obedient=False)
    life.step()
    told = [
        {"name": "data", "mountPath": "/data"},
        {"name": "token", "mountPath": "/var/run", "readOnly": True, "recursiveReadOnly": "Disabled"},
    ]
    assert "waiting" in life.container()["state"] and life.container()["volumeMounts"] == told
    assert "volumeMounts" not in life.container(1)
