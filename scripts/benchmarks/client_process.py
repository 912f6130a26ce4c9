"""The clients of a benchmark, in a process of their own: their CPU is not the servers', and can be told apart."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.benchmarks.machine import Usage, cpu_between, ends_with_its_parent

ANSWER_BYTES_MAX = 64 * 1024 * 1024


async def run_clients(
    module: str, job: Mapping[str, Any], usage: Callable[[], dict[int, Usage]]
) -> tuple[dict[str, Any], float]:
    """Run `python -m MODULE` with the job on its standard input; its figures, and what the servers used meanwhile.

    `usage` reads the servers' use of the CPU; the second figure is in seconds. Raises RuntimeError when it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=ANSWER_BYTES_MAX,
        preexec_fn=ends_with_its_parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        # One line when the clock starts, one with the figures when it stops.
        await process.stdout.readline()
        before = usage()
        line = await process.stdout.readline()
        cpu = cpu_between(before, usage())
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the client process failed with exit code {process.returncode}")
    answer: dict[str, Any] = json.loads(line)
    return answer, cpu
