"""Errors of the API: one exception tree for what Kubernetes says with a `Status` object.

`ApiError` carries message, reason, HTTP code and details; `.status` is the wire form, `from_status`
its inverse (by reason, then by code, never by text). `REASONS` is the only table between reasons,
HTTP codes and gRPC status names. `FieldError` is one finding of validation.
Source: Kubernetes API reference `meta/v1 Status`, apimachinery `field.Error`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


class ReasonRow(NamedTuple):
    """The meaning of one status reason on each wire."""

    reason: str
    code: int
    grpc: str


REASONS: tuple[ReasonRow, ...] = (
    ReasonRow("BadRequest", 400, "INVALID_ARGUMENT"),
    ReasonRow("Unauthorized", 401, "UNAUTHENTICATED"),
    ReasonRow("Forbidden", 403, "PERMISSION_DENIED"),
    ReasonRow("NotFound", 404, "NOT_FOUND"),
    ReasonRow("MethodNotAllowed", 405, "UNIMPLEMENTED"),
    ReasonRow("NotAcceptable", 406, "INVALID_ARGUMENT"),
    ReasonRow("AlreadyExists", 409, "ALREADY_EXISTS"),
    ReasonRow("Conflict", 409, "ABORTED"),
    ReasonRow("Expired", 410, "OUT_OF_RANGE"),
    ReasonRow("Gone", 410, "OUT_OF_RANGE"),
    ReasonRow("RequestEntityTooLarge", 413, "RESOURCE_EXHAUSTED"),
    ReasonRow("UnsupportedMediaType", 415, "INVALID_ARGUMENT"),
    ReasonRow("Invalid", 422, "INVALID_ARGUMENT"),
    ReasonRow("TooManyRequests", 429, "RESOURCE_EXHAUSTED"),
    ReasonRow("InternalError", 500, "INTERNAL"),
    ReasonRow("ServerTimeout", 500, "UNAVAILABLE"),
    ReasonRow("ServiceUnavailable", 503, "UNAVAILABLE"),
    ReasonRow("Timeout", 504, "DEADLINE_EXCEEDED"),
)
_GRPC_BY_REASON = {row.reason: row.grpc for row in REASONS}
_GRPC_BY_CODE = {row.code: row.grpc for row in reversed(REASONS)}


#: What one answer tells: characters of its message and of one value in it, findings of validation.
MESSAGE_CHARS_MAX = 64 * 1024
VALUE_CHARS_MAX = 8 * 1024
FINDINGS_MAX = 256


class ApiError(Exception):
    """Root of the errors the API answers with.

    `retryable` tells a client whether the same request may succeed later without a change.
    `retry_after` is in whole seconds and travels in `details.retryAfterSeconds`.
    """

    default_reason: ClassVar[str] = ""
    default_code: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    warnings: Sequence[str] = ()
    """What the client is told beside the refusal."""

    def __init__(
        self,
        message: str = "",
        *,
        details: dict[str, Any] | None = None,
        reason: str | None = None,
        code: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        if len(message) > MESSAGE_CHARS_MAX:
            message = message[:MESSAGE_CHARS_MAX] + "..."
        self.message = message or _DEFAULT_MESSAGES.get(type(self).__name__, type(self).__name__)
        self.reason = self.default_reason if reason is None else reason
        self.code = self.default_code if code is None else code
        self.details = dict(details) if details is not None else None
        if retry_after is not None:
            self.details = {**(self.details or {}), "retryAfterSeconds": retry_after}
        super().__init__(self.message)

    @property
    def retry_after(self) -> int | None:
        """Seconds the server asks to wait before a retry, or None."""
        value = (self.details or {}).get("retryAfterSeconds")
        return int(value) if value else None

    @property
    def status(self) -> dict[str, Any]:
        """The `meta/v1 Status` object of this error."""
        out: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            out["reason"] = self.reason
        if self.details is not None:
            out["details"] = self.details
        out["code"] = self.code
        return out

    @property
    def grpc_status(self) -> str:
        """Name of the gRPC status code this error travels under, such as `NOT_FOUND`."""
        return _GRPC_BY_REASON.get(self.reason) or _GRPC_BY_CODE.get(self.code, "UNKNOWN")


def _details(resource: str, name: str, group: str) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if resource:
        details["kind"] = resource
    return details


def qualified(resource: str, group: str) -> str:
    """`plural` or `plural.group`, as messages print a resource (or kind) with its group."""
    return f"{resource}.{group}" if group else resource


class BadRequest(ApiError):
    default_reason, default_code = "BadRequest", 400


class Unauthorized(ApiError):
    default_reason, default_code = "Unauthorized", 401


class Forbidden(ApiError):
    default_reason, default_code = "Forbidden", 403

    @classmethod
    def of(cls, resource: str, name: str, cause: str, *, group: str = "") -> Forbidden:
        """`pods "x" is forbidden: cause` (without the name when it is empty)."""
        what = qualified(resource, group) + (f' "{name}"' if name else "")
        return cls(f"{what} is forbidden: {cause}", details=_details(resource, name, group))


class NotFound(ApiError):
    default_reason, default_code = "NotFound", 404

    @classmethod
    def of(cls, resource: str, name: str, *, group: str = "") -> NotFound:
        """`pods "x" not found`."""
        text = f'{qualified(resource, group)} "{name}" not found'
        return cls(text, details=_details(resource, name, group))


class MethodNotAllowed(ApiError):
    default_reason, default_code = "MethodNotAllowed", 405


class NotAcceptable(ApiError):
    default_reason, default_code = "NotAcceptable", 406


class AlreadyExists(ApiError):
    default_reason, default_code = "AlreadyExists", 409

    @classmethod
    def of(cls, resource: str, name: str, *, group: str = "") -> AlreadyExists:
        """`pods "x" already exists`."""
        text = f'{qualified(resource, group)} "{name}" already exists'
        return cls(text, details=_details(resource, name, group))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class Conflict(ApiError):
    default_reason, default_code = "Conflict", 409

    @classmethod
    def of(cls, resource: str, name: str, cause: str = MODIFIED, *, group: str = "") -> Conflict:
        """`Operation cannot be fulfilled on pods "x": cause`."""
        text = f'Operation cannot be fulfilled on {qualified(resource, group)} "{name}": {cause}'
        return cls(text, details=_details(resource, name, group))


class Gone(ApiError):
    default_reason, default_code = "Gone", 410


class Expired(Gone):
    """A resource version or continue token too old to serve: list again."""

    default_reason = "Expired"


class RequestEntityTooLarge(ApiError):
    default_reason, default_code = "RequestEntityTooLarge", 413


class UnsupportedMediaType(ApiError):
    default_reason, default_code = "UnsupportedMediaType", 415


class Invalid(ApiError):
    default_reason, default_code = "Invalid", 422

    @classmethod
    def of(cls, kind: str, name: str, errors: Sequence[FieldError], *, group: str = "") -> Invalid:
        """`Pod "x" is invalid: ...` with one cause per error; equal texts are printed once."""
        errors, more = errors[:FINDINGS_MAX], len(errors) - FINDINGS_MAX
        texts = list(dict.fromkeys(str(error) for error in errors))
        if more > 0:
            texts.append(f"and {more} more")
        joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        text = f"{qualified(kind, group)} {quote(name)} is invalid" + (f": {joined}" if texts else "")
        details = _details(kind, name, group)
        details["causes"] = [error.cause for error in errors]
        return cls(text, details=details)


class TooManyRequests(ApiError):
    default_reason, default_code = "TooManyRequests", 429
    retryable = True


class InternalError(ApiError):
    default_reason, default_code = "InternalError", 500


class ServerTimeout(ApiError):
    default_reason, default_code = "ServerTimeout", 500
    retryable = True


class ServiceUnavailable(ApiError):
    default_reason, default_code = "ServiceUnavailable", 503
    retryable = True


class Timeout(ApiError):
    default_reason, default_code = "Timeout", 504
    retryable = True


_DEFAULT_MESSAGES = {
    "Unauthorized": "Unauthorized",
    "MethodNotAllowed": "the server does not allow this method on the requested resource",
    "NotFound": "the server could not find the requested resource",
    "NotAcceptable": "only the following media types are accepted: application/json",
    "TooManyRequests": ("the server has received too many requests and has asked us to try again later"),
    "ServiceUnavailable": "the server is currently unable to handle the request",
}
_CLASSES: tuple[type[ApiError], ...] = (
    BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists,
    Conflict, Expired, Gone, RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests,
    InternalError, ServerTimeout, ServiceUnavailable, Timeout,
)  # fmt: skip
_BY_REASON = {cls.default_reason: cls for cls in _CLASSES}
_BY_CODE = {cls.default_code: cls for cls in reversed(_CLASSES)}


def from_status(status: dict[str, Any]) -> ApiError:
    """The exception a `Status` stands for: by reason, else by HTTP code, else `ApiError`."""
    reason = status.get("reason") or ""
    code = int(status.get("code") or 0)
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code) or ApiError
    return cls(
        status.get("message") or "",
        details=status.get("details"),
        reason=reason,
        code=code or cls.default_code,
    )


# --- findings of validation ---------------------------------------------------------------------

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
DUPLICATE = "FieldValueDuplicate"
NOT_SUPPORTED = "FieldValueNotSupported"
FORBIDDEN = "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
NOT_FOUND = "FieldValueNotFound"
TYPE_INVALID = "FieldValueTypeInvalid"
INTERNAL = "InternalError"

_WORDS = {
    REQUIRED: "Required value",
    INVALID: "Invalid value",
    DUPLICATE: "Duplicate value",
    NOT_SUPPORTED: "Unsupported value",
    FORBIDDEN: "Forbidden",
    TOO_LONG: "Too long",
    TOO_MANY: "Too many",
    NOT_FOUND: "Not found",
    TYPE_INVALID: "Invalid value",
    INTERNAL: "Internal error",
}
_WITHOUT_VALUE = frozenset({REQUIRED, FORBIDDEN, TOO_LONG, INTERNAL})
_OMITTED = object()


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def quote(text: str) -> str:
    """A string as Go's %q prints it (non-ASCII letters stay)."""
    return json.dumps(text, ensure_ascii=False)


