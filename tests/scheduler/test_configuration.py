"""KubeSchedulerConfiguration files: what they mean, and what is refused with which words."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler import Cluster, Cycle, plugins
from rayplane.control_plane.scheduler.config import DEFAULT_FILTERS, DEFAULT_SCORES, Profile, SchedulerConfig
from rayplane.control_plane.scheduler.configuration import Configuration, read_configuration
from rayplane.control_plane.scheduler.configuration.points import IN_TREE
from rayplane.control_plane.scheduler.plugins.args import FitArgs, InterPodAffinityArgs, PreemptionArgs, Strategy
from rayplane.control_plane.timings import ElectionTiming


def read(others: Any = None, **fields: Any) -> Configuration:
    document = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", **fields}
    return read_configuration(yaml.safe_dump(document), others)


def profile(others: Any = None, **fields: Any) -> Profile:
    return read(others, profiles=[fields]).profiles[0]


def points(others: Any = None, **sets: dict[str, Any]) -> Profile:
    return profile(others, plugins=sets)


def names(*plugins: str) -> list[dict[str, str]]:
    return [{"name": plugin} for plugin in plugins]


def scores(one: Profile) -> dict[str, int]:
    return dict(one.scores)


def test_an_empty_file_is_kubernetes_default_profile() -> None:
    found = read()
    assert [p.name for p in found.profiles] == ["default-scheduler"]
    only = found.profiles[0]
    assert set(only.filters) == set(DEFAULT_FILTERS) and dict(only.scores) == dict(DEFAULT_SCORES)
    assert only.preempts and only.deallocates and only.gates and not only.args and not only.others
    assert found.backoff == Backoff(1.0, 10.0) and found.election is None and found.notes == ()


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("apiVersion: v1\nkind: A\nprofiles: []\nkind: B\n", 'line 4: key "kind" already set in map'),
        ("profiles:\n- schedulerName: a\n  kind: A\n  kind: B\n", 'line 4: key "kind" already set in map'),
        ('{"kind": "A", "kind": "B"}', 'duplicate field "kind"'),
    ],
)
def test_what_stands_twice_is_refused(text: str, finding: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read_configuration(text)
    assert str(refused.value) == f"strict decoding error: {finding}"


def test_several_profiles() -> None:
    found = read(
        profiles=[{"schedulerName": "a"}, {"schedulerName": "b", "plugins": {"score": {"disabled": names("*")}}}]
    )
    assert [(p.name, len(p.scores) > 0) for p in found.profiles] == [("a", True), ("b", False)]


def test_plugins_are_switched_off_at_one_point_or_at_all() -> None:
    off = points(score={"disabled": names("ImageLocality")})
    assert "ImageLocality" not in scores(off) and "TaintToleration" in scores(off)
    only_filters = points(score={"disabled": names("TaintToleration")}, preScore={"disabled": names("TaintToleration")})
    assert "TaintToleration" in only_filters.filters and "TaintToleration" not in scores(only_filters)
    nowhere = points(multiPoint={"disabled": names("TaintToleration")})
    assert "TaintToleration" not in nowhere.filters and "TaintToleration" not in scores(nowhere)


def test_a_star_and_what_is_named_beside_it() -> None:
    one = points(score={"disabled": names("*"), "enabled": [{"name": "ImageLocality", "weight": 7}]})
    assert one.scores == (("ImageLocality", 7),) and set(one.filters) == set(DEFAULT_FILTERS)
    bare = points(
        multiPoint={"disabled": names("*"), "enabled": names("PrioritySort", "NodeResourcesFit", "DefaultBinder")}
    )
    assert bare.filters == ("NodeResourcesFit",) and bare.scores == (("NodeResourcesFit", 1),)
    assert not bare.preempts and not bare.deallocates and not bare.gates


def test_weights() -> None:
    assert scores(points())["TaintToleration"] == 3
    of_all = points(multiPoint={"enabled": [{"name": "TaintToleration", "weight": 5}]})
    assert scores(of_all)["TaintToleration"] == 5
    both = points(
        multiPoint={"enabled": [{"name": "TaintToleration", "weight": 5}]},
        score={"enabled": [{"name": "TaintToleration", "weight": 9}]},
    )
    assert scores(both)["TaintToleration"] == 9
    unsaid = points(score={"enabled": names("TaintToleration")})
    assert scores(unsaid)["TaintToleration"] == 1, "as in Kubernetes, whose default goes with what is not named"


def test_order() -> None:
    """What is named for the point and comes with multiPoint leads, in its own order."""
    one = points(filter={"enabled": names("InterPodAffinity", "NodeName")})
    assert one.filters[:2] == ("InterPodAffinity", "NodeName")
    assert len(one.filters) == len(set(one.filters)) == len(DEFAULT_FILTERS)


def test_plugins_of_others() -> None:
    others = {"Mine": frozenset(("filter", "score", "permit")), "Sorts": frozenset(("queueSort",))}
    one = points(
        others,
        multiPoint={"enabled": [{"name": "Mine", "weight": 4}]},
        queueSort={"enabled": names("Sorts"), "disabled": names("*")},
    )
    assert one.filters[-1] == "Mine" and scores(one)["Mine"] == 4
    assert one.others["permit"] == ("Mine",) and one.others["queueSort"] == ("Sorts",)
    assert "bind" not in one.others


def test_arguments_of_plugins() -> None:
    fit = {
        "ignoredResources": ["x.io/y"],
        "scoringStrategy": {
            "type": "RequestedToCapacityRatio",
            "resources": [{"name": "cpu", "weight": 3}, {"name": "x.io/z"}],
            "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]},
        },
    }
    args = profile(
        pluginConfig=[
            {"name": "NodeResourcesFit", "args": fit},
            {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 0}},
            {"name": "DefaultPreemption", "args": {"minCandidateNodesAbsolute": 5}},
            {"name": "PodTopologySpread", "args": {"defaultingType": "List"}},
            {"name": "VolumeBinding", "args": {"bindTimeoutSeconds": 30}},
        ]
    ).args
    assert args["NodeResourcesFit"] == FitArgs(
        strategy=Strategy.REQUESTED_TO_CAPACITY_RATIO,
        resources=(("cpu", 3), ("x.io/z", 1)),
        shape=((0, 0), (100, 10)),
        ignored_resources=frozenset(("x.io/y",)),
    )
    assert args["InterPodAffinity"] == InterPodAffinityArgs(hard_pod_affinity_weight=0)
    assert args["DefaultPreemption"] == PreemptionArgs(min_candidate_nodes_absolute=5)
    assert args["PodTopologySpread"].default_constraints == ()
    assert args["VolumeBinding"].bind_timeout_s == 30.0


def test_the_rest_of_the_file() -> None:
    found = read(
        podInitialBackoffSeconds=2,
        podMaxBackoffSeconds=20,
        parallelism=8,
        clientConnection={"kubeconfig": "/etc/kubernetes/scheduler.conf"},
        leaderElection={"leaderElect": True, "leaseDuration": "30s", "renewDeadline": "20s", "retryPeriod": "5s"},
    )
    assert found.backoff == Backoff(2.0, 20.0) and found.election == ElectionTiming(30.0, 20.0, 5.0)
    assert [note.partition(" ")[0] for note in found.notes] == ["parallelism", "clientConnection"]
    config = found.applied(SchedulerConfig(identity="s"))
    assert config.backoff == found.backoff and config.election == found.election and config.profiles == found.profiles


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "Other"}, 'kind: Unsupported value: "Other"'),
    ({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}, "apiVersion: Unsupported value"),
    ({"bogus": 1}, 'strict decoding error: unknown field "bogus"'),
    ({"profiles": [{"plugins": {"filter": {"on": []}}}]}, 'unknown field "profiles[0].plugins.filter.on"'),
    ({"parallelism": "many"}, "cannot unmarshal string into Go struct field KubeSchedulerConfiguration.parallelism"),
    ({"parallelism": 0}, "parallelism: Invalid value: 0: should be an integer value greater than zero"),
    ({"percentageOfNodesToScore": 101}, "percentageOfNodesToScore: Invalid value: 101: not in valid range [0, 100]"),
    ({"podInitialBackoffSeconds": 0}, "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
    ({"podInitialBackoffSeconds": 20}, "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to"),
    ({"leaderElection": {"resourceLock": "endpoints"}}, 'resourceLock value must be "leases"'),
    ({"leaderElection": {"leaseDuration": "5s"}}, "LeaseDuration must be greater than RenewDeadline"),
    ({"leaderElection": {"leaseDuration": "soon"}}, 'leaderElection.leaseDuration: Invalid value: "soon"'),
    ({"profiles": [{}, {"schedulerName": "b"}]}, "profiles[0].schedulerName: Required value"),
    ({"profiles": [{"schedulerName": "b"}] * 2}, 'profiles[1].schedulerName: Duplicate value: "b"'),
]
BAD_POINTS: list[tuple[dict[str, Any], str]] = [
    ({"filter": {"enabled": names("Nope")}}, 'profiles[0].plugins.filter.enabled[0].name: Unsupported value: "Nope"'),
    ({"filter": {"enabled": names("ImageLocality")}}, "the plug-in has nothing to do at filter"),
    ({"score": {"enabled": names("NodeAffinity", "NodeAffinity")}}, "score.enabled[1].name: Duplicate value"),
    ({"score": {"enabled": [{"name": "NodeAffinity", "weight": -1}]}}, "score.enabled[0].weight: Invalid value: -1"),
    ({"multiPoint": {"enabled": names("EBSLimits")}}, "no longer exists"),
    ({"queueSort": {"disabled": names("*")}}, "exactly one queue sort plugin must be enabled"),
    ({"bind": {"disabled": names("DefaultBinder")}}, "plugins.bind.enabled: Required value: at least one bind plugin"),
    ({"preFilter": {"disabled": names("NodePorts")}}, "NodePorts works at filter together with preFilter only"),
]
BAD_ARGS: list[tuple[str, dict[str, Any], str]] = [
    ("Nope", {}, 'profiles[0].pluginConfig[0].name: Unsupported value: "Nope"'),
    ("NodeName", {}, "NodeName takes no arguments"),
    ("NodeResourcesFit", {"kind": "InterPodAffinityArgs"}, "has to match plugin args"),
    ("NodeResourcesFit", {"scoring": {}}, 'unknown field "profiles[0].pluginConfig[0].args.scoring"'),
    ("NodeResourcesFit", {"scoringStrategy": {"type": "Best"}}, 'scoringStrategy.type: Unsupported value: "Best"'),
    ("NodeResourcesFit", {"scoringStrategy": {"resources": [{"name": "cpu", "weight": 101}]}}, "(0, 100]"),
    ("NodeResourcesFit", {"ignoredResourceGroups": ["a/b"]}, "resource group name can't contain '/'"),
    (
        "NodeResourcesFit",
        {"scoringStrategy": {"type": "RequestedToCapacityRatio"}},
        "requestedToCapacityRatio: Required value",
    ),
    (
        "NodeResourcesFit",
        {
            "scoringStrategy": {
                "type": "RequestedToCapacityRatio",
                "requestedToCapacityRatio": {
                    "shape": [{"utilization": 9, "score": 11}, {"utilization": 9, "score": 0}]
                },
            }
        },
        "shape[1].utilization: Invalid value: 9: values must be sorted in increasing order",
    ),
    (
        "NodeResourcesBalancedAllocation",
        {"resources": [{"name": "cpu", "weight": 2}]},
        "weight: Invalid value: 2: must be 1",
    ),
    ("InterPodAffinity", {"hardPodAffinityWeight": 101}, "not in valid range [0, 100]"),
    ("PodTopologySpread", {"defaultConstraints": [{}]}, "when .defaultConstraints are not empty"),
    (
        "PodTopologySpread",
        {
            "defaultingType": "List",
            "defaultConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "X"}],
        },
        "defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)",
    ),
    (
        "NodeAffinity",
        {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        "args.addedAffinity.requ",
    ),
    ("VolumeBinding", {"bindTimeoutSeconds": -1}, "should not be a negative value"),
    ("VolumeBinding", {"shape": [{"utilization": 101, "score": 1}]}, "shape[0].utilization: Invalid value: 101"),
    ("DefaultPreemption", {"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0}, "zero at the same time"),
    ("DynamicResources", {"bindingTimeout": "1ms"}, "must be at least 1 second"),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_a_bad_file_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigFileError) as raised:
        read(**fields)
    assert said in str(raised.value)


@pytest.mark.parametrize(("sets", "said"), BAD_POINTS)
def test_a_bad_choice_of_plugins_is_refused(sets: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigFileError) as raised:
        points(**sets)
    assert said in str(raised.value)


@pytest.mark.parametrize(("plugin", "args", "said"), BAD_ARGS)
def test_bad_arguments_are_refused(plugin: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigFileError) as raised:
        profile(pluginConfig=[{"name": plugin, "args": args}])
    assert said in str(raised.value)


def test_profiles_must_sort_alike() -> None:
    others = {"Sorts": frozenset(("queueSort",))}
    other = {"queueSort": {"enabled": names("Sorts"), "disabled": names("*")}}
    with pytest.raises(ConfigFileError, match="must be the same for all profiles"):
        read(others, profiles=[{"schedulerName": "a"}, {"schedulerName": "b", "plugins": other}])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["profiles", "extenders", "leaderElection", "podMaxBackoffSeconds", "plugins", "pluginConfig", "name", "args"]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), VALUES)
def test_nothing_but_refusals_comes_of_nonsense(fields: dict[str, Any], value: Any) -> None:
    for document in (
        fields,
        {"profiles": [fields]},
        {"profiles": [{"pluginConfig": [{"name": "NodeAffinity", "args": value}]}]},
    ):
        with contextlib.suppress(ConfigFileError):
            read(**document)


def test_every_plugin_of_kubernetes_that_filters_or_scores_is_here() -> None:
    """None that a file switches on is left out in silence."""
    for name, at in IN_TREE.items():
        if at & {"filter", "score"}:
            assert name in plugins.IN_TREE, name
    everything = SchedulerConfig(identity="s", profiles=read().profiles)
    assert Cycle(everything, Cluster()).plugins == {name for name, at in IN_TREE.items() if at & {"filter", "score"}}
    lost = replace(read().profiles[0], filters=("NoSuch",))
    with pytest.raises(ValueError, match="no scheduler plug-in NoSuch"):
        Cycle(SchedulerConfig(identity="s", profiles=(lost,)), Cluster())


def test_switches_without_effect_are_noted() -> None:
    off = names("DynamicResources", "DefaultPreemption")
    found = read(profiles=[{"plugins": {"preEnqueue": {"disabled": off}}}])
    assert [note.partition(":")[0] for note in found.notes] == [
        "profiles[0].plugins.preEnqueue changes nothing for DynamicResources",
        "profiles[0].plugins.preEnqueue changes nothing for DefaultPreemption",
    ]
    gone = read(profiles=[{"plugins": {"multiPoint": {"disabled": off}}}])
    assert not gone.notes and not gone.profiles[0].preempts and "DynamicResources" not in gone.profiles[0].filters
    args = {"filterTimeout": "1s", "bindingTimeout": "2s"}
    found = read(profiles=[{"pluginConfig": [{"name": "DynamicResources", "args": args}]}])
    assert len(found.notes) == 1 and "bounded by its steps" in found.notes[0]
    assert found.profiles[0].args["DynamicResources"].binding_timeout_s == 2.0
