"""Admission plug-ins by name: which there are, which are on unless they are switched off.

Source: Kubernetes' kubeapiserver/options/plugins.go. NodeRestriction is on as in clusters that kubeadm makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DEFAULT: Final = frozenset(
    {
        "DefaultIngressClass",
        "DefaultStorageClass",
        "DefaultTolerationSeconds",
        "LimitRanger",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionWebhook",
        "NamespaceLifecycle",
        "NodeDeclaredFeatureValidator",
        "NodeRestriction",
        "PersistentVolumeClaimResize",
        "PodResizeValidator",
        "PodSecurity",
        "PodTopologyLabels",
        "Priority",
        "ResourceQuota",
        "RuntimeClass",
        "ServiceAccount",
        "TaintNodesByCondition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionWebhook",
    }
)
OPTIONAL: Final = frozenset(
    {
        "AlwaysAdmit",
        "AlwaysDeny",
        "AlwaysPullImages",
        "DenyServiceExternalIPs",
        "EventRateLimit",
        "ExtendedResourceToleration",
        "ImagePolicyWebhook",
        "LimitPodHardAntiAffinityTopology",
        "NamespaceAutoProvision",
        "NamespaceExists",
        "OwnerReferencesPermissionEnforcement",
        "PodNodeSelector",
        "PodTolerationRestriction",
    }
)
#: Part of how kinds are served here: on, and not to be switched off.
BUILT_IN: Final = frozenset(
    {
        "CertificateApproval",
        "CertificateSigning",
        "CertificateSubjectRestriction",
        "ClusterTrustBundleAttest",
        "PodGroupProtection",
        "StorageObjectInUseProtection",
    }
)


def switched_on(enabled: Iterable[str], disabled: Iterable[str]) -> frozenset[str]:
    """The plug-ins that are on. Raises ValueError for names that are none, or cannot be switched so."""
    on, off = set(enabled), set(disabled)
    unknown = sorted((on | off) - DEFAULT - OPTIONAL - BUILT_IN)
    if unknown:
        known = ", ".join(sorted(DEFAULT | OPTIONAL | BUILT_IN))
        raise ValueError(f"there is no admission plug-in {', '.join(unknown)}; there are {known}")
    if on & off:
        raise ValueError(f"{', '.join(sorted(on & off))} cannot be both on and off")
    if off & BUILT_IN:
        raise ValueError(f"{', '.join(sorted(off & BUILT_IN))} cannot be switched off")
    return (DEFAULT | on | BUILT_IN) - off


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)
