"""Actors on Ray: detached, named, one namespace for each cluster.

Ray restarts the process of a killed actor by itself, with the same arguments. All are tied to their machines, whose
addresses they have, and moved by the supervisor; that one alone goes where it can, since nobody would move it.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private.state import actors
from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayplane.control_plane.cluster import ours, processes, ray_autoscaler, ray_machines, ray_signals
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, StartFailed, TimeStands
from rayplane.control_plane.cluster.failures import ComponentFailed, Failure, failure_in
from rayplane.control_plane.cluster.host import (
    HAS_ENDED,
    STANDS_STILL,
    Disturbance,
    HostSocket,
    Runs,
    not_started,
    room_here,
)
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.ray_cluster import LOOPBACK, namespace
from rayplane.control_plane.cluster.ray_package import Package
from rayplane.control_plane.cluster.topology import Machine, Role

T = TypeVar("T")

# In fair time; an actor's component gives up a little earlier, and says why.
START_TIMEOUT_S = 100.0
POLL_S = 1.0
WAIT_S = 0.05
STOP_TIMEOUT_S = 12.0
CALL_TIMEOUT_S = 15.0
TELL_S = 5.0
# Each machine of a Ray cluster has one of whatever begins so. Where an actor asks for nothing at all, Ray takes any
# machine, and looks at no affinity that is soft.
_A_WISH = {f"{IMPLICIT_RESOURCE_PREFIX}rayplane-supervisor": 0.001}
_STORE = "object_store_memory"
_RESTARTING = "RESTARTING"


class RayHost:
    """A `Host` for a process that is connected to Ray. Ray's calls block, so they run in threads."""

    def __init__(self, config: ClusterConfig, actor: type, *, data: Path | None = None) -> None:
        """`actor`: the class of what is started; `data`: where actors of this machine have their data."""
        self._actor = actor
        self._data = data
        self._namespace = namespace(config.name)
        self._package = Package()
        self._builds = _Builds(self._namespace)
        # A Ray cluster of our own never listens beyond loopback, and neither do the actors.
        self._address = "" if config.address else LOOPBACK
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="ray-call")
        # Its own, so that starts and looks that hang in Ray never hold up a signal.
        self._signals = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ray-kill")
        # One machine is lost or called back at a time, in the order of the calls, whoever still waits for them.
        self._losses = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-lose")

    async def start(self, spec: Spec, *, at: Machine | None = None) -> int:
        """`at`: for a supervisor, which goes on wherever it is started, another machine than its spec says."""
        return await self._in_thread(lambda: self._start(spec, at or spec.instance.machine))

    async def stop(self, name: str) -> None:
        await self._in_thread(lambda: self._stop(name, graceful=True))

    async def halt(self, name: str) -> None:
        await self._in_thread(lambda: self._halt(name))

    async def builds(self) -> dict[str, Runs]:
        return await self._in_thread(self._builds.look)

    async def leave(self, name: str) -> None:
        """Let an actor that is to come back end its work in order, where it was told to."""
        await self._in_thread(lambda: self._leave(name, for_good=False))

    async def end(self, name: str) -> None:
        """Like `stop`, at once."""
        await self._in_thread(lambda: self._stop(name, graceful=False))

    async def running(self) -> set[str]:
        def names() -> set[str]:
            actors = ray.util.list_named_actors(all_namespaces=True)
            return {a["name"] for a in actors if a["namespace"] == self._namespace}

        return await self._in_thread(names)

    async def absent(self) -> dict[str, str]:
        ended = dict.fromkeys(await self._in_thread(lambda: _restarting(self._namespace)), HAS_ENDED)
        if self._data is None:
            return ended
        ending = processes.SUFFIX
        known = [p.name.removesuffix(ending) for p in self._data.glob(f"*{ending}")]
        return ended | {name: STANDS_STILL for name in known if processes.stands_still(self._data / name)}

    async def machines(self) -> list[Machine]:
        def look() -> list[Machine]:
            found = _machines()
            self._package.keep_for(found)
            return found

        return [replace(m, address=self._address or m.address) for m in await self._in_thread(look)]

    async def room(self) -> dict[str, dict[str, float]]:
        # A Ray cluster of our own was told of as many CPUs as actors may start at once.
        return {self._address: room_here()} if self._address else await self._in_thread(_room)

    async def cpus(self) -> dict[str, float] | None:
        return None if self._address else await self._in_thread(ray_autoscaler.cpus)

    async def request(self, bundles: Sequence[Mapping[str, float]]) -> None:
        await self._in_thread(lambda: ray_autoscaler.request(bundles))

    async def holders(self, data: Path) -> dict[str, list[Machine]]:
        """The machines of each actor that has data in that folder of theirs, the one where it ran last first."""
        ran: dict[str, dict[Machine, float]] = {}
        for machine, names in await self._on_each(processes.started_at, str(data)):
            for name, at in names.items():
                ran.setdefault(name, {})[machine] = at
        return {name: sorted(times, key=times.__getitem__, reverse=True) for name, times in ran.items()}

    async def lose(self, address: str, for_s: float) -> None:
        await asyncio.get_running_loop().run_in_executor(self._losses, ray_machines.lose, address, for_s)

    async def recall(self, address: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._losses, ray_machines.recall, address)

    async def contents(self, path: Path) -> bytes:
        """What stands in a file that some machines have, where it was written last; empty where none has it."""
        found = [told for _, told in await self._on_each(processes.written, str(path))]
        return max(found, key=itemgetter(0), default=(0.0, b""))[1]

    async def forget(self, state_dir: Path, ca: bytes) -> set[str]:
        """Delete what actors have left in a folder of machines that is nobody else's; addresses of those done."""
        return {m.address for m, done in await self._on_each(ours.forget, str(state_dir), ca) if done}

    async def _on_each(self, ask: Callable[..., T], *words: Any) -> list[tuple[Machine, T]]:
        """What each machine says; those are left out that cannot."""
        machines = await self.machines()
        told = await asyncio.gather(*(self._in_thread(partial(_ask, m, ask, *words)) for m in machines))
        return [(machine, answer) for machine, answers in zip(machines, told, strict=True) for answer in answers]

    async def sockets(self) -> list[HostSocket]:
        return await self._in_thread(_sockets)

    ahead_s = 0.0

    async def advance(self, span_s: float) -> None:
        raise TimeStands(
            "actors on Ray are processes, whose time is their machine's: use a cluster in one process (--host process)"
        )

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        """Each actor is told, as each has its own end of the network. Who does not hear that it is calm finds out."""
        deaf = await self._in_thread(lambda: _tell(self._namespace, weather, holds_s))
        named = weather.named & deaf
        if named and not weather.is_calm:
            raise ClusterError(f"{', '.join(sorted(named))}: cannot be told now, or is of another build; try again")

    async def kill(self, name: str, signal: str) -> int:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await loop.run_in_executor(self._signals, lambda: self._kill(name, signal))
        except TimeoutError as e:
            raise StartFailed(f"Ray does not say in time which process {name} is; try again") from e

    def _start(self, spec: Spec, machine: Machine) -> int:
        instance = spec.instance
        self._package.keep()
        goes_anywhere = instance.role is Role.SUPERVISOR
        placement = NodeAffinitySchedulingStrategy(machine.id, soft=goes_anywhere)
        try:
            actor: Any = (
                ray.remote(self._actor)
                .options(
                    name=instance.name,
                    namespace=self._namespace,
                    lifetime="detached",
                    # `up` and the supervisor it has just started may both miss an actor.
                    get_if_exists=True,
                    num_cpus=0,
                    resources=_A_WISH if goes_anywhere else {},
                    max_restarts=-1,
                    scheduling_strategy=placement,
                )
                .remote(spec)
            )
            pid = int(_patiently(actor.pid.remote(), START_TIMEOUT_S))
        except (RayError, ValueError) as e:
            raise not_started(spec, _failure(e)) from e
        return pid

    def _stop(self, name: str, *, graceful: bool) -> None:
        with contextlib.suppress(ValueError):
            actor: Any = ray.get_actor(name, namespace=self._namespace)
            # One that does not even say how long it takes is not waited for twice.
            if graceful and self._leave(name, for_good=True):
                with contextlib.suppress(RayError):
                    ray.get(actor.stop.remote(), timeout=STOP_TIMEOUT_S)
            ray.kill(actor, no_restart=True)

    def _halt(self, name: str) -> None:
        with contextlib.suppress(ValueError):
            actor: Any = ray.get_actor(name, namespace=self._namespace)
            with contextlib.suppress(RayError):
                ray.get(actor.stop.remote(), timeout=STOP_TIMEOUT_S)
            ray.kill(actor, no_restart=True)
            # Its name is given to the next one only when Ray has noted its end.
            patience = Patience(STOP_TIMEOUT_S, time.monotonic())
            while not patience.over:
                ray.get_actor(name, namespace=self._namespace)
                time.sleep(WAIT_S)
                patience.passed(time.monotonic(), slowdown())

    def _leave(self, name: str, *, for_good: bool) -> bool:
        """Whether the actor answers. One of an earlier version has nothing to end in order."""
        try:
            actor: Any = ray.get_actor(name, namespace=self._namespace)
            ask = getattr(actor, "leave_s", None)
            span_s = ray.get(ask.remote(for_good=for_good), timeout=STOP_TIMEOUT_S) if ask is not None else 0.0
        except GetTimeoutError:
            return False
        except (ValueError, RayError):
            return True
        if span_s:
            with contextlib.suppress(RayError):
                ray.get(actor.leave.remote(for_good=for_good), timeout=span_s + STOP_TIMEOUT_S)
        return True

    def _kill(self, name: str, signal_name: str) -> int:
        number = signal.Signals[f"SIG{signal_name}"]
        if self._data is not None and (known := processes.read(self._data / name)):
            os.kill(known, number)
            return known
        pid, node = self._process(name)
        if node == ray.get_runtime_context().get_node_id():
            os.kill(pid, number)
        else:
            ray_signals.send(self._namespace, node, pid, number)
        return pid

    def _process(self, name: str) -> tuple[int, str]:
        """Process id and Ray node of an actor, as Ray knows them: a stopped process could not be asked itself."""
        try:
            actor: Any = ray.get_actor(name, namespace=self._namespace)
        except ValueError as e:
            raise StartFailed(f"{name} does not run") from e
        known = actors(actor._actor_id.hex())
        if known.get("State") != "ALIVE":
            raise StartFailed(f"{name} is being restarted; try again in a second")
        return int(known["Pid"]), str(known["Address"]["NodeID"])

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _patiently(reference: Any, span_s: float) -> Any:
    """What Ray answers. GetTimeoutError when it does not for a span of fair time."""
    patience = Patience(span_s, time.monotonic())
    while not ray.wait([reference], timeout=POLL_S)[0]:
        patience.passed(time.monotonic(), slowdown())
        if patience.over:
            raise GetTimeoutError
    return ray.get(reference)


