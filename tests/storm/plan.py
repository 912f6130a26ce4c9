"""What happens in a storm, and when: a pure function of its parameters.

Faults are those of `control_plane.faults`; what clients do is here, each with what it needs to be done.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rayplane.control_plane.cluster.config import PROCESS, RAY
from rayplane.control_plane.faults.drawing import Odds, Roster, schedule
from rayplane.control_plane.faults.vocabulary import Fault, FullDisk, Kill, Stop, Target

SECONDS_MIN = 5.0
#: Spans for which something is broken; some longer than leases last and elections take.
SPANS_S = (1.0, 2.5, 4.0, 7.0)
#: The process of all actors, where there is one.
THE_PROCESS = Target(name="process-0")
REPLICAS = {"deployments.apps": (0, 9), "statefulsets.apps": (1, 4)}


@dataclass(frozen=True, slots=True)
class Compact:
    """All history is forgotten, as `etcdctl compact` at the current revision does."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """A burst of so many writes, made at once, and given up before they are answered."""

    count: int
    within_s: float


@dataclass(frozen=True, slots=True)
class Deaf:
    """So many watchers read nothing for a while, and are then gone."""

    count: int
    for_s: float


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """So many connections to every port stay open for a while, with half a request or none."""

    count: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Burst:
    """So many objects are made at once, and deleted again."""

    count: int


@dataclass(frozen=True, slots=True)
class WatchBurst:
    """So many watches begin at once, each from the first object on."""

    count: int


@dataclass(frozen=True, slots=True)
class Scale:
    """A workload is wanted in another size."""

    resource: str
    replicas: int


Act = Fault | Compact | Cancel | Deaf | HalfOpen | Burst | WatchBurst | Scale


@dataclass(frozen=True, slots=True)
class Timed:
    """An act that begins so many seconds after the storm, whatever else goes on."""

    at_s: float
    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a storm is made of; printed first, so that it can be made again."""

    host: str
    seed: int
    seconds: float
    pressure: int = 0
    """Processes that only want a core, all the time."""
    runtime: str = "simulated"
    members: int = 3
    apiservers: int = 2
    schedulers: int = 2
    controllers: int = 2
    nodes: int = 2
    pause_s: tuple[float, float] = (0.3, 2.5)
    """Between two acts."""
    first: tuple[Timed, ...] = field(default=())
    """Acts that no seed decides."""

    def __str__(self) -> str:
        return " ".join(f"{k}={v}" for k, v in asdict(self).items() if k != "first")

    def acts(self) -> list[Timed]:
        """All of them in the order of their beginnings; the same again for the same plan."""
        rng = random.Random(self.seed)
        # Faults and what clients do come independently of each other, so half as often each.
        least, most = (2 * pause for pause in self.pause_s)
        # Who was killed comes back with its data by itself: a storm may outvote the members.
        weights: dict[type[Fault], int] = {Kill: 5} if self.host == PROCESS else {Kill: 5, Stop: 4}
        odds = Odds(weights=weights, spans_s=SPANS_S, pause_s=(least, most), outvoted=True)
        made = list(self.first)
        made += [Timed(at, fault) for at, fault in schedule(rng, self.roster, odds, self.seconds)]
        draw = _Draw(self, rng)
        at = 0.0
        while (at := at + rng.uniform(least, most)) < self.seconds:
            made += [Timed(round(at, 2), act) for act in draw.acts()]
        return sorted(made, key=lambda t: t.at_s)

    @property
    def roster(self) -> Roster:
        """Whom faults may hit."""
        counts = {
            "member": self.members,
            "apiserver": self.apiservers,
            "scheduler": self.schedulers,
            "controllers": self.controllers,
            "node": self.nodes,
        }
        return Roster({role: tuple(f"{role}-{n}" for n in range(count)) for role, count in counts.items()})


class _Draw:
    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self._plan, self._rng = plan, rng
        common: dict[Callable[[], list[Act]], int] = {
            self._compact_and_kill: 2, self._full_disk: 1, self._cancel: 3, self._deaf: 2,
            self._half_open: 1, self._burst: 2, self._watch_burst: 1, self._scale: 3,
        }  # fmt: skip
        own: dict[Callable[[], list[Act]], int] = {self._freeze: 2} if plan.host == PROCESS else {}
        self._makers, self._weights = zip(*(common | own).items(), strict=True)

    def acts(self) -> list[Act]:
        maker: Callable[[], list[Act]] = self._rng.choices(self._makers, self._weights)[0]
        return maker()

    def _span(self) -> float:
        return self._rng.choice(SPANS_S)

    def _actor(self, kind: str, count: int) -> Target:
        return Target(kind, f"{kind}-{self._rng.randrange(count)}")

    def _freeze(self) -> list[Act]:
        return [Stop(THE_PROCESS, self._span())]

    def _compact_and_kill(self) -> list[Act]:
        if self._rng.random() < 0.3:
            return [Compact()]
        return [Compact(), Kill(self._actor("apiserver", self._plan.apiservers))]

    def _full_disk(self) -> list[Act]:
        # On Ray an actor's process is made again, and the new one has no limit.
        whose = self._actor("member", self._plan.members) if self._plan.host == RAY else THE_PROCESS
        return [FullDisk(whose, self._span())]

    def _cancel(self) -> list[Act]:
        return [Cancel(self._rng.choice((10, 40, 120)), self._rng.choice((0.002, 0.02, 0.2)))]

    def _deaf(self) -> list[Act]:
        return [Deaf(self._rng.choice((2, 8, 20)), self._span())]

    def _half_open(self) -> list[Act]:
        return [HalfOpen(self._rng.choice((5, 20)), self._span())]

    def _burst(self) -> list[Act]:
        return [Burst(self._rng.choice((50, 200)))]

    def _watch_burst(self) -> list[Act]:
        return [WatchBurst(self._rng.choice((10, 40)))]

    def _scale(self) -> list[Act]:
        resource = self._rng.choice(sorted(REPLICAS))
        return [Scale(resource, self._rng.randint(*REPLICAS[resource]))]
