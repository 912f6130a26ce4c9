"""Expressions that select devices are judged when they are written, not when a pod waits for a device."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import errors
from tests.apiserver.conftest import Stack

CLAIMS, CLASSES = "resourceclaims.resource.k8s.io", "deviceclasses.resource.k8s.io"
TEMPLATES = "resourceclaimtemplates.resource.k8s.io"
WRONG = 'device.drivers == "d"'


def selecting(expression: str) -> dict[str, Any]:
    return {"selectors": [{"cel": {"expression": expression}}]}


def claim(*requests: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"devices": {"requests": list(requests)}}}


def exactly(expression: str) -> dict[str, Any]:
    return {"name": "r", "exactly": {"deviceClassName": "c", **selecting(expression)}}


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("device.driver ==", "compilation failed: ERROR: <input>:1:17: Syntax error"),
        (WRONG, "undefined field 'drivers'"),
        ("cel.bind(1, true, true)", "cel.bind() variable names must be simple identifiers"),
        ("nothing", "undeclared reference to 'nothing'"),
        ("1", "must evaluate to bool or the unknown type, not int"),
        ("device.driver", "must evaluate to bool or the unknown type, not string"),
        ('device.capacity["d"].memory', "must evaluate to bool or the unknown type, not kubernetes.Quantity"),
        (
            "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, "
            "a + b + c + d != device.driver))))",
            "Forbidden: too complex, exceeds cost limit",
        ),
    ],
)
async def test_a_claim_whose_expression_cannot_be_used_is_refused(stack: Stack, expression: str, problem: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        await stack.client().create(CLAIMS, claim(exactly(expression)))
    assert "spec.devices.requests[0].exactly.selectors[0].cel.expression: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        'device.driver == "d" && device.attributes["d"].ready',
        'device.attributes["d"].model.matches("^a[0-9]+$")',
        'device.attributes["d"].version.isGreaterThan(semver("1.1.0"))',
        'device.capacity["d"].memory.compareTo(quantity("50Gi")) >= 0 && !device.allowMultipleAllocations',
        'cel.bind(own, device.attributes["d"], has(own.model) && own.model in ["a", "b"])',
        'device.attributes["d"].ready',
    ],
)
async def test_what_selects_devices_is_stored(stack: Stack, expression: str) -> None:
    await stack.client().create(CLAIMS, claim(exactly(expression)))


async def test_every_place_of_an_expression_is_looked_at(stack: Stack) -> None:
    client = stack.client()
    alternatives = {"name": "r", "firstAvailable": [{"name": "s", "deviceClassName": "c", **selecting(WRONG)}]}
    at = r"spec\.devices\.requests\[0\]\.firstAvailable\[0\]\.selectors\[0\]\.cel\.expression: Invalid value"
    with pytest.raises(errors.Invalid, match=at):
        await client.create(CLAIMS, claim(alternatives))
    template = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"spec": claim(exactly(WRONG))["spec"]}}
    with pytest.raises(errors.Invalid, match=r"spec\.spec\.devices\.requests\[0\]\.exactly\.selectors\[0\]\.cel"):
        await client.create(TEMPLATES, template)
    made = await client.create(CLASSES, {"metadata": {"name": "c"}, "spec": selecting("true")})
    with pytest.raises(errors.Invalid, match=r"spec\.selectors\[0\]\.cel\.expression: Invalid value"):
        await client.update(CLASSES, {**made, "spec": selecting(WRONG)})