def _machines() -> list[Machine]:
    """Ray's nodes that are alive, in a stable order, the head first."""
    alive: list[dict[str, Any]] = [n for n in ray.nodes() if n["Alive"]]
    alive.sort(key=lambda n: (ray_machines.HEAD not in n["Resources"], n["NodeID"]))
    return [Machine(address=_address(n), id=n["NodeID"]) for n in alive]


def _room() -> dict[str, dict[str, float]]:
    """Resources of the nodes that are alive, without those that Ray makes for itself."""
    found = {_address(n): n["Resources"] for n in ray.nodes() if n["Alive"]}
    return {at: {k: v for k, v in has.items() if ":" not in k and k != _STORE} for at, has in found.items()}


def known_to_others(cluster: str, besides: str) -> list[dict[str, Any]]:
    """What other actors of a cluster know of its topology; those are left out that do not say so soon."""
    place = namespace(cluster)
    named = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == place]
    asked: list[Any] = []
    for name in named:
        if name != besides:
            with contextlib.suppress(ValueError, RayError):  # it has ended meanwhile
                actor: Any = ray.get_actor(name, namespace=place)
                asked.append(actor.topology.remote())
    told, _ = ray.wait(asked, num_returns=len(asked), timeout=CALL_TIMEOUT_S) if asked else ([], [])
    found = []
    for one in told:
        with contextlib.suppress(RayError):
            found.append(ray.get(one))
    return found


