"""The controllers that a manager runs."""

from __future__ import annotations

from rayplane.control_plane.controllers.aggregatedgarbage import AggregatedGarbageCollector
from rayplane.control_plane.controllers.apiservices import ApiServiceController
from rayplane.control_plane.controllers.attachdetach import AttachDetachController
from rayplane.control_plane.controllers.attributesclassprotection import AttributesClassProtection
from rayplane.control_plane.controllers.autoscaling.horizontal import HorizontalController
from rayplane.control_plane.controllers.bootstrapsigner import BootstrapSigner
from rayplane.control_plane.controllers.chaos.network_chaos import NetworkChaosController
from rayplane.control_plane.controllers.chaos.pod_chaos import PodChaosController
from rayplane.control_plane.controllers.chaos.schedule import ChaosScheduleController
from rayplane.control_plane.controllers.chaos.stress_chaos import StressChaosController
from rayplane.control_plane.controllers.chaos.workflow import ChaosWorkflowController
from rayplane.control_plane.controllers.claims import ClaimController
from rayplane.control_plane.controllers.clusterroleaggregation import ClusterRoleAggregation
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.core import Controller
from rayplane.control_plane.controllers.cronjob import CronJobController
from rayplane.control_plane.controllers.csrapproving import CertificateApprover
from rayplane.control_plane.controllers.csrcleaner import CertificateCleaner
from rayplane.control_plane.controllers.csrsigning import CertificateSigner
from rayplane.control_plane.controllers.daemonset import DaemonSetController
from rayplane.control_plane.controllers.deployment import DeploymentController
from rayplane.control_plane.controllers.devicetainteviction import DeviceTaintEvictionController
from rayplane.control_plane.controllers.disruption import DisruptionController
from rayplane.control_plane.controllers.endpoints import EndpointsController
from rayplane.control_plane.controllers.endpointslice import EndpointSliceController
from rayplane.control_plane.controllers.endpointslicemirroring import EndpointSliceMirroringController
from rayplane.control_plane.controllers.ephemeralvolume import EphemeralVolumeController
from rayplane.control_plane.controllers.flowschema import FlowSchemaController
from rayplane.control_plane.controllers.garbagecollector import GarbageCollector
from rayplane.control_plane.controllers.job.controller import JobController
from rayplane.control_plane.controllers.job.orphans import OrphanedPodController
from rayplane.control_plane.controllers.legacytokencleaner import LegacyTokenCleaner
from rayplane.control_plane.controllers.namespace import NamespaceController
from rayplane.control_plane.controllers.nodehostconfig import NodeHostConfigPublisher
from rayplane.control_plane.controllers.nodeipam import NodeIpamController
from rayplane.control_plane.controllers.nodelifecycle import NodeLifecycleController
from rayplane.control_plane.controllers.nodettl import NodeTtlController
from rayplane.control_plane.controllers.persistentvolumes import VolumeController
from rayplane.control_plane.controllers.podcertificatecleaner import PodCertificateCleaner
from rayplane.control_plane.controllers.podgc import PodGCController
from rayplane.control_plane.controllers.podgroupprotection import PodGroupProtectionController
from rayplane.control_plane.controllers.replicaset import ReplicaSetController
from rayplane.control_plane.controllers.resourceclaims import ResourceClaimController
from rayplane.control_plane.controllers.resourcequota import ResourceQuotaController
from rayplane.control_plane.controllers.service_loadbalancer import LoadBalancerController
from rayplane.control_plane.controllers.serviceaccount import RootCAController, ServiceAccountController
from rayplane.control_plane.controllers.servicecidrs import ServiceCidrController
from rayplane.control_plane.controllers.snapshots import SnapshotController
from rayplane.control_plane.controllers.statefulset import StatefulSetController
from rayplane.control_plane.controllers.storageversionmigrator import StorageVersionMigrator
from rayplane.control_plane.controllers.tainteviction import TaintEvictionController
from rayplane.control_plane.controllers.tokencleaner import TokenCleaner
from rayplane.control_plane.controllers.tokensecrets import TokenSecretController
from rayplane.control_plane.controllers.trustbundles import TrustBundlePublisher
from rayplane.control_plane.controllers.volumeexpand import VolumeExpandController
from rayplane.control_plane.controllers.volumeprotection import ProtectionController


