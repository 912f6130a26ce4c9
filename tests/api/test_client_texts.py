"""Texts that clients write: long ones are refused or cost little, and none of them stays in memory."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rayplane.control_plane.api import cron
from rayplane.control_plane.api.errors import BadRequest, FieldError
from rayplane.control_plane.api.kinds.pod_template.ports import validate_port_reference
from rayplane.control_plane.api.kinds.registry import rules_of
from rayplane.control_plane.api.machinery import field_selectors, jsonpath, names, quantity, selectors
from rayplane.control_plane.api.machinery.decoding import decode_object
from rayplane.control_plane.api.machinery.remembering import LONGEST, remembered
from rayplane.control_plane.api.machinery.schema import definition_of
from tests import bounded


def test_long_texts_are_not_remembered() -> None:
    calls: list[str] = []

    @remembered(16)
    def seen(text: str) -> int:
        calls.append(text)
        return len(text)

    for text in ("a", "a", "b" * (LONGEST + 1), "b" * (LONGEST + 1)):
        assert seen(text) == len(text)
    assert [len(text) for text in calls] == [1, LONGEST + 1, LONGEST + 1]


@pytest.mark.parametrize("text", ["1" * 5000, "0." + "1" * 5000, "1e" + "9" * 5000, "-" + "1" * 100_000, "1" * 513])
def test_long_quantities_are_none(text: str) -> None:
    assert not quantity.is_quantity(text)


def test_large_exponents_cost_nothing() -> None:
    assert not quantity.is_quantity("1e999999999") and not quantity.is_quantity("1E1000000")
    assert str(quantity.parse("1e-999999999")) == "1e-9"


@pytest.mark.parametrize(
    "text",
    ["*/5 * * * ²", "0," * 10_000 + "0 * * * *", "@every " + "9" * 900 + "h", "@every " + "1h" * 10_000, "٣ * * * *"],
)
def test_schedules_that_are_none(text: str) -> None:
    with pytest.raises(cron.CronError):
        cron.parse_schedule(text)


@pytest.mark.parametrize("path", [".a[" + "9" * 5000 + "]", ".a" * 10_000, ".." * 100, "[?(@." + "a" * 2000])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(jsonpath.JsonPathError):
        jsonpath.find({"a": [1]}, path)


def test_a_selector_has_a_thousand_requirements() -> None:
    with pytest.raises(BadRequest, match="at most 1000 requirements, got 60000"):
        selectors.parse_labels(",".join(f"a{n}" for n in range(60_000)))
    with pytest.raises(BadRequest, match="at most 1000 requirements, got 20000"):
        field_selectors.parse_fields(",".join(["metadata.name=a"] * 20_000), rules_of("", "Pod").fields)
    many = selectors.parse_labels("a in (" + ",".join(str(n) for n in range(50_000)) + ")")
    assert many.matches({"a": "49999"}) and not many.matches({"a": "x"}) and not many.matches({})


@pytest.mark.processes
def test_names_are_judged_in_time_linear_in_their_length() -> None:
    shown = bounded.run("""
from rayplane.control_plane.api.machinery import names
for text in ("a" * 2_000_000 + "!", "a." * 1_000_000 + "!", "-" * 2_000_000, "a-" * 1_000_000, "1." * 1_000_000):
    for judge in (names.subdomain_errors, names.label_errors, names.dns1035_errors, names.qualified_name_errors,
                  names.label_value_errors, names.config_key_errors, names.port_name_errors):
        assert judge(text)
    assert not names.is_ip(text) and not names.is_cidr(text + "/8")
    names.env_name_errors(text), names.is_percent(text)
print("judged")
""")
    assert shown == "judged"
    assert names.subdomain_errors("a.b") == ()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("ConfigMap", {"metadata": {"creationTimestamp": "0001-01-01T00:00:00+23:59"}}),
        ("ConfigMap", {"metadata": {"creationTimestamp": "9999-12-31T23:59:59-23:59"}}),
        ("ConfigMap", {"metadata": {"creationTimestamp": "2020-99-99T00:00:00Z"}}),
        ("ConfigMap", {"binaryData": {"a": "²"}}),
        ("Secret", {"data": {"a": "=" * 1000}}),
    ],
)
def test_values_that_no_decoder_takes_are_a_bad_request(kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        decode_object(orjson.dumps(body), api_version="v1", kind=kind, definition=definition_of("v1", kind))


@pytest.mark.parametrize("port", ["²", "9" * 5000, "99999", "-1"])
def test_ports_that_are_none(port: str) -> None:
    errors: list[FieldError] = []
    validate_port_reference(port, "port", errors)
    assert errors
