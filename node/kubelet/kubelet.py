"""One node: its registration, and a worker for each pod bound to it.

Driven by informers of its host: `pod_event` for pods, `node_event` for its own Node object. Restart safe: a kubelet
that comes back finds its pods at the API; nothing of them runs any more, so their containers start again in a new
sandbox with a new address.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.node.config import PROCESS, NodeConfig
from rayplane.node.errors import NotHere
from rayplane.node.kubelet import registration
from rayplane.node.kubelet.addresses import AddressPool
from rayplane.node.kubelet.admission import NOTHING, Room, refuse
from rayplane.node.kubelet.pod_worker import PodWorker
from rayplane.node.lifecycle import Rejected, Resumed, Suspended
from rayplane.node.runtime import Runtime

if TYPE_CHECKING:
    from rayplane.node.host import NodeHost

log = logging.getLogger(__name__)

RETRY_S = 0.5


class Kubelet:
    """`host` gives what all nodes of a process share."""

    def __init__(self, host: "NodeHost", config: NodeConfig, runtime: Runtime) -> None:
        self.host = host
        self.config = config
        self.name = config.name
        self.runtime = runtime
        self.runs_processes = config.runtime == PROCESS
        self.pool: AddressPool | None = None
        self.node: Object | None = None
        self.suspended = False
        self.heard_at = 0.0  # loop time of the last renewal of the Lease
        self._workers: dict[str, PodWorker] = {}  # by uid
        self._by_key: dict[str, PodWorker] = {}
        self._without_address: dict[PodWorker, None] = {}
        self._capacity = Room(quantity.milli(config.cpu), quantity.value(config.memory), config.max_pods)
        self._used = NOTHING
        self._stale: dict[str, None] = {}  # addresses of pods of an earlier life

    @property
    def node_ip(self) -> str:
        return self.pool.node_address if self.pool is not None else ""

    @property
    def workers(self) -> list[PodWorker]:
        return [*self._workers.values()]

    def worker(self, namespace: str, name: str) -> PodWorker:
        """Raises NotHere."""
        worker = self._by_key.get(f"{namespace}/{name}")
        if worker is None:
            raise NotHere(f"pod {namespace}/{name} is not on node {self.name}")
        return worker

    # --- registration -----------------------------------------------------------------------------

    async def register(self) -> None:
        """Create or refresh the Node. Tries until the API answers."""
        while True:
            try:
                self.node = await self._register_once()
                break
            except ApiError as e:
                log.warning("cannot register node %s yet: %s", self.name, e.message)
                await asyncio.sleep(RETRY_S)
        self.host.recorder.event(self.node, "Normal", "Starting", "Starting kubelet.")
        self.node_event(self.node)

    async def _register_once(self) -> Object:
        client, address = self.host.client, self.host.advertised
        wanted = registration.node_object(
            self.config, host_address=address, volume_capacity=self.host.config.volume_capacity
        )
        try:
            node = await client.create("nodes", wanted)
        except AlreadyExists:
            part = {k: wanted["metadata"][k] for k in ("labels", "annotations")}
            node = await client.patch("nodes", self.name, "", {"metadata": part})
        self._take_cidr(node)
        return await client.patch("nodes", self.name, "", {"status": self.node_status(node)}, subresource="status")

    def node_status(self, node: Object) -> Object:
        return registration.node_status(
            self.config,
            node,
            node_ip=self.node_ip,
            port=int(self.host.advertised.rpartition(":")[2]),
            stamp=self.host.env.timestamp(),
        )

    def node_event(self, node: Object) -> None:
        """The Node changed; its pod CIDR may have come."""
        self.node = node
        lost = meta.condition_is(node, "Ready", "Unknown")
        # Somebody has given this node up, and yet it hears of it: it is back.
        if (self.pool is None and self._take_cidr(node)) or lost:
            self.host.publish_status(self)
        if self.pool is not None and self._without_address:
            waiting, self._without_address = [*self._without_address], {}
            for worker in waiting:
                worker.prepare()

    def _take_cidr(self, node: Object) -> bool:
        cidr = meta.spec(node).get("podCIDR")
        if not cidr or self.pool is not None:
            return False
        try:
            self.pool = AddressPool(cidr, offset=self.host.env.rng.getrandbits(24))
        except ValueError as e:
            # Written past the API's validation: its pods wait, but the other nodes of this host must start.
            log.error("node %s has no addresses for its pods: podCIDR: %s", self.name, e)
            return False
        for address in self._stale:
            self.pool.avoid(address)
        return True

    def await_addresses(self, worker: PodWorker) -> None:
        self._without_address[worker] = None

    # --- pods -------------------------------------------------------------------------------------

    def pod_event(self, kind: str, pod: Object) -> None:
        key, uid = meta.key(pod), meta.uid(pod)
        worker = self._workers.get(uid)
        if kind == "DELETED":
            if worker is not None:
                worker.remove()
        elif worker is not None:
            worker.update(pod)
        else:
            namesake = self._by_key.get(key)
            if namesake is not None:
                namesake.remove()
            self._add(key, uid, pod)

    def _add(self, key: str, uid: str, pod: Object) -> None:
        address = meta.status(pod).get("podIP")
        if address and not meta.spec(pod).get("hostNetwork"):
            self._stale[address] = None
            if self.pool is not None:
                self.pool.avoid(address)
        worker = self._workers[uid] = self._by_key[key] = PodWorker(self, pod)
        worker.begin(suspended=self.suspended, refusal=self._refusal(worker))

    def _refusal(self, worker: PodWorker) -> Rejected | None:
        """Why a new pod does not fit. Pods that ran here before have their room already."""
        if meta.status(worker.pod).get("startTime") or meta.is_deleting(worker.pod):
            return None
        return refuse(worker.room, self._used, self._capacity)

    def hold(self, room: Room) -> None:
        self._used += room

    def release(self, room: Room) -> None:
        self._used -= room

    def drop(self, worker: PodWorker) -> None:
        """The pod is gone from the API and from here."""
        worker.close()
        uid, key = meta.uid(worker.pod), meta.key(worker.pod)
        self._workers.pop(uid, None)
        self._without_address.pop(worker, None)
        if self._by_key.get(key) is worker:
            del self._by_key[key]
        if self.runs_processes and self.host.pod_files is not None:
            self.host.spawn(self.host.pod_files.remove(uid), f"removal of the files of {key}")

    # --- fencing ----------------------------------------------------------------------------------

    def fence_if_late(self) -> None:
        """Suspend when the Lease is too old, whoever notices first: a process that was stopped may find events of
        its containers before its timers."""
        late = asyncio.get_running_loop().time() >= self.heard_at + self.host.config.timing.fence_after_s
        if late and not self.suspended:
            self.suspend()

    def suspend(self) -> None:
        """Stop every pod: the cluster may be about to start them elsewhere."""
        log.warning("node %s has lost the cluster and stops its pods", self.name)
        self.suspended = True
        for worker in self.workers:
            worker.post(Suspended())

    async def resume(self) -> None:
        """The cluster is back: run again what is still bound here. Raises ApiError when it went away again."""
        known = set(self._workers)
        answer = await self.host.client.list("pods", field_selector=f"spec.nodeName={self.name}")
        bound = {meta.uid(pod) for pod in answer.items}
        if asyncio.get_running_loop().time() >= self.heard_at + self.host.config.timing.fence_after_s:
            return  # the cluster went away again while it was asked
        self.suspended = False
        for worker in self.workers:
            # A pod that came meanwhile may be younger than the list.
            if meta.uid(worker.pod) in bound or meta.uid(worker.pod) not in known:
                worker.post(Resumed())
            else:
                worker.remove()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
