"""The observer: puts into snapshot, volumes and queue what informers tell, and says what it may mean for who waits.

Owns no object and takes no decision. Runs in the informers' calls, so never waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLASSES
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.policy.pod_disruption_budget import BUDGETS
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import resources_changed
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.client.informer import Handler
from rayplane.control_plane.scheduler.cycle import Cycle
from rayplane.control_plane.scheduler.events import (
    Action,
    Event,
    Resource,
    conditions_changed,
    node_actions,
    pod_actions,
)
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.owners import OWNERS
from rayplane.control_plane.scheduler.pods import PodInfo, PodParser, group_of
from rayplane.control_plane.scheduler.queue import SchedulingQueue

log = logging.getLogger(__name__)
_KINDS = {"ADDED": Action.ADD, "MODIFIED": Action.UPDATE, "DELETED": Action.DELETE}


class Observer:
    """An observer of all that scheduling depends on, for one term."""

    def __init__(
        self,
        cycle: Cycle,
        queue: SchedulingQueue,
        *,
        resources: frozenset[Resource],
        settle: Callable[[Resource, str], None],
        withdrawn: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        """`resources` are those that plug-ins look at. `settle` is told the claims, of either kind, whose state
        changed, `withdrawn` the pods that are not to be bound any more, `wake` that there may be something to do.
        """
        self._cycle = cycle
        self._snapshot = cycle.snapshot
        self._volumes = cycle.cluster.volumes
        self._devices = cycle.cluster.devices
        self._groups = cycle.cluster.groups
        self._queue = queue
        self._resources = resources
        self._settle = settle
        self._withdrawn = withdrawn
        self._wake = wake
        self._parser = PodParser()
        self._informers: list[Informer] = []

    async def start(self, client: ApiClient) -> None:
        """Begin to watch; returns when all that there is has been seen."""
        handlers = self._handlers()
        self._informers = [Informer(client, resource) for resource in handlers]
        for informer in self._informers:
            informer.start()
        for informer in self._informers:
            await informer.synced()
        for informer, handler in zip(self._informers, handlers.values(), strict=True):
            informer.add_handler(handler)

    def _handlers(self) -> dict[str, Handler]:
        """By what is watched: what the plug-ins look at. Pods come last: what they refer to is known by then."""
        of_plugins: dict[Resource, tuple[str, Handler]] = {
            Resource.NAMESPACE: ("namespaces", self._on_namespace),
            Resource.STORAGE_CLASS: ("storageclasses.storage.k8s.io", self._on_class),
            Resource.STORAGE_CAPACITY: ("csistoragecapacities.storage.k8s.io", self._on_capacity),
            Resource.CSI_NODE: ("csinodes.storage.k8s.io", self._on_csi_node),
            Resource.CSI_DRIVER: ("csidrivers.storage.k8s.io", self._on_csi_driver),
            Resource.ATTACHMENT: ("volumeattachments.storage.k8s.io", self._on_attachment),
            Resource.VOLUME: ("persistentvolumes", self._on_volume),
            Resource.CLAIM: ("persistentvolumeclaims", self._on_claim),
            Resource.DEVICE_CLASS: (CLASSES, self._on_device_class),
            Resource.RESOURCE_SLICE: ("resourceslices.resource.k8s.io", self._on_slice),
            Resource.DEVICE_TAINT_RULE: ("devicetaintrules.resource.k8s.io", self._on_device_rule),
            Resource.RESOURCE_CLAIM: ("resourceclaims.resource.k8s.io", self._on_device_claim),
            Resource.POD_GROUP: (GROUPS, self._on_group),
        }
        return {
            "nodes": self._on_node,
            **({BUDGETS: self._on_budget} if self._cycle.preempts else {}),
            **({resource: self._on_owner for resource in OWNERS} if self._cycle.needs_owners else {}),
            **dict(watched for resource, watched in of_plugins.items() if resource in self._resources),
            "pods": self._on_pod,
        }

    async def stop(self) -> None:
        for informer in self._informers:
            await informer.stop()

    def parse(self, pod: Object) -> PodInfo | None:
        """None, and a line in the log, for one that cannot be read: it was written past the API."""
        try:
            info = self._parser.parse(pod)
        except (ApiError, ValueError) as error:
            log.error("pod %s cannot be read and is left alone: %s", meta.key(pod), error)
            return None
        if info.group and not info.node and not self._cycle.decides_groups(info):
            info.group = ""  # its profile decides it by itself
        return info

    def happened(self, event: Event) -> None:
        """Tell the queue of something that may help those who wait."""
        if self._queue.happened(event, asyncio.get_running_loop().time()):
            self._wake()

    def _changed(self, resource: Resource, kind: str, old: Object | None, new: Object) -> None:
        """As `happened`, of objects that are what the API says."""
        gone = kind == "DELETED"
        action = Action.ADD if old is None else _KINDS[kind]
        self.happened(Event(resource, action, new if gone else old, None if gone else new))

    # -- nodes, namespaces -----------------------------------------------------------------------------------

    def _on_node(self, kind: str, old: Object | None, node: Object) -> None:
        snapshot, name = self._snapshot, meta.name(node)
        row = snapshot.index.get(name)
        before = None if row is None else snapshot.info(row)
        if kind == "DELETED":
            snapshot.remove_node(name)
            self._cycle.cluster.node_objects.pop(name, None)
            self.happened(Event(Resource.NODE, Action.DELETE, before or NodeInfo.of(node), None))
            return
        info = NodeInfo.of(node)
        actions = Action.ADD if before is None else node_actions(before, info)
        if old is not None and conditions_changed(old, node):
            actions |= Action.NODE_CONDITIONS
        snapshot.set_node(info)
        self._cycle.cluster.node_objects[name] = node
        if actions:
            self.happened(Event(Resource.NODE, actions, before, info))

    def _on_namespace(self, kind: str, old: Object | None, namespace: Object) -> None:
        known, name, labels = self._snapshot.namespaces, meta.name(namespace), meta.labels(namespace)
        if kind == "DELETED":
            self._snapshot.set_namespace(name, None)
        elif known.get(name) == labels:
            return
        else:
            self._snapshot.set_namespace(name, labels)
        self._changed(Resource.NAMESPACE, kind, old, namespace)

    # -- volumes -------------------------------------------------------------------------------------------

    def _on_class(self, kind: str, old: Object | None, storage: Object) -> None:
        if kind == "DELETED":
            self._volumes.classes.pop(meta.name(storage), None)
        else:
            self._volumes.classes[meta.name(storage)] = storage
        self._changed(Resource.STORAGE_CLASS, kind, old, storage)

    def _on_capacity(self, kind: str, old: Object | None, capacity: Object) -> None:
        if kind == "DELETED":
            self._volumes.capacities.pop(meta.key(capacity), None)
        else:
            self._volumes.capacities[meta.key(capacity)] = capacity
        self._changed(Resource.STORAGE_CAPACITY, kind, old, capacity)

    def _on_csi_node(self, kind: str, old: Object | None, csi_node: Object) -> None:
        if kind == "DELETED":
            self._volumes.use.remove_csi_node(meta.name(csi_node))
        else:
            self._volumes.use.set_csi_node(csi_node)
        self._changed(Resource.CSI_NODE, kind, old, csi_node)

    def _on_csi_driver(self, kind: str, old: Object | None, driver: Object) -> None:
        if kind == "DELETED":
            self._volumes.remove_driver(meta.name(driver))
        else:
            self._volumes.set_driver(driver)
        self._changed(Resource.CSI_DRIVER, kind, old, driver)

    def _on_attachment(self, kind: str, old: Object | None, attachment: Object) -> None:
        if kind == "DELETED":
            self._volumes.remove_attachment(meta.name(attachment))
        else:
            self._volumes.set_attachment(attachment)
        self._changed(Resource.ATTACHMENT, kind, old, attachment)

    def _on_device_class(self, kind: str, old: Object | None, device_class: Object) -> None:
        if kind == "DELETED":
            self._devices.remove_class(meta.name(device_class))
        else:
            self._devices.set_class(device_class)
        self._changed(Resource.DEVICE_CLASS, kind, old, device_class)

    def _on_slice(self, kind: str, old: Object | None, one: Object) -> None:
        if kind == "DELETED":
            self._devices.remove_slice(meta.name(one))
        else:
            self._devices.set_slice(one)
        self._changed(Resource.RESOURCE_SLICE, kind, old, one)

    def _on_device_rule(self, kind: str, old: Object | None, rule: Object) -> None:
        if kind == "DELETED":
            self._devices.remove_rule(meta.name(rule))
        elif old is None or meta.spec(old) != meta.spec(rule):  # its status says how many pods it will move
            self._devices.set_rule(rule)
        else:
            return
        self._changed(Resource.DEVICE_TAINT_RULE, kind, old, rule)

    def _on_device_claim(self, kind: str, old: Object | None, claim: Object) -> None:
        if kind == "DELETED":
            self._devices.remove_claim(meta.key(claim))
        else:
            self._devices.set_claim(claim)
        self._settle(Resource.RESOURCE_CLAIM, meta.key(claim))
        self._changed(Resource.RESOURCE_CLAIM, kind, old, claim)

    def _on_budget(self, kind: str, _old: Object | None, budget: Object) -> None:
        budgets = self._cycle.cluster.budgets
        if kind == "DELETED":
            budgets.remove(meta.namespace(budget), meta.name(budget))
        else:
            budgets.set(budget)

    def _on_owner(self, kind: str, _old: Object | None, owner: Object) -> None:
        owners = self._cycle.cluster.owners
        if kind == "DELETED":
            owners.remove(owner["kind"], meta.namespace(owner), meta.name(owner))
        else:
            owners.set(owner["kind"], owner)

    def _on_volume(self, kind: str, old: Object | None, volume: Object) -> None:
        if kind == "DELETED":
            self._volumes.remove_volume(meta.name(volume))
        else:
            self._volumes.set_volume(volume)
            ref = meta.spec(volume).get("claimRef") or {}
            self._settle(Resource.CLAIM, f"{ref.get('namespace')}/{ref.get('name')}")
        self._changed(Resource.VOLUME, kind, old, volume)

    def _on_claim(self, kind: str, old: Object | None, claim: Object) -> None:
        if kind == "DELETED":
            self._volumes.remove_claim(meta.key(claim))
        else:
            self._volumes.set_claim(claim)
        self._settle(Resource.CLAIM, meta.key(claim))
        self._changed(Resource.CLAIM, kind, old, claim)

    # -- pod groups ----------------------------------------------------------------------------------------

    def _on_group(self, kind: str, old: Object | None, group: Object) -> None:
        key = meta.key(group)
        if kind == "DELETED":
            self._groups.remove(key)
        else:
            before = self._groups.get(key)
            now = self._groups.set(group)
            if before is None or now.least < before.least:
                self._group_changed(key, f"PodGroup{'Add' if before is None else 'Update'}")
        self._changed(Resource.POD_GROUP, kind, old, group)

    def _group_changed(self, key: str, event: str) -> None:
        if self._queue.group_changed(key, asyncio.get_running_loop().time(), event):
            self._wake()

    # -- pods ----------------------------------------------------------------------------------------------

    def _on_pod(self, kind: str, old: Object | None, pod: Object) -> None:
        gone = kind == "DELETED" or pod_is_terminated(pod)
        if not gone and meta.node_name(pod):
            self._on_assigned(old, pod)
        elif gone:
            self._on_gone(pod)
        elif meta.is_deleting(pod):
            self._withdraw(pod)
        else:
            self._on_pending(old, pod)

    def _on_assigned(self, old: Object | None, pod: Object) -> None:
        """A pod has its node, by us or by others. Most events are status only and change nothing here."""
        key = meta.key(pod)
        known = self._snapshot.pods.get(key)
        came = old is None or not meta.node_name(old)
        if known is not None and known.node == meta.node_name(pod) and known.uid == meta.uid(pod):
            same = known.terminating >= meta.is_deleting(pod) and known.labels == meta.labels(pod)
            if same and not resources_changed(known.obj, pod):
                known.obj = pod
                self._queue.remove(key)
                if came:  # as we decided: those that wait for it hear of it now that it is so
                    self.happened(Event(Resource.ASSIGNED_POD, Action.ADD, None, known))
                return
        info = self.parse(pod)
        self._queue.remove(key)
        self.forget_nomination(key, meta.node_name(pod))
        if info is not None:
            self._snapshot.set_pod(info)
            if info.group:
                self._groups.join(info)
                if came:
                    self._group_changed(info.group, "AssignedPodAdd")
            actions = Action.ADD if came or known is None else pod_actions(known, info)
            if actions:
                self.happened(Event(Resource.ASSIGNED_POD, actions, None if came else known, info))

    def forget_nomination(self, key: str, node: str = "") -> None:
        """Room that was kept for the pod on a node that is not its own now is anybody's."""
        nominated = self._cycle.nominated_node(key)
        self._cycle.forget_nomination(key)
        if nominated and nominated != node:
            waiting = self._queue.get(key)
            if waiting is not None:
                self.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, waiting, None))

    def _on_gone(self, pod: Object) -> None:
        self._withdraw(pod)
        known = self._snapshot.remove_pod(meta.key(pod))
        if known is not None:
            self.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, known, None))

    def _withdraw(self, pod: Object) -> None:
        """No longer to be scheduled: a placement that was not confirmed is taken back."""
        key, group = meta.key(pod), group_of(meta.spec(pod), meta.namespace(pod))
        if group:
            self._groups.leave(group, key)
        self.forget_nomination(key)
        self._withdrawn(key)
        if self._queue.remove(key) is not None:
            assumed = self._snapshot.pods.get(key)
            if assumed is not None:
                self._cycle.forget(assumed)
                self.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, assumed, None))

    def _on_pending(self, old: Object | None, pod: Object) -> None:
        key, now = meta.key(pod), asyncio.get_running_loop().time()
        assumed = self._snapshot.pods.get(key)
        if assumed is not None and assumed.uid == meta.uid(pod):
            if key in self._queue:
                info = self.parse(pod)
                if info is not None:
                    self._queue.add(info, now)
            return  # placed: an event from before the binding
        if assumed is not None:  # a namesake of an earlier pod
            self._on_gone(pod)
        info = self.parse(pod)
        if info is None or not self._cycle.handles(info):
            return
        if info.group:
            self._groups.join(info)
        if info.nominated and not self._cycle.nominated_node(key):
            self._cycle.nominate(info, info.nominated)
        elif not info.nominated and old is not None and meta.status(old).get("nominatedNodeName"):
            self.forget_nomination(key)
        self._queue.add(info, now)
        self._wake()
