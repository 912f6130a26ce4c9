"""Pressure on a node: when it is short of something, and who has to go for it. Pure.

Signals tell how much there is left; thresholds say when that is too little, at once (hard) or after a while (soft).
A condition lasts for a time after its last sight, so that it does not flicker.

Source: Kubernetes concepts "Node-pressure Eviction"; words as kubelet's pkg/kubelet/eviction gives them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.priority import is_critical
from rayplane.control_plane.api.pods.qos import BEST_EFFORT, qos_class
from rayplane.control_plane.api.pods.resources import container_limits, container_requests, pod_requests
from rayplane.control_plane.api.taints import MEMORY_PRESSURE, NO_SCHEDULE, tolerates
from rayplane.control_plane.durations import parse_span
from rayplane.node.config import EvictionLimits
from rayplane.node.errors import ConfigError
from rayplane.node.lifecycle import Rejected

MEMORY, NODE_FS, NODE_INODES = "memory.available", "nodefs.available", "nodefs.inodesFree"
IMAGE_FS, IMAGE_INODES, PIDS = "imagefs.available", "imagefs.inodesFree", "pid.available"
#: What each signal is about: the condition of the node, and the resource that is short.
_ABOUT = {
    MEMORY: ("MemoryPressure", "memory"),
    NODE_FS: ("DiskPressure", "ephemeral-storage"),
    NODE_INODES: ("DiskPressure", "inodes"),
    IMAGE_FS: ("DiskPressure", "ephemeral-storage"),
    IMAGE_INODES: ("DiskPressure", "inodes"),
    PIDS: ("PIDPressure", "pids"),
}
NO_GRACE = "a soft threshold needs a grace period"
MEMORY_CONDITION = "MemoryPressure"
EVICTED = "Evicted"
TERMINATION_BY_KUBELET = "TerminationByKubelet"


@dataclass(frozen=True, slots=True)
class Observation:
    """An amount that is left of something, and how much there is at most; bytes or numbers."""

    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """A signal, and what it must not be below of. `amount` in bytes or numbers, or as a `share` of the capacity."""

    signal: str
    amount: int = 0
    share: float = 0.0
    grace_s: float = 0.0
    reclaim: int = 0
    """So much more is to be there before it counts as over."""

    @property
    def resource(self) -> str:
        return _ABOUT[self.signal][1]

    @property
    def is_hard(self) -> bool:
        return self.grace_s == 0

    def least(self, seen: Observation) -> int:
        return int(self.share * seen.capacity) if self.share else self.amount

    def is_met(self, seen: Observation | None, *, reclaimed: bool = False) -> bool:
        """Whether too little is left. `reclaimed`: as one that was met before judges."""
        return seen is not None and seen.available < self.least(seen) + (self.reclaim if reclaimed else 0)


def thresholds_of(limits: EvictionLimits) -> tuple[Threshold, ...]:
    """Raises ConfigError that names the signal."""
    found = [_threshold(limits, signal, text, 0.0) for signal, text in limits.hard.items()]
    for signal, text in limits.soft.items():
        if signal not in limits.soft_grace:
            raise ConfigError(f"eviction: {signal}: {NO_GRACE}")
        found.append(_threshold(limits, signal, text, grace_of(signal, limits.soft_grace[signal])))
    # Memory comes first: a kernel that is out of it does not wait.
    return tuple(sorted(found, key=lambda t: (t.signal != MEMORY, not t.is_hard)))


def _threshold(limits: EvictionLimits, signal: str, text: str, grace_s: float) -> Threshold:
    amount, share = least_of(signal, text)
    reclaim = amount_of(signal, limits.minimum_reclaim.get(signal) or "0")
    return Threshold(signal, amount, share, grace_s, reclaim)


def least_of(signal: str, text: str) -> tuple[int, float]:
    """The amount, or the share of all there is, that must be left. Raises ConfigError."""
    if not text.endswith("%"):
        return amount_of(signal, text), 0.0
    _check(signal)
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError(f"eviction: {signal}: {text!r} is no share between 0% and 100%")
    return 0, share


def amount_of(signal: str, text: str) -> int:
    """Bytes or numbers of what a signal is about. Raises ConfigError."""
    _check(signal)
    if not quantity.is_quantity(text) or quantity.value(text) < 0:
        raise ConfigError(f"eviction: {signal}: {text!r} is no amount")
    return quantity.value(text)


def grace_of(signal: str, text: str) -> float:
    """Seconds for which a soft threshold must be met. Raises ConfigError."""
    _check(signal)
    try:
        return parse_span(text)
    except ValueError as e:
        raise ConfigError(f"eviction: {signal}: {e}") from e


def _check(signal: str) -> None:
    if signal not in _ABOUT:
        raise ConfigError(f"eviction: signal {signal!r} is none of {', '.join(_ABOUT)}")


# --- the state of a node --------------------------------------------------------------------------


class Pressure:
    """The pressure on one node over time. `transition_s`: how long a condition lasts after its last sight."""

    def __init__(self, thresholds: tuple[Threshold, ...], transition_s: float) -> None:
        self._thresholds = thresholds
        self._transition_s = transition_s
        self._since: dict[Threshold, float] = {}
        self._acted_on: tuple[Threshold, ...] = ()
        self._seen_at: dict[str, float] = {}
        self.conditions: frozenset[str] = frozenset()
        """Types of the node's conditions that are true."""

    def observe(self, seen: Mapping[str, Observation], now: float) -> tuple[Threshold, ...]:
        """Take in how much is left; the thresholds for which something must go, the most pressing first."""
        met = [
            t
            for t in self._thresholds
            if t.is_met(seen.get(t.signal)) or (t in self._acted_on and t.is_met(seen.get(t.signal), reclaimed=True))
        ]
        self._since = {t: self._since.get(t, now) for t in met}
        self._seen_at |= {_ABOUT[t.signal][0]: now for t in met}
        self.conditions = frozenset(
            kind for kind, at in self._seen_at.items() if at == now or now - at < self._transition_s
        )
        self._acted_on = tuple(t for t in met if now - self._since[t] >= t.grace_s)
        return self._acted_on


