"""ImagePolicyWebhook: somebody else says which images pods may run.

Source: kubernetes/plugin/pkg/admission/imagepolicy, imagepolicy.k8s.io/v1alpha1 ImageReview.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.apiserver.admission.configuration import ImagePolicy
from rayplane.control_plane.apiserver.admission.request import CREATE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.authentication.webhooks import Post, ReviewFailed
from rayplane.control_plane.component_base.expiring import Expiring

log = logging.getLogger(__name__)

_KEPT = 1024
_KEY_MAX = 10_000
_OURS = ".image-policy.k8s.io/"
_AUDITED = "imagepolicywebhook.image-policy.k8s.io/"
_CONTAINERS: Mapping[str, Callable[[Mapping[str, Any]], Sequence[Any]]] = {
    "": lambda spec: [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())],
    "ephemeralcontainers": lambda spec: spec.get("ephemeralContainers") or (),
}
"""Those of a pod that a request is about, by its subresource."""


class ImageReviews:
    """The plug-in."""

    def __init__(self, policy: ImagePolicy, post: Post) -> None:
        self._policy = policy
        self._post = post
        self._known: Expiring[bytes, Mapping[str, Any]] = Expiring(_KEPT)

    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        containers = _CONTAINERS.get(request.subresource)
        if request.info.name != "pods" or containers is None or request.operation not in (CREATE, UPDATE):
            return
        images = [{"image": c.get("image") or ""} for c in containers(meta.spec(request.object))]
        notes = {key: text for key, text in meta.annotations(request.object).items() if _OURS in key}
        review: dict[str, Any] = {"containers": images, "namespace": request.namespace}
        try:
            status = await self._said({**review, "annotations": notes} if notes else review)
        except ReviewFailed as e:
            log.warning("the image policy webhook is of no use: %s", e)
            if not self._policy.allows_when_it_fails:
                raise Forbidden.of("pods", request.shown_name, str(e)) from e
            request.annotations[f"{_AUDITED}failed-open"] = "true"
            return
        for key, text in (status.get("auditAnnotations") or {}).items():
            request.annotations[f"{_AUDITED}{key}"] = str(text)
        if status.get("allowed") is not True:
            reason = str(status.get("reason") or "")
            text = f"image policy webhook backend denied one or more images: {reason}"
            raise Forbidden.of(
                "pods", request.shown_name, text if reason else "one or more images rejected by webhook backend"
            )

    async def _said(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status of a review. ReviewFailed."""
        key, now = orjson.dumps(spec), asyncio.get_running_loop().time()
        found = self._known.get(key, now)
        if found is not None:
            return found
        head = {"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview", "metadata": {}}
        status = (await self._post({**head, "spec": spec})).get("status")
        if not isinstance(status, dict) or not isinstance(status.get("auditAnnotations") or {}, dict):
            raise ReviewFailed("the answer is no ImageReview")
        span = self._policy.allowed_s if status.get("allowed") is True else self._policy.denied_s
        if span and len(key) <= _KEY_MAX:
            self._known.put(key, status, now + span)
        return status
