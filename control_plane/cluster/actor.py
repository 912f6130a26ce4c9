"""The Ray actor that carries one component.

Ray's calls only start, stop and ask for the process id. The component has an event loop of its own, in a thread of
its own, and talks to the others over its own sockets: it goes on while Ray's head is away.
"""

import asyncio
import logging
import os
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import uvloop

from rayplane.control_plane.cluster import processes, signs
from rayplane.control_plane.cluster.carried import Carried
from rayplane.control_plane.cluster.components import Component, Leaves, Spec, StopsItself, leave_s
from rayplane.control_plane.cluster.failures import ComponentFailed, Failure
from rayplane.control_plane.cluster.host import Disturbance
from rayplane.control_plane.cluster.outside import Fresh, keep_fresh, log_to, open_env, prepare
from rayplane.control_plane.cluster.own_weather import OwnWeather
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.ports import can_bind, free_port, share
from rayplane.control_plane.cluster.ray_host import RayHost, known_to_others
from rayplane.control_plane.cluster.renewal import newest
from rayplane.control_plane.cluster.resting import Rests
from rayplane.control_plane.cluster.specs import brought_back
from rayplane.control_plane.cluster.topology import Machine, Role, Topology, newest_of
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.storage.env import settle_heap
from rayplane.storage.process import UMASK, grow_heap

log = logging.getLogger(__name__)

# In fair time: a component may wait for others, which start on the same busy machine.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
POLL_S = 1.0
LIFE_MIN_S = 5.0


class ComponentThread:
    """A component on an event loop in a thread."""

    def __init__(self, spec: Spec) -> None:
        grow_heap()
        log_to(spec.log_file, spec.config.log_format, spec.instance)
        # It answers half as many calls again as asyncio's own loop. (Where all actors share one process it does not.)
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=spec.instance.name, daemon=True)
        self._thread.start()
        self._network: GrpcNetwork | None = None
        self._component: Component | None = None
        self._renewal: Fresh | None = None
        self._weather: OwnWeather | None = None
        self._call(self._start(spec), START_TIMEOUT_S)
        settle_heap()
        self._rests = Rests(self._loop)

    def stop(self) -> None:
        self._rests.end()
        self._call(self._stop(), STOP_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self, spec: Spec) -> None:
        weather = self._weather = OwnWeather(spec.instance.name, random.Random())
        env = open_env(spec, random.Random(), weather.troubled)
        spec = newest(spec)
        self._network = GrpcNetwork(spec.credentials, link=weather.link, here=spec.instance.name)
        weather.network(self._network)
        host = RayHost(spec.config, ComponentActor, data=Path(spec.data_dir).parent)
        self._component = await prepare(spec, env, self._network, host)
        self._renewal = keep_fresh(spec, env, self._network)
        weather.renewal(self._renewal.own)
        if isinstance(self._component, StopsItself):
            self._watch = asyncio.get_running_loop().create_task(_end_with(self._component))

    @property
    def build(self) -> tuple[str, str]:
        if isinstance(self._component, Carried):
            return self._component.note.version, self._component.note.python
        return VERSION, ""

    def leave_s(self, *, for_good: bool) -> float:
        return leave_s(self._component, for_good=for_good)

    def leave(self, *, for_good: bool) -> None:
        if isinstance(self._component, Leaves):
            self._call(self._component.leave(for_good=for_good), self.leave_s(for_good=for_good) + STOP_TIMEOUT_S)

    def disturb(self, told: Disturbance, for_s: float) -> bool:
        """Whether the component can be disturbed: one of another build has a process that does not hear of it."""
        if self._weather is None or isinstance(self._component, Carried):
            return False
        self._loop.call_soon_threadsafe(self._weather.hold, told, for_s)
        return True

    async def _stop(self) -> None:
        if self._renewal is not None:
            self._renewal.task.cancel()
        if self._component is not None:
            await self._component.stop()
        if self._network is not None:
            await self._network.close()

    def _call(self, work: Any, timeout: float) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        patience = Patience(timeout, time.monotonic())
        while True:
            try:
                return future.result(POLL_S)
            except TimeoutError:
                patience.passed(time.monotonic(), slowdown())
                # The time that is out may be the work's own; or the work has ended since this last look.
                if future.done():
                    return future.result()
                if patience.over:
                    future.cancel()
                    raise


async def _end_with(component: StopsItself) -> None:
    """A member that has failed serves nobody: its process must not look alive, so that Ray makes it again."""
    loop = asyncio.get_running_loop()
    earliest = loop.time() + LIFE_MIN_S
    await component.wait_stopped()
    if component.failure is not None:
        # Ray starts it again at once, however often that has been in vain.
        await asyncio.sleep(earliest - loop.time())
        log.critical("ending this process: its component failed: %s", component.failure)
        os._exit(1)


def _try_again(error: Exception) -> None:
    """End the process, to be made anew. Only Ray restarts a supervisor, and gives up one whose constructor raises."""
    log.critical("ending this process, to be started again: %s", error)
    time.sleep(LIFE_MIN_S)
    os._exit(1)


def _where_it_is(spec: Spec) -> Spec:
    """The spec of an actor where Ray has made it. A supervisor's holds on any machine: nobody else would move it."""
    node = ray.get_runtime_context().get_node_id()
    if spec.instance.role is not Role.SUPERVISOR or spec.instance.machine.id == node:
        return spec
    address, port = ray.util.get_node_ip_address(), spec.instance.ports["grpc"]
    if not can_bind(address, port):
        port = free_port(address, spec.topology.ports, random.Random(), share(spec.plan))
    log.warning("this supervisor goes on at %s:%s, far from %s", address, port, spec.instance.machine.address)
    if spec.restarted:
        # What it was founded with may be long gone.
        others = known_to_others(spec.config.name, spec.instance.name)
        known = [Topology.from_json(told) for told in others]
        spec = replace(spec, topology=newest_of([spec.topology, *(t for t in known if t.run == spec.topology.run)]))
    return brought_back(spec, Machine(address, node), port)


class ComponentActor:
    """A component as a Ray actor, made by the host, which chooses name, machine and restart policy."""

    def __init__(self, spec: Spec) -> None:
        os.umask(UMASK)
        processes.write(Path(spec.data_dir))
        # A killed actor is made again by Ray with the arguments of its first start.
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        try:
            self._sign = signs.hold(spec.plan.slot)
            spec = _where_it_is(replace(spec, restarted=spec.restarted or restarted))
            self._topology = spec.topology
            self._thread = ComponentThread(spec)
        except Exception as e:
            if restarted and spec.instance.role is Role.SUPERVISOR:
                _try_again(e)
            raise ComponentFailed(Failure.of(e)) from e

    def topology(self) -> dict[str, Any]:
        """The cluster as it was when this actor was planned, as JSON."""
        return self._topology.to_json()

    def build(self) -> tuple[str, str]:
        """Its version of rayplane, and the Python that it runs in, empty for that of this process."""
        return self._thread.build

    def pid(self) -> int:
        """Answers once the component has started."""
        return os.getpid()

    def leave_s(self, *, for_good: bool) -> float:
        """How long `leave` may take."""
        return self._thread.leave_s(for_good=for_good)

    def leave(self, *, for_good: bool) -> None:
        self._thread.leave(for_good=for_good)

    def disturb(self, told: Disturbance, for_s: float) -> bool:
        """Whether it holds from now on for so many seconds."""
        return self._thread.disturb(told, for_s)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to another process of this machine."""
        processes.send(pid, number)

    def stop(self) -> None:
        self._thread.stop()
        self._sign.close()
