"""All actors in one process: the one-machine mode.

    python -m rayplane.control_plane.cluster.process_host STATE_DIR

runs the cluster that STATE_DIR/cluster.json describes until SIGTERM. Components call each other in memory and listen
on the same ports as on Ray. There is one clock, which can be led forward. Killing an actor here closes its connections
at once and drops what it had in memory; the process goes on.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from signal import Signals

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster import signs
from rayplane.control_plane.cluster.carried import HAND_OVER, Carried
from rayplane.control_plane.cluster.components import Component, Leaves, Spec, StopsItself, leave_s
from rayplane.control_plane.cluster.errors import ClusterError, StartFailed, TimeStands
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.host import (
    STANDS_STILL,
    Disturbance,
    HostSocket,
    Runs,
    not_started,
    prevail,
    room_here,
    start_all,
)
from rayplane.control_plane.cluster.outside import Fresh, keep_fresh, log_to, open_env, prepare
from rayplane.control_plane.cluster.own_weather import show
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.renewal import newest
from rayplane.control_plane.cluster.specs import founding_specs
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, Role
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import DirectLink, Fabric
from rayplane.control_plane.rpc.shared import SharedNetwork
from rayplane.control_plane.rpc.tls import identity_of
from rayplane.control_plane.rpc.weather import Weather
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import HeapSweep, settle_heap
from rayplane.storage.env.leaps import LeapingLoop, ahead_of
from rayplane.storage.env.troubled import Trouble, Troubled
from rayplane.storage.process import UMASK, grow_heap

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
REVIVE, REVIVALS = Backoff(0.5, 30.0), 100
"""Between two tries to bring the supervisor back, which nobody else does, and how many there are."""
STRIDE_S = 1.0
"""What happens again and again does so once in this time where time is led forward: most of an hour's work is renewals
twice a second and heartbeats. No `Timings` have a span that is missed by it: those that renew have three seconds."""
KEEP_AHEAD_EACH_S = 60.0
"""Of its time: a process that is killed while it is led forward goes back by no more, behind what its data tell."""
_STOP_ORDER = (
    Role.SUPERVISOR,
    Role.LOAD_BALANCER,
    Role.NODE_HOST,
    Role.CONTROLLERS,
    Role.SCHEDULER,
    Role.APISERVER,
    Role.MEMBER,
)


class ProcessHost:
    """A `Host` whose actors are objects of this process."""

    def __init__(self, keep_ahead_s: Callable[[float], None] | None = None) -> None:
        """`keep_ahead_s`: told by how much its time is ahead, whenever that has changed."""
        self._keep_ahead_s = keep_ahead_s
        self._fabric = Fabric()
        self._weather = Weather(random.Random(), None)
        self._weather.sever = self._fabric.sever
        self._told = Disturbance()
        self._actors: dict[str, tuple[Component, SharedNetwork]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._renewals: dict[str, Fresh] = {}
        self._roles: dict[str, Role] = {}
        self._machines: dict[str, Troubled] = {}
        """Of all actors there have been, as if each had one of its own."""
        self._busy: set[str] = set()  # being started or stopped
        self._started: set[str] = set()
        self._supervisor: Spec | None = None
        self._revivals: set[asyncio.Task[None]] = set()
        self._sweep = HeapSweep()
        self._sign: socket.socket | None = None
        """That the cluster's slot is in use, from the first start on."""

    async def start(self, spec: Spec) -> int:
        name = spec.instance.name
        if name in self._busy or name in self._actors:
            raise StartFailed(f"{name} runs already")
        self._roles[name] = spec.instance.role
        self._sign = self._sign or signs.hold(spec.plan.slot)
        if spec.instance.role is Role.SUPERVISOR:
            self._supervisor = spec
        self._busy.add(name)
        try:
            component = await self._connect(replace(spec, restarted=spec.restarted or name in self._started))
        except Exception as e:
            log.error("%s did not start: %s: %s", name, type(e).__name__, e)
            raise not_started(spec, Failure.of(e)) from e
        finally:
            self._busy.discard(name)
        self._started.add(name)
        if isinstance(component, StopsItself):
            self._watches[name] = asyncio.create_task(self._end_with(name, component), name=f"watch {name}")
        return os.getpid()

    async def _connect(self, spec: Spec) -> Component:
        """Start a component on a network of its own; raises whatever hinders that, with nothing left running."""
        spec = newest(spec)
        name, credentials = spec.instance.name, spec.credentials
        assert credentials is not None
        network = SharedNetwork(GrpcNetwork(credentials), self._fabric, name, identity_of(credentials.cert))
        try:
            troubled = self._machines.setdefault(name, Troubled())
            env = open_env(spec, random.Random(), troubled)
            component = await prepare(spec, env, network, self, outlives=True)
        except BaseException:
            await network.close()
            raise
        self._actors[name] = (component, network)
        self._renewals[name] = keep_fresh(spec, env, network)
        return component

    async def _end_with(self, name: str, component: StopsItself) -> None:
        """A component that has failed serves nobody: it must not look alive, so that the supervisor starts it again."""
        await component.wait_stopped()
        if component.failure is not None and self._actors.get(name, (None,))[0] is component:
            log.critical("%s failed: %s", name, component.failure)
            del self._watches[name]
            await self._end(name)

    async def stop(self, name: str) -> None:
        await self._leave(name, for_good=True)
        await self._end(name)

    async def halt(self, name: str) -> None:
        await self._end(name)

    async def builds(self) -> dict[str, Runs]:
        return {name: _runs(component) for name, (component, _) in self._actors.items()}

    async def _leave(self, name: str, *, for_good: bool) -> None:
        """Let an actor end its work in order, where it has any."""
        component = self._actors[name][0] if name in self._actors else None
        span_s = leave_s(component, for_good=for_good)
        if not span_s or not isinstance(component, Leaves):
            return
        try:
            async with asyncio.timeout(span_s + STOP_TIMEOUT_S):
                await component.leave(for_good=for_good)
        except TimeoutError:
            log.error("%s did not end its work in %.0f s", name, span_s)
        except Exception:
            log.exception("%s could not end its work", name)

    async def _end(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        if actor is None:
            return
        self._renewals.pop(name).task.cancel()
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.cancel()
        component, network = actor
        self._busy.add(name)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await component.stop()
        except TimeoutError:
            log.error("%s did not stop in %.0f s", name, STOP_TIMEOUT_S)
        finally:
            try:
                await network.close()
            finally:
                self._busy.discard(name)
                self._sweep.soon()

    async def running(self) -> set[str]:
        return self._busy | set(self._actors)

    async def absent(self) -> dict[str, str]:
        carried = {name: one for name, (one, _) in self._actors.items() if isinstance(one, Carried)}
        return {name: STANDS_STILL for name, one in carried.items() if one.stands_still}

    async def machines(self) -> list[Machine]:
        return [Machine()]

    async def room(self) -> dict[str, dict[str, float]]:
        return {Machine().address: room_here()}

    async def sockets(self) -> list[HostSocket]:
        return []

    async def kill(self, name: str, signal: str) -> int:
        carried = self._actors[name][0] if name in self._actors else None
        if isinstance(carried, Carried):
            carried.send(Signals[f"SIG{signal}"])
            return carried.pid
        if signal != "KILL":
            raise ClusterError(f"in one process an actor can only be killed, not sent {signal}; use --host ray")
        if name not in self._actors:
            raise StartFailed(f"{name} does not run")
        if self._roles[name] is Role.SUPERVISOR:
            # Its own call dies with it, and nobody else would bring it back.
            task = asyncio.create_task(self._revive(name), name=f"bring back {name}")
            self._revivals.add(task)
            task.add_done_callback(self._revivals.discard)
            return os.getpid()
        await self._die(name)
        return os.getpid()

    async def _die(self, name: str) -> None:
        # Peers see the connections break before the component has any chance to say good-bye.
        self._actors[name][1].detach()
        await self._end(name)

    async def _revive(self, name: str) -> None:
        assert self._supervisor is not None
        try:
            await self._die(name)
        except Exception:
            log.exception("%s did not end as it should", name)
        for attempt in range(REVIVALS):
            await asyncio.sleep(REVIVE.pause_s(attempt))
            if name in self._actors:
                return
            with contextlib.suppress(StartFailed):  # which is in the log
                await self.start(self._supervisor)
                return
        log.critical("%s has not started after %d tries: run `rayplane down` and `rayplane up`", name, REVIVALS)

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        """Who tells it is of this process too, and ends with it."""
        self._fabric.sever(lambda a, b: a in weather.reset or b in weather.reset)
        lasting = replace(weather, reset=())
        if lasting == self._told:
            return
        before, self._told = self._told, lasting
        for name, fresh in self._renewals.items():
            show(fresh.own, before.certificates.get(name), lasting.certificates.get(name))
        prevail(self._weather, lasting)
        self._fabric.link = self._weather if lasting.of_network else DirectLink()
        for name, troubled in self._machines.items():
            troubled.now = weather.troubles.get(name, Trouble())

    @property
    def ahead_s(self) -> float:
        return ahead_of(asyncio.get_running_loop())

    async def advance(self, span_s: float) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, LeapingLoop) or self._keep_ahead_s is None:
            raise TimeStands("the event loop of this process cannot be led forward: run the cluster by `rayplane up`")
        if own := sorted(name for name, (one, _) in self._actors.items() if isinstance(one, Carried)):
            raise TimeStands(
                f"{', '.join(own)}: the time of a process of its own cannot be led forward; "
                "end the upgrade that moved it there, or take another cluster"
            )
        end = loop.time() + span_s
        while (left_s := end - loop.time()) > 0:
            try:
                await loop.advance(min(left_s, KEEP_AHEAD_EACH_S))
            finally:
                self._keep_ahead_s(loop.ahead_s)

    async def stop_all(self, *, hand_over: bool = False) -> None:
        """Each before what it needs; the supervisor first, so that it brings nothing back.

        `hand_over`: what has a process of its own goes on.
        """
        for task in [*self._revivals]:
            await cancel_and_wait(task)
        for role in _STOP_ORDER:
            own = {
                n for n, (component, _) in self._actors.items() if not (hand_over and isinstance(component, Carried))
            }
            names = [n for n in self._actors if n in own and self._roles[n] is role]
            await asyncio.gather(*(self._leave(n, for_good=False) for n in names))
            await asyncio.gather(*(self._end(n) for n in names))
        self._sweep.stop()
        if self._sign is not None:
            self._sign.close()


