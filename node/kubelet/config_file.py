"""Files that configure kubelets: a KubeletConfiguration in Kubernetes' own field names, read strictly. Pure.

What nodes here do not follow is refused as what is unknown is: a setting that changes nothing would be believed.
Source: kubelet.config.k8s.io/v1beta1, with the checks of kubelet's pkg/kubelet/apis/config/validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from rayplane.control_plane.api.config_files import ConfigFileError, read_document
from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, invalid_without_value, required
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.durations import DurationError, parse_duration
from rayplane.node.config import SHUTDOWN_MAX_S, EvictionLimits, NodeHostConfig
from rayplane.node.errors import ConfigError
from rayplane.node.kubelet.pressure import NO_GRACE, amount_of, grace_of, least_of

KIND, VERSION = "KubeletConfiguration", "kubelet.config.k8s.io/v1beta1"
PRIORITIES_MAX: Final = 64
_INT32_MAX: Final = (1 << 31) - 1
_MERGE = "mergeDefaultEvictionSettings"
_HARD, _SOFT = "evictionHard", "evictionSoft"
_GRACES, _RECLAIM = "evictionSoftGracePeriod", "evictionMinimumReclaim"
_THRESHOLDS: Final[Mapping[str, Callable[[str, str], object]]] = {
    _HARD: least_of,
    _SOFT: least_of,
    _GRACES: grace_of,
    _RECLAIM: amount_of,
}
_BY_PRIORITY = "shutdownGracePeriodByPodPriority"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that a file has, by the part of a configuration they are for; what it leaves out stays as it is."""

    node: Mapping[str, Any] = field(default_factory=dict)
    eviction: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, config: NodeHostConfig) -> NodeHostConfig:
        """A node host as this file wants it."""
        nodes = tuple(
            replace(node, eviction=replace(node.eviction, **self.eviction), **self.node) for node in config.nodes
        )
        return replace(config, nodes=nodes, timing=replace(config.timing, **self.timing), **self.host)

    @property
    def shutdown_s(self) -> float:
        """How long a node may take to end its pods; 0 where it is not asked to."""
        by_priority: tuple[tuple[int, float], ...] = self.host.get("shutdown_by_priority", ())
        total: float = self.host.get("shutdown_grace_s", 0.0)
        return sum(seconds for _, seconds in by_priority) or total


class _Field(NamedTuple):
    part: str
    name: str
    read: Callable[[Any], Any]
    """Raises ValueError with what is wrong."""


def _whole(least: int, most: int = _INT32_MAX) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def _span(least_s: float = 0.0, most_s: float = 7 * 86_400.0) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            found = parse_duration(value) if isinstance(value, str) else -1.0
        except DurationError as e:
            raise ValueError(str(e)) from e
        if not least_s <= found <= most_s:
            raise ValueError(f"must be a duration such as 30s or 1m30s, from {least_s:g}s to {most_s:g}s")
        return found

    return read


