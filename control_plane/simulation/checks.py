"""Invariants of a run at every moment. A violation is kept with its time; the first one decides.

- at most one member leads in a term (Raft, section 5.2)
- a client never sees revisions run backwards, and a write it was told of is there when it reads, and at the end
- a watch tells every write once, in order
- a pod is bound once: no uid ever has two nodes
- two pods of one name (so, of one StatefulSet identity) never run on two nodes at once
- no member stops by itself, and each starts again from what is on its disk
"""

import asyncio
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_phase
from rayplane.control_plane.client import ApiClient, EtcdClient, Informer
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import Network, RpcError
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.trace import Trace
from rayplane.node.host import NodeHost
from rayplane.node.lifecycle.model import Run
from rayplane.storage.env import Env

PREFIX, PREFIX_END = b"/rayplane/simulation/", b"/rayplane/simulation0"
LOOK_EVERY_S = 0.25
RETRY_S = 0.2
READ_EVERY = 7  # writes between two linearizable reads of everything

_RUNNING = (Run.RUNNING, Run.STOPPING)


class Violations:
    """Violations that were found."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.found: list[str] = []

    def add(self, what: str) -> None:
        self._trace.event("VIOLATION", what)
        self.found.append(f"{asyncio.get_running_loop().time():.3f} s: {what}")


class InsideChecks:
    """An observer that looks at the components themselves, from outside of all cells."""

    def __init__(self, cluster: SimulatedCluster, violations: Violations) -> None:
        self._cluster = cluster
        self._violations = violations
        self._leaders: dict[int, str] = {}
        self._failed: dict[str, None] = {}
        self._watched: dict[str, object] = {}
        self._watchers: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._actors()
                self._members()
                self._pods()
                await asyncio.sleep(LOOK_EVERY_S)
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
        term = member.term  # type: ignore[attr-defined]
        other = self._leaders.setdefault(term, name)
        if other != name:
            self._violations.add(f"{name} and {other} both lead in term {term}")

    def _pods(self) -> None:
        running: dict[str, str] = {}
        for host_name, host in self._cluster.node_hosts():
            for key, node in _running_pods(host):
                other = running.setdefault(key, node)
                if other != node:
                    self._violations.add(f"pod {key} runs on {other} and on {node} ({host_name}) at once")


def _running_pods(host: NodeHost) -> list[tuple[str, str]]:
    """Key and node of the pods with a running container."""
    return [
        (meta.key(worker.pod), kubelet.name)
        for kubelet in host.kubelets.values()
        for worker in kubelet.workers
        if any(c.run in _RUNNING for c in worker.machine.containers)
    ]


@dataclass(slots=True)
class _Write:
    """A write of the client: its revision once it was acknowledged."""

    value: bytes
    revision: int = 0


class Client:
    """A user of the cluster: writes to etcd without pause, reads, and watches objects. Runs in a cell of its own."""

    def __init__(self, cluster: SimulatedCluster, violations: Violations, *, write_every_s: float) -> None:
        self._cluster = cluster
        self._violations = violations
        self._trace = cluster.trace
        self._write_every_s = write_every_s
        self._writes: dict[bytes, _Write] = {}
        self._revision = 0
        self._watched: dict[bytes, int] = {}
        self._watch_revision = 0
        self._nodes: dict[str, str] = {}  # uid of a pod to its node
        self._informers: dict[str, Informer] = {}
        self.etcd: EtcdClient
        self.api: ApiClient
        self.up = asyncio.Event()

    @property
    def acknowledged(self) -> int:
        return sum(1 for w in self._writes.values() if w.revision)

    def objects(self, resource: str) -> list[Object]:
        """What the client sees of a resource."""
        return self._informers[resource].list()

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._informers[resource].get(namespace, name)

    async def run(self, env: Env, network: Network, sockets: Sockets) -> None:
        """Until the cell dies."""
        self.etcd = EtcdClient(network, self._cluster.endpoints(Role.MEMBER))
        supervisor = self._cluster.topology.endpoints(Role.SUPERVISOR, "grpc")
        self.api = ApiClient(network, self._cluster.endpoints(Role.APISERVER), discovery=supervisor)
        for resource in ("nodes", "pods", "deployments.apps", "statefulsets.apps", "persistentvolumeclaims"):
            informer = self._informers[resource] = Informer(self.api, resource)
            informer.add_handler(lambda kind, old, new, r=resource: self._saw(r, kind, old, new))  # type: ignore[misc]
            informer.start()
        self.up.set()
        await asyncio.gather(self._write_for_ever(), self._watch_for_ever())

    # Objects

    def _saw(self, resource: str, kind: str, old: Object | None, new: Object) -> None:
        self._trace.event("saw", kind, resource, meta.key(new), meta.resource_version(new), _summary(resource, new))
        if old is not None and int(meta.resource_version(new)) < int(meta.resource_version(old)):
            self._violations.add(
                f"{resource} {meta.key(new)} went back from version {meta.resource_version(old)} "
                f"to {meta.resource_version(new)}"
            )
        node = meta.node_name(new) if resource == "pods" else ""
        if node:
            before = self._nodes.setdefault(meta.uid(new), node)
            if before != node:
                self._violations.add(f"pod {meta.key(new)} was bound to {before} and to {node}")

    # Writes

    async def _write_for_ever(self) -> None:
        number = 0
        while True:
            number += 1
            key, write = PREFIX + f"{number:08}".encode(), _Write(f"value {number}".encode())
            self._writes[key] = write
            floor = self._revision
            # All members that it knew may have been replaced.
            self.etcd.endpoints.replace(self._cluster.endpoints(Role.MEMBER))
            try:
                answer = await self.etcd.put(key, write.value)
            except RpcError as e:
                # Whether it was done is unknown: it may be there or not.
                self._trace.event("unsure", key.decode(), e.code.name)
            else:
                write.revision = answer.header.revision
                self._acknowledged(key, write.revision, floor)
                await self._read_back(key, write)
            if number % READ_EVERY == 0:
                await self.verify()
            await asyncio.sleep(self._write_every_s)

    def _acknowledged(self, key: bytes, revision: int, floor: int) -> None:
        """`floor`: the latest revision the client had seen when it began."""
        self._trace.event("write", key.decode(), revision)
        if revision <= floor:
            self._violations.add(f"a write got revision {revision} after the client had seen {floor}")
        self._revision = max(self._revision, revision)

    async def _read_back(self, key: bytes, write: _Write) -> None:
        floor = self._revision
        try:
            answer = await self.etcd.range(key)
        except RpcError as e:
            self._trace.event("unread", key.decode(), e.code.name)
            return
        self._seen(answer.header.revision, floor)
        if [kv.value for kv in answer.kvs] != [write.value]:
            self._violations.add(f"{key.decode()} was acknowledged at revision {write.revision} but cannot be read")

    def _seen(self, revision: int, floor: int) -> None:
        if revision < floor:
            self._violations.add(f"a read was answered at revision {revision} after the client saw {floor}")
        self._revision = max(self._revision, revision)

    async def verify(self) -> bool:
        """Read everything that was written; False when nobody answered."""
        wanted = {k: w for k, w in self._writes.items() if w.revision}
        floor = self._revision
        try:
            answer = await self.etcd.range(PREFIX, PREFIX_END)
        except RpcError as e:
            self._trace.event("unread", "all", e.code.name)
            return False
        self._seen(answer.header.revision, floor)
        found = {kv.key: (kv.value, kv.mod_revision) for kv in answer.kvs}
        for key, write in wanted.items():
            if found.get(key) != (write.value, write.revision):
                self._violations.add(
                    f"the acknowledged write {key.decode()} at revision {write.revision} is lost: "
                    f"found {found.get(key)}"
                )
        return True

    def verify_watched(self) -> None:
        """Every acknowledged write was told of, under its revision."""
        for key, write in self._writes.items():
            if write.revision and self._watched.get(key) != write.revision:
                self._violations.add(
                    f"the watch told of {key.decode()} at revision {self._watched.get(key)}, not {write.revision}"
                )

    async def _watch_for_ever(self) -> None:
        while True:
            try:
                async for answer in self.etcd.watch(PREFIX, PREFIX_END, start_revision=self._watch_revision + 1):
                    if answer.compact_revision:
                        # History is gone: what happened meanwhile is only to be read.
                        self._watch_revision = answer.compact_revision - 1
                    for event in answer.events:
                        self._told(event.kv.key, event.kv.mod_revision)
            except RpcError as e:
                self._trace.event("rewatch", e.code.name)
            await asyncio.sleep(RETRY_S)

    def _told(self, key: bytes, revision: int) -> None:
        self._trace.event("told", key.decode(), revision)
        if revision <= self._watch_revision:
            self._violations.add(f"the watch told of revision {revision} after {self._watch_revision}")
        self._watch_revision = revision
        if self._watched.setdefault(key, revision) != revision:
            self._violations.add(f"the watch told of {key.decode()} at {self._watched[key]} and again at {revision}")


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
