"""The outside part of autoscaling: metrics as they are now, and the setting of replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.controllers.actions import Action, Rescale, Write
from rayplane.control_plane.controllers.autoscaling.horizontal import HorizontalController
from rayplane.control_plane.controllers.autoscaling.metrics import CUSTOM, EXTERNAL, RESOURCE, SCALE, Answer, Query
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.manager.executor import with_error

_VERSIONS = {RESOURCE: ("v1beta1", "v1"), CUSTOM: ("v1beta2", "v1beta1"), EXTERNAL: ("v1beta1",)}
_PODS = "pods.metrics.k8s.io"
_ROUNDS = 2
"""What to ask of metrics may follow from the scale of a target that is kept elsewhere."""


class Metrics:
    """The metrics APIs, as an autoscaler asks them: those that have joined, else the API server's own."""

    def __init__(self, client: ApiClient, controller: HorizontalController, view: View) -> None:
        self._client, self._controller, self._view = client, controller, view

    async def observe(self, key: str) -> None:
        """Answer what the controller asks before it looks at an autoscaler. A failure is an answer too."""
        now = asyncio.get_running_loop().time()
        known: dict[Query, Answer] = {}
        for _ in range(_ROUNDS):
            questions = self._controller.questions(key, self._view, now, known)
            asked = [query for query in dict.fromkeys(questions) if query not in known]
            if known and not asked:
                break
            answers = await asyncio.gather(*(self._answer(query) for query in asked))
            known |= dict(zip(asked, answers, strict=True))
        self._controller.answered(key, known)

    async def _answer(self, query: Query) -> Answer:
        try:
            document = await self._read(query)
        except ApiError as e:
            return Answer(error=e.message)
        except ValueError:
            return Answer(error="the answer is no JSON")
        items = document.get("items") if isinstance(document, Mapping) else None
        return Answer(items) if isinstance(items, list) else Answer(error="the answer is no list")

    async def _read(self, query: Query) -> Any:
        if query.api == SCALE:
            group, _, version = query.version.rpartition("/")
            scale = await self._client.read_aggregated(
                *(group, [version], "", query.namespace), kind=query.resource, name=query.name, subresource="scale"
            )
            return {"items": [] if scale is None else [scale]}
        # What is about objects selects them; a series of an external metric has labels alone.
        given = {"labelSelector": query.labels, "metricLabelSelector": query.metric_labels}
        told = urlencode({name: text for name, text in given.items() if text})
        document = await self._client.read_aggregated(
            *(query.api, _VERSIONS[query.api], query.resource, query.namespace),
            name=query.name,
            subresource=query.metric,
            query=told,
        )
        if document is not None:
            return document
        if query.api == CUSTOM:
            raise NotFound("no custom metrics API (custom.metrics.k8s.io) registered", details={})
        if query.api == EXTERNAL:
            text = f"the server could not find the requested resource (get {query.resource}.{query.api})"
            raise NotFound(text, details={})
        found = await self._client.list(_PODS, query.namespace, label_selector=query.labels)
        return {"items": list(found.items)}


class Rescaler:
    """The setting of replicas through the scale of an object, if nobody changed them since they were read."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def rescale(self, action: Action) -> list[Write]:
        """What to write then: the status of a success, or of a failure and why."""
        assert isinstance(action, Rescale)
        name, space = meta.name(action.obj), meta.namespace(action.obj)
        steps: list[dict[str, Any]] = [{"op": "add", "path": "/spec/replicas", "value": action.replicas}]
        if action.before:
            steps.insert(0, {"op": "test", "path": "/spec/replicas", "value": action.before})
        try:
            if action.elsewhere is None:
                await self._client.patch(action.resource, name, space, steps, kind="json", subresource="scale")
            elif (
                await self._client.patch_aggregated(*action.elsewhere, name, space, steps, subresource="scale") is None
            ):
                return [with_error(action.failed, "the server could not find the requested resource")]
        except ApiError as e:
            return [with_error(action.failed, e.message)]
        return [action.done]
