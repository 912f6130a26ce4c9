"""Invariants of a run at every moment: what `invariants` judges is seen here, of members, nodes, etcd and its clients.

What only a simulation sees is judged here: no member stops by itself, and each starts again from what is on its disk.
A violation is kept with its time; the first one decides.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_phase
from rayplane.control_plane.client import ApiClient, EtcdClient, Informer
from rayplane.control_plane.cluster.etcd_user import EtcdUser
from rayplane.control_plane.cluster.lease_users import LeaseUsers
from rayplane.control_plane.cluster.recording import Moments, Recorder
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.invariants import Answer, Judge, Leads, Make, Runs, Violation
from rayplane.control_plane.invariants.catalogue import BUILTIN
from rayplane.control_plane.invariants.conditions import View
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.trace import Trace
from rayplane.node.host import NodeHost
from rayplane.node.lifecycle.model import Run
from rayplane.storage.env import Env

PREFIX, LEASED = b"/rayplane/simulation/", b"/rayplane/leased/"
FIRST_LEASE = 1 << 40
LOOK_EVERY_S = 0.25
# With leisure, so many times longer at most: who does all at leisure also errs for longer.
LEISURE_MAX = 20.0
RETRY_S = 0.2

_RUNNING = (Run.RUNNING, Run.STOPPING)


class Violations:
    """Violations that were found; `judge` finds those that follow from the history."""

    def __init__(self, trace: Trace, checks: Iterable[tuple[str, Make]] = ()) -> None:
        """`checks`: of the user, beside those that hold of every cluster."""
        self._trace = trace
        self.found: list[str] = []
        self.judge = Judge([*BUILTIN, *checks], self._judged)

    def add(self, what: str) -> None:
        self._trace.event("VIOLATION", what)
        self.found.append(f"{_now_s():.3f} s: {what}")

    def _judged(self, violation: Violation) -> None:
        self.add(f"{violation.invariant}: {violation.text}")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class InsideChecks:
    """An observer that looks at the components themselves, from outside of all cells."""

    def __init__(self, cluster: SimulatedCluster, violations: Violations) -> None:
        self._cluster = cluster
        self._violations = violations
        self._failed: dict[str, None] = {}
        self._looked: list[tuple[int, int]] = []
        """Turns of all actors at the last look: while they stay, there is nothing new to see."""
        self._watched: dict[str, object] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._turns: list[tuple[int, int]] = []
        """Those of the node hosts at the last look."""
        self._ran: tuple[tuple[str, str], ...] = ()
        """What was seen last to run, and where."""

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = LOOK_EVERY_S * min(self._cluster.config.timings.leisure, LEISURE_MAX)
        try:
            while True:
                turns = [cell.turns for cell in self._cluster.cells.values()]
                if turns != self._looked:
                    self._looked = turns
                    self._actors()
                    self._members()
                    self._pods()
                await asyncio.sleep(pause_s)
        finally:
            for task in self._watchers:
                task.cancel()

    def _actors(self) -> None:
        failures, self._cluster.failures = self._cluster.failures, []
        for failure in failures:
            self._violations.add(failure)

    def _members(self) -> None:
        for name, member in self._cluster.members():
            if self._watched.get(name) is not member:
                self._watched[name] = member
                self._watchers = [t for t in self._watchers if not t.done()]
                self._watchers.append(asyncio.get_running_loop().create_task(self._watch(name, member)))
            if member.failure is not None and name not in self._failed:
                self._failed[name] = None
                self._violations.add(f"{name} cannot go on: {member.failure}")

    async def _watch(self, name: str, member: object) -> None:
        """Every change of a member's leader, as it happens."""
        while self._watched.get(name) is member:
            self._leads(name, member)
            await member.leader_changed()  # type: ignore[attr-defined]

    def _leads(self, name: str, member: object) -> None:
        if not member.is_leader:  # type: ignore[attr-defined]
            return
        self._violations.judge.observed(_now_s(), Leads(name, member.term))  # type: ignore[attr-defined]

    def _pods(self) -> None:
        turns = [self._cluster.cells[name].turns for name, _ in self._cluster.node_hosts()]
        if turns == self._turns:
            return
        self._turns = turns
        running = tuple([pod for _, host in self._cluster.node_hosts() for pod in _running_pods(host)])
        if running != self._ran:
            self._ran = running
            self._violations.judge.observed(_now_s(), Runs(running))


def _running_pods(host: NodeHost) -> list[tuple[str, str]]:
    """Key and node of the pods with a running container."""
    found = []
    for kubelet in host.kubelets.values():
        for worker in kubelet.workers:
            for container in worker.machine.containers:
                if container.run in _RUNNING:
                    found.append((meta.key(worker.pod), kubelet.name))
                    break
    return found