def _runs(component: Component) -> Runs:
    if isinstance(component, Carried):
        return Runs(component.note.version, component.note.python)
    return Runs(VERSION)


async def run(directory: StateDir, state: ClusterState, secrets: Secrets) -> None:
    """Run the cluster until this process is told to end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT, HAND_OVER):
        loop.add_signal_handler(number, end, number)
    host = ProcessHost(directory.write_ahead_s)
    specs = founding_specs(state, secrets, directory.path)
    try:
        await start_all(host, specs, lambda name: log.info("%s has started", name))
        settle_heap()
        await ended
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await host.stop_all(hand_over=ended.done() and ended.result() == HAND_OVER)


def main() -> int:
    grow_heap()
    os.umask(UMASK)
    directory = StateDir(Path(sys.argv[1]))
    log_to(str(directory.logs / "process.log"))
    secrets = Secrets.read(directory.pki)
    if secrets is None:
        print(f"no keys in {directory.pki}; run `{directory.command('up')}`", file=sys.stderr)
        return 1
    try:
        state = directory.read_running()
        log_to(str(directory.logs / "process.log"), state.config.log_format)
        with asyncio.Runner(loop_factory=lambda: LeapingLoop(directory.read_ahead_s(), stride_s=STRIDE_S)) as runner:
            runner.run(run(directory, state, secrets))
    except (ClusterError, OSError) as e:
        log.error("%s", e)
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
