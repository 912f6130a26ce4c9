"""Errors of the API as errors of gRPC: a status code, a google.rpc.Status for every library, the Status itself."""

import re
from collections.abc import Iterator
from typing import Any

import grpc
import orjson
from google.protobuf.message import Message

from rayplane.control_plane.api.errors import ApiError, qualified
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.google.rpc import error_details_pb2 as details_pb
from rayplane.proto.google.rpc import status_pb2
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

DOMAIN = "kubernetes.io"
#: Of a google.rpc.Status. gRPC's own library takes 8 KiB of headers before it begins to refuse them at random.
STATUS_BYTES_MAX = 4096
#: Of the Status beside it: what our own peers take.
JSON_BYTES_MAX = 16 * 1024
_TEXT_CHARS_MAX = 1024
_ANY = "type.googleapis.com/"
_word_begins = re.compile(r"(?<=[a-z])(?=[A-Z])").sub


def rpc_error(error: ApiError) -> RpcError:
    """The error of a call. What is too long for headers tells of fewer causes, and of those in fewer words."""
    code = getattr(grpc.StatusCode, error.grpc_status, grpc.StatusCode.UNKNOWN)
    status = error.status
    json = orjson.dumps(status)
    while len(json) > JSON_BYTES_MAX:
        status = _shorter(status)
        json = orjson.dumps(status)
    return RpcError(code, error.message, json, google_status=_google_status(code, error, json))


def _shorter(status: dict[str, Any]) -> dict[str, Any]:
    """The same with half of its causes; without any, with half of its message."""
    details = status.get("details") or {}
    causes = details.get("causes") or ()
    if causes:
        return {**status, "details": {**details, "causes": causes[: len(causes) // 2]}}
    # Only the message can have any length: names and kinds are short.
    return {**status, "details": {}, "message": status["message"][: len(status["message"]) // 2]}


def _google_status(code: grpc.StatusCode, error: ApiError, json: bytes) -> bytes:
    made = status_pb2.Status(code=code.value[0], message=error.message[:_TEXT_CHARS_MAX])
    for detail in (*_details(error), pb.KubernetesStatus(json=json)):
        made.details.add(type_url=_ANY + detail.DESCRIPTOR.full_name, value=detail.SerializeToString())
        if made.ByteSize() > STATUS_BYTES_MAX:
            del made.details[-1]
    return made.SerializeToString()


def _details(error: ApiError) -> Iterator[Message]:
    about = error.details or {}
    kind, name = qualified(about.get("kind") or "", about.get("group") or ""), about.get("name") or ""
    facts = {"reason": error.reason, "code": str(error.code), "kind": kind, "name": name}
    yield details_pb.ErrorInfo(
        reason=_constant(error.reason) or "UNKNOWN",
        domain=DOMAIN,
        metadata={key: str(value)[:_TEXT_CHARS_MAX] for key, value in facts.items() if value},
    )
    if error.retry_after is not None:
        retry = details_pb.RetryInfo()
        retry.retry_delay.seconds = error.retry_after
        yield retry
    causes = [c for c in about.get("causes") or () if isinstance(c, dict)]
    if error.code == 409 and error.reason == "Conflict":
        # Of a plain conflict there are no causes: all that was asked for is one.
        yield _fitting(
            details_pb.PreconditionFailure(),
            "violations",
            [_violation(c) for c in causes]
            or [
                details_pb.PreconditionFailure.Violation(
                    type="CONFLICT", subject=f"{kind}/{name}", description=error.message[:_TEXT_CHARS_MAX]
                )
            ],
        )
    elif causes:
        yield _fitting(details_pb.BadRequest(), "field_violations", [_field_violation(c) for c in causes])
    if kind and name:
        yield details_pb.ResourceInfo(resource_type=kind, resource_name=name)


def _violation(cause: dict[str, Any]) -> Message:
    reason, field, text = _parts(cause)
    return details_pb.PreconditionFailure.Violation(type=reason, subject=field, description=text)


def _field_violation(cause: dict[str, Any]) -> Message:
    reason, field, text = _parts(cause)
    return details_pb.BadRequest.FieldViolation(reason=reason, field=field, description=text)


def _parts(cause: dict[str, Any]) -> tuple[str, str, str]:
    reason, field, text = (str(cause.get(key) or "")[:_TEXT_CHARS_MAX] for key in ("reason", "field", "message"))
    return _constant(reason), field, text


def _fitting(detail: Any, field: str, found: list[Message]) -> Message:
    """The detail with as many of the violations as there is room for."""
    violations, left = getattr(detail, field), STATUS_BYTES_MAX // 2
    for violation in found:
        left -= violation.ByteSize()
        if left < 0:
            break
        violations.append(violation)
    made: Message = detail
    return made


def _constant(reason: str) -> str:
    """NotFound as NOT_FOUND, as reasons are written in ErrorInfo."""
    return _word_begins("_", reason).upper()
