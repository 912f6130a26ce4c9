"""Faults in files and commands: what is written is read as the same, what is wrong is told with its place."""

import re
import typing
from dataclasses import MISSING, fields
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.faults import form, reading
from rayplane.control_plane.faults.form import VERBS, as_command, as_step, read_fault, write_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import (
    NEVER_S,
    ROLES,
    TARGETS,
    Continue,
    Failpoint,
    Fault,
    Kill,
    Partition,
    Stop,
    Target,
)

NAMES = st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,4})?-[0-9]{1,3}", fullmatch=True)
SPANS = st.floats(0, reading.SPAN_MAX_S) | st.integers(0, 1000).map(float)
PARTS = st.floats(0, 1)
HOSTS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
SOME_TARGET = st.one_of(
    st.sampled_from(ROLES).map(Target),
    NAMES.map(lambda name: Target(name=name)),
    st.builds(Target, st.sampled_from(TARGETS), NAMES | st.just("worker")),
    st.builds(lambda role, count: Target(role, count=count), st.sampled_from(TARGETS), st.integers(1, 99)),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "target": SOME_TARGET,
    "for_s": SPANS,
    "back_s": st.none() | st.just(NEVER_S) | SPANS,
    "delay_s": SPANS,
    "in_s": SPANS,
    "by_s": SPANS | SPANS.map(lambda span: -span),
    "rate": st.integers(1, 1000),
    "share": PARTS,
    "twice": PARTS,
    "late": PARTS,
    "groups": st.lists(HOSTS, min_size=1, max_size=3).map(tuple),
    "sources": HOSTS,
    "sinks": HOSTS,
    "point": st.just("wal.before_sync"),
    "action": st.sampled_from(["kill", "stop", "count", "error(ENOSPC)"]),
    "hit": st.integers(1, 99),
}
FAULTS = st.sampled_from(list(VERBS.values())).flatmap(
    lambda kind: st.builds(kind, **{f.name: VALUES[f.name] for f in fields(kind)})
)


@given(FAULTS)
def test_what_is_written_is_read_as_the_same_fault(fault: Fault) -> None:
    [(verb, body)] = yaml.safe_load(as_step(fault)).items()
    assert read_fault(verb, body, verb) == fault
    [step] = yaml.safe_load(f"- {as_step(fault)}")
    assert step == write_fault(fault)


@given(SOME_TARGET)
def test_a_target_is_read_as_it_is_written(target: Target) -> None:
    assert Target.parse(str(target)) == target


def test_every_fault_of_the_vocabulary_has_a_verb() -> None:
    assert set(VERBS.values()) == set(typing.get_args(Fault))


def test_what_may_be_written_in_short_means_the_same() -> None:
    assert read_fault("kill", "leader", "k") == Kill(Target("leader"))
    assert read_fault("kill", {"node": "", "back": "20s"}, "k") == Kill(Target("node"), 20.0)
    assert read_fault("kill", {"node": None, "back": "never"}, "k") == Kill(Target("node"), NEVER_S)
    assert read_fault("stop", {"apiserver": "apiserver-1", "for": 3}, "k") == Stop(
        Target("apiserver", "apiserver-1"), 3.0
    )
    assert read_fault("partition", {"hosts": [["member-0"]]}, "k") == Partition((("member-0",),), 10.0)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("kill: everything", 1, "kill: 'everything': write TARGET"),
        ("kill: member a b", 1, "kill: 'member a b'"),
        ("kill: leader random 0", 1, "kill: 'leader random 0'"),
        ("kill: member-0; rm", 1, "kill: 'member-0; rm'"),
        ("kill: {back: 3s}", 1, "kill: name one target"),
        ("kill: {node: a, member: b}", 1, "kill: name one target"),
        ("kill:\n  target: leader\n  back: soon", 3, "kill.back: 'soon' is no time span"),
        ("kill:\n  target: leader\n  after: 3s", 2, "kill: no field 'after'; there are back, target"),
        ("stop: {target: leader, for: -1}", 1, "stop.for: '-1' is no time span"),
        ("stop: {target: leader, for: 200h}", 1, "stop.for: give more than nothing and at most 168h"),
        ("partition: {for: 3s}", 1, "partition.hosts: a partition needs it"),
        ("partition: [member-0]", 1, "partition: give a mapping"),
        ("partition:\n  hosts:\n  - [member-0]\n  - [Member]", 4, "partition.hosts[1]: 'Member' is no actor's name"),
        ("partition: {hosts: []}", 1, "partition.hosts: give lists"),
        ("cut: {from: [a-1]}", 1, "cut.to: a cut needs it"),
        ("slow_network: {delay: true}", 1, "slow_network.delay: give a time span"),
        ("failpoint: {target: m0, point: nowhere}", 1, "failpoint.point: give a failpoint"),
        ("failpoint: {target: m0, point: wal.before_sync, action: error()}", 1, "failpoint.action: give kill"),
        ("failpoint: {target: m0, point: wal.before_sync, hit: 0}", 1, "failpoint.hit: give a whole number from 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_line(text: str, line: int, said: str) -> None:
    def build(data: dict[str, Any]) -> Fault:
        [(verb, body)] = data.items()
        return read_fault(verb, body, verb)

    with pytest.raises(FormError) as raised:
        reading.read(text, build)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)
    assert raised.value.line in (line, line + 1) and f"(line {raised.value.line})" in str(raised.value)


def test_commands_can_be_pasted() -> None:
    assert as_command(Kill(Target("leader"))) == "rayplane chaos kill leader"
    assert as_command(Stop(Target("member", count=1), 3.0)) == "rayplane chaos stop member random --for 3s"
    assert as_command(Continue(Target(name="member-0"))) == "rayplane chaos continue member-0"
    assert as_command(Kill(Target("leader"), 3.0)) == as_command(Partition((("member-0",),))) == ""


def test_a_failpoint_says_what_the_environment_takes() -> None:
    assert Failpoint(Target(name="m0"), "wal.before_sync").rule == "wal.before_sync=kill"
    assert Failpoint(Target(name="m0"), "wal.before_sync", "error(EIO)", 3).rule == "wal.before_sync=error(EIO)@3"


def test_the_example_in_the_documentation_is_right() -> None:
    lines = re.findall(r"^    (\w+: .*)$", form.__doc__ or "", re.MULTILINE)
    assert len(lines) == 13
    for line in lines:
        [(verb, body)] = yaml.safe_load(line).items()
        read_fault(verb, body, verb)


def test_a_fault_without_a_target_needs_its_fields() -> None:
    for verb, kind in VERBS.items():
        if any(f.default is MISSING for f in fields(kind)):
            with pytest.raises(FormError):
                read_fault(verb, {}, verb)
