"""Up, work, `kill -9` of everything, and up again, many times over."""

import asyncio
import random
from collections.abc import Callable

from rayplane.control_plane.cluster.access import access
from tests.storm import workload
from tests.storm.live import Place, place
from tests.storm.load import ConfigMaps, EtcdKeys
from tests.storm.oracle import Answer, Ledger
from tests.storm.plan import REPLICAS, Plan
from tests.storm.pressure import pressure
from tests.storm.rest import at_rest
from tests.storm.storm import READ_S, SHOWN, SLACK_S, WRITERS, _meanwhile
from tests.storm.workload import WORKLOADS

WORK_S = (1.0, 6.0)
CYCLE_S_MAX = 600.0


async def cycles(plan: Plan, count: int, say: Callable[[str], None]) -> str:
    """The figures. Raises AssertionError that names the cycle and what was lost or did not come back."""
    say(f"{count} cycles, {plan}")
    rng = random.Random(plan.seed)
    ledgers = Ledger(), Ledger()
    wanted = {resource: size for resource, (_, size) in WORKLOADS.items()}
    ups: list[float] = []
    killed = 0
    with pressure(plan.pressure, count * CYCLE_S_MAX + SLACK_S):
        async with place(plan, say) as where:
            for number in range(count + 1):
                ups.append(await _cycle(where, ledgers, wanted, rng, last=number == count))
                problems = ledgers[0].problems + ledgers[1].problems
                if problems:
                    shown = "\n  ".join(problems[:SHOWN])
                    raise AssertionError(f"cycle {number} of {plan}: {len(problems)} problems:\n  {shown}")
                if number < count:
                    killed += await where.kill_everything()
                say(f"cycle {number}: up in {ups[-1]:.1f} s, {ledgers[0].answers[Answer.DONE]} objects and "
                    f"{ledgers[1].answers[Answer.DONE]} keys acknowledged so far")  # fmt: skip
            if left := await where.down():
                raise AssertionError(f"left by `down`: {left}")
    done = sum(ledger.answers[Answer.DONE] for ledger in ledgers)
    return (
        f"{count} cycles: {killed} processes killed, {done} acknowledged writes, none lost; "
        f"up took {min(ups):.1f} to {max(ups):.1f} s"
    )


async def _cycle(
    where: Place, ledgers: tuple[Ledger, Ledger], wanted: dict[str, int], rng: random.Random, *, last: bool
) -> float:
    """Everything of the cycles before is there; then more of it. Ends in the middle of the work. Seconds of `up`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await where.up()
    took = loop.time() - began
    async with access(where.directory) as admin:
        await workload.apply(admin)
        maps, keys = ConfigMaps(admin.api, ledgers[0]), EtcdKeys(admin.etcd, ledgers[1])
        async with asyncio.timeout(READ_S):
            ledgers[0].judge(await maps.there(), f"after {where.config.name} came back")
            ledgers[1].judge(await keys.there(), f"after {where.config.name} came back")
        await at_rest(admin, wanted)
        for resource, sizes in REPLICAS.items():
            wanted[resource] = rng.randint(*sizes)
        if last:
            return took
        run = admin.state.topology.run
        writers = [maps.live(f"w{n}-{run}") for n in range(WRITERS)] + [
            keys.live(f"k{n}-{run}") for n in range(WRITERS)
        ]
        async with _meanwhile(writers):
            await workload.missing(admin, wanted)
            await asyncio.sleep(rng.uniform(*WORK_S))
    return took