# --- pods -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodUse:
    """Use of a pod. `containers`: bytes of memory by name; `disk`: bytes of logs, roots and scratch volumes."""

    containers: Mapping[str, int] = field(default_factory=dict)
    disk: int = 0
    processes: int = 0

    @property
    def memory(self) -> int:
        return sum(self.containers.values())


def ranked(pods: Iterable[Object], signal: str, use: Callable[[Object], PodUse]) -> list[Object]:
    """The pods that may go for a signal, those first that are to go first."""
    _, resource = _ABOUT[signal]
    keys = {"memory": ("memory", lambda u: u.memory), "ephemeral-storage": ("ephemeral-storage", lambda u: u.disk)}
    name, of = keys.get(resource, ("", lambda u: u.processes if resource == "pids" else u.disk))

    def rank(pod: Object) -> tuple[bool, int, int]:
        used, asked = of(use(pod)), _requested(pod, name)
        priority = meta.spec(pod).get("priority") or 0
        return (not (name and used > asked), priority, asked - used)

    return sorted((pod for pod in pods if not is_critical(pod)), key=rank)


def _requested(pod: Object, resource: str) -> int:
    amount = pod_requests(pod).get(resource) if resource else None
    return amount.value if amount is not None else 0


def message(threshold: Threshold, seen: Observation, pod: Object, use: PodUse) -> str:
    """Why the pod is evicted, as its status tells."""
    resource = threshold.resource
    text = f"The node was low on resource: {resource}. "
    text += f"Threshold quantity: {_told(threshold.least(seen))}, available: {_told(seen.available)}. "
    if resource != "memory":
        return text
    for container in meta.spec(pod).get("containers") or ():
        used = use.containers.get(container["name"], 0)
        asked = container_requests(container).get(resource) or "0"
        if used > quantity.value(asked):
            name = container["name"]
            text += f"Container {name} was using {_told(used)}, request is {asked}, "
            text += f"has larger consumption of {resource}. "
    return text


def _told(amount: int) -> str:
    """An amount with the greatest binary unit that tells it whole."""
    unit = 0
    while amount and amount % 1024 == 0 and unit < len(_UNITS) - 1:
        amount, unit = amount // 1024, unit + 1
    return f"{amount}{_UNITS[unit]}"


_UNITS = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def too_much_disk(pod: Object, volumes: Mapping[str, int], containers: Mapping[str, int]) -> str:
    """Why a pod that writes more than it may is evicted; empty when it does not.

    `volumes`: bytes of its scratch volumes; `containers`: of logs and roots, each by name.
    """
    spec = meta.spec(pod)
    for volume in spec.get("volumes") or ():
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if limit and 0 < quantity.value(limit) < volumes.get(volume["name"], 0):
            return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    limits = storage_limits(pod)
    total = sum(limits.values())
    if limits and len(limits) == len(spec["containers"]) and sum((*volumes.values(), *containers.values())) > total:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {_told(total)}. "
    for name, most in limits.items():
        if containers.get(name, 0) > most:
            return f'Container {name} exceeded its local ephemeral storage limit "{_told(most)}". '
    return ""


def storage_limits(pod: Object) -> dict[str, int]:
    """Bytes of the machine's disk that containers may use at most, by name."""
    found = {c["name"]: container_limits(c).get("ephemeral-storage") for c in meta.spec(pod)["containers"]}
    return {name: quantity.value(limit) for name, limit in found.items() if limit}


def refusal(pod: Object, conditions: frozenset[str]) -> Rejected | None:
    """Why a node under pressure takes no such pod now; None when it does."""
    if not conditions or is_critical(pod):
        return None
    if conditions == {MEMORY_CONDITION}:
        taint = {"key": MEMORY_PRESSURE, "effect": NO_SCHEDULE}
        tolerations: list[dict[str, Any]] = meta.spec(pod).get("tolerations") or []
        if qos_class(pod) != BEST_EFFORT or any(tolerates(t, taint) for t in tolerations):
            return None
    return Rejected(EVICTED, f"The node had condition: [{' '.join(sorted(conditions))}]. ")
