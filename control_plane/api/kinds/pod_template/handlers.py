"""Validation of what is asked of containers and told to them in their life: probes and lifecycle hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, not_negative, one_of
from rayplane.control_plane.api.kinds.pod_template.ports import validate_port_reference
from rayplane.control_plane.api.machinery import names

PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_SCHEMES: Final = ("HTTP", "HTTPS")
_HTTP: Final = ("HTTP1", "HTTP2")
_GRPC: Final = ("Plaintext", "TLS")
_COUNTS: Final = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
_SIGNALS: Final = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT RTMAX RTMIN SEGV STKFLT STOP SYS "
    "TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ"
)
_REAL_TIME: Final = (*(f"RTMAX-{n}" for n in range(1, 15)), *(f"RTMIN+{n}" for n in range(1, 16)))
_SIGNALS_OF: Final = {
    "linux": tuple(sorted(f"SIG{one}" for one in (*_SIGNALS.split(), *_REAL_TIME))),
    "windows": ("SIGKILL", "SIGTERM"),
}


def validate_lifecycle(
    lifecycle: Mapping[str, Any], grace_s: int | None, os: Mapping[str, Any] | None, path: str, errs: Errors
) -> None:
    for hook in ("postStart", "preStop"):
        if lifecycle.get(hook) is not None:
            _handler(lifecycle[hook], grace_s, f"{path}.{hook}", errs)
    signal = lifecycle.get("stopSignal")
    if signal is None:
        return
    if os is None:
        errs.append(forbidden(f"{path}.stopSignal", "may not be set for containers with empty `spec.os.name`"))
    elif signal not in (known := _SIGNALS_OF.get(os.get("name") or "", (signal,))):
        errs.append(not_supported(f"{path}.stopSignal", signal, known))


def validate_probes(container: Mapping[str, Any], path: str, errs: Errors) -> None:
    for kind in PROBES:
        probe = container.get(kind)
        if probe is None:
            continue
        at = f"{path}.{kind}"
        _probe(probe, at, errs)
        if kind == "readinessProbe":
            seconds = probe.get("terminationGracePeriodSeconds")
            if seconds is not None:
                text = "must not be set for readinessProbes"
                errs.append(invalid(f"{at}.terminationGracePeriodSeconds", seconds, text))
        elif probe.get("successThreshold") != 1:
            errs.append(invalid(f"{at}.successThreshold", probe.get("successThreshold") or 0, "must be 1"))


def _probe(probe: Mapping[str, Any], path: str, errs: Errors) -> None:
    _handler(probe, None, path, errs)
    for field in _COUNTS:
        not_negative(probe.get(field), f"{path}.{field}", errs)
    seconds = probe.get("terminationGracePeriodSeconds")
    if seconds is not None and seconds <= 0:
        errs.append(invalid(f"{path}.terminationGracePeriodSeconds", seconds, "must be greater than 0"))


def _handler(handler: Mapping[str, Any], grace_s: int | None, path: str, errs: Errors) -> None:
    """What is done: one of the known ways. A pause is no longer than the pod has to end."""
    given = [kind for kind in _WAYS if handler.get(kind) is not None]
    if not given:
        errs.append(required(path, "must specify a handler type"))
        return
    kind, at = given[0], f"{path}.{given[0]}"
    if kind != "sleep":
        _WAYS[kind](handler[kind], at, errs)
    elif grace_s is not None and not 0 <= (handler[kind].get("seconds") or 0) <= grace_s:
        text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace_s})"
        errs.append(invalid(at, handler[kind].get("seconds") or 0, text))
    for other in given[1:]:
        errs.append(forbidden(f"{path}.{other}", "may not specify more than 1 handler type"))


def _exec(action: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not action.get("command"):
        errs.append(required(f"{path}.command"))


def _http_get(action: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not action.get("path"):
        errs.append(required(f"{path}.path"))
    validate_port_reference(action.get("port"), f"{path}.port", errs)
    one_of(action.get("scheme"), _SCHEMES, f"{path}.scheme", errs)
    for header in action.get("httpHeaders") or ():
        own = header.get("name") or ""
        checked(names.header_name_errors(own), own, f"{path}.httpHeaders", errs)
    protocol = action.get("protocol")
    if protocol is None:
        return
    if protocol not in _HTTP:
        errs.append(not_supported(f"{path}.protocol", protocol, _HTTP))
    elif protocol == "HTTP2" and action.get("scheme") != "HTTP":
        errs.append(invalid(f"{path}.protocol", protocol, "is only supported with HTTP (H2C)"))
    elif protocol == "HTTP2" and action.get("host"):
        errs.append(invalid(f"{path}.host", action["host"], 'must be empty when `protocol` is "HTTP2"'))


def _tcp_socket(action: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_port_reference(action.get("port"), f"{path}.port", errs)


def _grpc(action: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_port_reference(action.get("port"), f"{path}.port", errs)
    if action.get("mode") is not None:
        one_of(action["mode"], _GRPC, f"{path}.mode", errs)


_WAYS: Final[dict[str, Any]] = {
    "exec": _exec,
    "httpGet": _http_get,
    "tcpSocket": _tcp_socket,
    "grpc": _grpc,
    "sleep": None,
}
