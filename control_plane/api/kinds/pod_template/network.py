"""Validation of how a pod is named and finds others: host names, aliases, resolvers, and what it shares of its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names

_DNS: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_NAMESERVERS_MAX: Final = 3
_SEARCHES_MAX: Final = 32
_SEARCH_CHARS_MAX: Final = 2048
_HOSTNAME_MAX: Final = 64
_WITHOUT_HOST_USERS: Final = "when `hostUsers` is false"


def validate_dns_policy(policy: str | None, path: str, errs: Errors) -> None:
    if not policy:
        errs.append(required(path))
    elif policy not in _DNS:
        errs.append(not_supported(path, policy, _DNS))


def validate_dns_config(config: Mapping[str, Any] | None, policy: str | None, path: str, errs: Errors) -> None:
    """What a resolver is told; without a policy it must be told all."""
    if policy == "None" and config is None:
        errs.append(required(path, "must provide `dnsConfig` when `dnsPolicy` is None"))
    if config is None:
        return
    servers, searches = config.get("nameservers") or (), config.get("searches") or ()
    if policy == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        errs.append(required(f"{path}.nameservers", text))
        return
    if len(servers) > _NAMESERVERS_MAX:
        text = f"must not have more than {_NAMESERVERS_MAX} nameservers"
        errs.append(invalid(f"{path}.nameservers", list(servers), text))
    for index, server in enumerate(servers):
        checked(names.ip_errors(server), server, f"{path}.nameservers[{index}]", errs)
    if len(searches) > _SEARCHES_MAX:
        text = f"must not have more than {_SEARCHES_MAX} search paths"
        errs.append(invalid(f"{path}.searches", list(searches), text))
    if len(" ".join(searches)) > _SEARCH_CHARS_MAX:
        text = f"must not have more than {_SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        errs.append(invalid(f"{path}.searches", list(searches), text))
    for index, search in enumerate(searches):
        if search != ".":
            domain = search.removesuffix(".")
            checked(names.search_domain_errors(domain), domain, f"{path}.searches[{index}]", errs)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            errs.append(required(f"{path}.options[{index}]", "must not be empty"))


def validate_host_aliases(aliases: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, alias in enumerate(aliases):
        own = alias.get("ip") or ""
        checked(names.ip_errors(own), own, f"{path}[{index}].ip", errs)
        for number, hostname in enumerate(alias.get("hostnames") or ()):
            checked(names.subdomain_errors(hostname), hostname, f"{path}[{index}].hostnames[{number}]", errs)


def validate_host_users(spec: Mapping[str, Any], containers: Any, path: str, errs: Errors) -> None:
    """A pod with users of its own shares no more of its node; `containers` come with their paths."""
    for field, named in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")):
        if spec.get(field):
            errs.append(forbidden(f"{path}.{named}", _WITHOUT_HOST_USERS))
    for at, container in containers:
        if container.get("volumeDevices"):
            errs.append(forbidden(f"{at}.volumeDevices", _WITHOUT_HOST_USERS))


def validate_hostname_override(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    own, at = spec["hostnameOverride"], f"{path}.hostnameOverride"
    if spec.get("setHostnameAsFQDN"):
        errs.append(forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
    if spec.get("hostNetwork"):
        errs.append(forbidden(at, "may not be specified when hostNetwork is true"))
    if len(own) > _HOSTNAME_MAX:
        errs.append(too_long(at, _HOSTNAME_MAX))
    checked(names.subdomain_errors(own), own, at, errs)
