"""Conversion of custom objects by a webhook: what it is asked, what its answers may change, what it said before. Pure.

Who needs an object in another version looks it up in what is known (`Known.get`); what is not known yet is an error
that says what to ask (`Unconverted`). Metadata stay what they are but for labels and annotations.

Source: apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`, apiextensions.k8s.io ConversionReview.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from rayplane.control_plane.api.errors import FieldError, RequestEntityTooLarge, ServiceUnavailable
from rayplane.control_plane.api.kinds.metadata import validate_annotations, validate_labels
from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.meta import Object

REVIEWS: Final = ("v1", "v1beta1")
_GROUP: Final = "apiextensions.k8s.io"
# What remembering an answer takes beside it.
_EACH_BYTES: Final = 256
# What the system keeps, however often it changes: the webhook is not asked again for it.
_KEPT: Final = frozenset({"resourceVersion", "managedFields", "generation"})
_CHANGED: Final = ("labels", "annotations")
_SAME: Final = (("name", "name"), ("namespace", "namespace"), ("uid", "UID"))


@dataclass(frozen=True, slots=True)
class Webhook:
    """The webhook that converts the objects of a definition."""

    definition: str
    client: dict[str, Any]
    """A WebhookClientConfig."""
    version: str
    """Of its ConversionReviews."""
    token: bytes = field(default=b"", compare=False)
    """What tells it from all others."""

    @staticmethod
    def of(crd: Object) -> Webhook | None:
        """None where nobody is asked."""
        conversion = crd["spec"].get("conversion") or {}
        if conversion.get("strategy") != "Webhook":
            return None
        webhook = conversion.get("webhook") or {}
        wanted = webhook.get("conversionReviewVersions") or ()
        version = next((v for v in wanted if v in REVIEWS), REVIEWS[0])
        client, name = webhook.get("clientConfig") or {}, crd["metadata"]["name"]
        token = orjson.dumps([name, crd["metadata"].get("uid"), client, version], option=orjson.OPT_SORT_KEYS)
        return Webhook(name, client, version, token)


@dataclass(frozen=True, slots=True)
class Task:
    """An object that is to be converted."""

    webhook: Webhook
    object: Object
    """Without what the system keeps."""
    api_version: str
    """The version that it is wanted in."""
    key: bytes
    """The same for the same bytes."""

    @staticmethod
    def of(webhook: Webhook, o: Object, api_version: str) -> Task:
        slim = {**o, "metadata": {k: v for k, v in o["metadata"].items() if k not in _KEPT}}
        text = orjson.dumps(slim, option=orjson.OPT_SORT_KEYS)
        key = hashlib.blake2b(b"\0".join((webhook.token, api_version.encode(), text)), digest_size=16).digest()
        return Task(webhook, slim, api_version, key)


class Unconverted(ServiceUnavailable):
    """An object of which nobody knows yet what it is in another version: the webhook is to be asked."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"an object of {task.webhook.definition} is being converted: try again", retry_after=1)
        self.task = task


class BadConversion(ValueError):
    """An answer of a webhook that is none to the question, or a refusal; in Kubernetes' words."""


