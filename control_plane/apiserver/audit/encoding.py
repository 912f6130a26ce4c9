"""Records as `audit.k8s.io/v1` Events, one JSON line each. Pure; runs in the log's thread."""

import json
from typing import Any

import orjson

from rayplane.control_plane.api.audit import Level
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery import decoding
from rayplane.control_plane.api.meta import Object, format_micro_time
from rayplane.control_plane.apiserver.audit.trail import Record
from rayplane.control_plane.apiserver.requests import User


def encode(record: Record) -> bytes:
    """The line, with its end."""
    level, asked = record.decision.level, record.asked
    request = _parsed(record.request)
    response = _parsed(record.response)
    event: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": level.text,
        "auditID": record.id,
        "stage": str(record.stage),
        "requestURI": asked.uri,
        "verb": asked.verb,
        "user": _user(record.user),
    }
    if record.impersonated is not None:
        event["impersonatedUser"] = _user(record.impersonated)
    if record.constraint:
        event["authenticationMetadata"] = {"impersonationConstraint": record.constraint}
    if asked.source_ips:
        event["sourceIPs"] = list(asked.source_ips)
    if asked.user_agent:
        event["userAgent"] = asked.user_agent
    if asked.resource:
        event["objectRef"] = _reference(record, request)
    if record.code:
        event["responseStatus"] = _status(record, response)
    if request is not None and level >= Level.REQUEST:
        event["requestObject"] = _shown(request, record)
    if response is not None and level == Level.REQUEST_RESPONSE:
        event["responseObject"] = _shown(response, record)
    event["requestReceivedTimestamp"] = format_micro_time(record.received)
    event["stageTimestamp"] = format_micro_time(record.at)
    if record.annotations:
        event["annotations"] = dict(record.annotations)
    try:
        return orjson.dumps(event) + b"\n"
    except TypeError:
        # Headers may hold half a character, which no UTF-8 can say: escaped it is JSON all the same.
        return json.dumps(event).encode() + b"\n"


def _user(user: User | None) -> Object:
    return user.info if user is not None else {}


def _parsed(body: tuple[bytes, str] | None) -> Any:
    """What a body holds; None for one that holds nothing that can be read."""
    if body is None or not body[0]:
        return None
    data, media = body
    try:
        kind = decoding.media_type(media)
        if kind.endswith("+json"):
            return orjson.loads(data)
        return decoding.decode(data, decoding.YAML if kind.endswith("yaml") else media)
    except (ApiError, orjson.JSONDecodeError, RecursionError):
        return None


def _reference(record: Record, request: Any) -> Object:
    asked = record.asked
    given = request.get("metadata") if isinstance(request, dict) and asked.verb in ("create", "update") else None
    meta = given if isinstance(given, dict) else {}
    found = {
        "resource": asked.resource,
        "namespace": asked.namespace,
        "name": asked.name or meta.get("name"),
        "uid": meta.get("uid"),
        "apiGroup": asked.group,
        "apiVersion": asked.version,
        "resourceVersion": meta.get("resourceVersion"),
        "subresource": asked.subresource,
    }
    return {key: value for key, value in found.items() if value and isinstance(value, str)}


def _status(record: Record, response: Any) -> Object:
    status: Object = {"metadata": {}}
    if isinstance(response, dict) and response.get("kind") == "Status":
        kept = ("status", "message", "reason", "details")
        status |= {field: response[field] for field in kept if response.get(field)}
    elif record.message:
        status["message"] = record.message
    status["code"] = record.code
    return status


def _shown(body: Any, record: Record) -> Any:
    if record.decision.omit_managed_fields and isinstance(body, dict):
        for one in (body, *(body.get("items") or ())):
            meta = one.get("metadata") if isinstance(one, dict) else None
            if isinstance(meta, dict):
                meta.pop("managedFields", None)
    return body
