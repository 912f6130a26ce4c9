"""The table of plug-ins by name, and what a profile makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.scheduler.plugins import devices, interpod, node, resources, spread, volumes
from rayplane.control_plane.scheduler.plugins.base import Plugin, PluginSet, Registry

IN_TREE: Final[Registry] = {
    "NodeUnschedulable": node.NodeUnschedulable,
    "NodeName": node.NodeName,
    "TaintToleration": node.TaintToleration,
    "NodeAffinity": node.NodeAffinity,
    "NodePorts": node.NodePorts,
    "NodeResourcesFit": resources.NodeResourcesFit,
    "VolumeRestrictions": volumes.VolumeRestrictions,
    "NodeVolumeLimits": volumes.NodeVolumeLimits,
    "VolumeBinding": volumes.VolumeBinding,
    "VolumeZone": volumes.VolumeZone,
    "PodTopologySpread": spread.PodTopologySpread,
    "InterPodAffinity": interpod.InterPodAffinity,
    "DynamicResources": devices.DynamicResources,
    "NodeResourcesBalancedAllocation": resources.NodeResourcesBalancedAllocation,
    "ImageLocality": node.ImageLocality,
    "NodeDeclaredFeatures": node.NodeDeclaredFeatures,
}


def make(
    registry: Registry, filters: tuple[str, ...], scores: tuple[tuple[str, int], ...], args: Mapping[str, Any]
) -> PluginSet:
    """The plug-ins that a profile names. A name that the registry does not know is a ValueError."""
    made: dict[str, Plugin] = {}
    for name in (*filters, *(name for name, _ in scores)):
        if name not in registry:
            raise ValueError(f"there is no scheduler plug-in {name}; known are {', '.join(sorted(registry))}")
        if name not in made:
            made[name] = registry[name](args.get(name))
    return PluginSet(tuple(made[name] for name in filters), tuple((made[name], weight) for name, weight in scores))