class Verbatim(str):
    """A value that field errors print just so."""

    __slots__ = ()


def render_value(value: Any) -> str:
    """How field errors print a bad value: text quoted, scalars bare, the rest as JSON."""
    if isinstance(value, Verbatim):
        return value
    if isinstance(value, str):
        return quote(value if len(value) <= VALUE_CHARS_MAX else value[:VALUE_CHARS_MAX] + "...")
    parts: list[str] = []
    size = 0
    for part in _ENCODER.iterencode(value):  # piece by piece: the value may be millions of them
        parts.append(part[:VALUE_CHARS_MAX])
        size += len(part)
        if size > VALUE_CHARS_MAX:
            parts.append("...")
            break
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding: `type` is a cause reason (REQUIRED, INVALID, ...), `field` its path.

    A path looks like `spec.ports[0].name` or `metadata.labels[key]`.
    """

    type: str
    field: str
    bad_value: Any = None
    detail: str = ""

    @property
    def body(self) -> str:
        """The text without the field's path, as `Status.details.causes[].message` carries it."""
        text = _WORDS[self.type]
        if self.type not in _WITHOUT_VALUE and self.bad_value is not _OMITTED:
            text += ": " + render_value(self.bad_value)
        return f"{text}: {self.detail}" if self.detail else text

    @property
    def cause(self) -> dict[str, str]:
        """The entry of `Status.details.causes`."""
        return {"reason": self.type, "message": self.body, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.body}"


