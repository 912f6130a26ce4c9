"""Kernel parameters that a pod may set: those that only it can feel."""

from collections.abc import Collection, Mapping

from rayplane.control_plane.api.podsecurity.check import Check, Look, Spec, Violation, context, names
from rayplane.control_plane.api.podsecurity.levels import Level

_V0 = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_syncookies",
    }
)
_V27 = _V0 | {"net.ipv4.ip_local_reserved_ports"}
_V29 = _V27 | {
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
}
_V32 = _V29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}
_V37 = _V32 | {"net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_slow_start_after_idle"}


def _only(allowed: Collection[str]) -> Look:
    def look(annotations: Mapping[str, str], spec: Spec) -> Violation | None:
        bad = [name for name in names(context(spec).get("sysctls") or ()) if name not in allowed]
        return Violation("forbidden sysctls", ", ".join(bad)) if bad else None

    return look


CHECKS = (
    Check(
        "sysctls",
        Level.BASELINE,
        ((0, _only(_V0)), (27, _only(_V27)), (29, _only(_V29)), (32, _only(_V32)), (37, _only(_V37))),
    ),
)
