"""A pod whose life stages decide: its status is what they made of it, and its containers are what the status says.

It has an address of its node and room on it, as other pods have. It stands in a `PodWorker`'s place from the first
stage on that writes a status; its condition STAGED says so, also to a node that comes back.
"""

from collections.abc import Callable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.node.errors import AddressesExhausted
from rayplane.node.kubelet.admission import Room
from rayplane.node.kubelet.sandbox import Sandbox
from rayplane.node.kubelet.status_manager import Written
from rayplane.node.kubelet.worker_parts import WorkerParts
from rayplane.node.lifecycle import Event, PodMachine, mirror
from rayplane.node.lifecycle.model import Run
from rayplane.node.runtime import ContainerRun, StartOrder
from rayplane.node.runtime.simulated import SimulatedRuntime

STAGED = "rayplane.io/Staged"
"""The condition of pods whose status stages write; its message counts them."""


def is_staged(pod: Object) -> bool:
    return meta.get_condition(pod, STAGED) is not None


def _last_play(pod: Object) -> str:
    return (meta.get_condition(pod, STAGED) or {}).get("message") or ""


class StagedPod:
    """One pod; for its kubelet, streams and the status manager what a `PodWorker` is.

    `status` is the pod's status as the last stage left it; `settled` tells whether the API has it.
    """

    __slots__ = (
        "_at_end",
        "_dropped",
        "_finalize",
        "_gone",
        "_holds_room",
        "_own_address",
        "_parts",
        "_played",
        "_runtime",
        "_sandbox",
        "ip",
        "known",
        "machine",
        "pod",
        "previous",
        "removed",
        "room",
        "runs",
        "settled",
        "written",
    )

    def __init__(
        self,
        pod: Object,
        room: Room,
        parts: WorkerParts,
        runtime: SimulatedRuntime,
        gone: Callable[["StagedPod"], None],
        sandbox: Sandbox | None = None,
    ) -> None:
        """`gone`: told when the pod is no more. `sandbox`: that of the worker which had the pod before."""
        self._parts = parts
        self._runtime = runtime
        self._gone = gone
        self._sandbox = sandbox
        self._holds_room = self._own_address = self._finalize = self._at_end = False
        self._played = 0
        self._dropped: dict[str, None] = {}  # fields of the status that the last stage took away
        self.pod = self.known = pod
        self.room = room
        self.machine = PodMachine(pod, parts.restarts)
        self.runs: dict[str, ContainerRun] = {}
        self.previous: dict[str, ContainerRun] = {}
        self.removed = False
        self.settled = True
        self.written = Written()
        self.ip = ""

    def begin(self) -> None:
        """Take room and an address."""
        if not pod_is_terminated(self.pod):
            self._holds_room = True
            self._parts.room.hold(self.room)
        self._show()

    # --- what the kubelet says --------------------------------------------------------------------

    @property
    def is_simulated(self) -> bool:
        """Return True: stages are for such pods only."""
        return True

    @property
    def takes_room(self) -> bool:
        return self._holds_room

    def update(self, pod: Object) -> None:
        if not self.settled and _last_play(pod) == _last_play(self.pod):
            self.settled, self._dropped = True, {}
        self.known = pod
        # What the API has may be older than what a stage has just made of it.
        self.pod = pod if self.settled else {**pod, "status": self.pod["status"]}
        self._show()

    def remove(self) -> None:
        """The API object is gone."""
        self.removed = True
        self._release()
        self._gone(self)

    def close(self) -> None:
        for run in self.runs.values():
            run.stop(0)
        self._parts.statuses.forget(self)

    def post(self, event: Event | None) -> None:
        """Do nothing: no program of it could go on while the node is away."""

    # --- what stages do ---------------------------------------------------------------------------

    def write(self, status: dict[str, Any], stage: str) -> None:
        """The status is this from now on."""
        self._played += 1
        message = f"{self._played} stages were played in this life of its node, the last one {stage}"
        conditions = [dict(one) for one in status.get("conditions") or ()]
        condition = {"type": STAGED, "status": "True", "reason": "StagePlayed", "message": message}
        meta.set_condition(conditions, condition, self._parts.env.timestamp())
        self._dropped |= dict.fromkeys(field for field in meta.status(self.pod) if field not in status)
        self.pod = {**self.pod, "status": {**status, "conditions": conditions}}
        self.settled = False
        self._show()
        self._parts.statuses.mark(self)

    def end(self) -> None:
        """The object is to go, now."""
        if not self._at_end:
            self._at_end = self._finalize = True
            self._parts.statuses.mark(self)

    def address(self) -> str:
        """The pod's own address; empty while the node has none to give."""
        if not self.ip:
            addresses = self._parts.addresses
            if self.machine.spec.get("hostNetwork") or not addresses.known:
                return addresses.node_ip
            try:
                self.ip, self._own_address = addresses.take(), True
            except AddressesExhausted:
                return ""
        return self.ip

    def _show(self) -> None:
        """Let the containers be what the status says."""
        status = meta.status(self.pod)
        before = {name: container.started_stamp for name, container in self.machine.by_name.items()}
        mirror(self.machine, status)
        if pod_is_terminated(self.pod):
            self._release()
        for name, container in self.machine.by_name.items():
            if container.run is not Run.RUNNING:
                if name in self.runs:
                    self.runs[name].stop(0)
            elif name not in self.runs or before[name] != container.started_stamp:
                if name in self.runs:
                    self.runs[name].stop(0)
                    self.previous[name] = self.runs[name]
                self.runs[name] = self._run(name)

    def _run(self, name: str) -> ContainerRun:
        container = self.machine.by_name[name]
        return self._runtime.show(
            StartOrder(
                pod=self.pod,
                container=container.spec,
                attempt=0,
                container_id=container.container_id,
                pod_ip=self.machine.ip,
                stamp=container.started_stamp,
            )
        )

    def _release(self) -> None:
        if self._holds_room:
            self._holds_room = False
            self._parts.room.release(self.room)
            self._parts.freed()
        if self._own_address:
            self._own_address = False
            self._parts.addresses.give_back(self.ip)
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is None:
            return
        if sandbox.own_address:
            self._parts.addresses.give_back(sandbox.ip)
        if not sandbox.is_trivial:
            self._parts.tasks.spawn(sandbox.unmount(), f"unmount {meta.key(self.pod)}")

    # --- what the status writer asks --------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return {**dict.fromkeys(self._dropped), **meta.status(self.pod)}

    @property
    def api_uid(self) -> str:
        return meta.uid(self.pod)

    @property
    def wants_final_delete(self) -> bool:
        return self._finalize

    @property
    def wants_final_status(self) -> bool:
        return bool(meta.finalizers(self.pod))

    def final_delete_done(self) -> None:
        self._finalize = False
