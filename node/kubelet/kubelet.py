"""The kubelet of one node: its registration, and a worker for each pod bound to it.

Driven by informers of its host: `pod_event` for pods, `node_event` for its own Node object. Restart safe: a kubelet
that comes back finds its pods at the API; nothing of them runs any more, so their containers start again in a new
sandbox with a new address.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import is_mirror, is_static
from rayplane.control_plane.stages.templates import Given
from rayplane.node.config import PROCESS, SIMULATED, NodeConfig
from rayplane.node.errors import NotHere
from rayplane.node.kubelet import pressure, registration
from rayplane.node.kubelet.addresses import NodeAddresses
from rayplane.node.kubelet.admission import Allocations, Room, forbids, room_of
from rayplane.node.kubelet.eviction_manager import EvictionManager, nothing
from rayplane.node.kubelet.fence import Fence
from rayplane.node.kubelet.gate import Gate, has_begun
from rayplane.node.kubelet.handlers import Handlers
from rayplane.node.kubelet.machine import machine_of
from rayplane.node.kubelet.metrics import KubeletMetrics
from rayplane.node.kubelet.pod_worker import PodWorker
from rayplane.node.kubelet.resizes import Resizes
from rayplane.node.kubelet.sandbox import Sandbox, SandboxParts
from rayplane.node.kubelet.shared import Shared
from rayplane.node.kubelet.shutdown import Period, end_in_groups
from rayplane.node.kubelet.stage_functions import functions
from rayplane.node.kubelet.stage_player import StagePlayer, Worker
from rayplane.node.kubelet.staged_node import StagedNode
from rayplane.node.kubelet.staged_pod import StagedPod, is_staged
from rayplane.node.kubelet.static_pods import StaticPods
from rayplane.node.kubelet.worker_parts import WorkerParts
from rayplane.node.lifecycle import Rejected, Resumed, Suspended
from rayplane.node.lifecycle.model import Run
from rayplane.node.runtime import Runtime

log = logging.getLogger(__name__)


class Kubelet:
    """One node. `status_changed` is called when its status is to be written, `disputed` when others have written it."""

    def __init__(
        self,
        config: NodeConfig,
        runtimes: Mapping[str, Runtime],
        shared: Shared,
        *,
        status_changed: Callable[["Kubelet"], None],
        disputed: Callable[["Kubelet"], None],
    ) -> None:
        """`runtimes`: of its host, by name."""
        self.config = config
        self.name = config.name
        real = config.runtime if config.cri_path else PROCESS
        self.runtime = runtimes[real if config.takes_processes else SIMULATED]
        self.node: Object | None = None
        self._told: dict[str, str] = {}
        """Conditions of the node, and the reasons that were last told of them."""
        self.addresses = NodeAddresses()
        self.metrics = KubeletMetrics()
        self.fence = Fence(shared.timing.fence_after_s, self._suspend)
        self._shared = shared
        self._status_changed = status_changed
        self._disputed = disputed
        self._workers: dict[str, Worker] = {}  # by uid
        self._by_key: dict[str, Worker] = {}
        capacity = Room(quantity.milli(config.cpu), quantity.value(config.memory), config.max_pods)
        self._room = Allocations(capacity)
        self._resizes = Resizes(self._room)
        self._files = shared.files if config.takes_processes else None
        names = (SIMULATED, real) if config.takes_processes else (SIMULATED,)
        self._parts = {name: self._worker_parts(name, runtimes[name]) for name in names}
        self._handlers = Handlers(shared.client, config.name, names, config.runtime)
        self._gate = Gate(self, self._room, self._handlers, shared.client, shared.tasks)
        self.started = shared.env.timestamp()
        self.stock = shared.stock_of(config)
        self.vitals = shared.vitals_of(config, lambda: self.workers)
        self.eviction = self._eviction_manager()
        self._leaving = False
        self._freed = asyncio.Event()
        self.static = StaticPods(shared.client, self, shared.env.timestamp, shared.timing)
        self._player = StagePlayer(shared.stages, self)
        self._staged_node = StagedNode(shared.stages, partial(self.given, str), partial(status_changed, self))

    def _worker_parts(self, handler: str, runtime: Runtime) -> WorkerParts:
        shared, config, processes = self._shared, self.config, handler != SIMULATED
        sandboxes = SandboxParts(
            node=config,
            addresses=self.addresses,
            objects=shared.objects,
            tokens=shared.tokens,
            certificates=shared.certificates,
            volumes=shared.volumes,
            files=self._files if processes else None,
            runtime=runtime,
            dns=shared.dns_of(config),
            events=shared.events,
            tasks=shared.tasks,
            images=shared.images if processes else None,
        )
        return WorkerParts(
            env=shared.env,
            restarts=shared.timing.restarts,
            runtime=runtime,
            runs_processes=processes,
            addresses=self.addresses,
            room=self._room,
            fence=self.fence,
            sandbox=partial(Sandbox, sandboxes),
            statuses=shared.statuses,
            prober=shared.prober,
            events=shared.events,
            tasks=shared.tasks,
            gone=self._drop,
            respecified=self._resizes.look,
            freed=self._room_freed,
            undisturbed=shared.undisturbed,
            metrics=self.metrics,
            images=shared.images if handler == PROCESS else None,
        )

    @property
    def suspended(self) -> bool:
        """Tells whether the node has lost the cluster and runs nothing."""
        return self.fence.closed

    @property
    def node_ip(self) -> str:
        return self.addresses.node_ip

    @property
    def workers(self) -> list[Worker]:
        return [*self._workers.values()]

    def worker(self, namespace: str, name: str) -> Worker:
        """Return the worker of a pod. Raises NotHere."""
        worker = self._by_key.get(f"{namespace}/{name}")
        if worker is None:
            raise NotHere(f"pod {namespace}/{name} is not on node {self.name}")
        return worker

    def containers(self) -> Counter[str]:
        """Containers of its pods by the state that the runtime has them in: `running`, `exited`."""
        found: Counter[str] = Counter()
        for worker in self._workers.values():
            for container in worker.machine.by_name.values():
                if container.run in (Run.OPENING, Run.RUNNING, Run.STOPPING):
                    found["running"] += 1
                elif container.name in worker.runs:
                    found["exited"] += 1
        return found

    # --- registration -----------------------------------------------------------------------------

    def wanted(self) -> Object:
        """The Node as it is made."""
        shared = self._shared
        made = registration.node_object(
            self.config,
            host_address=shared.address,
            volume_capacity=shared.volume_capacity,
            heartbeat=shared.heartbeat,
            network=self.runtime.network_id,
            isolation=self.runtime.isolation,
        )
        return {**made, "status": self.node_status(made)}

    def registered(self, node: Object) -> None:
        """The Node is at the API."""
        self._shared.events.announce(node, "Starting", "Starting kubelet.")
        if self.runtime.no_services:
            self._shared.events.record(node, "Warning", "NoServiceGateway", self.runtime.no_services)
        self.node_event(node)

    def node_status(self, node: Object) -> dict[str, Any]:
        return self._staged_node.over(self._own_status(node))

    def _own_status(self, node: Object) -> dict[str, Any]:
        machine = machine_of(self.config)
        if registration.rebooted(node, machine):
            text = f"Node {self.name} has been rebooted, boot id: {machine.boot_id}"
            self._shared.events.record(node, "Warning", "Rebooted", text)
        status = registration.node_status(
            self.config,
            node,
            node_ip=self.node_ip,
            port=int(self._shared.address.rpartition(":")[2]),
            stamp=self._shared.env.timestamp(),
            in_use=self._shared.volumes.in_use(self.name),
            health=self._health(),
            version=self.runtime.version,
            machine=machine,
        )
        images = registration.node_images(node, self.stock.listed() if self.stock is not None else None)
        return status | registration.node_features(self.runtime.features) | images

    def _health(self) -> registration.Health:
        return registration.Health(self._trouble(), self.pressure, self.runtime.no_services)

    def _trouble(self) -> str:
        down = f"container runtime is down: {self.runtime.trouble}" if self.runtime.trouble else ""
        return "node is shutting down" if self._leaving else down

    @property
    def pressure(self) -> frozenset[str]:
        """Types of the node's conditions of pressure that are true."""
        return self.eviction.conditions if self.eviction is not None else frozenset()

    def node_event(self, node: Object) -> None:
        """The Node changed; its pod CIDR may have come."""
        before, self.node = self.node, node
        cordoned = bool(meta.spec(node).get("unschedulable"))
        if before is not None and cordoned != bool(meta.spec(before).get("unschedulable")):
            reason = "NodeNotSchedulable" if cordoned else "NodeSchedulable"
            self._tell("Normal", reason, f"Node {self.name} status is now: {reason}")
        self._tell_conditions(node)
        # Who hears that somebody has given this node up is back. What is else said in its name it says anew.
        taken = meta.condition_is(node, "Ready", "Unknown") or (
            not self._staged_node.concerned and registration.contradicted(node, self._health())
        )
        if self.take_cidr(node):
            self._status_changed(self)
        elif taken or not registration.follows_capacity(node):
            self._disputed(self)
        self.addresses.tell()
        self._look_at_node()

    def _look_at_node(self) -> None:
        if self.node is not None and self._staged_node.concerned and not self.config.runs_processes:
            self._staged_node.look(self.node, self._own_status(self.node))

    def take_cidr(self, node: Object) -> bool:
        """Take the addresses of its pods from the Node; whether they are new."""
        cidr = meta.spec(node).get("podCIDR")
        if not cidr or self.addresses.known:
            return False
        try:
            self.addresses.assign(cidr, offset=self._shared.env.rng.getrandbits(24))
            self.runtime.add_node(self.addresses.node_ip, cidr)
        except ValueError as e:
            # Written past the API's validation: its pods wait, but the other nodes of this host must start.
            log.error("node %s has no addresses for its pods: podCIDR: %s", self.name, e)
            return False
        return True

    # --- pods -------------------------------------------------------------------------------------

    def pod_event(self, kind: str, pod: Object) -> None:
        if is_mirror(pod):
            self.static.mirror_event(kind, pod)
            return
        uid = meta.uid(pod)
        worker = self._workers.get(uid)
        if kind == "DELETED":
            self._gate.forget(uid)
            if worker is not None:
                worker.remove()
        elif worker is not None:
            self._update(worker, pod)
        else:
            self._gate.come(pod)

    def restate(self, uid: str) -> None:
        """What is said of a pod may be something else now, though it is as it was."""
        if isinstance(worker := self._workers.get(uid), PodWorker):
            self._shared.statuses.mark(worker)

    # What static pods ask for; see StaticHost.

    def add_static(self, pod: Object) -> None:
        self.take(pod, room_of(pod), self._handlers.default, None)

    def end_static(self, uid: str) -> None:
        if (worker := self._workers.get(uid)) is not None:
            worker.remove()

    def mirrored(self, uid: str, mirror: str) -> None:
        if isinstance(worker := self._workers.get(uid), PodWorker):
            worker.mirrored(mirror)

    def take(self, pod: Object, room: Room, handler: str, refusal: Rejected | None) -> None:
        """Have a worker for a pod, if only to refuse it."""
        key, uid = meta.key(pod), meta.uid(pod)
        namesake = self._by_key.get(key)
        if namesake is not None:
            namesake.remove()
        address = meta.status(pod).get("podIP")
        if address and not meta.spec(pod).get("hostNetwork"):
            self.addresses.avoid(address)
        refusal = self._refusal(pod, room, refusal)
        if refusal is None and handler == SIMULATED and self._is_for_stages(pod):
            self._stage(pod, room)
            return
        worker = PodWorker(pod, room, self._parts[handler])
        if is_static(pod):
            worker.mirror = ""
        self._workers[uid] = self._by_key[key] = worker
        worker.begin(suspended=self.suspended and not is_static(pod), refusal=refusal)
        if meta.get_condition(pod, "PodResizePending") is not None:
            self._resizes.look(worker)
        if self._player.active and worker.is_simulated:
            self._player.look(worker)

    def _refusal(self, pod: Object, room: Room, known: Rejected | None) -> Rejected | None:
        """Why a new pod does not fit. Pods that ran here before have their room already."""
        if has_begun(pod):
            return None
        if self._leaving:
            return Rejected("NodeShutdown", "Pod was rejected as the node is shutting down.")
        if (refused := pressure.refusal(pod, self.pressure)) is not None:
            return refused
        return self._room.refuse(room) or known or self._room.refuse_ports(room) or forbids(pod)

    def _drop(self, worker: Worker) -> None:
        """The pod is gone from the API and from here."""
        worker.close()
        if isinstance(worker, PodWorker):
            self._resizes.forget(worker)
        uid, key = meta.uid(worker.pod), meta.key(worker.pod)
        self._player.forget(uid)
        self.metrics.forget(uid)
        self._shared.certificates.forget(uid)
        self._workers.pop(uid, None)
        if self._by_key.get(key) is worker:
            del self._by_key[key]
        if self._files is not None:
            self._shared.tasks.spawn(self._files.remove(uid), f"removal of the files of {key}")

    # --- stages -----------------------------------------------------------------------------------

    def _update(self, worker: Worker, pod: Object) -> None:
        plays = self._player.active and worker.is_simulated
        # Its worker would end it at once.
        if plays and meta.is_deleting(pod) and isinstance(worker, PodWorker) and self._player.begins(pod):
            worker = self._take_over(worker)
        worker.update(pod)
        if plays or isinstance(worker, StagedPod):
            self._player.look(worker)

    def _is_for_stages(self, pod: Object) -> bool:
        """Whether stages decide the life of a pod that is new here, from its beginning or from where they left it."""
        return is_staged(pod) or (self._player.active and not has_begun(pod) and self._player.begins(pod))

    def _stage(self, pod: Object, room: Room) -> None:
        worker = StagedPod(pod, room, self._parts[SIMULATED], self._shared.simulated, self._drop)
        self._workers[meta.uid(pod)] = self._by_key[meta.key(pod)] = worker
        worker.begin()
        self._player.look(worker)

    def _take_over(self, worker: PodWorker) -> StagedPod:
        self._resizes.forget(worker)
        sandbox = worker.retire()
        pod = worker.pod
        staged = StagedPod(pod, worker.room, self._parts[SIMULATED], self._shared.simulated, self._drop, sandbox)
        self._workers[meta.uid(pod)] = self._by_key[meta.key(pod)] = staged
        staged.begin()
        return staged

    def stages_changed(self) -> None:
        """There are other stages than before."""
        for worker in self.workers:
            if worker.is_simulated:
                self._player.look_anew(worker)
        self._look_at_node()

    def worker_of(self, uid: str) -> Worker | None:
        return self._workers.get(uid)

    def staged(self, uid: str) -> StagedPod | None:
        worker = self._workers.get(uid)
        return self._take_over(worker) if isinstance(worker, PodWorker) else worker

    def given(self, address: Callable[[], str]) -> Given:
        shared = self._shared
        port = int(shared.address.rpartition(":")[2])
        return functions(shared.env, node=self.name, node_ip=self.node_ip, port=port, address=address)

    def _room_freed(self) -> None:
        self._freed.set()
        self._resizes.look_again()

    # --- hard times -------------------------------------------------------------------------------

    def _eviction_manager(self) -> EvictionManager | None:
        shared, config = self._shared, self.config
        if self.vitals is None:
            return None
        return EvictionManager(
            config.eviction,
            self.vitals,
            lambda: self.workers,
            every_s=shared.timing.pressure_every_s,
            transition_s=shared.timing.pressure_transition_s,
            changed=lambda: self._status_changed(self),
            told=lambda reason, text: self._tell("Warning", reason, text),
            reclaim=self.stock.reclaim if self.stock is not None else nothing,
        )

    def _tell_conditions(self, node: Object) -> None:
        """What is other than it was before."""
        conditions = meta.status(node).get("conditions") or ()
        before, self._told = self._told, {c.get("type") or "": c.get("reason") or "" for c in conditions}
        for kind, reason in self._told.items():
            if before.get(kind, reason) != reason and reason.startswith("Kubelet"):
                told = f"Node{reason.removeprefix('Kubelet')}"
                self._tell("Normal", told, f"Node {self.name} status is now: {told}")

    def _tell(self, kind: str, reason: str, text: str) -> None:
        if self.node is not None:
            self._shared.events.record(self.node, kind, reason, text)

    async def leave(self, periods: Iterable[Period]) -> None:
        """Take no pods any more, and end those that are here, the least important ones first."""
        self._leaving = True
        self._told["Ready"] = "KubeletNotReady"
        self._status_changed(self)
        self._tell("Normal", "NodeNotReady", f"Node {self.name} status is now: NodeNotReady")
        # Of what stages play no program could go on.
        await end_in_groups(lambda: [w for w in self.workers if isinstance(w, PodWorker)], periods, self._freed)

    # --- fencing ----------------------------------------------------------------------------------

    def keep_alive(self, seconds: float) -> None:
        """The cluster was heard: containers may run this long without another word."""
        self.runtime.keep_alive(seconds)

    def _suspend(self) -> None:
        """Stop every pod: the cluster may be about to start them elsewhere."""
        log.warning("node %s has lost the cluster and stops its pods", self.name)
        why = f"Stopping all containers: node {self.name} has not reached the cluster for {self.fence.after_s:g} s, "
        for worker in self.workers:
            if not is_static(worker.pod):  # which nobody starts elsewhere
                if self.config.takes_processes and worker.takes_room:
                    self._shared.events.record(worker.pod, "Normal", "Killing", f"{why}which may start it elsewhere")
                worker.post(Suspended())

    async def resume(self) -> None:
        """The cluster is back: run again what is still bound here. Raises ApiError when it went away again."""
        known = set(self._workers)
        answer = await self._shared.client.list("pods", field_selector=f"spec.nodeName={self.name}")
        bound = {meta.uid(pod) for pod in answer.items}
        if self.fence.is_late():
            return  # the cluster went away again while it was asked
        self.fence.open()
        for worker in self.workers:
            # A pod that came meanwhile may be younger than the list.
            if meta.uid(worker.pod) in bound or meta.uid(worker.pod) not in known or is_static(worker.pod):
                worker.post(Resumed())
            else:
                worker.remove()

    def close(self) -> None:
        self._player.close()
        self._staged_node.close()
        for worker in self.workers:
            worker.close()
