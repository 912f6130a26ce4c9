"""One storm, from `up` to `down`."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.cluster.access import Access, access
from tests.storm import workload
from tests.storm.faults import Faults
from tests.storm.live import Place, place
from tests.storm.load import ConfigMaps, EtcdKeys, Observers
from tests.storm.oracle import Ledger
from tests.storm.plan import Plan
from tests.storm.pressure import pressure
from tests.storm.rest import Restless, at_rest
from tests.storm.truth import failing, lies

WRITERS = 3
#: Busy loops end by themselves so long after a storm should have.
SLACK_S = 600.0
READ_S = 60.0
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a storm that went well."""

    acts: int
    in_vain: int
    writes: str
    reports: int
    unhealthy: int
    held: int
    rest_s: float
    slowest_strike_s: float

    def __str__(self) -> str:
        return (
            f"{self.acts} acts ({self.in_vain} in vain, slowest strike {self.slowest_strike_s:.1f} s), "
            f"writes: {self.writes}; {self.reports} reports of status, {self.unhealthy} of them unhealthy, "
            f"judged by {self.held} faults that held; at rest after {self.rest_s:.1f} s"
        )


async def storm(plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Raises AssertionError that names the seed and everything that was wrong."""
    say(f"storm {plan}")
    with pressure(plan.pressure, plan.seconds + SLACK_S):
        async with place(plan, say) as where:
            await where.up()
            say(f"up: {where.config.name} in {where.cluster.directory}")
            async with access(where.directory) as admin:
                outcome, problems = await _weather(plan, where, admin, say)
            if not problems:
                problems += [f"left by `down`: {left}" for left in await where.down()]
            if problems:
                shown = "\n  ".join(problems[:SHOWN])
                raise AssertionError(f"{plan}: {len(problems)} problems:\n  {shown}")
    return outcome


async def _weather(plan: Plan, where: Place, admin: Access, say: Callable[[str], None]) -> tuple[Outcome, list[str]]:
    ledgers = Ledger(), Ledger()
    maps, keys = ConfigMaps(admin.api, ledgers[0]), EtcdKeys(admin.etcd, ledgers[1])
    await workload.apply(admin)
    acts = plan.acts()
    faults = Faults(admin, where.cluster, maps, random.Random(plan.seed), say)
    seen = Observers(admin, faults.chronicle.now, faults.chronicle.reports)
    writers = [maps.live(f"w{n}") for n in range(WRITERS)] + [keys.live(f"k{n}") for n in range(WRITERS)]
    problems: list[str] = []
    rest_s = 0.0
    async with _meanwhile([*writers, *seen.work()]):
        await faults.run(acts)
        faults.calm()
        say(f"{faults.chronicle.now():6.1f} s  calm")
        try:
            rest_s = await at_rest(admin, faults.wanted)
        except Restless as e:
            problems.append(f"not at rest: {e}")
    async with asyncio.timeout(READ_S):
        ledgers[0].judge(await maps.there())
        ledgers[1].judge(await keys.there())
    held = faults.chronicle.held + [h for name, found in seen.attempts.items() for h in failing(name, found)]
    problems += [*ledgers[0].problems, *ledgers[1].problems, *seen.problems, *lies(held, seen.reports)]
    answers = {a: sum(ledger.answers[a] for ledger in ledgers) for a in ledgers[0].answers}
    outcome = Outcome(
        acts=len(acts),
        in_vain=len(faults.in_vain),
        writes=", ".join(f"{count} {answer.name.lower()}" for answer, count in answers.items()),
        reports=len(seen.reports),
        unhealthy=sum(not r.healthy for r in seen.reports),
        held=len(held),
        rest_s=rest_s,
        slowest_strike_s=faults.injector.slowest_s,
    )
    for one in faults.in_vain:
        say(f"in vain: {one}")
    return outcome, problems


@contextlib.asynccontextmanager
async def _meanwhile(work: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """These run as long as the body does; one that fails by itself ends it."""
    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:
        tasks += [group.create_task(w) for w in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
