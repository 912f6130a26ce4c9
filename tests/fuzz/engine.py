"""Runs the cases of a target, judges each, and makes what it finds small."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.fuzz.judge import Judge

#: Runs that making a find smaller may take.
SMALLER_TRIES = 60


class World(Protocol):
    """The place where the cases of a target run."""

    async def run(self, case: Any) -> None:
        """Do it, and give back what it took; AssertionError where the answer is wrong."""

    async def good(self) -> None:
        """A plain good request, which is answered as ever."""

    def sizes(self) -> dict[str, int]:
        """What no case may leave larger than it was, by name."""


class Target(Protocol):
    """A module of `targets`."""

    __name__: str
    CASES: int
    """In a slice of the suite."""
    CASES_PER_WORLD: int

    def make(self, rng: random.Random) -> Any:
        """A case: bytes, or any value whose repr shows it. Lists and bytes are made smaller when they are a find."""

    def world(self) -> AbstractAsyncContextManager[World]: ...


@dataclass
class Find:
    target: str
    seed: int
    number: int
    case: Any
    problem: str
    alone: bool = True
    """Whether it shows in a world of its own."""

    def __str__(self) -> str:
        how = f"--case {self.number}" if self.alone else f"--cases {self.number + 1}"
        shown = repr(self.case)
        shown = shown if len(shown) < 4000 else f"{shown[:4000]}... ({len(shown)} characters)"
        return f"python -m tests.fuzz {self.target} --seed {self.seed} {how}\n  {self.problem}\n  input: {shown}"


@dataclass
class Outcome:
    cases: int = 0
    finds: list[Find] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds of this thread's CPU, and the case."""


def name_of(target: Target) -> str:
    return target.__name__.rpartition(".")[2]


def case_of(target: Target, seed: int, number: int) -> Any:
    return target.make(random.Random(f"{name_of(target)}:{seed}:{number}"))


@contextlib.asynccontextmanager
async def judged_world(target: Target) -> AsyncIterator[tuple[World, Judge]]:
    async with target.world() as world:
        with Judge(world) as judge:
            await world.good()
            await judge.settle()
            yield world, judge


async def problem_of(world: World, judge: Judge, case: Any) -> str:
    """What is wrong after this case; empty when nothing is."""
    try:
        await judge.watched(world.run(case))
        await judge.watched(world.good())
        await judge.nothing_is_left()
    except Exception as e:
        return judge.said(e)
    return judge.heard()


async def run(target: Target, seed: int, *, first: int = 0, cases: int | None = None, seconds: float = 0.0) -> Outcome:
    """Cases `first` and on, so many or for so long; it ends at the first find."""
    outcome = Outcome()
    numbers = _numbers(first, cases, seconds)
    number = next(numbers, None)
    while number is not None:
        async with judged_world(target) as (world, judge):
            for _ in range(target.CASES_PER_WORLD):
                case = case_of(target, seed, number)
                begun = time.thread_time()
                problem = await problem_of(world, judge, case)
                outcome.slowest = max(outcome.slowest, (time.thread_time() - begun, number))
                outcome.cases += 1
                if problem:
                    outcome.finds.append(Find(name_of(target), seed, number, case, problem))
                    break
                number = next(numbers, None)
                if number is None:
                    break
            if not outcome.finds and (problem := judge.heard_at_last()):
                last = first + outcome.cases - 1
                outcome.finds.append(Find(name_of(target), seed, last, case, problem))
        if outcome.finds:
            await _smaller(target, outcome.finds[0])
            return outcome
    return outcome


def _numbers(first: int, cases: int | None, seconds: float) -> Iterator[int]:
    until = time.monotonic() + seconds
    number = first
    while number < first + cases if cases is not None else time.monotonic() < until:
        yield number
        number += 1


async def _smaller(target: Target, find: Find) -> None:
    """Leave out what the problem does not need."""
    kind = find.problem.partition("\n")[0][:60]

    async def fails(case: Any) -> bool:
        async with judged_world(target) as (world, judge):
            return (await problem_of(world, judge, case)).startswith(kind[:40])

    if not await fails(find.case):
        find.alone = False
        return
    if not isinstance(find.case, bytes | list | tuple):
        return
    tries, step = 0, max(1, len(find.case) // 2)
    while step and tries < SMALLER_TRIES:
        at = 0
        while at < len(find.case) and tries < SMALLER_TRIES:
            less = _without(find.case, at, step)
            tries += 1
            if await fails(less):
                find.case = less
            else:
                at += step
        step //= 2


def _without(case: Any, at: int, count: int) -> Any:
    return case[:at] + case[at + count :]


def runs(coroutine: Any) -> Any:
    """Run it on a loop of its own, of the kind the actors have."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