class _Builds:
    """The builds of the actors of a namespace: each process is asked once, as its main thread rests (`resting`)."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._told: dict[tuple[str, int], Runs] = {}
        """By the actor and its restarts."""

    def look(self) -> dict[str, Runs]:
        """Those are left out that do not say so soon."""
        found: dict[str, Runs] = {}
        there: dict[tuple[str, int], Runs] = {}
        asked: dict[Any, tuple[str, tuple[str, int]]] = {}
        for name in [
            a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == self._place
        ]:
            with contextlib.suppress(ValueError, RayError):  # it has ended meanwhile
                actor: Any = ray.get_actor(name, namespace=self._place)
                life = _life(actor)
                if life is None:
                    continue
                if life in self._told:
                    found[name] = there[life] = self._told[life]
                # One of an earlier build cannot be asked.
                elif ask := getattr(actor, "build", None):
                    asked[ask.remote()] = name, life
        told, _ = ray.wait([*asked], num_returns=len(asked), timeout=CALL_TIMEOUT_S) if asked else ([], [])
        for one in told:
            with contextlib.suppress(RayError):
                name, life = asked[one]
                found[name] = there[life] = Runs(*ray.get(one))
        self._told = there
        return found


def _restarting(place: str) -> set[str]:
    """Names of those actors of a namespace whose process has ended and is not there again."""
    found = set()
    with contextlib.suppress(RayError):
        for ident, known in actors(actor_state_name=_RESTARTING).items():
            with contextlib.suppress(ValueError):  # another namespace's, or it is gone
                if ray.get_actor(known["Name"], namespace=place)._actor_id.hex() == ident:
                    found.add(known["Name"])
    return found


def _life(actor: Any) -> tuple[str, int] | None:
    """The actor, and how often Ray has made its process anew; None while there is none, which would be waited for."""
    ident = actor._actor_id.hex()
    known = actors(ident)
    return None if known.get("State") == _RESTARTING else (ident, int(known.get("NumRestarts") or 0))


def _tell(place: str, weather: Disturbance, holds_s: float) -> set[str]:
    """Names of those actors of a namespace that do not hear of the weather. Raises ClusterError."""
    try:
        named = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == place]
    except RayError as e:
        raise ClusterError(f"Ray does not say which actors there are: {e}") from e
    asked: dict[Any, str] = {}
    for name in named:
        with contextlib.suppress(ValueError, RayError):  # it has ended meanwhile
            actor: Any = ray.get_actor(name, namespace=place)
            # One of an earlier build cannot be told.
            if tell := getattr(actor, "disturb", None):
                asked[tell.remote(weather.shown_to(name), holds_s)] = name
    told, _ = ray.wait([*asked], num_returns=len(asked), timeout=TELL_S) if asked else ([], [])
    deaf = {*named}
    for one in told:
        with contextlib.suppress(RayError):
            if ray.get(one):
                deaf.discard(asked[one])
    return deaf


def _ask(machine: Machine, ask: Callable[..., T], *words: Any) -> list[T]:
    """The answer there; none when it cannot give one."""
    placement = NodeAffinitySchedulingStrategy(machine.id, soft=False)
    asked: Any = ray.remote(ask)
    with contextlib.suppress(RayError):
        options = {"num_cpus": 0, "scheduling_strategy": placement}
        return [ray.get(asked.options(**options).remote(*words), timeout=START_TIMEOUT_S)]
    return []


def _sockets() -> list[HostSocket]:
    """As Ray's head knows them; those of workers that carry no actor of ours are not among them."""
    found = [HostSocket("Ray GCS", ray.get_runtime_context().gcs_address, "Ray gRPC: the head's tables")]
    for node in ray.nodes():
        ports = {
            "Ray raylet": (node["NodeManagerPort"], "Ray gRPC: starts workers"),
            "Ray object manager": (node["ObjectManagerPort"], "Ray gRPC: moves objects, of which there are none"),
            "Ray runtime environment agent": (node["RuntimeEnvAgentPort"], "HTTP: for the raylet"),
        }
        found += [HostSocket(o, f"{_address(node)}:{p}", s) for o, (p, s) in ports.items() if node["Alive"] and p > 0]
    for actor in actors().values():
        address = actor["Address"]
        if actor["State"] == "ALIVE":
            name = f"Ray worker of {actor['Name']}"
            found.append(HostSocket(name, f"{address['IPAddress']}:{address['Port']}", "Ray gRPC: starts, stops, asks"))
    return found


def _address(node: dict[str, Any]) -> str:
    address: str = node["NodeManagerAddress"]
    return address


def _failure(error: Exception) -> Failure:
    if isinstance(error, GetTimeoutError):
        return Failure("it did not get ready in time")
    if isinstance(error, RayTaskError) and error.cause is not None:
        return error.cause.failure if isinstance(error.cause, ComponentFailed) else Failure.of(error.cause)
    text = str(error).strip()
    if isinstance(error, RayActorError):
        # Ray puts the constructor's traceback into the text; its last line is the error itself.
        return failure_in(text)
    return Failure(text.splitlines()[0] if text else type(error).__name__)
