"""What HTTP extenders are told, what their answers mean, and which files that name them are right. Pure."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.scheduler import Failure
from rayplane.control_plane.scheduler.configuration import Configuration, read_configuration
from rayplane.control_plane.scheduler.extenders import (
    Extender,
    ExtenderError,
    arguments,
    binding_arguments,
    read_bound,
    read_filtered,
    read_priorities,
)
from tests.scheduler.build import World, node, on, pod

NAMES = Extender(url="http://e/", knows_nodes=True, weight=2)
NODES = Extender(url="http://e/")
ASKED = ("a", "b", "c")
GPU = "example.com/gpu"


def read(*extenders: dict[str, Any], **more: Any) -> Configuration:
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "extenders": [{"urlPrefix": "http://e", **one} for one in extenders],
        **more,
    }
    return read_configuration(yaml.safe_dump(document))


def test_what_is_asked() -> None:
    one = pod("p")
    nodes = {"a": node("a")}
    assert arguments(NAMES, one, nodes) == {"Pod": one, "Nodes": None, "NodeNames": ["a"]}
    asked = arguments(NODES, one, nodes)
    assert asked["NodeNames"] is None and asked["Nodes"]["items"] == [node("a")]
    bound = {"PodName": "p", "PodNamespace": "default", "PodUID": "uid-p", "Node": "a"}
    assert binding_arguments(one, "a") == bound
    assert NODES.url_of("filter") == "http://e/filter"


ANSWERS: list[tuple[Extender, Any, set[str], dict[str, str], dict[str, str]]] = [
    (NAMES, {"NodeNames": ["b", "a"]}, {"a", "b"}, {}, {}),
    (NAMES, {"nodenames": ["b"], "FAILEDNODES": {"a": "no"}}, {"b"}, {"a": "no"}, {}),
    (NAMES, {"NodeNames": None, "Nodes": {"items": [{"metadata": {"name": "c"}}]}}, {"c"}, {}, {}),
    (NODES, {"Nodes": {"items": [{"metadata": {"name": "c"}}]}, "NodeNames": ["a"]}, {"c"}, {}, {}),
    (NODES, {"NodeNames": ["a"]}, set(), {}, {}),
    (NODES, {"Nodes": {"Items": None}, "FailedAndUnresolvableNodes": {"a": "no", "x": "?"}}, set(), {}, {"a": "no"}),
    (NODES, None, set(), {}, {}),
    (NAMES, {"NodeNames": [], "FailedNodes": None, "Error": ""}, set(), {}, {}),
]


@pytest.mark.parametrize(("extender", "answer", "nodes", "failed", "unresolvable"), ANSWERS)
def test_what_a_filter_answers(
    extender: Extender, answer: Any, nodes: set[str], failed: dict[str, str], unresolvable: dict[str, str]
) -> None:
    found = read_filtered(extender, answer, ASKED)
    assert (found.nodes, found.failed, found.unresolvable) == (nodes, failed, unresolvable)


WRONG: list[tuple[Any, str]] = [
    ({"Error": "no licence", "NodeNames": ["a"]}, "^no licence$"),
    ({"NodeNames": ["z"]}, 'claims a filtered node "z" which is not found in the input node list'),
    ([], "an object is wanted, not list"),
    ({"NodeNames": "a"}, "a list is wanted, not str"),
    ({"NodeNames": [1]}, "a node has no name"),
    ({"Nodes": {"items": [{}]}}, "a node has no name"),
    ({"NodeNames": [], "FailedNodes": ["a"]}, "failed nodes are no object"),
]


@pytest.mark.parametrize(("answer", "words"), WRONG)
def test_an_answer_that_is_none_says_so(answer: Any, words: str) -> None:
    with pytest.raises(ExtenderError, match=words):
        read_filtered(NAMES, answer, ASKED)


def test_priorities_are_weighed_on_the_scale_of_plugins() -> None:
    answer = [{"Host": "a", "Score": 10}, {"host": "b", "score": 3}, {"Host": "c"}, {"Host": "elsewhere", "Score": 9}]
    assert read_priorities(NAMES, answer, ASKED) == {"a": 200, "b": 60, "c": 0}
    assert read_priorities(NAMES, None, ASKED) == {}
    unreadable: tuple[Any, ...] = ({}, [{"Host": "a", "Score": 1.5}], [{"Host": "a", "Score": 1 << 70}], ["a"])
    for wrong in unreadable:
        with pytest.raises(ExtenderError, match="cannot be read"):
            read_priorities(NAMES, wrong, ASKED)


def test_a_binding_that_failed() -> None:
    read_bound(NODES, {})
    read_bound(NODES, {"Error": ""})
    with pytest.raises(ExtenderError, match=r"^taken$"):
        read_bound(NODES, {"Error": "taken"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*ASKED, "z", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Nodes", "NodeNames", "items", "metadata", "name", "FailedNodes", "Host", "Score", "Error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_no_answer_does_more_than_fail(answer: Any, names: bool) -> None:
    extender = NAMES if names else NODES
    with contextlib.suppress(ExtenderError):
        assert read_filtered(extender, answer, ASKED).nodes <= set(ASKED)
    with contextlib.suppress(ExtenderError):
        assert set(read_priorities(extender, answer, ASKED)) <= set(ASKED)
    with contextlib.suppress(ExtenderError):
        read_bound(extender, answer)


def test_which_pods_concern_an_extender() -> None:
    extender = Extender(url="http://e", resources=frozenset((GPU,)))
    init = {"name": "i", "image": "i", "resources": {"limits": {GPU: "1"}}}
    assert extender.is_interested(pod("p", requests={GPU: "1"}))
    assert extender.is_interested(pod("p", initContainers=[init]))
    assert not extender.is_interested(pod("p", requests={"example.com/other": "1"}))
    assert NODES.is_interested(pod("p"))


# -- files -----------------------------------------------------------------------------------------------------


def test_a_file_with_extenders() -> None:
    managed = [{"name": GPU, "ignoredByScheduler": True}, {"name": "example.com/fpga"}]
    found = read(
        {
            "filterVerb": "f",
            "prioritizeVerb": "p",
            "bindVerb": "b",
            "weight": 3,
            "httpTimeout": "1500ms",
            "nodeCacheCapable": True,
            "managedResources": managed,
            "ignorable": True,
        },
        {"enableHTTPS": True, "tlsConfig": {"serverName": "name", "certFile": "/c", "keyFile": "/k"}},
    )
    first, second = found.extenders
    assert (first.filter_verb, first.prioritize_verb, first.bind_verb, first.weight) == ("f", "p", "b", 3)
    assert first.timeout_s == 1.5 and first.knows_nodes and first.ignorable
    assert first.resources == {GPU, "example.com/fpga"}
    assert second.timeout_s == 5.0 and not second.resources and second.tls.insecure
    assert (second.tls.server_name, second.tls.cert_file, second.tls.key_file) == ("name", "/c", "/k")
    here = World(node("a"), profiles=found.profiles)
    assert here.place(pod("p", requests={GPU: "1"})) == "a", "the scheduler leaves it to the extender to count these"
    assert "Insufficient example.com/fpga" in here.fail(pod("q", requests={"example.com/fpga": "1"}))


REFUSED: list[tuple[tuple[dict[str, Any], ...], str]] = [
    (({"prioritizeVerb": "p"},), r"extenders\[0\].weight: Invalid value: 0: must have a positive weight applied to it"),
    (({"urlPrefix": "e:80"},), r"extenders\[0\].urlPrefix: Invalid value"),
    (({"urlPrefix": "http://[e"},), r"extenders\[0\].urlPrefix: Invalid value"),
    (({"bindVerb": "b"}, {"bindVerb": "b"}), "found 2 extenders implementing bind.*only one extender can implement"),
    (({"managedResources": [{"name": "cpu"}]},), "is an invalid extended resource name"),
    (
        ({"managedResources": [{"name": GPU}]}, {"managedResources": [{"name": GPU}]}),
        r"extenders\[1\].managedResources\[0\].name: .*duplicate extender managed resource name",
    ),
    (({"tlsConfig": {"insecure": True, "caFile": "/ca"}},), "with the insecure flag is not allowed"),
    (({"tlsConfig": {"certFile": "/c"}},), "must be specified with keyData or keyFile"),
    (({"httpTimeout": "soon"},), r"extenders\[0\].httpTimeout"),
    (({"httpTimeout": "-1s"},), "must not be negative"),
    (({},) * 17, "at most 16 extenders"),
    (({"verb": "f"},), "unknown field"),
]


@pytest.mark.parametrize(("extenders", "words"), REFUSED)
def test_a_file_that_is_refused(extenders: tuple[dict[str, Any], ...], words: str) -> None:
    with pytest.raises(ConfigFileError, match=words):
        read(*extenders)


def test_what_extenders_count_does_not_keep_a_pod_from_preempting() -> None:
    found = read({"managedResources": [{"name": GPU, "ignoredByScheduler": True}]})
    here = World(node("a", cpu="1"), profiles=found.profiles)
    here.run(on("a", pod("meek", cpu="1", priority=-1)))
    decision = here.decide(pod("p", cpu="1", requests={GPU: "1"}))
    assert isinstance(decision, Failure) and decision.preemption is not None, decision
    assert [victim.name for victim in decision.preemption.victims] == ["meek"]
