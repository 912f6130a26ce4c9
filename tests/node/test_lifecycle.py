"""The pod life cycle: transcripts of single behaviours, and invariants over random events."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.node.errors import LifecycleError
from rayplane.node.lifecycle import (
    DeadlineChanged,
    Effect,
    EphemeralAdded,
    Event,
    Evicted,
    Exited,
    FinalizePod,
    HookRan,
    Moment,
    PodMachine,
    PrepareSandbox,
    Probed,
    Record,
    ResizePending,
    Resumed,
    RunHook,
    SandboxFailed,
    SandboxReady,
    SetTimer,
    StartContainer,
    Started,
    StartFailed,
    StartProbe,
    StopContainer,
    StopRequested,
    Suspended,
    TearDown,
    TimerFired,
    TimerKey,
    Vanished,
    render_status,
)
from rayplane.node.lifecycle.model import START_ERROR, Run, Stage, Stop
from rayplane.node.restarts import KUBERNETES_RESTARTS
from tests.tiers import examples

STAMP = "2026-01-01T00:00:00Z"


class Life:
    """A machine with an obedient world around it: what it asks to start starts, what it asks to stop exits."""

    def __init__(self, *, obedient: bool = True, **spec: Any) -> None:
        spec.setdefault("containers", [{"name": "c", "image": "app:1"}])
        metadata = {"name": "p", "namespace": "ns", "uid": "u"}
        self.pod: dict[str, Any] = {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
        self.machine = PodMachine(self.pod, KUBERNETES_RESTARTS)
        self.obedient = obedient
        self.now = 0.0
        self.effects: list[Effect] = []
        self.timers: dict[TimerKey, float] = {}

    def step(self, event: Event | None = None) -> list[Effect]:
        effects = self.machine.step(event, Moment(self.now, STAMP))
        self.effects += effects
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.key] = effect.at
        if self.obedient:
            for effect in effects:
                self._obey(effect)
        return effects

    def _obey(self, effect: Effect) -> None:
        if isinstance(effect, PrepareSandbox):
            self.step(SandboxReady("10.0.0.2"))
        elif isinstance(effect, StartContainer):
            self.step(Started(effect.container, effect.attempt, "id"))
        elif isinstance(effect, RunHook):
            self.step(HookRan(effect.container, effect.attempt, effect.hook))
        elif isinstance(effect, StopContainer):
            self.step(Exited(effect.container, effect.attempt, 143))

    def exit(self, container: str, code: int, *, after: float = 0.0) -> None:
        self.now += after
        self.step(Exited(container, self.machine.by_name[container].attempt, code))

    def fire(self) -> None:
        """Let the next timer fire."""
        key = min(self.timers, key=lambda k: self.timers[k])
        self.now = max(self.now, self.timers.pop(key))
        self.step(TimerFired(key))

    @property
    def status(self) -> dict[str, Any]:
        return render_status(self.machine, self.pod, host_ip="10.0.0.1", stamp=STAMP)

    def runs(self) -> dict[str, str]:
        return {c.name: c.run.value for c in self.machine.containers}

    def condition(self, kind: str) -> str:
        return str(next(c["status"] for c in self.status["conditions"] if c["type"] == kind))

    def container(self, index: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.status["containerStatuses"][index]
        return found

    def reasons(self) -> list[str]:
        return [e.reason for e in self.effects if isinstance(e, Record)]


def test_a_pod_starts_and_is_ready() -> None:
    life = Life()
    life.step()
    status = life.status
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.0.0.2", "10.0.0.1")
    assert [c["status"] for c in status["conditions"]] == ["True"] * 5
    container = life.container()
    assert container["ready"] and container["started"] and container["restartCount"] == 0
    assert container["state"] == {"running": {"startedAt": STAMP}}
    assert life.reasons() == ["Pulled", "Created", "Started"]
    assert status["qosClass"] == "BestEffort"


def test_init_containers_run_in_order_before_the_others() -> None:
    life = Life(initContainers=[{"name": "i1"}, {"name": "i2"}])
    life.step()
    assert life.runs() == {"i1": "running", "i2": "idle", "c": "idle"}
    assert life.status["phase"] == "Pending"
    assert life.condition("Initialized") == "False"
    assert life.container()["state"]["waiting"]["reason"] == "PodInitializing"
    life.exit("i1", 0)
    assert life.runs() == {"i1": "done", "i2": "running", "c": "idle"}
    life.exit("i2", 0)
    assert life.runs() == {"i1": "done", "i2": "done", "c": "running"}
    assert life.condition("Initialized") == "True"


def test_an_ephemeral_container_runs_once_and_changes_nothing_else() -> None:
    life = Life(initContainers=[{"name": "i"}])
    life.step()
    life.step(EphemeralAdded(({"name": "debug", "image": "tools:1"},)))
    # It does not wait for the others: why they wait may be what it is there to find.
    assert life.runs() == {"i": "running", "c": "idle", "debug": "running"}
    (shown,) = life.status["ephemeralContainerStatuses"]
    assert shown["state"] == {"running": {"startedAt": STAMP}} and not shown["ready"] and "started" not in shown
    life.exit("i", 0)
    assert life.condition("Ready") == "True"
    life.exit("debug", 1)
    assert life.runs() == {"i": "done", "c": "running", "debug": "done"}
    assert (life.condition("Ready"), life.status["phase"]) == ("True", "Running")
    (shown,) = life.status["ephemeralContainerStatuses"]
    assert shown["state"]["terminated"]["exitCode"] == 1 and shown["restartCount"] == 0
    life.step(EphemeralAdded(({"name": "debug", "image": "tools:1"}, {"name": "second"})))
    assert life.runs() == {"i": "done", "c": "running", "debug": "done", "second": "running"}
    life.step(StopRequested(30.0))
    assert life.machine.stage is Stage.GONE


def test_an_ephemeral_container_ends_with_its_pod_and_is_not_run_again() -> None:
    life = Life(restartPolicy="Never")
    life.step()
    life.step(EphemeralAdded(({"name": "debug"}, {"name": "done"})))
    life.exit("done", 0)
    again = Life(ephemeralContainers=[{"name": "debug"}, {"name": "done"}])
    again.machine.adopt(life.status, STAMP)
    again.step()
    assert again.runs() == {"c": "running", "debug": "done", "done": "done"}
    life.exit("c", 0)
    assert (life.status["phase"], life.runs()["debug"]) == ("Succeeded", "done")


def test_a_failed_init_container_is_repeated_or_fails_the_pod() -> None:
    life = Life(initContainers=[{"name": "i"}])
    life.step()
    life.exit("i", 1)
    assert life.runs()["i"] == "running"  # the first restart is immediate
    life.exit("i", 1)
    assert life.runs()["i"] == "backoff"
    never = Life(initContainers=[{"name": "i"}], restartPolicy="Never")
    never.step()
    never.exit("i", 1)
    assert never.status["phase"] == "Failed"
    assert never.runs()["c"] == "done"


def test_sidecars_start_first_and_end_last() -> None:
    sidecars = [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}]
    life = Life(initContainers=sidecars, restartPolicy="Never")
    life.step()
    starts = [e.container for e in life.effects if isinstance(e, StartContainer)]
    assert starts == ["s1", "s2", "c"]
    life.exit("c", 0)
    stops = [e.container for e in life.effects if isinstance(e, StopContainer)]
    assert stops == ["s2", "s1"]
    assert life.status["phase"] == "Succeeded"


def test_a_sidecars_restart_holds_nobody_up() -> None:
    life = Life(initContainers=[{"name": "s", "restartPolicy": "Always"}])
    life.step()
    life.exit("s", 1)
    life.exit("s", 1)
    assert life.runs() == {"s": "backoff", "c": "running"}
    assert life.condition("Initialized") == "True"
    life.exit("c", 1)
    assert life.runs()["c"] == "running"


@pytest.mark.parametrize(
    ("policy", "code", "run", "phase"),
    [
        ("Always", 0, "running", "Running"),
        ("Always", 1, "running", "Running"),
        ("OnFailure", 0, "done", "Succeeded"),
        ("OnFailure", 1, "running", "Running"),
        ("Never", 0, "done", "Succeeded"),
        ("Never", 1, "done", "Failed"),
    ],
)
def test_restart_policies(policy: str, code: int, run: str, phase: str) -> None:
    life = Life(restartPolicy=policy)
    life.step()
    life.exit("c", code)
    assert (life.runs()["c"], life.status["phase"]) == (run, phase)


def test_back_off_doubles_to_five_minutes_and_resets() -> None:
    life = Life()
    life.step()
    life.exit("c", 1)
    waits = []
    for _ in range(7):
        began = life.now
        life.exit("c", 1)
        assert life.container()["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        life.fire()
        waits.append(life.now - began)
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert life.container()["restartCount"] == 8
    life.exit("c", 1, after=601)
    assert life.runs()["c"] == "running"


def test_the_message_of_a_crash_loop() -> None:
    life = Life()
    life.step()
    for _ in range(4):
        life.exit("c", 3)
        if life.timers:
            life.fire()
    life.exit("c", 3)
    waiting = life.container()["state"]["waiting"]
    assert waiting["message"] == "back-off 1m20s restarting failed container=c pod=p_ns(u)"
    assert life.container()["lastState"]["terminated"]["exitCode"] == 3
    assert "BackOff" in life.reasons()


def test_readiness_needs_its_probe() -> None:
    life = Life(containers=[{"name": "c", "readinessProbe": {}}])
    life.step()
    assert life.condition("Ready") == "False"
    life.step(Probed("c", 1, "readiness", True))
    assert life.condition("Ready") == "True"
    life.step(Probed("c", 1, "readiness", False, "no"))
    assert life.condition("Ready") == "False"
    assert life.reasons()[-1] == "Unhealthy"


def test_what_is_odd_about_a_success_is_told() -> None:
    life = Life(containers=[{"name": "c", "readinessProbe": {}}])
    life.step()
    life.step(Probed("c", 1, "readiness", True, "odd"))
    assert life.condition("Ready") == "True"
    assert life.reasons()[-1] == "ProbeWarning"


def test_other_probes_wait_for_the_startup_probe() -> None:
    life = Life(containers=[{"name": "c", "startupProbe": {}, "livenessProbe": {}}])
    life.step()
    assert [e.probe for e in life.effects if isinstance(e, StartProbe)] == ["startup"]
    assert life.container()["started"] is False
    life.step(Probed("c", 1, "startup", True))
    assert [e.probe for e in life.effects if isinstance(e, StartProbe)] == ["startup", "liveness"]
    assert life.container()["started"] is True


def test_a_failed_liveness_probe_restarts_the_container() -> None:
    life = Life(containers=[{"name": "c", "livenessProbe": {}}])
    life.step()
    life.step(Probed("c", 1, "liveness", False, "dead"))
    assert life.container()["restartCount"] == 1
    assert life.runs()["c"] == "running"
    messages = [e.message for e in life.effects if isinstance(e, Record) and e.reason == "Killing"]
    assert messages == ["Container c failed liveness probe, will be restarted"]


def test_deletion_stops_then_removes() -> None:
    life = Life(obedient=False)
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    life.step(Started("c", 1, "id"))
    assert life.step(StopRequested(30.0))[-1] == StopContainer("c", 1, 30.0)
    # Once more with a shorter grace.
    assert life.step(StopRequested(0.0)) == [StopContainer("c", 1, 0.0)]
    effects = life.step(Exited("c", 1, 137))
    assert effects == [TearDown(), FinalizePod()]
    assert life.status["phase"] == "Failed"


def test_a_pod_that_vanished_is_not_deleted_again() -> None:
    life = Life()
    life.step()
    life.step(Vanished())
    assert life.machine.stage is Stage.GONE
    assert not any(isinstance(e, FinalizePod) for e in life.effects)


def test_deletion_while_a_container_starts() -> None:
    life = Life(obedient=False)
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    life.step(StopRequested(5.0))
    life.step(Started("c", 1, "id"))
    assert life.runs()["c"] == "stopping"
    assert life.step(Exited("c", 1, 143))[-1] == FinalizePod()


def test_failures_around_the_container_are_tried_again() -> None:
    life = Life(obedient=False)
    life.step()
    life.step(SandboxFailed("FailedMount", "no volume"))
    life.fire()
    assert [type(e) for e in life.effects].count(PrepareSandbox) == 2
    life.step(SandboxReady("10.0.0.2"))
    life.step(StartFailed("c", 1, "CreateContainerConfigError", 'configmap "x" not found'))
    waiting = life.container()["state"]["waiting"]
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}
    life.fire()
    life.step(Started("c", 2, "id"))
    assert life.container()["restartCount"] == 0


@pytest.mark.parametrize(("policy", "phase"), [("Never", "Failed"), ("OnFailure", "Running"), ("Always", "Running")])
def test_a_program_that_cannot_start_is_a_run_that_ended(policy: str, phase: str) -> None:
    life = Life(obedient=False, restartPolicy=policy)
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    for attempt in (1, 2) if policy != "Never" else (1,):
        life.step(StartFailed("c", attempt, START_ERROR, "not found"))
    found, ended = life.container(), {"exitCode": 128, "reason": "StartError", "message": "not found"}
    assert life.status["phase"] == phase
    if policy == "Never":
        assert found["state"]["terminated"].items() >= ended.items() and found["restartCount"] == 0
    else:
        assert found["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert found["lastState"]["terminated"].items() >= ended.items() and found["restartCount"] == 1


def test_the_deadline_fails_the_pod() -> None:
    life = Life(activeDeadlineSeconds=60, restartPolicy="Never")
    life.step()
    life.fire()
    assert (life.status["phase"], life.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert Record("Normal", "DeadlineExceeded", life.status["message"], "") in life.effects


def test_a_deadline_that_is_set_later_counts_from_the_start() -> None:
    life = Life(restartPolicy="Never")
    life.step()
    assert TimerKey("deadline") not in life.timers
    life.now = 10.0
    life.step(DeadlineChanged(60))
    assert life.timers[TimerKey("deadline")] == 70.0  # by stamps, which stand still here, no time has passed
    life.step(DeadlineChanged(30))
    assert life.timers[TimerKey("deadline")] == 40.0
    life.fire()
    assert (life.status["phase"], life.status["reason"]) == ("Failed", "DeadlineExceeded")


def test_readiness_gates() -> None:
    life = Life(readinessGates=[{"conditionType": "example.com/up"}])
    life.step()
    assert (life.condition("ContainersReady"), life.condition("Ready")) == ("True", "False")
    life.pod["status"]["conditions"] = [{"type": "example.com/up", "status": "True"}]
    assert life.condition("Ready") == "True"
    assert life.condition("example.com/up") == "True"


def test_a_suspended_pod_stops_and_resumes() -> None:
    life = Life()
    life.step()
    life.step(Suspended())
    assert life.runs()["c"] == "idle"
    assert life.machine.stage is Stage.ACTIVE
    life.step(Resumed())
    assert life.runs()["c"] == "running"
    assert life.container()["restartCount"] == 1


def test_taking_over_a_pod_of_an_earlier_life() -> None:
    life = Life(initContainers=[{"name": "i"}])
    life.step()
    life.exit("i", 0)
    status = life.status
    again = Life(initContainers=[{"name": "i"}])
    again.machine.adopt(status, STAMP)
    again.step()
    assert again.status["phase"] == "Running"
    again.exit("i", 0)
    container = again.container()
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["exitCode"] == 255
    assert again.status["startTime"] == status["startTime"]


def test_a_lost_run_ended_when_it_was_found_missing() -> None:
    """What kubectl shows behind the number of restarts is the time since the last one, not the age of the pod."""
    life = Life()
    life.step()
    again = Life()
    again.machine.adopt(life.status, "2026-01-01T00:10:00Z")
    again.step()
    ended = again.container()["lastState"]["terminated"]
    assert (ended["startedAt"], ended["finishedAt"]) == (STAMP, "2026-01-01T00:10:00Z")


def test_a_completed_pod_of_an_earlier_life_stays_completed() -> None:
    life = Life(restartPolicy="Never")
    life.step()
    life.exit("c", 0)
    again = Life(restartPolicy="Never")
    again.machine.adopt(life.status, STAMP)
    assert again.step() == []
    assert again.status["phase"] == "Succeeded"
    assert again.step(StopRequested(30.0)) == [FinalizePod()]


def test_an_impossible_event_is_refused() -> None:
    life = Life(obedient=False)
    with pytest.raises(LifecycleError):
        life.step(SandboxReady("10.0.0.2"))
    life.step()
    life.step(SandboxReady("10.0.0.2"))
    life.step(Started("c", 1, "id"))
    with pytest.raises(LifecycleError):
        life.step(Started("c", 1, "id"))


# --- random lives ---------------------------------------------------------------------------------

_RANK = {"Pending": 0, "Running": 1, "Succeeded": 2, "Failed": 2}
_HOOKS: dict[str, Any] = {"postStart": {"sleep": {}}, "preStop": {"sleep": {}}}
_SPEC = st.fixed_dictionaries(
    {
        "restartPolicy": st.sampled_from(["Always", "OnFailure", "Never"]),
        "initContainers": st.lists(st.sampled_from(["init", "sidecar"]), max_size=2).map(
            lambda kinds: [
                {"name": f"i{n}", **({"restartPolicy": "Always"} if kind == "sidecar" else {})}
                for n, kind in enumerate(kinds)
            ]
        ),
        "containers": st.integers(1, 2).map(
            lambda count: [{"name": f"c{n}", "readinessProbe": {}, "livenessProbe": {}} for n in range(count)]
        ),
    }
)


class World:
    """A world that answers what a machine asked for, in any order and with any result that `data` chooses."""

    def __init__(self, life: Life, data: st.DataObject) -> None:
        self.life, self.data = life, data
        self.sandbox = False
        self.starting: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.probes: list[StartProbe] = []
        self.hooks: dict[str, RunHook] = {}

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, PrepareSandbox):
                self.sandbox = True
            elif isinstance(effect, StartContainer):
                assert effect.container not in self.running and effect.container not in self.starting
                self.starting[effect.container] = effect.attempt
            elif isinstance(effect, RunHook):
                assert effect.container in self.running
                self.hooks[effect.container] = effect
            elif isinstance(effect, StopContainer):
                self.hooks.pop(effect.container, None)
            elif isinstance(effect, StartProbe):
                self.probes.append(effect)
            elif isinstance(effect, TearDown):
                assert not self.running and not self.starting

    def event(self) -> Event | None:
        """One event which can happen now."""
        draw = self.data.draw
        choices: list[Any] = []
        if self.sandbox:
            choices += [SandboxReady("10.0.0.2"), SandboxFailed("FailedMount", "x")]
        for name, attempt in self.starting.items():
            choices += [Started(name, attempt, "id"), StartFailed(name, attempt, "X", "y")]
        choices += [Exited(n, a, code) for n, a in self.running.items() for code in (0, 1)]
        choices += [Probed(p.container, p.attempt, p.probe, ok) for p in self.probes for ok in (True, False)]
        hooks = [HookRan(h.container, h.attempt, h.hook, failed) for h in self.hooks.values() for failed in ("", "no")]
        choices += hooks
        choices += [TimerFired(key) for key in self.life.timers]
        choices += [StopRequested(30.0), Suspended(), Resumed(), DeadlineChanged(60), None]
        choices += [ResizePending("Deferred", "full"), Evicted("Evicted", "low", 0.0)]
        choices += [EphemeralAdded(tuple({"name": f"e{n}"} for n in range(count))) for count in (1, 2)]
        event = draw(st.sampled_from(choices))
        if isinstance(event, SandboxReady | SandboxFailed):
            self.sandbox = False
        elif isinstance(event, Started):
            self.running[event.container] = self.starting.pop(event.container)
        elif isinstance(event, StartFailed):
            del self.starting[event.container]
        elif isinstance(event, Exited):
            del self.running[event.container]
            self.hooks.pop(event.container, None)
        elif isinstance(event, HookRan):
            del self.hooks[event.container]
        elif isinstance(event, TimerFired):
            self.life.now = max(self.life.now, self.life.timers.pop(event.key))
        return event


@settings(max_examples=examples(200), deadline=None)
@given(st.data(), _SPEC)
def test_whatever_happens(data: st.DataObject, spec: dict[str, Any]) -> None:
    """Phases never go back, restarts are only counted up, nothing runs twice or after its pod was torn down."""
    life = Life(obedient=False, **spec)
    world = World(life, data)
    world.take(life.step())
    phase, counts, ended = 0, {c.name: 0 for c in life.machine.containers}, False
    for _ in range(data.draw(st.integers(0, 40))):
        world.take(life.step(world.event()))
        status = life.status
        assert _RANK[status["phase"]] >= phase
        phase = _RANK[status["phase"]]
        for container in [c for part in status if part.endswith("ontainerStatuses") for c in status[part]]:
            assert container["restartCount"] >= counts.get(container["name"], 0)
            assert len(container["state"]) == 1
            assert container["name"] not in world.running or "terminated" not in container["state"]
            counts[container["name"]] = container["restartCount"]
        if ended:
            assert life.machine.stage in (Stage.ENDED, Stage.GONE)
        ended = ended or life.machine.stage is Stage.ENDED
        if life.machine.apps_begun:
            assert life.condition("Initialized") == "True" or ended
        # Whoever is told to end has been told, or has a hook or somebody before it to wait for.
        for c in life.machine.containers:
            assert c.run is not Run.STOPPING or c.stop is not Stop.NONE
            assert c.stop is not Stop.HOOK or c.run is not Run.STOPPING or c.name in world.hooks
