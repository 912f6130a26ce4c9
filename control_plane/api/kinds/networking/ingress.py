"""Ingresses: hosts, paths and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import invalid, not_supported, quote, required
from rayplane.control_plane.api.kinds.core.service import balancer_addresses
from rayplane.control_plane.api.kinds.core.service_validation import (
    balancer_entries,
    balancer_host,
    balancer_ip,
    balancer_ips,
)
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.ports import validate_port_reference
from rayplane.control_plane.api.kinds.references import typed_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, SHOWN, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS = ("/..", "/.")
_OLD_CLASS = "kubernetes.io/ingress.class"


def _validate_create(obj: Object) -> Errors:
    errs = _validate(obj)
    own, old = (obj.get("spec") or {}).get("ingressClassName"), meta.annotations(obj).get(_OLD_CLASS)
    if own is not None and old is not None and own != old:
        text = "must match `ingressClassName` when both are specified"
        errs.append(invalid(f"annotations.{_OLD_CLASS}", old, text))
    return errs


def _validate(obj: Object, *, secrets: bool = True) -> Errors:
    """`secrets` is whether to look at the names of secrets."""
    errs: Errors = []
    spec = obj.get("spec") or {}
    backend = spec.get("defaultBackend")
    if not spec.get("rules") and backend is None:
        text = "either `defaultBackend` or `rules` must be specified"
        errs.append(invalid("spec", spec.get("rules") or [], text))
    if backend is not None:
        _backend(backend, "spec.defaultBackend", errs)
    for index, rule in enumerate(spec.get("rules") or ()):
        _rule(rule, f"spec.rules[{index}]", errs)
    for index, tls in enumerate(spec.get("tls") or ()):
        at, secret = f"spec.tls[{index}]", tls.get("secretName") or ""
        for number, host in enumerate(tls.get("hosts") or ()):
            _host(host, f"{at}.hosts[{number}]", errs)
        if secret and secrets:
            checked(names.subdomain_errors(secret), secret, f"{at}.secretName", errs)
    own = spec.get("ingressClassName")
    if own is not None:
        checked(names.subdomain_errors(own), own, "spec.ingressClassName", errs)
    return errs


def _rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    host, http = rule.get("host") or "", rule.get("http")
    if host:
        if names.is_ip(host):
            errs.append(invalid(f"{path}.host", host, "must be a DNS name, not an IP address"))
        _host(host, f"{path}.host", errs)
    if http is None:
        return
    if not http.get("paths"):
        errs.append(required(f"{path}.http.paths"))
    for number, entry in enumerate(http.get("paths") or ()):
        _path(entry, f"{path}.http.paths[{number}]", errs)


def _host(host: str, path: str, errs: Errors) -> None:
    check = names.wildcard_errors if "*" in host else names.subdomain_errors
    checked(check(host), host, path, errs)


def _path(entry: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, where = entry.get("pathType"), entry.get("path") or ""
    if kind is None:
        errs.append(required(f"{path}.pathType", "pathType must be specified"))
        return
    exact = kind in ("Exact", "Prefix")
    if kind not in _PATH_TYPES:
        errs.append(not_supported(f"{path}.pathType", kind, _PATH_TYPES))
    elif (exact or where) and not where.startswith("/"):
        errs.append(invalid(f"{path}.path", where, "must be an absolute path"))
    if exact:
        problems = [f"must not contain '{part}'" for part in _BAD_PATHS if part in where]
        problems += [f"cannot end with '{end}'" for end in _BAD_ENDS if where.endswith(end)]
        checked(problems, where, f"{path}.path", errs)
    _backend(entry.get("backend") or {}, f"{path}.backend", errs)


def _backend(backend: Mapping[str, Any], path: str, errs: Errors) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is None and resource is None:
        errs.append(invalid(path, "", "resource or service backend is required"))
    elif service is not None and resource is not None:
        errs.append(invalid(path, "", "cannot set both resource and service backends"))
    elif resource is not None:
        typed_reference(resource, f"{path}.resource", errs)
    else:
        _service(service or {}, path, errs)


def _service(service: Mapping[str, Any], path: str, errs: Errors) -> None:
    own, port = service.get("name"), service.get("port") or {}
    if not own:
        errs.append(required(f"{path}.service.name"))
    else:
        checked(names.label_errors(own), own, f"{path}.service.name", errs)
    name, number = port.get("name"), port.get("number")
    if name and number:
        errs.append(invalid(path, "", "cannot set both port name & port number"))
    elif name:
        checked(names.port_name_errors(name), name, f"{path}.service.port.name", errs)
    elif number:
        validate_port_reference(number, f"{path}.service.port.number", errs)
    else:
        errs.append(required(path, "port name or number is required"))


def _validate_update(new: Object, old: Object) -> Errors:
    """Names of secrets are looked at unless an older one is wrong."""
    known = ((tls.get("secretName") or "") for tls in (old.get("spec") or {}).get("tls") or ())
    return _validate(new, secrets=not any(names.subdomain_errors(one) for one in known if one))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    kept = balancer_ips(old)
    for index, entry in enumerate(balancer_entries(new)):
        balancer_ip(entry, kept, f"status.loadBalancer.ingress[{index}]", errs)
        balancer_host(entry, f"status.loadBalancer.ingress[{index}]", errs)
    return errs


def _hosts(rules: Sequence[Mapping[str, Any]]) -> str:
    """The first hosts; a rule without one counts among those that are left out."""
    hosts: list[str] = []
    for rule in rules:
        if len(hosts) == SHOWN:
            return f"{','.join(hosts)} + {len(rules) - SHOWN} more..."
        if rule.get("host"):
            hosts.append(rule["host"])
    return ",".join(hosts) or "*"


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name(obj),
        spec.get("ingressClassName") or NONE,
        _hosts(spec.get("rules") or ()),
        ",".join(balancer_addresses(status)),
        "80, 443" if spec.get("tls") else "80",
        age(obj, now),
    ]


_COLUMNS = (NAME, Column("Class"), Column("Hosts"), Column("Address"), Column("Ports"), AGE)  # fmt: skip


def _warnings(obj: Object, old: Object | None) -> list[str]:
    if old is not None or _OLD_CLASS not in (obj["metadata"].get("annotations") or {}):
        return []
    return [f"annotation {quote(_OLD_CLASS)} is deprecated, please use 'spec.ingressClassName' instead"]


RULES = {
    "Ingress": replace(
        AS_WRITTEN,
        warnings=_warnings,
        defaults=NO_DEFAULTS,
        validate=_validate_create,
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=_validate_status,
        status=Status({"loadBalancer": {}}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