def build_controllers(config: ControllersConfig) -> list[Controller]:
    """New controllers, in the order in which they start."""
    timing = config.timing
    coalesce = timing.coalesce_s
    found: list[Controller] = [
        NodeIpamController(cluster_cidr=config.pod_cidr, mask=config.node_cidr_mask),
        NodeLifecycleController(timing),
        TaintEvictionController(timing),
        ServiceAccountController(),
        TokenSecretController(),
        DeploymentController(coalesce_s=coalesce),
        ReplicaSetController(coalesce_s=coalesce),
        ReplicaSetController(resource="replicationcontrollers", coalesce_s=coalesce),
        StatefulSetController(coalesce_s=coalesce),
        DaemonSetController(coalesce_s=coalesce),
        JobController(coalesce_s=coalesce),
        OrphanedPodController(),
        CronJobController(),
        DisruptionController(coalesce_s=coalesce),
        HorizontalController(timing.autoscaler),
        EndpointsController(coalesce_s=coalesce),
        EndpointSliceController(coalesce_s=coalesce),
        EndpointSliceMirroringController(coalesce_s=coalesce),
        *_of_volumes(timing),
        LoadBalancerController(external_cidr=config.external_cidr, reserved=config.reserved_addresses),
        NamespaceController(),
        ServiceCidrController(coalesce_s=coalesce),
        NodeTtlController(),
        *_of_devices(coalesce),
        *_of_aggregation(timing),
        FlowSchemaController(),
        ClusterRoleAggregation(coalesce_s=coalesce),
        *_cleaners(),
        ResourceQuotaController(config.garbage_collected),
        PodGroupProtectionController(),
        PodGCController(timing, terminated_max=config.terminated_pods_max),
        StorageVersionMigrator(),
        *_of_chaos(),
        GarbageCollector(config.garbage_collected),
    ]
    if config.ca_certificate:
        found += [RootCAController(config.ca_certificate), TrustBundlePublisher(config.ca_certificate)]
        found += [CertificateApprover(), CertificateSigner(), *_of_joining(config)]
    return found


def _of_joining(config: ControllersConfig) -> list[Controller]:
    found: list[Controller] = [BootstrapSigner(config.server, config.ca_certificate)] if config.server else []
    return found + ([NodeHostConfigPublisher(config.node_hosts)] if config.node_hosts else [])


def _of_volumes(timing: Timing) -> list[Controller]:
    return [
        EphemeralVolumeController(),
        ClaimController(),
        VolumeController(),
        VolumeExpandController(),
        SnapshotController(),
        AttachDetachController(timing),
        ProtectionController(resource="persistentvolumeclaims"),
        ProtectionController(resource="persistentvolumes"),
        AttributesClassProtection(),
    ]


def _of_chaos() -> list[Controller]:
    kinds = [PodChaosController(), NetworkChaosController(), StressChaosController()]
    return [*kinds, ChaosScheduleController(), ChaosWorkflowController()]


def _of_aggregation(timing: Timing) -> list[Controller]:
    return [ApiServiceController(), AggregatedGarbageCollector(timing.collect_s)]


def _cleaners() -> list[Controller]:
    return [CertificateCleaner(), PodCertificateCleaner(), TokenCleaner(), LegacyTokenCleaner()]


def _of_devices(coalesce_s: float) -> list[Controller]:
    return [ResourceClaimController(coalesce_s=coalesce_s), DeviceTaintEvictionController(coalesce_s=coalesce_s)]
