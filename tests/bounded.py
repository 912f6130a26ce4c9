"""Runs code that may be a bomb in a process with little memory and time, and gives what it printed."""

from __future__ import annotations

import resource
import subprocess
import sys

MEMORY_BYTES = 1 << 30
CPU_S = 30


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def run(code: str) -> str:
    """The output; AssertionError where the code did not end by itself."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=_limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.strip()
