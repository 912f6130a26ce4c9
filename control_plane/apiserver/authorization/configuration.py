"""AuthorizationConfiguration: who decides about requests, in which order. Pure.

Source: apiserver.config.k8s.io/v1, apiserver's `pkg/apis/apiserver/validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from rayplane.control_plane.api.config_files import ConfigFileError, read_document, read_fields
from rayplane.control_plane.api.errors import FieldError, duplicate, invalid, not_supported, required, too_many
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.cel import (
    BOOL,
    STRING,
    CompileError,
    Declarations,
    Program,
    Type,
    compile,
    list_of,
    map_of,
)
from rayplane.control_plane.durations import DurationError, parse_duration

KIND: Final = "AuthorizationConfiguration"
VERSIONS: Final = ("apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1")
NODE, RBAC, WEBHOOK = "Node", "RBAC", "Webhook"
CONDITIONS_MAX: Final = 64
TIMEOUT_MAX_S: Final = 30.0

_AUTHORIZER = {"type": str, "name": str, "webhook": dict}
_WEBHOOK = {
    "authorizedTTL": str,
    "cacheAuthorizedRequests": bool,
    "cacheUnauthorizedRequests": bool,
    "unauthorizedTTL": str,
    "timeout": str,
    "subjectAccessReviewVersion": str,
    "matchConditionSubjectAccessReviewVersion": str,
    "failurePolicy": str,
    "connectionInfo": dict,
    "matchConditions": list,
}
_CONNECTION = {"type": str, "kubeConfigFile": str}
_Errors = list[FieldError]


def _object(kind: str, /, **fields: Type) -> Type:
    return Type("object", (), f"kubernetes.{kind}", fields=fields)


_TEXTS: Final = list_of(STRING)
_REQUIREMENT: Final = _object("SelectorRequirement", key=STRING, operator=STRING, values=_TEXTS)
_SELECTOR: Final = _object("SelectorAttributes", rawSelector=STRING, requirements=list_of(_REQUIREMENT))
_RESOURCE: Final = _object(
    "ResourceAttributes",
    namespace=STRING,
    verb=STRING,
    group=STRING,
    version=STRING,
    resource=STRING,
    subresource=STRING,
    name=STRING,
    fieldSelector=_SELECTOR,
    labelSelector=_SELECTOR,
)
_SPEC: Final = _object(
    "SubjectAccessReviewSpec",
    resourceAttributes=_RESOURCE,
    nonResourceAttributes=_object("NonResourceAttributes", path=STRING, verb=STRING),
    user=STRING,
    groups=_TEXTS,
    extra=map_of(STRING, _TEXTS),
    uid=STRING,
)
REQUEST: Final = Declarations({"request": _SPEC})
"""What a condition may look at: the spec of the SubjectAccessReview that would be sent."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A webhook that decides."""

    name: str
    kubeconfig: str
    timeout_s: float = 30.0
    allowed_s: float = 300.0
    """So long a permission is remembered; 0 is not at all. `denied_s`: what it does not permit."""
    denied_s: float = 30.0
    denies_when_it_fails: bool = False
    conditions: tuple[Program, ...] = ()


Step = str | WebhookSettings
"""NODE, RBAC, or a webhook."""
USUAL: Final[tuple[Step, ...]] = (NODE, RBAC)


def read_authorization(text: str) -> tuple[Step, ...]:
    """Who decides, in their order; without text Kubernetes' usual two. ConfigFileError."""
    if not text:
        return USUAL
    errors: _Errors = []
    known = {"apiVersion": str, "kind": str, "authorizers": list}
    given = read_fields(read_document(text, KIND, VERSIONS, errors), known, "", errors)
    steps: list[Step] = []
    taken: set[str] = set()
    for at, one in enumerate(given.get("authorizers") or ()):
        step = _step(read_fields(one, _AUTHORIZER, f"authorizers[{at}]", errors), f"authorizers[{at}]", taken, errors)
        if step in steps:
            errors.append(duplicate(f"authorizers[{at}].type", step))
        if step is not None:
            steps.append(step)
    if not given.get("authorizers"):
        errors.append(required("authorizers", "at least one authorization mode must be defined"))
    if errors:
        raise ConfigFileError.of(errors)
    return tuple(steps)