def required(field: str, detail: str = "") -> FieldError:
    return FieldError(REQUIRED, field, None, detail)


def invalid(field: str, value: Any, detail: str) -> FieldError:
    return FieldError(INVALID, field, value, detail)


def invalid_without_value(field: str, detail: str) -> FieldError:
    """A value that is too much to be printed, or is no news."""
    return FieldError(INVALID, field, _OMITTED, detail)


def duplicate(field: str, value: Any) -> FieldError:
    return FieldError(DUPLICATE, field, value)


def forbidden(field: str, detail: str) -> FieldError:
    return FieldError(FORBIDDEN, field, None, detail)


def not_found(field: str, value: Any) -> FieldError:
    return FieldError(NOT_FOUND, field, value)


def not_supported(field: str, value: Any, supported: Iterable[str]) -> FieldError:
    """Unsupported value, with the supported ones in the order given."""
    names = ", ".join(quote(one) for one in supported)
    return FieldError(NOT_SUPPORTED, field, value, f"supported values: {names}" if names else "")


def too_long(field: str, max_bytes: int) -> FieldError:
    return FieldError(TOO_LONG, field, None, f"may not be more than {max_bytes} byte{'' if max_bytes == 1 else 's'}")


def too_many(field: str, actual: int, maximum: int) -> FieldError:
    return FieldError(TOO_MANY, field, actual, f"must have at most {maximum} item{'' if maximum == 1 else 's'}")
