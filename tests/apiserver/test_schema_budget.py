"""Custom resources cannot stop the loop: patterns are linear, defaults and branches are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.machinery import patterns
from rayplane.control_plane.api.machinery.budget import LIMITS, TooManyValues
from rayplane.control_plane.apiserver.apiextensions import defaulting
from rayplane.control_plane.apiserver.apiextensions import schema as custom_schema
from tests import bounded
from tests.apiserver.conftest import Stack
from tests.apiserver.test_custom import CRDS, FOOS, definition, foo


def with_pattern(pattern: str) -> dict[str, Any]:
    made = definition()
    spec = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["mode"] = {"type": "string", "pattern": pattern}
    return made


@pytest.mark.processes
def test_a_pattern_that_doubles_its_work_with_each_letter_is_answered() -> None:
    shown = bounded.run("""
from rayplane.control_plane.apiserver.apiextensions.schema import validate
schema = {"properties": {"spec": {"type": "string", "pattern": "^(a+)+$"}}}
print(validate({"spec": "a" * 100_000 + "b"}, schema)[0].detail)
""")
    assert shown == "spec in body should match '^(a+)+$'"


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("^[[:alpha:]]+$", "abc", "12"),
        (r"^\pL+$", "abcä", "12"),
        (r"^\p{Greek}+$", "αβγ", "abc"),
        ("b", "abc", "acd"),
        ("^(?i)AB$", "ab", "b"),
        (r"\bword\b", "a word here", "words"),
    ],
)
def test_patterns_are_those_of_re2(pattern: str, fits: str, fits_not: str) -> None:
    assert patterns.search(pattern, fits)
    assert not patterns.search(pattern, fits_not)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "error parsing regexp: missing closing ): `(`"),
        ("a)", "error parsing regexp: unexpected ): `a)`"),
        ("[a", "error parsing regexp: missing closing ]: `[a`"),
        ("*a", "error parsing regexp: missing argument to repetition operator: `*`"),
        ("a**", "error parsing regexp: invalid nested repetition operator: `**`"),
        ("(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"),
        ("a{1001}", "error parsing regexp: invalid repeat count: `{1001}`"),
        ("x" * 100_000, "error parsing regexp: expression too large"),
        ("((a{30}){30}){1}" * 200, "error parsing regexp: expression too large"),
    ],
)
def test_what_is_no_pattern_is_told_in_the_words_of_go(pattern: str, message: str) -> None:
    with pytest.raises(patterns.PatternError) as caught:
        patterns.check(pattern)
    assert str(caught.value) == message


async def test_a_definition_with_a_broken_pattern_is_refused(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(errors.Invalid) as caught:
        await client.create(CRDS, with_pattern("(a"))
    where = "spec.validation.openAPIV3Schema.properties[spec].properties[mode].pattern"
    why = "must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(a`"
    assert f'{where}: Invalid value: "(a": {why}' in caught.value.message
    await client.create(CRDS, with_pattern("^[[:alpha:]]+$"))
    await client.create(FOOS, foo("a", size=1, mode="abc"))
    with pytest.raises(errors.Invalid, match=r"should match '\^\[\[:alpha:\]\]\+\$'"):
        await client.create(FOOS, foo("b", size=1, mode="12"))


def test_defaults_that_multiply_are_too_large() -> None:
    items = {"type": "object", "properties": {"a": {"type": "string", "default": "x" * 10_000}}}
    schema = {"type": "object", "properties": {"spec": {"type": "array", "items": items}}}
    defaulting.default({"spec": [{}] * 100}, schema)
    with pytest.raises(TooManyValues, match="the defaults of the schema add more than 3145728 bytes"):
        defaulting.default({"spec": [{} for _ in range(10_000)]}, schema)


def test_branches_and_choices_that_multiply_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_schema, "LIMITS", replace(LIMITS, schema_steps=50_000))
    value = {"spec": ["x"] * 20_000}
    branches = {"anyOf": [{"type": "string", "maxLength": 0}] * 1000}
    choices = {"type": "string", "enum": [str(n) for n in range(1000)]}
    for items in (branches, choices):
        with pytest.raises(TooManyValues, match="takes more than 50000 steps"):
            custom_schema.validate(value, {"properties": {"spec": {"type": "array", "items": items}}})


def test_only_so_many_findings_are_told_and_long_lists_are_compared_in_one_pass() -> None:
    same = {"type": "array", "x-kubernetes-list-type": "set"}
    assert custom_schema.validate({"spec": list(range(100_000))}, {"properties": {"spec": same}}) == []
    found = custom_schema.validate({"spec": [{}] * 100_000}, {"properties": {"spec": same}})
    assert len(found) == errors.FINDINGS_MAX


async def test_a_definition_has_so_many_columns(stack: Stack) -> None:
    columns = [{"name": f"c{n}", "type": "string", "jsonPath": ".spec.mode"} for n in range(101)]
    with pytest.raises(errors.Invalid, match="additionalPrinterColumns: Too many: 101: must have at most 100 items"):
        await stack.client().create(CRDS, definition(additionalPrinterColumns=columns))
    await stack.client().create(CRDS, definition(additionalPrinterColumns=columns[:100]))