class Client:
    """A user of the cluster: writes to etcd without pause, reads, and watches objects. Runs in a cell of its own.

    It also records all objects of etcd for the judge.
    """

    def __init__(self, cluster: SimulatedCluster, violations: Violations, *, write_every_s: float) -> None:
        self._cluster = cluster
        self._violations = violations
        self._trace = cluster.trace
        self._write_every_s = write_every_s
        self._informers: dict[str, Informer] = {}
        self.moments = Moments(violations.judge.history)
        self._recorder: Recorder
        self._keys: EtcdUser
        self._leases: LeaseUsers
        self.etcd: EtcdClient
        self.api: ApiClient
        self.up = asyncio.Event()

    @property
    def acknowledged(self) -> int:
        return self._keys.acknowledged if self.up.is_set() else 0

    def objects(self, resource: str) -> list[Object]:
        """What the client sees of a resource."""
        return self._informers[resource].list()

    @property
    def view(self) -> View:
        """All objects, as they are recorded."""
        return self._violations.judge.history

    async def run(self, env: Env, network: Network, sockets: Sockets) -> None:
        """Until the cell dies."""
        self.etcd = EtcdClient(network, self._cluster.endpoints(Role.MEMBER))
        supervisor = self._cluster.topology.endpoints(Role.SUPERVISOR, "grpc")
        self.api = ApiClient(network, self._cluster.endpoints(Role.APISERVER), discovery=supervisor)
        self._recorder = Recorder(self.etcd, self._violations.judge, _now_s, self.moments.changed)
        self._keys = EtcdUser(
            self.etcd, PREFIX, self._judge, self._trace.event, lambda: self._cluster.endpoints(Role.MEMBER)
        )
        self._leases = LeaseUsers(
            self.etcd, LEASED, self._violations.add, _now_s, first_id=FIRST_LEASE, pause_s=self._write_every_s
        )
        for resource in ("nodes", "pods", "deployments.apps", "statefulsets.apps", "persistentvolumeclaims"):
            informer = self._informers[resource] = Informer(self.api, resource)
            informer.add_handler(lambda kind, old, new, r=resource: self._saw(r, kind, new))  # type: ignore[misc]
            informer.start()
        self.up.set()
        keys = self._keys
        writing = keys.write_for_ever(self._write_every_s), self._leases.run()
        await asyncio.gather(*writing, keys.watch_for_ever(), self._recorder.run())

    # Objects

    def _saw(self, resource: str, kind: str, new: Object) -> None:
        version, at_s = meta.resource_version(new), _now_s()
        self._trace.event("saw", kind, resource, meta.key(new), version, _summary(resource, new))
        if kind == "DELETED":
            return
        self._violations.judge.answered(
            Answer(
                client="an informer",
                verb="get",
                resource=resource,
                key=meta.key(new),
                uid=meta.uid(new),
                revision=int(version),
                called_s=at_s,
                returned_s=at_s,
            )
        )

    async def settle(self, within_s: float) -> None:
        """The end: wait until the judge finds nothing more that may come right, and have all judged."""
        deadline = _now_s() + within_s
        judge = self._violations.judge
        # It writes on: what was just acknowledged may be told a moment later.
        while not (current := await self._is_recorded()) or judge.unsettled() or self._keys.untold():
            if _now_s() > deadline:
                break
            await asyncio.sleep(RETRY_S)
        if not current:
            self._violations.add("etcd's history cannot be read to its end")
        judge.finished(_now_s())
        self._keys.verify_watched()
        with contextlib.suppress(RpcError), self._cluster.client.inside():
            await self._leases.finish()

    async def _is_recorded(self) -> bool:
        try:
            with self._cluster.client.inside():
                return await self._recorder.is_current()
        except RpcError:
            return False

    # Keys of etcd

    def _judge(self, found: list[str]) -> None:
        for violation in found:
            self._violations.add(violation)

    async def verify(self) -> bool:
        """Read everything that was written; False when nobody answered."""
        return await self._keys.verify()


def _summary(resource: str, obj: Object) -> str:
    status = meta.status(obj)
    match resource:
        case "pods":
            ready = "ready" if pod_is_ready(obj) else "unready"
            return f"{pod_phase(obj)} {ready} {meta.node_name(obj)} {status.get('podIP', '')}"
        case "nodes":
            return "Ready" if meta.condition_is(obj, "Ready") else "NotReady"
        case "persistentvolumeclaims":
            return str(status.get("phase", ""))
    return f"{status.get('readyReplicas', 0)} of {meta.spec(obj).get('replicas')}"
