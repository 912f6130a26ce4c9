"""The recording of a trial: its judge tells a tape of all objects, and the control plane is looked at beside it."""

import asyncio

from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.scenario import Scenario
from rayplane.control_plane.cluster.status import glance
from rayplane.control_plane.cluster.trial.trial import Trial
from rayplane.control_plane.cluster.trial.verdict import Verdict
from rayplane.control_plane.recordings import Ending, Head, Tape
from rayplane.control_plane.recordings.tape import Struck
from rayplane.control_plane.tasks import cancel_and_wait

LOOK_EVERY_S = 1.0
SHOWN = ("members", "actors")


async def recorded(trial: Trial, admin: Access, scenario: Scenario, seed: int) -> tuple[Verdict, bytes]:
    """Run the trial; its verdict, and its recording. Raises as `Trial.run` does."""
    cluster = admin.state.config.name
    started = admin.directory.clock.now()
    tape = Tape(Head(of="chaos", name=scenario.name, seed=seed, cluster=cluster, started=started))
    trial.judge.listener = tape
    looking = asyncio.create_task(_look(trial, admin, tape))
    try:
        verdict = await trial.run()
    finally:
        await cancel_and_wait(looking)
    return verdict, tape.finished(_ending(trial, verdict))


async def _look(trial: Trial, admin: Access, tape: Tape) -> None:
    while True:
        found = await glance(admin)
        tape.state(trial.now(), {part: found[part] for part in SHOWN})
        await asyncio.sleep(LOOK_EVERY_S)


def _ending(trial: Trial, verdict: Verdict) -> Ending:
    found = trial.judge.violations
    expected = [f"expected: {what}: {wrong}" for what, wrong in verdict.expected if wrong]
    return Ending(
        end_s=trial.now(),
        ok=verdict.ok,
        faults=[Struck(one.text, one.hit, one.began_s, one.ended_s) for one in verdict.faults],
        invariants={name: [v for v in found if v.invariant == name] for name in verdict.invariants},
        unseen=verdict.unseen,
        failures=[*verdict.failed, *expected],
        events=verdict.events,
    )
