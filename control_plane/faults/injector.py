"""The port of a place that carries out faults: a live cluster, the simulation, a storm, a crash test."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import Fault


class Unsupported(Exception):
    """A place cannot do such a thing to its cluster."""


class Injector(Protocol):
    """A place. A fault that it does not refuse is carried out as the vocabulary says."""

    def refusal(self, fault: Fault) -> str:
        """Why this place can never carry out this fault; empty when it can."""

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        """Let it happen now; the names of those that it hit. Raises the place's own error when it finds nobody."""

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """Undo what lasts of it, for those that it hit; nothing when that is over already."""


def refusal(fault: Fault, can: Iterable[type[Fault]]) -> str:
    """For places that can carry out any fault of these kinds."""
    return "" if type(fault) in can else f"{as_step(fault)}: this place cannot do that"


def require(injector: Injector, faults: Iterable[Fault]) -> None:
    """Before anything runs: raise Unsupported when a place refuses one of them."""
    for fault in faults:
        if refused := injector.refusal(fault):
            raise Unsupported(refused)


async def hold(injector: Injector, fault: Fault, hit: tuple[str, ...]) -> bool:
    """Wait until a fault that has begun is over, and end it; whether it was one that ends by itself.

    However this ends, nothing is left broken.
    """
    for_s: float = getattr(fault, "for_s", 0.0)
    if not for_s:
        return False
    try:
        await asyncio.sleep(for_s)
    finally:
        await injector.end(fault, hit)
    return True
