"""Fields that Kubernetes v1.37 knows, checks the types of, and drops: their feature gates are off unless asked for.

No gate can be opened here; `GenericWorkload` (Workload, PodGroup, gang scheduling) and `GRPCContainerProbeTLS` (the
`mode` of a gRPC probe), off in Kubernetes too unless asked for, are open always. Source: the stages of feature gates in
Kubernetes' documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {
    "AtomicWriteVolumeUserFields": (
        "ClusterTrustBundleProjection.user",
        "ConfigMapVolumeSource.defaultUser",
        "DownwardAPIVolumeFile.user",
        "DownwardAPIVolumeSource.defaultUser",
        "KeyToPath.user",
        "PodCertificateProjection.user",
        "ProjectedVolumeSource.defaultUser",
        "SecretVolumeSource.defaultUser",
        "ServiceAccountTokenProjection.user",
    ),
    "CompositePodGroup": ("PodGroupSpec.parentCompositePodGroupName", "WorkloadSpec.compositePodGroupTemplates"),
    "CoordinatedLeaderElection": ("LeaseSpec.preferredHolder", "LeaseSpec.strategy"),
    "DRADerivedAttributes": ("DeviceSubRequest.derivedAttributes", "ExactDeviceRequest.derivedAttributes"),
    "DRAListTypeAttributes": (
        "DeviceAttribute.bools",
        "DeviceAttribute.ints",
        "DeviceAttribute.strings",
        "DeviceAttribute.versions",
    ),
    "DRAWorkloadResourceClaims": (
        "PodGroupSpec.resourceClaims",
        "PodGroupStatus.resourceClaimStatuses",
        "PodGroupTemplate.resourceClaims",
    ),
    "EmptyDirVolumeMode": ("EmptyDirVolumeSource.mode",),
    "InPlacePodVerticalScalingSchedulerPreemption": ("NodeSpec.podPreemptionPolicy",),
    "PodGroupPreemptionPolicy": ("PodGroupSpec.preemptionPolicy", "PodGroupTemplate.preemptionPolicy"),
    "TopologyAwareWorkloadScheduling": (
        "PodGroupSpec.schedulingConstraints",
        "PodGroupTemplate.schedulingConstraints",
    ),
    "VolumeBindMountOptions": ("VolumeMount.bindMountOptions",),
    "WorkloadWithJob": ("JobSpec.scheduling",),
}
DROPPED: Final = frozenset(field for fields in _CLOSED.values() for field in fields)
"""As `Definition.field`, by the last part of a definition's name."""
