"""The journal of what is broken: a file in the state directory.

It is written before anything is broken, so that whoever comes next heals it, whatever became of who broke it.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import BROKEN, CHAOS_LOCK, StateDir
from rayplane.control_plane.faults.form import VERBS, as_step, read_fault, write_fault
from rayplane.control_plane.faults.injector import Injector
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import Fault
from rayplane.storage.env import LockHeld
from rayplane.storage.env.private import write_private

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """A fault that lasts, and whom it hits."""

    fault: Fault
    hit: tuple[str, ...]

    def __str__(self) -> str:
        return f"{as_step(self.fault)} -> {', '.join(self.hit)}"


@contextlib.contextmanager
def alone(directory: StateDir) -> Iterator[None]:
    """One trial of a cluster, or healing after one, at a time. Raises ClusterError."""
    disk = directory.create()
    try:
        with disk.lock(CHAOS_LOCK):
            yield
    except LockHeld as e:
        raise ClusterError("another command puts this cluster to a trial, or heals it; wait for it") from e


LEFT = "what an earlier trial broke cannot be healed yet; see `rayplane chaos heal`"
LOOK_S = 0.1


@contextlib.asynccontextmanager
async def turn(directory: StateDir, within_s: float, *, whole: bool = False) -> AsyncIterator[None]:
    """As `alone`, when others, who heal or try, are done: they may take so long. Raises ClusterError.

    `whole`: with nothing broken.
    """
    until = asyncio.get_running_loop().time() + within_s
    with contextlib.ExitStack() as held:
        while why := _why_not(directory, held, whole):
            if asyncio.get_running_loop().time() >= until:
                raise ClusterError(why)
            await asyncio.sleep(LOOK_S)
        yield


def _why_not(directory: StateDir, held: contextlib.ExitStack, whole: bool) -> str:
    """Why it is not this one's turn; empty when it is. Raises ClusterError when the journal is damaged."""
    try:
        held.enter_context(alone(directory))
    except ClusterError as e:
        return str(e)
    if not whole or not Journal(directory).read():
        return ""
    held.close()
    return LEFT


class Journal:
    """The journal of one cluster: what stands in its file. Bounded by what can be broken at once."""

    def __init__(self, directory: StateDir) -> None:
        self._path = directory.path / BROKEN

    def read(self) -> list[Broken]:
        """What an earlier run left broken. Raises ClusterError when the file is damaged."""
        try:
            found = json.loads(self._path.read_bytes())
            return [read_broken(one) for one in found]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, FormError) as e:
            raise ClusterError(f"{self._path} is damaged ({e}); continue what stands still, and delete it") from e

    def breaks(self, broken: Broken) -> None:
        """It is about to happen. What others have broken stays written down."""
        if broken not in (left := self.read()):
            self._write([*left, broken])

    def healed(self, broken: Broken) -> None:
        """It is over."""
        self._write([one for one in self.read() if one != broken])

    def _write(self, left: list[Broken]) -> None:
        if not left:
            self._path.unlink(missing_ok=True)
            return
        entries = [{"fault": write_fault(one.fault), "hit": list(one.hit)} for one in left]
        whole = self._path.with_name(f"{BROKEN}.tmp")
        write_private(whole, json.dumps(entries).encode())
        os.replace(whole, self._path)

    async def heal(self, injector: Injector) -> list[str]:
        """End all that is broken, of this run or of an earlier one; what of it could not be ended, and why."""
        failed = {broken: why for broken in reversed(self.read()) if (why := await _end(injector, broken))}
        self._write([*failed])
        return [f"{broken}: {why}" for broken, why in failed.items()]


async def _end(injector: Injector, broken: Broken) -> str:
    """Why a fault could not be ended; empty when it was. Who is dead meanwhile is not broken any more."""
    try:
        await injector.end(broken.fault, broken.hit)
    except ClusterError as e:
        log.debug("%s: %s", broken, e)
        return str(e)
    return ""


def read_broken(one: Any) -> Broken:
    """From JSON. Raises ValueError, KeyError, TypeError, FormError."""
    [(verb, body)] = one["fault"].items()
    if verb not in VERBS:
        raise ValueError(f"no fault {verb!r:.80}")
    return Broken(read_fault(verb, body, verb), tuple(map(str, one["hit"])))
