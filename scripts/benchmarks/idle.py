"""What a cluster uses while nobody asks anything of it."""

import asyncio
import time
from typing import Any

from scripts.benchmarks.clusters import Running, say
from scripts.benchmarks.machine import cpu_between


async def resting(running: Running, seconds: float) -> dict[str, Any]:
    """Memory, and CPU over the second half of a span in which the cluster is left alone; also of each process."""
    with say.status(f"leaving it alone for {seconds:.0f} s"):
        await asyncio.sleep(seconds / 2)
        before, since = running.usage(), time.monotonic()
        await asyncio.sleep(seconds / 2)
    after, span = running.usage(memory=True), time.monotonic() - since
    processes = [
        {
            "name": u.name,
            "memory_mb": round(u.memory_mb, 1),
            "idle_cpu_percent": round(100 * (u.cpu_s - before[pid].cpu_s) / span, 2) if pid in before else None,
            "cpu_s": round(u.cpu_s, 2),
        }
        for pid, u in sorted(after.items())
    ]
    return {
        "processes": len(after),
        "memory_mb": round(sum(u.memory_mb for u in after.values()), 1),
        "idle_cpu_percent": round(100 * cpu_between(before, after) / span, 2),
        "of_each": processes,
    }
