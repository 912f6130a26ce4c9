"""Label and field selectors: what they match, what they refuse, and in which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.field_selectors import parse_fields
from rayplane.control_plane.api.machinery.selectors import (
    EVERYTHING,
    NOTHING,
    Requirement,
    from_label_selector,
    parse_labels,
)


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x,y)", {}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("!a", {"b": ""}, True),
        ("a=", {"a": ""}, True),
        ("a in (,x)", {"a": ""}, True),
        ("n>5", {"n": "6"}, True),
        ("n>5", {"n": "x"}, False),
        ("n<5", {"n": "4"}, True),
        ("a=b,c!=d,e in (x,y),!f,g", {"a": "b", "e": "x", "g": "1"}, True),
        ("example.com/app=web", {"example.com/app": "web"}, True),
        ("in in (in)", {"in": "in"}, True),
    ],
)
def test_query_form(text: str, labels: dict[str, str], matches: bool) -> None:
    assert parse_labels(text).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in x", "unable to parse requirement: found 'x', expected: '('"),
        ("a,", "found '', expected: identifier after ','"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
    ],
)
def test_query_form_errors(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_labels(text)
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["a=" + "x" * 64, "a_/b=c", "a in ()x", "a>b", "-a"])
def test_bad_names_and_values_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_labels(text)


def test_structured_form() -> None:
    found = from_label_selector(
        {
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["x", "y"]},
                {"key": "d", "operator": "DoesNotExist"},
            ],
        }
    )
    assert found.matches({"a": "b", "c": "x"})
    assert not found.matches({"a": "b", "c": "x", "d": ""})
    assert found.exact == {"a": "b"}


def test_no_selector_matches_nothing_and_an_empty_one_everything() -> None:
    assert from_label_selector(None) == NOTHING and not NOTHING.matches({"a": "b"})
    assert from_label_selector({}) == EVERYTHING and EVERYTHING.matches(None)


def test_structured_form_refuses_operands_that_do_not_fit() -> None:
    for expression in (
        {"key": "a", "operator": "In", "values": []},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "Gt", "values": ["1"]},
        {"key": "a", "operator": "Like", "values": ["x"]},
    ):
        with pytest.raises(BadRequest):
            from_label_selector({"matchExpressions": [expression]})


_words = st.sampled_from(["a", "b", "c"])
_values = st.sampled_from(["", "x", "y"])
_requirements = st.one_of(
    st.builds(lambda k, v: Requirement(k, "=", (v,)), _words, _values),
    st.builds(lambda k, v: Requirement(k, "!=", (v,)), _words, _values),
    st.builds(
        lambda k, o, v: Requirement(k, o, tuple(sorted(v))),
        _words,
        st.sampled_from(["in", "notin"]),
        st.sets(_values, min_size=1),
    ),
    st.builds(lambda k, o: Requirement(k, o), _words, st.sampled_from(["exists", "!"])),
)


def _slow(requirement: Requirement, labels: dict[str, str]) -> bool:
    key, operator, values = requirement
    if operator == "exists":
        return key in labels
    if operator == "!":
        return key not in labels
    if operator in ("=", "in"):
        return key in labels and labels[key] in values
    return key not in labels or labels[key] not in values


@given(st.lists(_requirements, max_size=4), st.dictionaries(_words, _values))
def test_printed_selectors_read_back_and_match_the_plain_rule(
    requirements: list[Requirement], labels: dict[str, str]
) -> None:
    selector = selectors.LabelSelector(requirements)
    again = parse_labels(str(selector))
    expected = all(_slow(one, labels) for one in requirements)
    assert selector.matches(labels) is expected
    assert again.matches(labels) is expected


POD = {
    "metadata": {"name": "p", "namespace": "ns"},
    "spec": {"nodeName": "n1"},
    "status": {"phase": "Running", "podIPs": [{"ip": "127.1.0.2"}]},
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=p", True),
        ("spec.nodeName==n1,status.phase!=Failed", True),
        ("spec.nodeName!=n1", False),
        ("status.nominatedNodeName=", True),
        ("spec.hostNetwork=false", True),
        ("status.podIPs=127.1.0.2", True),
        ("spec.nodeName in (n0,n1)", True),
        ("metadata.name!=q,spec.nodeName in (n1),status.phase=Running", True),
        ("spec.nodeName in (n0,n2)", False),
        ("spec.nodeName in ()", False),
    ],
)
def test_fields_of_pods(text: str, matches: bool) -> None:
    assert parse_fields(text, rules_of("", "Pod").fields).matches(POD) is matches


def test_fields_of_other_kinds() -> None:
    assert parse_fields("spec.unschedulable=false", rules_of("", "Node").fields).matches({"spec": {}})
    assert parse_fields("type=Opaque", rules_of("", "Secret").fields).matches({"type": "Opaque"})
    event = {"involvedObject": {"name": "p"}, "source": {"component": "kubelet"}}
    assert parse_fields("involvedObject.name=p,source=kubelet", rules_of("", "Event").fields).matches(event)
    job = {"status": {"succeeded": 2}}
    assert parse_fields("status.successful=2", rules_of("batch", "Job").fields).matches(job)
    custom = parse_fields("spec.color=red", rules_of("x.io", "Foo").fields, selectable=(".spec.color",))
    assert custom.matches({"spec": {"color": "red"}}) and custom.requires("spec.color") == "red"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"^field label not supported: spec\.bogus$"):
        parse_fields("spec.bogus=x", rules_of("", "Pod").fields)
    with pytest.raises(BadRequest, match=r'"spec\.x" is not a known field selector: only'):
        parse_fields("spec.x=1", rules_of("apps", "Deployment").fields)
    with pytest.raises(BadRequest, match=r"^field label not supported: spec\.bogus$"):
        parse_fields("spec.bogus in (x)", rules_of("", "Pod").fields)
    for text in ("metadata.name", "metadata.name in (x", "metadata.name in x)", "metadata.name in (x)y"):
        with pytest.raises(BadRequest, match="can't understand"):
            parse_fields(text, rules_of("", "Pod").fields)


def test_what_a_field_is_limited_to() -> None:
    assert parse_fields("spec.nodeName in (n1,n2)", rules_of("", "Pod").fields).allowed("spec.nodeName") == {"n1", "n2"}
    assert parse_fields("spec.nodeName=n1,spec.nodeName in (n1,n2)", rules_of("", "Pod").fields).allowed(
        "spec.nodeName"
    ) == {"n1"}
    for text in ("spec.nodeName!=n1", "metadata.name=p", ""):
        assert parse_fields(text, rules_of("", "Pod").fields).allowed("spec.nodeName") is None
    text = "metadata.name=p,spec.nodeName in (n1,n2)"
    assert str(parse_fields(text, rules_of("", "Pod").fields)) == text


def test_escaped_field_values() -> None:
    found = parse_fields(r"metadata.name=a\,b\=c", rules_of("", "Pod").fields)
    assert found.requires("metadata.name") == "a,b=c"
    assert str(found) == r"metadata.name=a\,b\=c"
