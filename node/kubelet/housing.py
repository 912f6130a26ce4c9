"""Housing of a pod: its address and sandbox, found for its worker, tried again, and given back.

Containers that outlived their host's earlier life are in a sandbox with volumes that they use. What stands in the way
of taking them over passes, as it does for pods that begin: until then nothing of theirs is touched.
"""

from collections.abc import Coroutine
from typing import Any, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import AddressesExhausted, MountError, NodeError, SandboxError
from rayplane.node.kubelet.sandbox import Sandbox
from rayplane.node.kubelet.worker_parts import WorkerParts
from rayplane.node.lifecycle import Event, PodMachine, SandboxFailed


class HousedPod(Protocol):
    """The worker of a pod. `sandbox`: None while there is none; `waits`: it is there, and is yet to be made ready."""

    pod: Object
    machine: PodMachine
    sandbox: Sandbox | None
    waits: bool

    def post(self, event: Event | None) -> None: ...

    def prepare(self) -> None:
        """Have it housed, now that the node has addresses."""

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> object: ...


def prepare(worker: HousedPod, parts: WorkerParts) -> None:
    """Find an address and make the sandbox; its end is told to the worker's life cycle."""
    addresses = parts.addresses
    if not addresses.known:
        addresses.wait(worker.prepare)
        return
    if worker.sandbox is None:
        _take(worker, parts)
    elif worker.waits:
        worker.waits = False
        worker.spawn(_mount(worker, parts, worker.sandbox), "mount")
    # Else it is being made; its end will be told.


def _take(worker: HousedPod, parts: WorkerParts) -> None:
    addresses = parts.addresses
    host_network = bool(worker.machine.spec.get("hostNetwork"))
    try:
        ip = addresses.node_ip if host_network else addresses.take()
    except AddressesExhausted as e:
        worker.post(SandboxFailed("FailedCreatePodSandBox", str(e)))
        return

    def moved(ip: str) -> None:
        """The runtime had to make the pod's sandbox anew, and it has another address now."""
        if worker.sandbox is not None:
            worker.post(worker.sandbox.ready())

    sandbox = worker.sandbox = parts.sandbox(worker.pod, ip, own_address=not host_network, moved=moved)
    if sandbox.is_trivial:
        worker.post(sandbox.ready())
    else:
        worker.spawn(_mount(worker, parts, sandbox), "mount")


async def _mount(worker: HousedPod, parts: WorkerParts, sandbox: Sandbox) -> None:
    try:
        await sandbox.mount(worker.pod)
    except (NodeError, OSError) as e:
        if worker.machine.goes_on and not worker.machine.deleting:
            sandbox.rest()
            worker.waits = True
        else:
            await sandbox.unmount()
            worker.sandbox = None
            give_back(sandbox, parts)
        failed = e.reason if isinstance(e, MountError) else MountError.reason
        reason = "FailedCreatePodSandBox" if isinstance(e, SandboxError) else failed
        worker.post(SandboxFailed(reason, str(e)))
    else:
        worker.post(sandbox.ready())


def give_back(sandbox: Sandbox, parts: WorkerParts) -> None:
    """Give its address back."""
    if sandbox.own_address:
        parts.addresses.give_back(sandbox.taken_ip)
