"""Mutating and validating webhook configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rayplane.control_plane.api.errors import duplicate, invalid, not_supported, quote, required
from rayplane.control_plane.api.kinds.admissionregistration.match_resources import (
    default_match,
    validate_conditions,
    validate_policy,
    validate_rule,
    validate_selectors,
)
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
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
_FORM = "; desired format: https://host[/path]"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    seen: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or ()):
        at, own = f"webhooks[{index}]", hook.get("name") or ""
        _qualified_name(own, f"{at}.name", errs)
        _webhook(hook, at, errs)
        validate_reviews(hook.get("admissionReviewVersions") or [], f"{at}.admissionReviewVersions", errs)
        if own and own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
    return errs


def _qualified_name(value: str, path: str, errs: Errors) -> None:
    """A domain of three parts at least."""
    if not value:
        errs.append(required(path))
    elif problems := names.subdomain_errors(value):
        errs.append(invalid(path, value, ",".join(problems)))
    elif value.count(".") < 2:
        errs.append(invalid(path, value, "should be a domain with at least three segments separated by dots"))


def _webhook(hook: Mapping[str, Any], path: str, errs: Errors) -> None:
    for index, rule in enumerate(hook.get("rules") or ()):
        validate_rule(rule, f"{path}.rules[{index}]", errs)
    one_of(hook.get("failurePolicy"), ("Fail", "Ignore"), f"{path}.failurePolicy", errs)
    validate_policy(hook, path, errs)
    effects, seconds = hook.get("sideEffects"), hook.get("timeoutSeconds")
    if effects is None:
        errs.append(required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun"))
    elif effects not in _SIDE_EFFECTS:
        errs.append(not_supported(f"{path}.sideEffects", effects, _SIDE_EFFECTS))
    if seconds is not None and not 1 <= seconds <= _SECONDS_MAX:
        text = f"the timeout value must be between 1 and {_SECONDS_MAX} seconds"
        errs.append(invalid(f"{path}.timeoutSeconds", seconds, text))
    validate_selectors(hook, path, errs)
    if hook.get("reinvocationPolicy") is not None:
        one_of(hook["reinvocationPolicy"], ("IfNeeded", "Never"), f"{path}.reinvocationPolicy", errs)
    validate_client(hook.get("clientConfig") or {}, f"{path}.clientConfig", errs)
    validate_conditions(hook.get("matchConditions") or (), f"{path}.matchConditions", errs)


_SECONDS_MAX = 30


def validate_reviews(versions: Sequence[str], path: str, errs: Errors) -> None:
    """The versions of reviews that a webhook reads."""
    if not versions:
        errs.append(required(path, "must specify one of v1, v1beta1"))
        return
    seen: set[str] = set()
    for index, version in enumerate(versions):
        if version in seen:
            errs.append(invalid(f"{path}[{index}]", version, "duplicate version"))
            continue
        seen.add(version)
        checked(names.dns1035_errors(version), version, f"{path}[{index}]", errs)
    if seen.isdisjoint(_REVIEWS):
        errs.append(invalid(path, versions, "must include at least one of v1, v1beta1"))


def validate_client(config: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Where a webhook is."""
    url, target = config.get("url"), config.get("service")
    if (url is None) == (target is None):
        errs.append(required(path, "exactly one of url or service is required"))
    elif url is not None:
        _url(url, f"{path}.url", errs)
    elif target is not None:
        _service(target, f"{path}.service", errs)


def _url(url: str, path: str, errs: Errors) -> None:
    problem = _unreadable(url)
    if problem:
        errs.append(required(path, f"url must be a valid URL: parse {quote(url)}: {problem}{_FORM}"))
        return
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme != "https":
        errs.append(invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{_FORM}"))
    if not host:
        errs.append(invalid(path, host, f"host must be provided{_FORM}"))
    if at:
        errs.append(invalid(path, user, "user information is not permitted in the URL"))
    if parts.fragment:
        errs.append(invalid(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        errs.append(invalid(path, parts.query, "query parameters are not permitted in the URL"))


def _unreadable(url: str) -> str:
    """Why it is no URL at all; empty for one that is."""
    if any(letter < " " or letter == "\x7f" for letter in url):
        return "net/url: invalid control character in URL"
    if url.startswith(":"):
        return "missing protocol scheme"
    if not url[:1].isalpha() and ":" in url.partition("/")[0]:
        return "first path segment in URL cannot contain colon"
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "invalid host"
    if " " in host:
        return 'invalid character " " in host name'
    port = host.rpartition("]")[2].partition(":")[2]
    return "" if not port or (port.isascii() and port.isdigit()) else f"invalid port {quote(':' + port)} after host"


def _service(target: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("name", "namespace"):
        if not target.get(field):
            errs.append(required(f"{path}.{field}", f"service {field} is required"))
    port, below = target.get("port") or 0, target.get("path")
    if not 1 <= port <= 65535:
        errs.append(invalid(f"{path}.port", port, "port is not valid: must be between 1 and 65535, inclusive"))
    if below is None or below in ("", "/"):
        return
    if below == "//":
        errs.append(invalid(f"{path}.path", below, "segment[0] may not be empty"))
        return
    if not below.startswith("/"):
        errs.append(invalid(f"{path}.path", below, "must start with a '/'"))
    for index, step in enumerate(below[1:].removesuffix("/").split("/")):
        if step:
            problems = [f"segment[{index}]: {problem}" for problem in names.subdomain_errors(step)]
        else:
            problems = [f"segment[{index}] may not be empty"]
        checked(problems, below, f"{path}.path", errs)


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
