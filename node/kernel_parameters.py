"""Kernel parameters of pods (sysctls): which are a pod's own, so that no pod touches its node's. Pure.

Source: Kubernetes tasks "Using sysctls in a Kubernetes Cluster"; core/v1 Sysctl.
"""

from collections.abc import Mapping
from typing import Any

_SAFE = """
    kernel.shm_rmid_forced net.ipv4.ip_local_port_range net.ipv4.tcp_syncookies net.ipv4.ping_group_range
    net.ipv4.ip_unprivileged_port_start net.ipv4.ip_local_reserved_ports net.ipv4.tcp_keepalive_time
    net.ipv4.tcp_fin_timeout net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes net.ipv4.tcp_rmem
    net.ipv4.tcp_wmem
"""
SAFE = frozenset(_SAFE.split())


def dotted(name: str) -> str:
    """The name with dots between its parts: whichever of `.` and `/` comes first parts them, the other is in a part."""
    first = next((c for c in name if c in "./"), "")
    return name.translate(str.maketrans("./", "/.")) if first == "/" else name


def forbidden(spec: Mapping[str, Any]) -> str:
    """A parameter of a pod that a node lets no pod set; empty for none."""
    for parameter in (spec.get("securityContext") or {}).get("sysctls") or ():
        if dotted(parameter["name"]) not in SAFE:
            return str(parameter["name"])
    return ""
