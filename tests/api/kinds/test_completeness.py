"""Each kind has a room, and each room says all of it: a rule, or why there is none."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from rayplane.control_plane.api import kinds
from rayplane.control_plane.api.kinds.registry import ROOMS, rules_of
from rayplane.control_plane.api.kinds.rules import FORGOTTEN, NO_SCALE, PLAIN, Absent, Rules, Status
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry

SERVED: dict[tuple[str, str], ResourceInfo] = {(one.group, one.kind): one for one in builtin_registry().all()}
KINDS = sorted(SERVED)


def named(kind: tuple[str, str]) -> str:
    return "/".join(part for part in kind if part)


def test_the_kinds_that_have_rooms_are_the_kinds_that_are_served() -> None:
    assert {named(kind) for kind in SERVED} == {named(kind) for kind in ROOMS}


def test_every_room_is_in_the_list() -> None:
    folder = Path(next(iter(kinds.__path__)))
    modules = [path.relative_to(folder).with_suffix("").parts for path in folder.glob("*/*.py")]
    rooms = {name for name in (".".join(parts) for parts in modules) if hasattr(room(name), "RULES")}
    assert rooms == set(ROOMS.values())
    assert {(name, kind) for name in rooms for kind in room(name).RULES} == {(ROOMS[kind], kind[1]) for kind in ROOMS}


def room(name: str) -> ModuleType:
    return import_module(f"{kinds.__name__}.{name}")


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_no_rule_is_forgotten(kind: tuple[str, str]) -> None:
    rules = rules_of(*kind)
    assert rules is not PLAIN
    forgotten = [f"{named(kind)}: {rule.name}" for rule in fields(Rules) if getattr(rules, rule.name) is FORGOTTEN]
    assert not forgotten, "say the rule, or that it is absent and why"


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_what_is_absent_has_a_reason(kind: tuple[str, str]) -> None:
    values = {rule.name: getattr(rules_of(*kind), rule.name) for rule in fields(Rules)}
    absent = {name: value for name, value in values.items() if isinstance(value, Absent)}
    assert all(value.reason and value is not FORGOTTEN for value in absent.values())
    assert not absent.keys() & {"name", "printer", "fields", "generation"}, "every kind has these"


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_rules_agree_with_the_subresources_that_are_served(kind: tuple[str, str]) -> None:
    rules, info = rules_of(*kind), SERVED[kind]
    assert isinstance(rules.status, Status) == ("status" in info.subresources)
    assert (not isinstance(rules.scale, Absent)) == ("scale" in info.subresources)
    assert "metadata.name" in rules.fields


def test_a_rule_that_is_absent_does_nothing() -> None:
    assert NO_SCALE({}) == () and not NO_SCALE and [*NO_SCALE({}, {})] == []
