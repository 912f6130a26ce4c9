"""Fields and types of KubeSchedulerConfiguration and of the arguments of in-tree plug-ins. Pure.

Source: API reference kubescheduler.config.k8s.io/v1.
"""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api.machinery.schema import Definition, Field, Type, parse_type

VERSION: Final = "kubescheduler.config.k8s.io/v1"
KIND: Final = "KubeSchedulerConfiguration"

POINTS: Final = (
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
)
"""The extension points, in the order in which a pod meets them."""


def _struct(name: str, /, **fields: str | Type) -> Definition:
    types = {field: parse_type(one) if isinstance(one, str) else one for field, one in fields.items()}
    return Definition(
        f"config.v1.{name}", {field: Field(field, one, required=False, notes={}) for field, one in types.items()}
    )


def _list(item: Definition) -> Type:
    return Type("list", items=Type.struct(item))


def _args(name: str, /, **fields: str | Type) -> Definition:
    return _struct(f"{name}Args", apiVersion="string", kind="string", **fields)


_PLUGIN: Final = _struct("Plugin", name="string", weight="int32")
_PLUGIN_SET: Final = Type.struct(_struct("PluginSet", enabled=_list(_PLUGIN), disabled=_list(_PLUGIN)))
_PLUGINS: Final = _struct("Plugins", multiPoint=_PLUGIN_SET, **dict.fromkeys(POINTS, _PLUGIN_SET))
_PROFILE: Final = _struct(
    "KubeSchedulerProfile",
    schedulerName="string",
    percentageOfNodesToScore="int32",
    plugins=Type.struct(_PLUGINS),
    pluginConfig=_list(_struct("PluginConfig", name="string", args="object")),
)
_TLS: Final = _struct(
    "ExtenderTLSConfig",
    insecure="boolean",
    serverName="string",
    certFile="string",
    keyFile="string",
    caFile="string",
    certData="bytes",
    keyData="bytes",
    caData="bytes",
)
_EXTENDER: Final = _struct(
    "Extender",
    urlPrefix="string",
    filterVerb="string",
    preemptVerb="string",
    prioritizeVerb="string",
    weight="int64",
    bindVerb="string",
    enableHTTPS="boolean",
    tlsConfig=Type.struct(_TLS),
    httpTimeout="string",
    nodeCacheCapable="boolean",
    managedResources=_list(_struct("ExtenderManagedResource", name="string", ignoredByScheduler="boolean")),
    ignorable="boolean",
)
_ELECTION: Final = _struct(
    "LeaderElectionConfiguration",
    leaderElect="boolean",
    leaseDuration="string",
    renewDeadline="string",
    retryPeriod="string",
    resourceLock="string",
    resourceName="string",
    resourceNamespace="string",
)
_CONNECTION: Final = _struct(
    "ClientConnectionConfiguration",
    kubeconfig="string",
    acceptContentTypes="string",
    contentType="string",
    qps="double",
    burst="int32",
)
CONFIGURATION: Final = _struct(
    KIND,
    apiVersion="string",
    kind="string",
    parallelism="int32",
    leaderElection=Type.struct(_ELECTION),
    clientConnection=Type.struct(_CONNECTION),
    enableProfiling="boolean",
    enableContentionProfiling="boolean",
    percentageOfNodesToScore="int32",
    podInitialBackoffSeconds="int64",
    podMaxBackoffSeconds="int64",
    profiles=_list(_PROFILE),
    extenders=_list(_EXTENDER),
    delayCacheUntilActive="boolean",
)

_RESOURCES: Final = _list(_struct("ResourceSpec", name="string", weight="int64"))
_SHAPE: Final = _list(_struct("UtilizationShapePoint", utilization="int32", score="int32"))
_STRATEGY: Final = _struct(
    "ScoringStrategy",
    type="string",
    resources=_RESOURCES,
    requestedToCapacityRatio=Type.struct(_struct("RequestedToCapacityRatioParam", shape=_SHAPE)),
)
ARGUMENTS: Final = {
    "NodeResourcesFit": _args(
        "NodeResourcesFit",
        ignoredResources="[]string",
        ignoredResourceGroups="[]string",
        scoringStrategy=Type.struct(_STRATEGY),
    ),
    "NodeResourcesBalancedAllocation": _args("NodeResourcesBalancedAllocation", resources=_RESOURCES),
    "InterPodAffinity": _args(
        "InterPodAffinity", hardPodAffinityWeight="int32", ignorePreferredTermsOfExistingPods="boolean"
    ),
    "PodTopologySpread": _args(
        "PodTopologySpread",
        defaultConstraints="[]@io.k8s.api.core.v1.TopologySpreadConstraint",
        defaultingType="string",
    ),
    "NodeAffinity": _args("NodeAffinity", addedAffinity="@io.k8s.api.core.v1.NodeAffinity"),
    "VolumeBinding": _args("VolumeBinding", bindTimeoutSeconds="int64", shape=_SHAPE),
    "DefaultPreemption": _args(
        "DefaultPreemption", minCandidateNodesPercentage="int32", minCandidateNodesAbsolute="int32"
    ),
    "DynamicResources": _args("DynamicResources", filterTimeout="string", bindingTimeout="string"),
}
"""By plug-in: those that take arguments."""
