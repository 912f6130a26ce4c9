"""Marks on pods: annotations by which experiments tell a pod's node what to do to it. Pure.

It fails it, kills containers, takes their processors and memory, or loses packets.

Each experiment has marks of its own, named by its uid, so that several can mark a pod without knowing of each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from ipaddress import AddressValueError, IPv4Address

FAILED, KILLED, LOSES = "failed.chaos.rayplane.io/", "killed.chaos.rayplane.io/", "loses.chaos.rayplane.io/"
STRESSED = "stressed.chaos.rayplane.io/"
DISTURBED = "chaos.rayplane.io/Disturbed"
"""The condition of a pod whose node could not do what such marks ask for: False, and why. It is not there otherwise."""
RATE_MAX = 1 << 31
"""Bytes a second."""
PEERS_MAX = 1000
"""Addresses in one mark; and of all of a pod's losses in a hundred together."""
LATENCY_MAX_MS = 60_000
GAP_MAX = 1_000_000
WORKERS_MAX = 64
"""Processes of one kind that one mark starts beside a container."""
STRESS_MAX = 1 << 40
"""Bytes of one mark."""
STRESSES_MAX = 10
"""Marks of one pod that count."""


def failed(uid: str) -> str:
    """The mark of a pod that is kept from working: nothing of it runs while there is one."""
    return f"{FAILED}{uid}"


def killed(uid: str) -> str:
    """The mark of a pod whose containers are killed, whenever it changes."""
    return f"{KILLED}{uid}"


def kill(number: int, containers: Sequence[str]) -> str:
    """The value of such a mark: which kill it is, and whom it hits."""
    return f"{number}:{','.join(containers)}"


def is_failed(annotations: Mapping[str, str]) -> bool:
    return any(name.startswith(FAILED) for name in annotations)


def newly_killed(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """The containers that marks ask to be killed now, and did not before."""
    found: dict[str, None] = {}
    for name, value in new.items():
        if name.startswith(KILLED) and old.get(name) != value:
            found |= dict.fromkeys(filter(None, value.partition(":")[2].split(",")))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Stress:
    """The work that is done beside the processes of a container, out of what it may have.

    So many `burning` processes, busy for `load` of a hundred of their time; as many bytes of `memory`, of so many
    `holding` processes together. Numbers beyond what is possible count as the nearest that is.
    """

    burning: int = 0
    load: int = 100
    holding: int = 0
    memory: int = 0

    def __post_init__(self) -> None:
        most = {"burning": WORKERS_MAX, "load": 100, "holding": WORKERS_MAX, "memory": STRESS_MAX}
        for name, bound in most.items():
            object.__setattr__(self, name, min(max(int(getattr(self, name)), 0), bound))

    @property
    def cores(self) -> float:
        return self.burning * self.load / 100


def stressed(uid: str) -> str:
    """The mark of a pod with containers under stress; its value is what `stress` makes."""
    return f"{STRESSED}{uid}"


def stress(of: Stress, containers: Sequence[str]) -> str:
    return json.dumps({**asdict(of), "containers": [*containers]})


def stresses(annotations: Mapping[str, str], container: str) -> dict[str, Stress]:
    """What marks say of one container, by the mark; those that nobody can read say nothing."""
    made: dict[str, Stress] = {}
    for name, value in [one for one in annotations.items() if one[0].startswith(STRESSED)][:STRESSES_MAX]:
        try:
            found = json.loads(value)
            if container in found.pop("containers"):
                made[name] = Stress(**found)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
            continue
    return made


@dataclass(frozen=True, slots=True)
class Netem:
    """The fate of each packet, in the words of tc-netem(8); parts of all packets and correlations in a hundred.

    Numbers beyond what is possible count as the nearest that is.
    """

    latency_ms: float = 0
    jitter_ms: float = 0
    latency_correlation: float = 0
    reorder: float = 0
    """These go at once, `gap` of them apart; the others wait."""
    reorder_correlation: float = 0
    gap: int = 0
    loss: float = 0
    loss_correlation: float = 0
    corrupt: float = 0
    corrupt_correlation: float = 0
    duplicate: float = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            most = LATENCY_MAX_MS if field.name.endswith("_ms") else GAP_MAX if field.name == "gap" else 100
            value = min(max(float(getattr(self, field.name)), 0), most)
            if value != value:
                raise ValueError(f"{field.name} is no number")
            object.__setattr__(self, field.name, int(value) if field.name == "gap" else value)

    @property
    def waits(self) -> bool:
        """Whether packets go through the hands of their node: the kernel makes copies by itself."""
        return any((self.latency_ms, self.jitter_ms, self.loss, self.corrupt))

    @property
    def disturbs(self) -> bool:
        """Whether anything becomes of packets at all."""
        return self.waits or self.duplicate > 0


@dataclass(frozen=True, slots=True)
class Loss:
    """So many of a hundred packets that do not arrive: from the pod `to` addresses, and to it from others.

    None stands for everybody. With `over` it is all packets of each way that are more than so many bytes a second,
    after `burst` that may come at once.
    """

    percent: int
    to: tuple[str, ...] | None = ()
    sources: tuple[str, ...] | None = ()
    over: int = 0
    burst: int = 0
    netem: Netem | None = None
    """What else becomes of the packets of these ways."""

    def __str__(self) -> str:
        more: dict[str, object] = {"over": self.over, "burst": self.burst} if self.over else {}
        if self.netem is not None:
            more["netem"] = {name: value for name, value in asdict(self.netem).items() if value}
        return json.dumps({"percent": self.percent, "to": self.to, "from": self.sources} | more)


def loses(uid: str) -> str:
    """The mark of a pod that loses packets; its value is a `Loss`."""
    return f"{LOSES}{uid}"


def losses(annotations: Mapping[str, str]) -> Iterator[Loss]:
    """What marks say; those that nobody can read say nothing."""
    for name, value in annotations.items():
        if name.startswith(LOSES):
            try:
                found = json.loads(value)
                percent = min(max(int(found["percent"]), 0), 100)
                over, burst = (min(max(int(found.get(key, 0)), 0), RATE_MAX) for key in ("over", "burst"))
                netem = Netem(**found["netem"]) if "netem" in found else None
                yield Loss(percent, _addresses(found["to"]), _addresses(found["from"]), over, burst, netem)
            except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
                continue


def _addresses(found: list[str] | None) -> tuple[str, ...] | None:
    """Raises ValueError, TypeError."""
    if found is None:
        return None
    try:
        return tuple(str(IPv4Address(str(one))) for one in found[:PEERS_MAX])
    except AddressValueError as e:
        raise ValueError(str(e)) from e
