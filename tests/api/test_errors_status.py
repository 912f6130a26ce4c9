"""Errors: their Status form, and back; the wording of validation findings."""

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.errors import ApiError, FieldError, Invalid, from_status


@pytest.mark.parametrize("row", errors.REASONS, ids=lambda row: row.reason)
def test_every_reason_survives_the_wire(row: errors.ReasonRow) -> None:
    cls = errors._BY_REASON[row.reason]
    made = cls("text", details={"name": "x"}, retry_after=3)
    back = from_status(made.status)
    assert type(back) is cls
    assert (back.message, back.reason, back.code) == ("text", row.reason, row.code)
    assert back.retry_after == 3
    assert back.grpc_status == row.grpc


def test_unknown_reason_falls_back_to_the_code() -> None:
    back = from_status({"message": "m", "code": 404, "reason": "Strange"})
    assert isinstance(back, errors.NotFound) and back.reason == "Strange"


def test_unknown_code_is_the_root_error() -> None:
    back = from_status({"message": "m", "code": 418})
    assert type(back) is ApiError and back.code == 418


def test_invalid_lists_one_cause_per_error_and_prints_equal_texts_once() -> None:
    found = [errors.required("spec.a"), errors.required("spec.a"), errors.duplicate("spec.b", "x")]
    status = Invalid.of("Deployment", "d", found, group="apps").status
    assert status["message"] == (
        'Deployment.apps "d" is invalid: [spec.a: Required value, spec.b: Duplicate value: "x"]'
    )
    assert status["details"]["kind"] == "Deployment" and status["details"]["group"] == "apps"
    assert [cause["reason"] for cause in status["details"]["causes"]] == [
        "FieldValueRequired",
        "FieldValueRequired",
        "FieldValueDuplicate",
    ]
    assert status["code"] == 422


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.required("f"), "f: Required value"),
        (errors.required("f", "why"), "f: Required value: why"),
        (errors.invalid("f", "x", "why"), 'f: Invalid value: "x": why'),
        (errors.invalid("f", 70000, "why"), "f: Invalid value: 70000: why"),
        (errors.invalid("f", {"b": 1, "a": [True]}, "w"), 'f: Invalid value: {"a":[true],"b":1}: w'),
        (errors.invalid("f", None, "w"), "f: Invalid value: null: w"),
        (errors.not_found("f", "v"), 'f: Not found: "v"'),
        (errors.forbidden("f", "no"), "f: Forbidden: no"),
        (errors.too_long("f", 253), "f: Too long: may not be more than 253 bytes"),
        (errors.too_many("f", 9, 3), "f: Too many: 9: must have at most 3 items"),
        (
            errors.not_supported("f", "x", ("A", "B")),
            'f: Unsupported value: "x": supported values: "A", "B"',
        ),
    ],
)
def test_wording_of_findings(error: FieldError, text: str) -> None:
    assert str(error) == text


def test_common_messages() -> None:
    assert str(errors.NotFound.of("pods", "x")) == 'pods "x" not found'
    assert str(errors.AlreadyExists.of("deployments", "x", group="apps")) == ('deployments.apps "x" already exists')
    assert "the object has been modified" in str(errors.Conflict.of("pods", "x"))
    assert str(errors.Forbidden.of("pods", "", "no")) == "pods is forbidden: no"


def test_an_answer_tells_no_more_than_one_can_read() -> None:
    assert len(errors.BadRequest("x" * 10_000_000).message) < 100_000
    values = [["y" * 100] * 1_000_000, {"k": list(range(1_000_000))}, "z" * 10_000_000]
    for value in values:
        assert len(errors.render_value(value)) < 10_000
    error = Invalid.of(
        "Pod", "a", [errors.invalid(f"spec[{n}]", value, "no") for n in range(2000) for value in values[2:]]
    )
    assert len(error.status["details"]["causes"]) == 256
    assert sum(len(cause["message"]) for cause in error.status["details"]["causes"]) < 3_000_000
