"""Ingresses: hosts, paths and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid, not_supported, quote, required
from rayplane.control_plane.api.kinds.core.service import balancer_addresses
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.pod_template.containers import validate_port_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, SHOWN, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_PATHS = ("//", "/./", "/../", "%2f", "%2F")

_OLD_CLASS = "kubernetes.io/ingress.class"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    backend = spec.get("defaultBackend")
    if not spec.get("rules") and backend is None:
        text = "either `defaultBackend` or `rules` must be specified"
        errs.append(invalid("spec", spec.get("rules") or [], text))
    if backend is not None:
        _backend(backend, "spec.defaultBackend", errs)
    for index, rule in enumerate(spec.get("rules") or ()):
        at = f"spec.rules[{index}]"
        _host(rule.get("host") or "", f"{at}.host", errs)
        http = rule.get("http")
        if http is None:
            continue
        if not http.get("paths"):
            errs.append(required(f"{at}.http.paths"))
        for number, path in enumerate(http.get("paths") or ()):
            _path(path, f"{at}.http.paths[{number}]", errs)
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            _host(host, f"spec.tls[{index}].hosts[{number}]", errs)
    own = spec.get("ingressClassName")
    if own is not None:
        checked(names.subdomain_errors(own), own, "spec.ingressClassName", errs)
    return errs


def _host(host: str, path: str, errs: Errors) -> None:
    if not host:
        return
    if names.is_ip(host):
        errs.append(invalid(path, host, "must be a DNS name, not an IP address"))
    elif "*" in host:
        rest = host[2:] if host.startswith("*.") else host
        checked(names.subdomain_errors(rest), host, path, errs)
    else:
        checked(names.subdomain_errors(host), host, path, errs)


def _path(entry: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, where = entry.get("pathType"), entry.get("path") or ""
    if not kind:
        errs.append(required(f"{path}.pathType", "pathType must be specified"))
    elif kind not in _PATH_TYPES:
        errs.append(not_supported(f"{path}.pathType", kind, _PATH_TYPES))
    elif kind == "ImplementationSpecific":
        if where and not where.startswith("/"):
            errs.append(invalid(f"{path}.path", where, "must be an absolute path"))
    elif not where.startswith("/"):
        errs.append(invalid(f"{path}.path", where, "must be an absolute path"))
    else:
        for part in _BAD_PATHS:
            if part in where:
                errs.append(invalid(f"{path}.path", where, f"must not contain '{part}'"))
    _backend(entry.get("backend") or {}, f"{path}.backend", errs)


def _backend(backend: Mapping[str, Any], path: str, errs: Errors) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is None and resource is None:
        text = "resource or service backend is required"
        errs.append(required(path, text))
        return
    if service is not None and resource is not None:
        text = "cannot set both resource and service backends"
        errs.append(invalid(path, dict(backend), text))
        return
    if service is None:
        return
    own = service.get("name")
    if not own:
        errs.append(required(f"{path}.service.name"))
    else:
        checked(names.dns1035_errors(own), own, f"{path}.service.name", errs)
    port = service.get("port") or {}
    if port.get("name") and port.get("number"):
        text = "cannot set both port name & port number"
        errs.append(invalid(f"{path}.service.port", dict(port), text))
    elif port.get("name"):
        checked(names.port_name_errors(port["name"]), port["name"], f"{path}.service.port.name", errs)
    elif port.get("number"):
        validate_port_reference(port["number"], f"{path}.service.port.number", errs)
    else:
        errs.append(required(f"{path}.service.port", "port name or number is required"))


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
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=Status({"loadBalancer": {}}),
        generation=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
