"""Which controllers a manager runs."""

from __future__ import annotations

from control_plane.controllers.claims import ClaimController
from control_plane.controllers.config import ControllersConfig
from control_plane.controllers.core import Controller
from control_plane.controllers.cronjob import CronJobController
from control_plane.controllers.daemonset import DaemonSetController
from control_plane.controllers.deployment import DeploymentController
from control_plane.controllers.endpoints import EndpointsController
from control_plane.controllers.endpointslice import EndpointSliceController
from control_plane.controllers.garbagecollector import GarbageCollector
from control_plane.controllers.job import JobController
from control_plane.controllers.loadbalancer import LoadBalancerController
from control_plane.controllers.namespace import NamespaceController
from control_plane.controllers.nodeipam import NodeIpamController
from control_plane.controllers.nodelifecycle import NodeLifecycleController
from control_plane.controllers.persistentvolumes import VolumeController
from control_plane.controllers.podgc import PodGCController
from control_plane.controllers.replicaset import ReplicaSetController
from control_plane.controllers.serviceaccount import RootCAController, ServiceAccountController
from control_plane.controllers.statefulset import StatefulSetController
from control_plane.controllers.tainteviction import TaintEvictionController
from control_plane.controllers.volumeprotection import ProtectionController


def build_controllers(config: ControllersConfig) -> list[Controller]:
    """New controllers, in the order in which they start."""
    timing = config.timing
    coalesce = timing.coalesce
    found: list[Controller] = [
        NodeIpamController(cluster_cidr=config.pod_cidr, mask=config.node_cidr_mask),
        NodeLifecycleController(timing),
        TaintEvictionController(timing),
        ServiceAccountController(),
        DeploymentController(coalesce_s=coalesce),
        ReplicaSetController(coalesce_s=coalesce),
        ReplicaSetController(resource="replicationcontrollers", coalesce_s=coalesce),
        StatefulSetController(coalesce_s=coalesce),
        DaemonSetController(coalesce_s=coalesce),
        JobController(coalesce_s=coalesce),
        CronJobController(),
        EndpointsController(coalesce_s=coalesce),
        EndpointSliceController(coalesce_s=coalesce),
        ClaimController(),
        VolumeController(),
        ProtectionController(resource="persistentvolumeclaims"),
        ProtectionController(resource="persistentvolumes"),
        LoadBalancerController(external_cidr=config.external_cidr, reserved=config.reserved_addresses),
        NamespaceController(),
        PodGCController(timing),
        GarbageCollector(config.garbage_collected),
    ]
    if config.ca_certificate:
        found.append(RootCAController(config.ca_certificate))
    return found
