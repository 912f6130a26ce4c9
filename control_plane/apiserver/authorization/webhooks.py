"""Webhooks that decide about requests: they are sent a SubjectAccessReview where their conditions hold.

Source: Kubernetes reference "Webhook Mode", apiserver's plugin/pkg/authorizer/webhook.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import orjson

from rayplane.control_plane.api.authorization import selectors
from rayplane.control_plane.api.authorization.rbac import Attributes, Decision
from rayplane.control_plane.apiserver.authentication.webhooks import Post, ReviewFailed
from rayplane.control_plane.apiserver.authorization.configuration import WebhookSettings
from rayplane.control_plane.cel import evaluate
from rayplane.control_plane.component_base.expiring import Expiring

log = logging.getLogger(__name__)

_COST_MAX = 10_000
"""Of one condition: requests are small, and everybody waits."""
_KEY_MAX = 10_000


class AuthorizationWebhook:
    """One webhook with what it has said."""

    def __init__(self, settings: WebhookSettings, post: Post) -> None:
        self._settings = settings
        self._post = post
        self._known: Expiring[bytes, Decision] = Expiring()

    async def decide(self, attributes: Attributes) -> Decision:
        """Allowed, denied, or neither, where others decide."""
        spec = review_spec(attributes)
        try:
            if not self._matches(spec):
                return Decision(False)
        except ValueError as e:
            return self._failed(str(e))
        key, now = orjson.dumps(spec), asyncio.get_running_loop().time()
        found = self._known.get(key, now)
        if found is not None:
            return found
        head = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}}
        try:
            answer = await self._post({**head, "spec": spec})
        except ReviewFailed as e:
            return self._failed(str(e))
        found = _decision(answer)
        span = self._settings.allowed_s if found.allowed else self._settings.denied_s
        if span and len(key) <= _KEY_MAX:
            self._known.put(key, found, now + span)
        return found

    def _matches(self, spec: Mapping[str, Any]) -> bool:
        """Whether all conditions hold. ValueError where one has no value and none is false."""
        problem = ""
        for program in self._settings.conditions:
            outcome = evaluate(program, {"request": spec}, _COST_MAX)
            if outcome.error is not None:
                problem = f"match condition '{program.expression}' resulted in error: {outcome.error}"
            elif outcome.value is not True:
                return False
        if problem:
            raise ValueError(problem)
        return True

    def _failed(self, why: str) -> Decision:
        log.warning("authorization webhook %s is of no use: %s", self._settings.name, why)
        denied = self._settings.denies_when_it_fails
        return Decision(False, "webhook authorizer failed" if denied else "", denied=denied)


def _decision(answer: Mapping[str, Any]) -> Decision:
    status = answer.get("status")
    if not isinstance(status, dict):
        return Decision(False)
    allowed, denied = status.get("allowed") is True, status.get("denied") is True
    reason = str(status.get("reason") or "")
    # What says both at once is not believed.
    return Decision(allowed and not denied, reason, denied=denied)


def review_spec(attributes: Attributes) -> dict[str, Any]:
    """The spec of the SubjectAccessReview that asks for this."""
    spec: dict[str, Any] = {"user": attributes.user, "groups": [*attributes.groups]}
    if attributes.uid:
        spec["uid"] = attributes.uid
    if attributes.extra:
        spec["extra"] = {key: [*values] for key, values in attributes.extra}
    if attributes.path:
        return {**spec, "nonResourceAttributes": {"path": attributes.path, "verb": attributes.verb}}
    fields = {
        "namespace": attributes.namespace,
        "verb": attributes.verb,
        "group": attributes.group,
        "version": attributes.version or "*",
        "resource": attributes.resource,
        "subresource": attributes.subresource,
        "name": attributes.name,
    }
    resource: dict[str, Any] = {key: value for key, value in fields.items() if value}
    for part, requirements in (
        ("fieldSelector", selectors.of_fields(attributes.fields)),
        ("labelSelector", selectors.of_labels(attributes.labels)),
    ):
        if requirements:
            resource[part] = {"requirements": requirements}
    return {**spec, "resourceAttributes": resource}
