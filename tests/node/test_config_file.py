"""Files that configure kubelets: what they set, what of them is refused and where it stands, what is in force."""

import json

import pytest

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.node.config import NodeConfig, NodeHostConfig
from rayplane.node.kubelet.config_file import read_kubelet_configuration
from rayplane.node.kubelet.pages import configuration
from rayplane.node.kubelet.shutdown import Period, periods_for

HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
BASE = NodeHostConfig(nodes=(NodeConfig("n1"), NodeConfig("n2")), apiservers=("a:1",))
WHOLE = f"""{HEAD}
staticPodPath: /etc/manifests
maxPods: 17
podPidsLimit: 64
fileCheckFrequency: 5s
nodeStatusReportFrequency: 1m
evictionHard: {{memory.available: 5%, pid.available: "10"}}
evictionSoft: {{memory.available: 300Mi}}
evictionSoftGracePeriod: {{memory.available: 1m30s}}
evictionMinimumReclaim: {{memory.available: 10Mi}}
evictionMaxPodGracePeriod: 7
evictionPressureTransitionPeriod: 20s
containerLogMaxSize: 1Mi
containerLogMaxFiles: 3
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 10s
imageGCHighThresholdPercent: 70
imageGCLowThresholdPercent: 60
imageMinimumGCAge: 0s
"""


def test_all_that_a_file_sets_is_in_force_and_shown() -> None:
    config = read_kubelet_configuration(WHOLE).applied(BASE)
    config.validate()
    for node in config.nodes:
        shown = configuration(node, config)
        assert shown["staticPodPath"] == "/etc/manifests"
        assert (shown["maxPods"], shown["podPidsLimit"]) == (17, 64)
        assert (shown["fileCheckFrequency"], shown["nodeStatusReportFrequency"]) == ("5s", "60s")
        assert shown["evictionHard"] == {"memory.available": "5%", "pid.available": "10"}, "these alone, as there"
        assert shown["evictionSoft"] == {"memory.available": "300Mi"}
        assert shown["evictionSoftGracePeriod"] == {"memory.available": "1m30s"}
        assert shown["evictionMinimumReclaim"] == {"memory.available": "10Mi"}
        assert (shown["evictionMaxPodGracePeriod"], shown["evictionPressureTransitionPeriod"]) == (7, "20s")
        assert (shown["containerLogMaxSize"], shown["containerLogMaxFiles"]) == ("1048576", 3)
        assert (shown["shutdownGracePeriod"], shown["shutdownGracePeriodCriticalPods"]) == ("30s", "10s")
        assert (shown["imageGCHighThresholdPercent"], shown["imageGCLowThresholdPercent"]) == (70, 60)
        assert shown["imageMinimumGCAge"] == "0s"


def test_what_is_shown_can_be_said_again() -> None:
    """Whatever is in force of the fields that a file may have, such a file has it in force again."""
    config = read_kubelet_configuration(WHOLE).applied(BASE)
    shown = configuration(config.nodes[0], config)
    said = {key: value for key, value in shown.items() if f"\n{key}:" in f"\n{WHOLE}"}
    assert read_kubelet_configuration(json.dumps(said)).applied(BASE) == config


def test_a_file_that_says_nothing_changes_nothing() -> None:
    found = read_kubelet_configuration(HEAD + "evictionHard: null\n")
    assert found.applied(BASE) == BASE and found.shutdown_s == 0.0


def test_thresholds_are_added_to_the_usual_ones_where_that_is_asked_for() -> None:
    text = f"{HEAD}mergeDefaultEvictionSettings: true\nevictionHard:\n  memory.available: 1Gi\n"
    hard = read_kubelet_configuration(text).applied(BASE).nodes[0].eviction.hard
    assert hard == {**BASE.nodes[0].eviction.hard, "memory.available": "1Gi"}


def test_pods_end_by_priority_where_priorities_are_given() -> None:
    items = "- {priority: 1000, shutdownGracePeriodSeconds: 5}\n- {priority: 0, shutdownGracePeriodSeconds: 20}\n"
    found = read_kubelet_configuration(f"{HEAD}shutdownGracePeriodByPodPriority:\n{items}")
    assert found.shutdown_s == 25.0
    periods = periods_for(found.applied(BASE), for_good=False)
    assert sorted(periods) == [Period(0, 20.0), Period(1000, 5.0)]
    assert periods_for(BASE, for_good=False) == []


@pytest.mark.parametrize(
    ("line", "text", "told"),
    [
        (3, "evictionHrd: {}", "evictionHrd: Forbidden: no field that nodes here follow; is it evictionHard?"),
        (3, "evictionHrd:\n  a: 1", "evictionHrd: Forbidden"),
        (3, "swapBehavior: x", "swapBehavior: Forbidden: no field that nodes here follow; there are staticPodPath, "),
        (4, "evictionHard:\n  memory.available: much", 'evictionHard[memory.available]: Invalid value: "much"'),
        (4, "evictionHard:\n  memory.free: 1Gi", "signal 'memory.free' is none of memory.available"),
        (5, "evictionHard:\n  pid.available: 9%\n  memory.available: 100%", "no share between 0% and 100%"),
        (3, "evictionHard: {memory.available: 100}", "must be an object of strings by signal"),
        (4, "evictionSoft:\n  memory.available: 1Gi", "evictionSoft[memory.available]: Required value: a soft"),
        (3, "evictionSoftGracePeriod: {memory.available: soon}", "evictionSoftGracePeriod[memory.available]: Inv"),
        (3, "evictionMinimumReclaim: {memory.available: 5%}", "is no amount"),
        (3, "maxPods: 254", "each pod needs an address, of which a node here has 253"),
        (3, "maxPods: 0", "must be a whole number from 1"),
        (3, "maxPods: true", "must be a whole number from 1"),
        (3, "podPidsLimit: -2", "must be a whole number from -1"),
        (3, "staticPodPath: manifests", "must be an absolute path"),
        (3, "containerLogMaxFiles: 1", "must be a whole number from 2"),
        (3, "containerLogMaxSize: 0", "must be a positive quantity"),
        (3, "shutdownGracePeriod: 30", "must be a duration such as 30s"),
        (3, "shutdownGracePeriod: 1h", "from 0s to 120s"),
        (3, "shutdownGracePeriod: -1s", "from 0s to 120s"),
        (4, "shutdownGracePeriod: 5s\nshutdownGracePeriodCriticalPods: 6s", "must not be longer than shutdownGrace"),
        (3, "shutdownGracePeriodByPodPriority: [{priority: 1, seconds: 2}]", "must be a list of objects with"),
        (3, "shutdownGracePeriodByPodPriority: [{priority: 1}, {priority: 1}]", "must name each priority once"),
        (3, "imageGCHighThresholdPercent: 80", "must be below imageGCHighThresholdPercent, which is 80"),
        (3, "imageGCLowThresholdPercent: 101", "must be a whole number from 0 to 100"),
    ],
)
def test_each_fault_is_told_with_its_field_and_line(line: int, text: str, told: str) -> None:
    with pytest.raises(ConfigFileError) as raised:
        read_kubelet_configuration(f"{HEAD}{text}\n", pods_max=253)
    assert str(raised.value).startswith(f"line {line}: ") and told in str(raised.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigFileError) as raised:
        read_kubelet_configuration(f"{HEAD}maxPods: 0\nnope: 1\n")
    assert "line 3: maxPods" in str(raised.value) and "; line 4: nope" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "kind: KubeletConfiguration\napiVersion: v1\n", "&a [*a, *a]", "{"])
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigFileError):
        read_kubelet_configuration(text)