def _size(value: Any) -> int:
    if not isinstance(value, str) or not quantity.is_quantity(value) or quantity.value(value) <= 0:
        raise ValueError("must be a positive quantity such as 10Mi")
    return quantity.value(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or (value and not value.startswith("/")) or "\0" in value:
        raise ValueError("must be an absolute path of the nodes' machines, or empty")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("must be an object of strings by signal")
    return value


def _periods(value: Any) -> tuple[tuple[int, float], ...]:
    known = {"priority", "shutdownGracePeriodSeconds"}
    if not isinstance(value, list) or len(value) > PRIORITIES_MAX:
        raise ValueError(f"must be a list of at most {PRIORITIES_MAX} objects")
    found = []
    for one in value:
        if not isinstance(one, dict) or set(one) - known or not all(type(one.get(k, 0)) is int for k in known):
            raise ValueError(f"must be a list of objects with the whole numbers {' and '.join(sorted(known))}")
        if one.get("shutdownGracePeriodSeconds", 0) < 0:
            raise ValueError("shutdownGracePeriodSeconds must not be negative")
        found.append((one.get("priority", 0), float(one.get("shutdownGracePeriodSeconds", 0))))
    if len({priority for priority, _ in found}) < len(found):
        raise ValueError("must name each priority once")
    return tuple(sorted(found))


_PERCENT: Final = _whole(0, 100)
_FIELDS: Final[Mapping[str, _Field]] = {
    "staticPodPath": _Field("node", "static_pods", _path),
    "maxPods": _Field("node", "max_pods", _whole(1)),
    "podPidsLimit": _Field("host", "pod_pids_limit", _whole(-1, 1 << 22)),
    "fileCheckFrequency": _Field("timing", "manifests_every_s", _span(0.1)),
    "nodeStatusReportFrequency": _Field("timing", "status_every_s", _span(1.0)),
    _HARD: _Field("eviction", "hard", _texts),
    _SOFT: _Field("eviction", "soft", _texts),
    _GRACES: _Field("eviction", "soft_grace", _texts),
    _RECLAIM: _Field("eviction", "minimum_reclaim", _texts),
    "evictionMaxPodGracePeriod": _Field("eviction", "soft_pod_grace_s", _whole(0)),
    "evictionPressureTransitionPeriod": _Field("timing", "pressure_transition_s", _span()),
    _MERGE: _Field("", _MERGE, _flag),
    "containerLogMaxSize": _Field("host", "log_file_bytes", _size),
    "containerLogMaxFiles": _Field("host", "log_files", _whole(2, 1000)),
    "shutdownGracePeriod": _Field("host", "shutdown_grace_s", _span(0.0, SHUTDOWN_MAX_S)),
    "shutdownGracePeriodCriticalPods": _Field("host", "shutdown_grace_critical_s", _span(0.0, SHUTDOWN_MAX_S)),
    _BY_PRIORITY: _Field("host", "shutdown_by_priority", _periods),
    "imageGCHighThresholdPercent": _Field("host", "image_gc_high_percent", _PERCENT),
    "imageGCLowThresholdPercent": _Field("host", "image_gc_low_percent", _PERCENT),
    "imageMinimumGCAge": _Field("host", "image_gc_min_age_s", _span()),
}


def read_kubelet_configuration(text: str, *, pods_max: int = _INT32_MAX) -> Settings:
    """What a file says. `pods_max`: addresses of a node. ConfigFileError that names each fault with its line."""
    errors: list[FieldError] = []
    document = read_document(text, KIND, (VERSION,), errors)
    parts: dict[str, dict[str, Any]] = {"": {}, "node": {}, "eviction": {}, "timing": {}, "host": {}}
    for key, value in document.items():
        known = _FIELDS.get(key)
        if key in ("apiVersion", "kind") or (value is None and known is not None):
            continue
        if known is None:
            errors.append(forbidden(key, _unknown(key)))
            continue
        try:
            parts[known.part][known.name] = known.read(value)
        except ValueError as e:
            errors.append(invalid(key, value, str(e)))
    if parts[""].get(_MERGE):
        parts["eviction"]["hard"] = {**EvictionLimits().hard, **parts["eviction"].get("hard", {})}
    if (most := parts["node"].get("max_pods", 0)) > pods_max:
        errors.append(invalid("maxPods", most, f"each pod needs an address, of which a node here has {pods_max}"))
    if not errors:
        errors += [*_eviction_faults(parts["eviction"]), *_faults_together(parts["host"])]
    if errors:
        raise ConfigFileError.with_lines(errors, text)
    return Settings(parts["node"], parts["eviction"], parts["timing"], parts["host"])


def _unknown(key: str) -> str:
    near = get_close_matches(key, _FIELDS, 1)
    followed = ", ".join(key for key in _FIELDS if key != _MERGE)
    return f"no field that nodes here follow; {f'is it {near[0]}?' if near else f'there are {followed}'}"


def _eviction_faults(given: Mapping[str, Mapping[str, str]]) -> list[FieldError]:
    """What is wrong with thresholds, signal by signal."""
    found = []
    for key, read in _THRESHOLDS.items():
        for signal, text in given.get(_FIELDS[key].name, {}).items():
            try:
                read(signal, text)
            except ConfigError as e:
                found.append(invalid(f"{key}[{signal}]", text, str(e).removeprefix("eviction: ")))
    graces, soft = given.get("soft_grace", {}), given.get("soft", {})
    return found + [required(f"{_SOFT}[{signal}]", NO_GRACE) for signal in soft if signal not in graces]


def _faults_together(host: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with fields beside each other."""
    found = []
    defaults = NodeHostConfig(nodes=(), apiservers=())
    high = host.get("image_gc_high_percent", defaults.image_gc_high_percent)
    low = host.get("image_gc_low_percent", defaults.image_gc_low_percent)
    if low >= high:
        text = f"must be below imageGCHighThresholdPercent, which is {high}"
        key = "imageGCLowThresholdPercent" if "image_gc_low_percent" in host else "imageGCHighThresholdPercent"
        found.append(invalid(key, low if "image_gc_low_percent" in host else high, text))
    total, critical = host.get("shutdown_grace_s", 0.0), host.get("shutdown_grace_critical_s", 0.0)
    if critical > total:
        text = f"must not be longer than shutdownGracePeriod, which is {total:g}s"
        found.append(invalid_without_value("shutdownGracePeriodCriticalPods", text))
    by_priority = host.get("shutdown_by_priority", ())
    if by_priority and (total or critical):
        found.append(forbidden(_BY_PRIORITY, "give this, or shutdownGracePeriod and shutdownGracePeriodCriticalPods"))
    if sum(seconds for _, seconds in by_priority) > SHUTDOWN_MAX_S:
        text = f"must be at most {SHUTDOWN_MAX_S:g} seconds together"
        found.append(invalid_without_value(_BY_PRIORITY, text))
    return found
