"""Extenders as a file gives them, checked as kube-scheduler does. Pure.

Source: kubescheduler.config.k8s.io/v1 `Extender`, `ExtenderTLSConfig`, and kube-scheduler's validation of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.scheduler.config import Profile
from rayplane.control_plane.scheduler.configuration.arguments import span
from rayplane.control_plane.scheduler.extenders import Extender, ExtenderTLS
from rayplane.control_plane.scheduler.plugins.args import FitArgs

EXTENDERS_MAX: Final = 16
TIMEOUT_S: Final = 5.0
_Given = Mapping[str, Any]
_Errors = list[FieldError]
_FIT: Final = "NodeResourcesFit"


def read_extenders(given: Sequence[_Given], errors: _Errors) -> tuple[Extender, ...]:
    """The extenders, in the order in which they are asked."""
    if len(given) > EXTENDERS_MAX:
        errors.append(forbidden("extenders", f"at most {EXTENDERS_MAX} extenders"))
        return ()
    found = []
    managed: set[str] = set()
    for at, one in enumerate(given):
        path = f"extenders[{at}]"
        _check_resources(one, path, managed, errors)
        found.append(_extender(one, path, errors))
    binders = sum(bool(one.bind_verb) for one in found)
    if binders > 1:
        text = "only one extender can implement bind"
        errors.append(invalid("extenders", f"found {binders} extenders implementing bind", text))
    return tuple(found)


def with_ignored(profile: Profile, given: Sequence[_Given]) -> Profile:
    """The profile, whose NodeResourcesFit leaves alone what extenders count themselves (ignoredByScheduler)."""
    resources = [one for extender in given for one in extender.get("managedResources") or ()]
    ignored = frozenset(one.get("name") or "" for one in resources if one.get("ignoredByScheduler"))
    if not ignored:
        return profile
    fit = profile.args.get(_FIT) or FitArgs()
    return replace(
        profile, args={**profile.args, _FIT: replace(fit, ignored_resources=fit.ignored_resources | ignored)}
    )


def _extender(one: _Given, path: str, errors: _Errors) -> Extender:
    url, weight = one.get("urlPrefix") or "", one.get("weight") or 0
    if not _is_http(url):
        errors.append(invalid(f"{path}.urlPrefix", url, "must be an http or https URL with a host"))
    if one.get("prioritizeVerb") and weight <= 0:
        errors.append(invalid(f"{path}.weight", weight, "must have a positive weight applied to it"))
    timeout = span(one, "httpTimeout", path, errors, default=TIMEOUT_S)
    if timeout < 0:
        errors.append(invalid(f"{path}.httpTimeout", one["httpTimeout"], "must not be negative"))
    return Extender(
        url=url,
        filter_verb=one.get("filterVerb") or "",
        prioritize_verb=one.get("prioritizeVerb") or "",
        preempt_verb=one.get("preemptVerb") or "",
        bind_verb=one.get("bindVerb") or "",
        weight=weight,
        tls=_tls(one.get("tlsConfig") or {}, f"{path}.tlsConfig", bool(one.get("enableHTTPS")), errors),
        timeout_s=timeout or TIMEOUT_S,
        knows_nodes=bool(one.get("nodeCacheCapable")),
        resources=frozenset(resource.get("name") or "" for resource in one.get("managedResources") or ()),
        ignorable=bool(one.get("ignorable")),
    )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _tls(given: _Given, path: str, https: bool, errors: _Errors) -> ExtenderTLS:
    """With `enableHTTPS` and without an authority, what an extender shows is not checked, as in kube-scheduler."""
    has_ca = bool(given.get("caFile") or given.get("caData"))
    if given.get("insecure") and has_ca:
        text = "specifying a root certificates file with the insecure flag is not allowed"
        errors.append(forbidden(f"{path}.insecure", text))
    for one, other in (("cert", "key"), ("key", "cert")):
        if _has(given, one) and not _has(given, other):
            errors.append(forbidden(path, f"{one}Data or {one}File must be specified with {other}Data or {other}File"))
    return ExtenderTLS(
        insecure=bool(given.get("insecure")) or (https and not has_ca),
        server_name=given.get("serverName") or "",
        cert_file=given.get("certFile") or "",
        key_file=given.get("keyFile") or "",
        ca_file=given.get("caFile") or "",
        cert=_data(given, "certData"),
        key=_data(given, "keyData"),
        ca=_data(given, "caData"),
    )


def _has(given: _Given, part: str) -> bool:
    return bool(given.get(f"{part}Data") or given.get(f"{part}File"))


def _data(given: _Given, field: str) -> bytes:
    return base64.b64decode(given.get(field) or "")


def _check_resources(one: _Given, path: str, managed: set[str], errors: _Errors) -> None:
    for number, resource in enumerate(one.get("managedResources") or ()):
        name, where = resource.get("name") or "", f"{path}.managedResources[{number}].name"
        if not is_extended(name):
            errors.append(invalid(where, name, "is an invalid extended resource name"))
        if name in managed:
            errors.append(invalid(where, name, "duplicate extender managed resource name"))
        managed.add(name)
