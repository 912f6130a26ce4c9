"""Operators that people wrote, as processes of a simulated cluster.

The file is loaded anew for each life of its process, so what it held in memory dies with it. It sees the run's clock
and chance (`own_modules`), reaches the cluster by the client that it is given, and is refused the machine (`guard`).
"""

import asyncio
import logging
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.client.operators import BadOperator, has_operators, operate_by
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.invariants import BadInvariants, made_by
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation import guard
from rayplane.control_plane.simulation.cell import EPOCH, Killed, derived_rng, run_rng
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.own_modules import load
from rayplane.storage.env import Env, SimulatedDisk

log = logging.getLogger(__name__)

OPERATOR = "operator-0"
#: How long what keeps the process takes to have it run again.
RESTART_MIN_S, RESTART_MAX_S = 0.3, 2.0


class Ended(Exception):
    """A user's program came to an end by itself."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """The text of a file, so that it may be run on machines that have no such file."""

    file: str
    text: str


def read_file(file: str) -> UserFile:
    """Raises UsageError when it cannot be read, or has no operator."""
    try:
        found = UserFile(file, Path(file).read_text())
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"cannot load {file}: {e}") from e
    UserCode(found)
    return found


class UserCode:
    """The operators and invariants of a file. Raises UsageError when it cannot be run, or has none."""

    def __init__(self, source: UserFile) -> None:
        self.file = source.file
        self._module = f"rayplane_operator_{Path(source.file).stem}"
        try:
            self._code: types.CodeType = compile(source.text, source.file, "exec")
        except (SyntaxError, ValueError) as e:
            raise UsageError(f"cannot load {source.file}: {type(e).__name__}: {e}") from e
        # Outside of any process: for its invariants, and to see what there is.
        nowhere = Env(_Beginning(), derived_rng(0, "load"), SimulatedDisk())
        try:
            names = self.load(nowhere, lambda: 0.0)
            self.checks = made_by(names)
            self.operates = has_operators(names)
            if self.operates or not self.checks:
                operate_by(names)
        except (BadOperator, BadInvariants) as e:
            raise UsageError(f"{self.file}: {e}") from e
        except Exception as e:
            raise UsageError(f"cannot load {self.file}: {type(e).__name__}: {e}") from e

    def load(self, env: Env, now: Callable[[], float]) -> dict[str, Any]:
        """The names of the module, which has run just now."""
        return load(self._code, self.file, self._module, env, now)

    def forget(self) -> None:
        """Let go of the module that was loaded last, and of the run with it."""
        sys.modules.pop(self._module, None)


class _Beginning:
    """A clock that stands at the beginning of every run."""

    def now(self) -> datetime:
        return EPOCH


class UserProcess:
    """A process that runs the operators of a file; when it ends, or is killed, it is started again."""

    def __init__(self, code: UserCode, cluster: SimulatedCluster, seed: int, tell: Callable[[str], None]) -> None:
        """`tell`: of what it asked for and cannot have."""
        guard.install()
        self._code = code
        self._cluster = cluster
        self._cell = cluster.add_guest(OPERATOR, lambda text: tell(f"{code.file}: {text}"))
        self._restarts = run_rng(seed, "restarts", OPERATOR)

    async def keep(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._cluster.trace.event("start", OPERATOR)
            try:
                await self._cell.run(self._work)
            except Killed:
                pass
            except Exception as e:
                # A process that ends takes all that it has begun along.
                self._cell.kill()
                self._cluster.trace.event("ended", OPERATOR, f"{type(e).__name__}: {e}")
                log.warning("%s ended", OPERATOR, exc_info=e)
            pause_s = self._restarts.uniform(RESTART_MIN_S, RESTART_MAX_S)
            pause_s = max(pause_s, self._cluster.away_until(OPERATOR) - loop.time())
            if pause_s == math.inf:
                return
            await asyncio.sleep(pause_s)

    async def _work(self, env: Env, network: Network, sockets: Sockets) -> None:
        cluster, loop = self._cluster, asyncio.get_running_loop()
        client = ApiClient(
            network,
            cluster.endpoints(Role.APISERVER),
            discovery=cluster.topology.endpoints(Role.SUPERVISOR, "grpc"),
            user_agent=Path(self._code.file).stem,
        )
        try:
            await operate_by(self._code.load(env, loop.time))(client)
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as e:
            raise Ended(type(e).__name__) from e
        except BaseExceptionGroup as e:
            raise Ended("; ".join(f"{type(one).__name__}: {one}" for one in e.exceptions)) from e
        raise Ended("it returned")
