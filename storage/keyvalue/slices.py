"""Long work in slices: a generator that yields where other work may come in between, run to its end at once or gently.

The same steps serve a process that has nothing else to do yet and one whose loop must go on; no threads.
"""

import asyncio
from collections.abc import Generator
from typing import TypeVar

SLICE_BYTES = 256 * 1024
"""Work between two yields, in bytes moved: a millisecond or two."""
RECORD_BYTES = 512
"""What handling one record costs, in the same unit, besides its bytes."""

Result = TypeVar("Result")


def at_once(steps: Generator[None, None, Result]) -> Result:
    """Run to the end; its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


async def gently(steps: Generator[None, None, Result]) -> Result:
    """Run to the end with other work between the slices; its return value. A cancellation closes the generator."""
    try:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            await asyncio.sleep(0)
    finally:
        steps.close()
