"""Checks of what a pod shares with its node: namespaces, ports, network and processes, probes of other hosts."""

from collections.abc import Iterator, Mapping
from typing import Any

from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.podsecurity.check import Check, Spec, Violation, plural, quoted, some, where
from rayplane.control_plane.api.podsecurity.levels import Level


def _namespaces(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    shared = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return Violation("host namespaces", ", ".join(shared)) if shared else None


def _host_ports(container: Mapping[str, Any]) -> list[str]:
    return [str(port["hostPort"]) for port in container.get("ports") or () if port.get("hostPort")]


def _ports(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = where(spec, lambda c: bool(_host_ports(c)))
    if not bad:
        return None
    ports = sorted({port for container in every(spec) for port in _host_ports(container)})
    verb, word = plural("uses", len(bad), "use"), plural("hostPort", len(ports))
    return Violation("hostPort", f"{some('container', bad)} {verb} {word} {', '.join(ports)}")


def _hosts(container: Mapping[str, Any]) -> Iterator[str]:
    """Hosts named by probes and life-cycle hooks: the kubelet would connect there."""
    hooks = container.get("lifecycle") or {}
    probes = [container.get(field) for field in ("livenessProbe", "readinessProbe", "startupProbe")]
    for handler in [*probes, hooks.get("postStart"), hooks.get("preStop")]:
        for action in ("httpGet", "tcpSocket"):
            host = ((handler or {}).get(action) or {}).get("host")
            if host:
                yield host


def _probes(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
    bad = sorted(set(where(spec, lambda c: any(_hosts(c)))))
    if not bad:
        return None
    hosts = sorted({host for container in every(spec) for host in _hosts(container)})
    verb, word = plural("uses", len(bad), "use"), plural("probe or lifecycle host", len(hosts))
    return Violation("probe or lifecycle host", f"{some('container', bad)} {verb} {word} {quoted(hosts)}")


CHECKS = (
    Check("hostNamespaces", Level.BASELINE, ((0, _namespaces),)),
    Check("hostPorts", Level.BASELINE, ((0, _ports),)),
    Check("hostProbesAndHostLifecycle", Level.BASELINE, ((34, _probes),)),
)