def _step(given: Mapping[str, Any], path: str, taken: set[str], errors: _Errors) -> Step | None:
    kind, name = given.get("type") or "", given.get("name") or ""
    if kind not in (NODE, RBAC, WEBHOOK):
        errors.append(not_supported(f"{path}.type", kind, [NODE, RBAC, WEBHOOK]) if kind else required(f"{path}.type"))
        return None
    if not name:
        errors.append(required(f"{path}.name"))
    elif name in taken:
        errors.append(duplicate(f"{path}.name", name))
    else:
        problems = ", ".join(names.subdomain_errors(name))
        if problems:
            errors.append(invalid(f"{path}.name", name, f"authorizer name is invalid: {problems}"))
    taken.add(name)
    webhook = given.get("webhook")
    if kind != WEBHOOK:
        if webhook is not None:
            errors.append(invalid(f"{path}.webhook", "non-null", "may only be specified when type=Webhook"))
        return kind
    if webhook is None:
        errors.append(required(f"{path}.webhook", "required when type=Webhook"))
        return None
    return _webhook(webhook, name, f"{path}.webhook", errors)


def _webhook(value: Any, name: str, path: str, errors: _Errors) -> WebhookSettings:
    given = read_fields(value, _WEBHOOK, path, errors)
    timeout = _span(given, "timeout", path, errors)
    if timeout > TIMEOUT_MAX_S:
        errors.append(invalid(f"{path}.timeout", given["timeout"], "must be > 0s and <= 30s"))
    version = given.get("subjectAccessReviewVersion") or ""
    if version != "v1":
        at = f"{path}.subjectAccessReviewVersion"
        errors.append(not_supported(at, version, ["v1"]) if version else required(at))
    policy = given.get("failurePolicy") or ""
    if policy not in ("NoOpinion", "Deny"):
        at = f"{path}.failurePolicy"
        errors.append(not_supported(at, policy, ["NoOpinion", "Deny"]) if policy else required(at))
    allowed, denied = (_span(given, part, path, errors) for part in ("authorizedTTL", "unauthorizedTTL"))
    return WebhookSettings(
        name=name,
        kubeconfig=_kubeconfig(given, f"{path}.connectionInfo", errors),
        timeout_s=timeout,
        allowed_s=allowed if given.get("cacheAuthorizedRequests", True) else 0.0,
        denied_s=denied if given.get("cacheUnauthorizedRequests", True) else 0.0,
        denies_when_it_fails=policy == "Deny",
        conditions=_conditions(given, path, errors),
    )


def _span(given: Mapping[str, Any], part: str, path: str, errors: _Errors) -> float:
    text = given.get(part) or ""
    if not text:
        errors.append(required(f"{path}.{part}"))
        return 0.0
    try:
        span = parse_duration(text)
    except DurationError as e:
        errors.append(invalid(f"{path}.{part}", text, str(e)))
        return 0.0
    if span <= 0:
        errors.append(invalid(f"{path}.{part}", text, "must be > 0s"))
    return span


def _kubeconfig(given: Mapping[str, Any], path: str, errors: _Errors) -> str:
    connection = read_fields(given.get("connectionInfo") or {}, _CONNECTION, path, errors)
    kind, file = connection.get("type") or "", connection.get("kubeConfigFile") or ""
    if kind != "KubeConfigFile":
        # API servers are no pods here, so there is nothing in the cluster that they could go by.
        at = f"{path}.type"
        errors.append(not_supported(at, kind, ["KubeConfigFile"]) if kind else required(at))
    elif not file:
        errors.append(required(f"{path}.kubeConfigFile"))
    elif not PurePosixPath(file).is_absolute():
        errors.append(invalid(f"{path}.kubeConfigFile", file, "must be an absolute path"))
    return file


def _conditions(given: Mapping[str, Any], path: str, errors: _Errors) -> tuple[Program, ...]:
    asked = given.get("matchConditions") or ()
    if len(asked) > CONDITIONS_MAX:
        errors.append(too_many(f"{path}.matchConditions", len(asked), CONDITIONS_MAX))
        return ()
    field = "matchConditionSubjectAccessReviewVersion"
    version, at = given.get(field) or "", f"{path}.{field}"
    if asked and not version:
        errors.append(required(at, "required if match conditions are specified"))
    elif version not in ("", "v1"):
        errors.append(not_supported(at, version, ["v1"]))
    found: dict[str, Program] = {}
    for index, one in enumerate(asked):
        where = f"{path}.matchConditions[{index}].expression"
        text = read_fields(one, {"expression": str}, f"{path}.matchConditions[{index}]", errors).get("expression") or ""
        if not text.strip():
            errors.append(required(where))
        elif text in found:
            errors.append(duplicate(where, text))
        else:
            _compile(text, where, found, errors)
    return tuple(found.values())


def _compile(text: str, path: str, found: dict[str, Program], errors: _Errors) -> None:
    try:
        program = compile(text, REQUEST)
    except CompileError as e:
        errors.append(invalid(path, text, f"compilation failed: {e}"))
        return
    if program.type != BOOL:
        errors.append(invalid(path, text, "must evaluate to bool"))
    found[text] = program
