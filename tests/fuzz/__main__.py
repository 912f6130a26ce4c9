"""The command: see the package."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import random
import sys
from typing import cast

from tests.fuzz import engine, targets
from tests.fuzz.engine import Target


def all_targets() -> dict[str, Target]:
    """By name."""
    names = sorted(m.name for m in pkgutil.iter_modules(targets.__path__) if not m.name.startswith("_"))
    return {n: cast(Target, importlib.import_module(f"{targets.__name__}.{n}")) for n in names}


def main() -> int:
    known = all_targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(known)}; all by default")
    parser.add_argument("--seed", type=int, default=None, help="a fresh one by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--cases", type=int, default=None, help="for each target, in place of --seconds")
    parser.add_argument("--case", type=int, default=None, help="only this one")
    options = parser.parse_args()
    if unknown := set(options.targets) - known.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    failed = False
    for name in options.targets or known:
        print(f"{name} --seed {seed}", flush=True)
        first, cases = (options.case, 1) if options.case is not None else (0, options.cases)
        outcome = engine.runs(engine.run(known[name], seed, first=first, cases=cases, seconds=options.seconds))
        spent, number = outcome.slowest
        print(f"  {outcome.cases} cases, the longest {number} with {spent:.2f} s of CPU", flush=True)
        for find in outcome.finds:
            failed = True
            print(f"FOUND {find}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
