"""Records of each actor's starts: what fails is tried again ever more rarely. Pure: callers tell the time."""

from collections.abc import Collection, Mapping

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.topology import Phase, Role, Topology

RESTARTS = Backoff(1.0, 30.0)
# What ends sooner after its start has failed too; the first time may be a mere accident.
LIFE_S = 10.0
# So many starts in a row may fail in the same place before an actor is planned elsewhere, a member under another name.
STARTS_MAX = 5
# So long nobody who is well moves to a machine where its like did not start: what ails the machine may have ended.
UNFIT_S = 3600.0


class StartRecords:
    """The starts of actors so far.

    `counts`, `failures` and `reasons` are by actor name: how often it was started, how many starts in a row have
    failed, and why the last did. `here`: how many of these where the actor is planned now. `lost`: members whose data
    is not what they acknowledged. `crowded`: those whose last start failed since a port of theirs was taken.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.here: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.lost: set[str] = set()
        self.crowded: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        self._unfit: dict[tuple[Role, str], float] = {}  # until when, by the machine's id

    @property
    def not_before(self) -> Mapping[str, float]:
        return self._not_before

    def has_started(self, name: str) -> bool:
        """Whether its last start has succeeded, and it has not been seen to end since."""
        return name in self._started_at

    def began(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def succeeded(self, name: str, now: float) -> None:
        self.lost.discard(name)
        self._started_at[name] = now

    def failed(
        self, name: str, reason: str, now: float, *, lost: bool = False, crowded: bool = False, free: int = 0
    ) -> float:
        """The seconds after which it may be tried again. `free`: so many failures in a row cost no pause."""
        if lost:
            self.lost.add(name)
        (self.crowded.add if crowded else self.crowded.discard)(name)
        failures = self.failures[name] = self.failures.get(name, 0) + 1
        self.here[name] = self.here.get(name, 0) + 1
        self.reasons[name] = reason
        if failures <= free:
            return 0.0
        pause = RESTARTS.pause_s(failures)
        self._not_before[name] = now + pause
        return pause

    def look(self, present: Collection[str], now: float) -> None:
        """These exist now, or are about to. Who has lived for a while is forgiven; who ended too soon has failed."""
        for name, started_at in list(self._started_at.items()):
            lived = now - started_at >= LIFE_S
            if name in present:
                if lived and name in self.failures:
                    self._forgive(name)
                continue
            del self._started_at[name]
            if lived:
                self._forgive(name)
            else:
                self.failed(name, "it ended soon after its start; see its log", now, free=1)

    def forgive(self, name: str) -> None:
        """Its end was wanted: nothing of before counts."""
        self._forgive(name)
        self._started_at.pop(name, None)

    def moved(self, name: str) -> None:
        """It is planned elsewhere: nothing has failed there yet. It is tried as rarely as it was."""
        self.here.pop(name, None)
        self.crowded.discard(name)

    def given_up(self, before: Topology, after: Topology, now: float) -> None:
        """Whoever is planned elsewhere after failures, or no more as an heir, could not start on its machine; that its
        port was taken there ails no machine."""
        heirs = [i for i in before.instances if i.replaces and i.phase is Phase.JOINING and after.has(i.name)]
        found = [i for i in heirs if after.get(i.name).phase is Phase.LEAVING]
        tried = [i for i in before.instances if self.here.get(i.name, 0) >= STARTS_MAX and after.has(i.name)]
        found += [i for i in tried if after.get(i.name).machine != i.machine]
        self._unfit |= {(i.role, i.machine.id): now + UNFIT_S for i in found if i.name not in self.crowded}

    def unfit(self, now: float) -> frozenset[tuple[Role, str]]:
        """Roles and ids of the machines where their like did not start lately."""
        self._unfit = {unfit: until for unfit, until in self._unfit.items() if now < until}
        return frozenset(self._unfit)

    def handed_on(self, heir: str, name: str) -> None:
        """What an heir failed of is told of the one whose place it was to take, and holds for the next heir."""
        self.failures[name], self.reasons[name] = self.failures[heir], self.reasons[heir]
        self._not_before[name] = self._not_before[heir]

    def inherited(self, heir: str, name: str) -> None:
        """An heir begins with the pause that the last one left."""
        if name in self._not_before:
            self.failures[heir], self._not_before[heir] = self.failures[name], self._not_before[name]

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        for kept in (self.counts, self.failures, self.here, self.reasons, self._not_before, self._started_at):
            for name in [n for n in kept if n not in names]:
                del kept[name]  # type: ignore[attr-defined]
        self.lost.intersection_update(names)
        self.crowded.intersection_update(names)

    def _forgive(self, name: str) -> None:
        self.crowded.discard(name)
        for kept in (self.failures, self.here, self.reasons, self._not_before):
            kept.pop(name, None)  # type: ignore[attr-defined]
