"""Storms and cycles by hand; see the package."""

import argparse
import asyncio
import os
import random
import signal
import sys
import time

from rayplane.control_plane.cluster.config import PROCESS, RAY
from tests.storm.cycles import cycles
from tests.storm.plan import Plan
from tests.storm.storm import storm


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--host", choices=(PROCESS, RAY), default=PROCESS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=60.0, help="of bad weather")
    parser.add_argument("--pressure", type=int, default=0, metavar="K", help="busy loops beside it")
    parser.add_argument("--runtime", choices=("simulated", "process"), default="simulated")
    parser.add_argument("--cycles", type=int, metavar="N", help="no storm: kill everything N times, and come back")
    given = parser.parse_args()
    plan = Plan(host=given.host, seed=given.seed, seconds=given.seconds, pressure=given.pressure, runtime=given.runtime)
    began = time.monotonic()
    # Whoever ends this (`timeout`) leaves nothing running either.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        work = storm(plan, say) if given.cycles is None else cycles(plan, given.cycles, say)
        say(f"{asyncio.run(work)} ({time.monotonic() - began:.0f} s)")
    except (AssertionError, KeyboardInterrupt) as e:
        print(f"FAILED {e or 'interrupted'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
