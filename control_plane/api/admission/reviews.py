"""AdmissionReview: what a webhook is asked, and what its answer says.

Source: admission.k8s.io/v1 and v1beta1, apiserver's plugin/webhook/request and plugin/webhook/errors.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object

GROUP = "admission.k8s.io"
VERSIONS = ("v1", "v1beta1")
_DENIED = 400


class BadReview(ValueError):
    """An answer that is none; it says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as a webhook is told of it. `info` and the objects are in the form its rules name."""

    uid: str
    operation: str
    info: ResourceInfo
    asked: ResourceInfo
    subresource: str
    namespace: str
    name: str
    user: Mapping[str, Any]
    new: Object | None
    old: Object | None
    dry_run: bool
    options: Mapping[str, Any]

    def review(self, version: str) -> Object:
        """The AdmissionReview in a version of its group."""
        request: dict[str, Any] = {
            "uid": self.uid,
            "kind": _kind(self.info, self.subresource),
            "resource": _resource(self.info),
            "requestKind": _kind(self.asked, self.subresource),
            "requestResource": _resource(self.asked),
            "name": self.name,
            "namespace": self.namespace,
            "operation": self.operation,
            "userInfo": dict(self.user),
            "object": self.new,
            "oldObject": self.old,
            "dryRun": self.dry_run,
            "options": dict(self.options) or None,
        }
        if self.subresource:
            request["subResource"] = request["requestSubResource"] = self.subresource
        for name in ("name", "namespace"):
            if not request[name]:
                del request[name]
        return {"kind": "AdmissionReview", "apiVersion": f"{GROUP}/{version}", "request": request}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a webhook. `patch`: operations of a JSON patch."""

    allowed: bool
    result: Mapping[str, Any] = field(default_factory=dict)
    patch: list[Any] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)

    def refusal(self, webhook: str) -> ApiError:
        """The error of the request that was not allowed."""
        why, reason = self.result.get("message") or self.result.get("reason") or "", self.result.get("reason") or ""
        code = self.result.get("code") or 0
        text = f'admission webhook "{webhook}" denied the request'
        return ApiError(
            f"{text}: {why}" if why else f"{text} without explanation",
            reason=reason,
            code=code if isinstance(code, int) and _DENIED <= code < 600 else _DENIED,
            details=self.result.get("details"),
        )


def parse_verdict(body: bytes, *, version: str, uid: str, mutating: bool) -> Verdict:
    """The answer to the question `uid`. Raises BadReview."""
    response = _response(body, version, uid)
    allowed, result = response.get("allowed"), response.get("status") or {}
    if not isinstance(allowed, bool) or not isinstance(result, dict):
        raise BadReview("received invalid webhook response: response.allowed is a boolean, response.status an object")
    warnings, annotations = response.get("warnings") or [], response.get("auditAnnotations") or {}
    if not isinstance(warnings, list) or not isinstance(annotations, dict):
        raise BadReview("received invalid webhook response: warnings are a list, auditAnnotations an object")
    return Verdict(
        allowed,
        result,
        _patch(response, version) if mutating and allowed else [],
        tuple(w for w in warnings if isinstance(w, str)),
        {k: v for k, v in annotations.items() if isinstance(v, str)},
    )


def _response(body: bytes, version: str, uid: str) -> dict[str, Any]:
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadReview(f"couldn't get JSON from the webhook's response: {e}") from e
    response = review.get("response") if isinstance(review, dict) else None
    if not isinstance(response, dict):
        raise BadReview("webhook response was absent")
    wanted = (f"{GROUP}/{version}", "AdmissionReview")
    found = (review.get("apiVersion"), review.get("kind"))
    # Answers of v1beta1 may leave out what they are, and what they answer.
    if version == "v1" and found != wanted:
        raise BadReview(f"expected webhook response of {wanted[0]}, Kind={wanted[1]}, got {found[0]}, Kind={found[1]}")
    if version == "v1" and response.get("uid") != uid:
        raise BadReview(f'expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    return response


def _patch(response: Mapping[str, Any], version: str) -> list[Any]:
    text, kind = response.get("patch"), response.get("patchType")
    if not text:
        if kind and version == "v1":
            raise BadReview("webhook returned response.patchType but not response.patch")
        return []
    if kind != "JSONPatch" and (version == "v1" or kind):
        raise BadReview(f'webhook returned response.patch with response.patchType "{kind or ""}", not "JSONPatch"')
    try:
        operations = orjson.loads(base64.b64decode(text, validate=True))
    except (TypeError, binascii.Error, orjson.JSONDecodeError) as e:
        raise BadReview(f"response.patch is no JSON patch: {e}") from e
    if not isinstance(operations, list):
        raise BadReview("response.patch is no JSON patch: it is no list")
    return operations


def _kind(info: ResourceInfo, subresource: str) -> dict[str, str]:
    """The kind of the object that travels: that of a subresource may be another one."""
    form = info.subresources.get(subresource, info)
    return {"group": form.group, "version": form.version, "kind": form.kind}


def _resource(info: ResourceInfo) -> dict[str, str]:
    return {"group": info.group, "version": info.version, "resource": info.plural}