class Known:
    """The answers of webhooks, up to so many bytes: those that are known longest go first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._made: dict[bytes, bytes] = {}

    def get(self, webhook: Webhook, o: Object, api_version: str) -> Object:
        """An object in another version, owned by the caller. Raises Unconverted."""
        task = Task.of(webhook, o, api_version)
        found = self._made.get(task.key)
        if found is None:
            raise Unconverted(task)
        made: Object = orjson.loads(found)
        meta = {k: v for k, v in o["metadata"].items() if k not in _CHANGED}
        return {**made, "metadata": meta | made["metadata"]}

    def __contains__(self, task: Task) -> bool:
        return task.key in self._made

    def learn(self, task: Task, converted: Object) -> None:
        """Remember what a webhook made of an object."""
        meta = converted["metadata"]
        kept = {k: meta[k] for k in _CHANGED if meta.get(k) is not None}
        made = orjson.dumps({**converted, "metadata": kept})
        before = self._made.pop(task.key, None)
        self._bytes += len(made) - len(before) if before is not None else len(made) + _EACH_BYTES
        self._made[task.key] = made
        while self._bytes > self._bytes_max and len(self._made) > 1:
            self._bytes -= len(self._made.pop(next(iter(self._made)))) + _EACH_BYTES


# --- reviews --------------------------------------------------------------------------------------


def review(tasks: Sequence[Task], uid: str) -> bytes:
    """The body of a question; all tasks are of one webhook and one version."""
    request = {"uid": uid, "desiredAPIVersion": tasks[0].api_version, "objects": [task.object for task in tasks]}
    return orjson.dumps(
        {"kind": "ConversionReview", "apiVersion": f"{_GROUP}/{tasks[0].webhook.version}", "request": request}
    )


def failed(tasks: Sequence[Task], why: str) -> str:
    """What is said of a webhook that gave no answer, or a refusal."""
    return f"conversion webhook for {_kind_of(tasks[0].object)} failed: {why}"


def converted(tasks: Sequence[Task], uid: str, answer: bytes) -> list[Object]:
    """The objects of an answer, in the order of the question. Raises BadConversion."""
    webhook, kind = tasks[0].webhook, _kind_of(tasks[0].object)
    try:
        objects = _objects(webhook.version, uid, answer)
    except BadConversion as e:
        raise BadConversion(failed(tasks, str(e))) from e
    if len(objects) != len(tasks):
        text = f"conversion webhook for {kind} returned {len(objects)} objects, expected {len(tasks)}"
        raise BadConversion(text)
    for index, (task, o) in enumerate(zip(tasks, objects, strict=True)):
        problem = next(_problems(task, o), "")
        if problem:
            at = f"converted object at index {index}" if len(tasks) > 1 else "object"
            raise BadConversion(f"conversion webhook for {kind} returned invalid {at}: {problem}")
    return objects


def _objects(version: str, uid: str, answer: bytes) -> list[Any]:
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError as e:
        raise BadConversion(f"couldn't get JSON from the webhook's response: {e}") from e
    if not isinstance(document, dict):
        raise BadConversion("the webhook's response is no ConversionReview")
    # Answers of v1beta1 may leave out what they are, and what they answer.
    if version == "v1":
        found = _kind_of(document)
        if found != f"{_GROUP}/v1, Kind=ConversionReview":
            raise BadConversion(f"expected webhook response of {_GROUP}/v1, Kind=ConversionReview, got {found}")
    response = document.get("response")
    if not isinstance(response, dict):
        raise BadConversion("no response provided")
    if version == "v1" and response.get("uid") != uid:
        raise BadConversion(f'expected response.uid="{uid}", got "{str(response.get("uid") or "")[:100]}"')
    result = response.get("result")
    result = result if isinstance(result, dict) else {}
    status, message = result.get("status") or "", result.get("message")
    if status != "Success":
        said = message if isinstance(message, str) else ""
        raise BadConversion(said or f"response.result.status was '{str(status)[:100]}', not 'Success'")
    objects = response.get("convertedObjects") or []
    if not isinstance(objects, list):
        raise BadConversion("response.convertedObjects is no list")
    return objects


def _problems(task: Task, o: Any) -> Iterator[str]:
    """What is wrong with a converted object; the first is told."""
    before = task.object
    if not isinstance(o, dict):
        yield "it is no object"
        return
    if o.get("apiVersion") != task.api_version:
        found = str(o.get("apiVersion") or "")[:100]
        yield f"invalid groupVersion (expected {task.api_version}, received {found})"
    if o.get("kind") != before["kind"]:
        yield f"invalid kind (expected {before['kind']}, received {str(o.get('kind') or '')[:100]})"
    meta, had = o.get("metadata"), before["metadata"]
    if not isinstance(meta, dict):
        yield "missing metadata in converted object" if meta is None else "invalid metadata in converted object"
        return
    for name, shown in _SAME:
        if (meta.get(name) or "") != (had.get(name) or ""):
            yield f"must have the same {shown}: {had.get(name) or ''} != {str(meta.get(name) or '')[:300]}"
    yield from _metadata_problems(meta, had)
    try:
        budget.check(o)
    except (budget.TooDeep, RequestEntityTooLarge) as e:
        yield str(e)


def _metadata_problems(meta: dict[str, Any], had: dict[str, Any]) -> Iterator[str]:
    for name, validate in (("labels", validate_labels), ("annotations", validate_annotations)):
        given = meta.get(name)
        if given is None:
            continue
        if not isinstance(given, dict):
            yield f"invalid metadata.{name} in converted object"
            return
        odd = next((key for key, value in given.items() if not isinstance(value, str)), None)
        if odd is not None:
            yield f"metadata.{name}[{odd[:100]}] must be a string in converted object"
            return
        if given != (had.get(name) or {}):
            errors: list[FieldError] = []
            validate(given, f"metadata.{name}", errors)
            yield from (str(e) for e in errors)


def _kind_of(o: dict[str, Any]) -> str:
    return f"{str(o.get('apiVersion') or '')[:300]}, Kind={str(o.get('kind') or '')[:100]}"
