"""Validation of ingresses, ingress classes and network policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import checked, immutable, one_of, validate_selector
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS, validate_port_reference
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_PATHS = ("//", "/./", "/../", "%2f", "%2F")


def ingress(obj: Object) -> Errors:
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


def ingress_class(obj: Object) -> Errors:
    errs: Errors = []
    controller = (obj.get("spec") or {}).get("controller") or ""
    if controller:
        prefix, slash, _ = controller.partition("/")
        if not slash or names.subdomain_errors(prefix):
            text = "must be a domain-prefixed path (such as 'acme.io/foo')"
            errs.append(invalid("spec.controller", controller, text))
    return errs


def ingress_class_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    controller = (new.get("spec") or {}).get("controller")
    before = (old.get("spec") or {}).get("controller")
    immutable(controller, before, "spec.controller", errs)
    return errs


def network_policy(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    validate_selector(spec.get("podSelector"), "spec.podSelector", errs)
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                _policy_port(port, f"{at}.ports[{number}]", errs)
            for number, peer in enumerate(rule.get(peers) or ()):
                _peer(peer, f"{at}.{peers}[{number}]", errs)
    for index, kind in enumerate(spec.get("policyTypes") or ()):
        one_of(kind, ("Egress", "Ingress"), f"spec.policyTypes[{index}]", errs)
    return errs


def _policy_port(port: Mapping[str, Any], path: str, errs: Errors) -> None:
    if port.get("protocol"):
        one_of(port["protocol"], PROTOCOLS, f"{path}.protocol", errs)
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        validate_port_reference(number, f"{path}.port", errs)
    if end is not None:
        if not isinstance(number, int):
            text = "may not be specified when `port` is not specified"
            if isinstance(number, str):
                text = "may not be specified when `port` is non-numeric"
            errs.append(invalid(f"{path}.endPort", end, text))
        elif end < number:
            text = "must be greater than or equal to `port`"
            errs.append(invalid(f"{path}.endPort", end, text))


def _peer(peer: Mapping[str, Any], path: str, errs: Errors) -> None:
    block = peer.get("ipBlock")
    selectors = [kind for kind in ("podSelector", "namespaceSelector") if peer.get(kind) is not None]
    for kind in selectors:
        validate_selector(peer[kind], f"{path}.{kind}", errs)
    if block is None and not selectors:
        errs.append(required(path, "must specify a peer"))
    if block is None:
        return
    if selectors:
        errs.append(forbidden(path, "may not specify both ipBlock and another peer"))
    if not names.is_cidr(block.get("cidr") or ""):
        text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        errs.append(invalid(f"{path}.ipBlock.cidr", block.get("cidr") or "", text))
