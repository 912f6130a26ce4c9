"""What happens to members and links: the acts of a storm, drawn from a seed."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.faults.injector import refusal, require
from rayplane.control_plane.faults.vocabulary import (
    LEADER,
    Cut,
    Fault,
    Heal,
    Kill,
    PowerLoss,
    Reset,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.memory import MemoryNetwork
from rayplane.control_plane.rpc.weather import Weather
from rayplane.control_plane.simulation.loop import Life
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.linearizability.processes import Processes

SERVICES = pb.DESCRIPTOR.services_by_name


class ProcessInjector:
    """Faults of members that are processes in virtual time, and of the links between all hosts."""

    def __init__(self, processes: Processes, weather: Weather) -> None:
        self._processes, self._weather = processes, weather

    def refusal(self, fault: Fault) -> str:
        return refusal(fault, (Kill, PowerLoss, Stop, StalledDisk, Cut, Heal, Reset, SlowNetwork))

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        match fault:
            case Cut(sources, sinks):
                self._weather.cut(sources, sinks)
                return sources
            case Heal():
                self._weather.heal()
            case SlowNetwork(delay_s):
                self._weather.slow_s = delay_s
            case Kill(target) | PowerLoss(target) | Stop(target) | StalledDisk(target) | Reset(target):
                name = target.name or self._processes.leader()
                if name is not None:
                    self._hit(fault, name)
                    return (name,)
        return ()

    def _hit(self, fault: Fault, name: str) -> None:
        loop = asyncio.get_running_loop()
        match fault:
            case Kill() | PowerLoss():
                self._processes.kill(name, power_loss=isinstance(fault, PowerLoss))
            case Stop(_, for_s):
                life = self._processes.all[name].life
                self._processes.pause(name)
                loop.call_later(for_s, self._wake, name, life)
            case StalledDisk(_, for_s):
                self._processes.stall[name] = loop.time() + for_s
            case Reset():
                self._processes.fabric.sever(lambda a, b: name in (a, b))

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """Nothing: each ends by itself."""

    def _wake(self, name: str, life: Life | None) -> None:
        """Unless it has died meanwhile, or goes on already."""
        if life is not None and self._processes.all[name].life is life and life.paused:
            self._processes.resume(name)


class Faults:
    """The acts by name. All are undone by `calm`."""

    def __init__(self, processes: Processes, weather: Weather, clients: list[str], rng: random.Random) -> None:
        self.processes, self.weather, self.clients, self.rng = processes, weather, clients, rng
        self.compacted = 0
        self.replaced = 0
        self._injector = ProcessInjector(processes, weather)
        self._network = MemoryNetwork(processes.fabric, "operator")
        self._starting: dict[asyncio.Task[None], None] = {}
        self.acts: dict[str, Callable[[], Awaitable[None]]] = {
            name.removeprefix("act_"): getattr(self, name) for name in dir(self) if name.startswith("act_")
        }

    def stub(self, service: str, name: str) -> Stub:
        return Stub(self._network.channel(f"{name}:2379"), SERVICES[service])

    async def _do(self, fault: Fault) -> None:
        require(self._injector, [fault])
        await self._injector.begin(fault)

    async def _part(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Cut the links between them in both directions."""
        some, others = tuple(some), tuple(others)
        await self._do(Cut(some, others))
        await self._do(Cut(others, some))

    def _any(self, names: list[str]) -> str | None:
        return self.rng.choice(names) if names else None

    async def act_kill(self) -> None:
        if name := self._any(self.processes.named()):
            await self._do(Kill(Target(name=name)))

    async def act_kill_leader(self) -> None:
        await self._do(Kill(Target(LEADER)))

    async def act_power_loss(self) -> None:
        if name := self._any(self.processes.named()):
            await self._do(PowerLoss(Target(name=name)))

    async def act_power_loss_of_all(self) -> None:
        for name in self.processes.named():
            await self._do(PowerLoss(Target(name=name)))
        await self.act_start_all()

    async def act_start(self) -> None:
        if name := self._any(self.processes.named(running=False)):
            self._start(name)

    async def act_start_all(self) -> None:
        for name in self.processes.named(running=False):
            self._start(name)

    def _start(self, name: str) -> None:
        # A start may wait for others that do not answer: nobody waits for it.
        task = asyncio.get_running_loop().create_task(self.processes.start(name))
        self._starting[task] = None
        task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        del self._starting[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.processes.faults.append(f"a member did not start: {error!r}")

    async def act_pause(self) -> None:
        if name := self._any(self.processes.named(paused=False)):
            await self._do(Stop(Target(name=name), self.rng.choice([0.3, 1.0, 3.0, 20.0])))

    async def act_pause_leader(self) -> None:
        name = self.processes.leader()
        if name is not None and not self.processes.all[name].paused:
            await self._do(Stop(Target(name=name), self.rng.choice([1.0, 3.0, 5.0, 20.0])))

    async def act_stall_disk(self) -> None:
        if name := self._any(self.processes.named()):
            await self._do(StalledDisk(Target(name=name), self.rng.choice([0.5, 2.0, 8.0])))

    async def act_isolate(self) -> None:
        names = list(self.processes.all)
        await self._part([self.rng.choice(names)], names)

    async def act_isolate_leader(self) -> None:
        """With some of the clients on its side, some on the other."""
        if leader := self.processes.leader():
            await self._part([leader], self.processes.all)
            for client in self.clients:
                far = [leader] if self.rng.random() < 0.5 else [n for n in self.processes.all if n != leader]
                await self._part([client], far)

    async def act_one_way(self) -> None:
        """A member is heard by nobody, or hears nobody."""
        names = list(self.processes.all)
        deaf = [self.processes.leader() or self.rng.choice(names)]
        sources, sinks = (deaf, names) if self.rng.random() < 0.5 else (names, deaf)
        await self._do(Cut(tuple(sources), tuple(sinks)))

    async def act_cut_some(self) -> None:
        hosts = [*self.processes.all, *self.clients]
        for _ in range(self.rng.randint(1, 6)):
            source, target = self.rng.sample(hosts, 2)
            await self._do(Cut((source,), (target,)))

    async def act_split(self) -> None:
        """Two sides, clients on both."""
        hosts = [*self.processes.all, *self.clients]
        side = [host for host in hosts if self.rng.random() < 0.5]
        await self._part(side, [host for host in hosts if host not in side])

    async def act_sever(self) -> None:
        """Connections are reset."""
        host = self.rng.choice([*self.processes.all, *self.clients])
        await self._do(Reset(Target(name=host)))

    async def act_heal(self) -> None:
        await self._do(Heal())

    async def act_slow(self) -> None:
        await self._do(SlowNetwork(self.rng.choice([0.0, 0.005, 0.05, 0.3])))

    async def act_move_leader(self) -> None:
        leader = self.processes.leader()
        if leader is None or (member := self.processes.all[leader].member) is None:
            return
        target = self.rng.choice(member.machine.conf_state.voters)
        with contextlib.suppress(RpcError):
            await self.stub("Maintenance", leader).MoveLeader(pb.MoveLeaderRequest(targetID=target), timeout=0.3)

    async def act_move_leader_and_isolate(self) -> None:
        """The old leader does not learn of its heir."""
        leader = self.processes.leader()
        if leader is None or (member := self.processes.all[leader].member) is None:
            return
        with contextlib.suppress(raft.TransferRefused):
            member.driver.transfer_leader(self.rng.choice(member.machine.conf_state.voters))
        await asyncio.sleep(self.rng.choice([0.0, 0.001, 0.01]))
        await self._part([leader], self.processes.all)

    async def act_compact(self) -> None:
        leader = self.processes.leader()
        if leader is None or (member := self.processes.all[leader].member) is None:
            return
        revision = member.store.revision - self.rng.randint(0, 60)
        if revision > 1:
            self.compacted = max(self.compacted, revision)
            with contextlib.suppress(RpcError):
                await self.stub("KV", leader).Compact(pb.CompactionRequest(revision=revision), timeout=1.0)

    async def act_replace(self) -> None:
        """A machine is lost with its disk; another takes its place as a learner, and becomes a voter."""
        if (
            len(self.processes.named()) < len(self.processes.all)
            or self.weather.cuts
            or self.processes.named(paused=True)
        ):
            return
        lost = self.rng.choice(list(self.processes.all))
        member = self.processes.all[lost].member
        if member is None:
            return
        self.processes.kill(lost)
        del self.processes.all[lost]
        self.replaced += 1
        name = f"n{self.replaced}"
        url = f"http://{name}:2380"
        await self._insist(lambda s: s.MemberRemove(pb.MemberRemoveRequest(ID=member.member_id)), "member not found")
        await self._insist(lambda s: s.MemberAdd(pb.MemberAddRequest(peerURLs=[url], isLearner=True)), "already exists")
        peers = {n: p.config.peer_url for n, p in self.processes.all.items()} | {name: url}
        process = self.processes.add(name, peers, joins=True)
        await self.processes.start(name)
        assert process.member is not None, f"{name} did not start in time"
        added = process.member.member_id
        promoted = "can only promote a learner member"
        await self._insist(lambda s: s.MemberPromote(pb.MemberPromoteRequest(ID=added)), promoted)

    async def _insist(self, call: Callable[..., Awaitable[object]], done: str) -> None:
        """`done` ends the refusal that says: an attempt before has come through."""
        async with asyncio.timeout(120):
            while True:
                name = self.rng.choice(self.processes.named())
                try:
                    await call(self.stub("Cluster", name))
                    return
                except RpcError as e:
                    if e.message.endswith(done):
                        return
                    await asyncio.sleep(0.2)

    async def calm(self) -> None:
        """Everything runs, nothing is cut."""
        await self._do(Heal())
        await self._do(SlowNetwork(0.0))
        self.processes.stall.clear()
        for name in self.processes.named(paused=True):
            self.processes.resume(name)
        while self._starting:
            await asyncio.wait(self._starting)
        for name in self.processes.named(running=False):
            await self.processes.start(name)
