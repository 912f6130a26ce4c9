"""The setting of replicas: through the scale of an object, and only where nobody else set them meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Event, Rescale, UpdateStatus
from rayplane.control_plane.controllers.manager.autoscaler import Rescaler
from tests.apiserver.conftest import Stack

DEPLOYMENTS, AUTOSCALERS = "deployments.apps", "horizontalpodautoscalers.autoscaling"


async def made(stack: Stack, replicas: int) -> Object:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return await stack.client().create(DEPLOYMENTS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})


def rescale(target: Object, before: int, replicas: int) -> Rescale:
    hpa: Object = {"metadata": {"name": "h", "namespace": "default"}}
    failed: dict[str, Any] = {"conditions": [{"type": "AbleToScale", "message": "no: {error}"}]}
    return Rescale(
        DEPLOYMENTS,
        target,
        before,
        replicas,
        done=UpdateStatus(AUTOSCALERS, {**hpa, "status": {}}),
        failed=UpdateStatus(
            AUTOSCALERS, {**hpa, "status": failed}, done=Event(hpa, "Warning", "FailedRescale", "error: {error}")
        ),
    )


@pytest.mark.parametrize(("before", "replicas"), [(2, 5), (2, 0), (0, 1)])
async def test_replicas_are_set(stack: Stack, before: int, replicas: int) -> None:
    action = rescale(await made(stack, before), before, replicas)
    assert await Rescaler(stack.client()).rescale(action) == [action.done]
    found = await stack.client().get(DEPLOYMENTS, "web", "default")
    assert found["spec"]["replicas"] == replicas


async def test_who_set_them_meanwhile_is_not_overruled(stack: Stack) -> None:
    target = await made(stack, 2)
    await stack.client().patch(DEPLOYMENTS, "web", "default", {"spec": {"replicas": 7}})
    (write,) = await Rescaler(stack.client()).rescale(rescale(target, 2, 5))
    assert isinstance(write, UpdateStatus) and write.done is not None
    error = write.done.message.removeprefix("error: ")
    assert error and "{error}" not in error
    assert meta.status(write.obj)["conditions"] == [{"type": "AbleToScale", "message": f"no: {error}"}]
    assert (await stack.client().get(DEPLOYMENTS, "web", "default"))["spec"]["replicas"] == 7


async def test_a_target_that_is_gone(stack: Stack) -> None:
    target = await made(stack, 2)
    await stack.client().delete(DEPLOYMENTS, "web", "default")
    (write,) = await Rescaler(stack.client()).rescale(rescale(target, 2, 5))
    assert isinstance(write, UpdateStatus) and write.done is not None
    assert write.done.message == 'error: deployments.apps "web" not found'
