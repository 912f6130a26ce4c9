"""Mutating and validating webhook configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import default_match, validate_match
from rayplane.control_plane.api.kinds.metadata import Errors, checked, in_range, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    for hook in obj.get("webhooks") or ():
        default_match(hook)
        if not hook.get("failurePolicy"):
            hook["failurePolicy"] = "Fail"
        if hook.get("timeoutSeconds") is None:
            hook["timeoutSeconds"] = 10
        target = (hook.get("clientConfig") or {}).get("service")
        if target is not None and not target.get("port"):
            target["port"] = 443


def _default_mutating(obj: Object) -> None:
    _default(obj)
    for hook in obj.get("webhooks") or ():
        if not hook.get("reinvocationPolicy"):
            hook["reinvocationPolicy"] = "Never"


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len(obj.get("webhooks") or ()), age(obj, now)]


_SIDE_EFFECTS = ("None", "NoneOnDryRun")
_REVIEWS = ("v1", "v1beta1")


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    seen: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or ()):
        at, own = f"webhooks[{index}]", hook.get("name") or ""
        checked(names.subdomain_errors(own), own, f"{at}.name", errs)
        if own.count(".") < 2:
            errs.append(invalid(f"{at}.name", own, "should be a domain with at least three segments separated by dots"))
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        _webhook(hook, at, errs)
    return errs


def _webhook(hook: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_match(hook, path, errs)
    one_of(hook.get("failurePolicy"), ("Fail", "Ignore"), f"{path}.failurePolicy", errs)
    effects = hook.get("sideEffects")
    if not effects:
        errs.append(required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun"))
    elif effects not in _SIDE_EFFECTS:
        errs.append(not_supported(f"{path}.sideEffects", effects, _SIDE_EFFECTS))
    in_range(hook.get("timeoutSeconds"), 1, 30, f"{path}.timeoutSeconds", errs)
    versions = hook.get("admissionReviewVersions") or []
    if not versions:
        errs.append(required(f"{path}.admissionReviewVersions", "must specify one of v1, v1beta1"))
    elif not set(versions) & set(_REVIEWS):
        errs.append(invalid(f"{path}.admissionReviewVersions", versions, "must include at least one of v1, v1beta1"))
    if hook.get("reinvocationPolicy") is not None:
        one_of(hook["reinvocationPolicy"], ("IfNeeded", "Never"), f"{path}.reinvocationPolicy", errs)
    _client(hook.get("clientConfig") or {}, f"{path}.clientConfig", errs)


def _client(config: Mapping[str, Any], path: str, errs: Errors) -> None:
    url, target = config.get("url"), config.get("service")
    if (url is None) == (target is None):
        errs.append(required(path, "exactly one of url or service is required"))
    if url is not None and not url.startswith("https://"):
        errs.append(invalid(f"{path}.url", url, "'https' is the only allowed URL scheme"))
    if target is not None:
        for field in ("namespace", "name"):
            if not target.get(field):
                errs.append(required(f"{path}.service.{field}"))
        in_range(target.get("port"), 1, 65535, f"{path}.service.port", errs)


RULES = {
    "MutatingWebhookConfiguration": replace(
        AS_WRITTEN,
        defaults=_default_mutating,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Webhooks", "integer"), AGE), _row),
    ),
    "ValidatingWebhookConfiguration": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Webhooks", "integer"), AGE), _row),
    ),
}
