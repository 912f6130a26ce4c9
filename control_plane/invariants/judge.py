"""The judge: tells every check the news, and keeps the violations that it found."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.invariants.history import Answer, Change, Fact, History

KEPT = 20
"""Different violations of one invariant that are kept; further ones are counted."""
AT_ONCE = 100
"""What a check may yield for one piece of news."""
NAMED = "INVARIANTS"


class BadInvariants(ValueError):
    """A file of checks names something that is none."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation that a check found, and when, in seconds of the recorder's clock."""

    invariant: str
    text: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s: {self.invariant}: {self.text}"


class Invariant:
    """A check with a state of its own, made anew for each run. Every method yields the texts of violations."""

    name: ClassVar[str] = ""
    settles: ClassVar[bool] = False
    """Whether `finished` finds what may still come right: it is asked until it finds nothing, or time is over."""

    looked: int | None = None
    """How often it has compared anything, where it counts that: after 0 times it says nothing."""

    def begun(self, history: History) -> Iterable[str]:
        """Recording has begun, or begun anew: all that is known is what is there now."""
        return ()

    def changed(self, change: Change, history: History) -> Iterable[str]:
        """After a change; `history` knows it already."""
        return ()

    def answered(self, answer: Answer, history: History) -> Iterable[str]:
        """A client was answered."""
        return ()

    def observed(self, fact: Fact, history: History) -> Iterable[str]:
        """Something was seen of members, nodes or servers."""
        return ()

    def finished(self, history: History) -> Iterable[str]:
        """In the end, when every fault is over and the cluster had time to come to rest."""
        return ()


Make = Callable[[], Invariant]
Told = Callable[[Invariant], Iterable[str]]


class _Function(Invariant):
    """A check that is a function of the history."""

    settles = True

    def __init__(self, check: Callable[[History], Iterable[Any]]) -> None:
        self._check = check

    def changed(self, change: Change, history: History) -> Iterable[str]:
        return map(str, self._check(history) or ())

    def finished(self, history: History) -> Iterable[str]:
        return map(str, self._check(history) or ())


def made_by(names: Mapping[str, Any]) -> tuple[tuple[str, Make], ...]:
    """Name and maker of each check that a module (its `vars`) lists in `INVARIANTS`; none where it lists nothing.

    Raises BadInvariants.
    """
    listed = names.get(NAMED, ())
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise BadInvariants(f"{NAMED} is no list of checks")
    return tuple(_maker(one) for one in listed)


def _maker(one: Any) -> tuple[str, Make]:
    if isinstance(one, type) and issubclass(one, Invariant):
        return one.name or one.__name__, one
    if inspect.isfunction(one):
        return one.__name__.replace("_", " "), lambda: _Function(one)
    raise BadInvariants(f"{NAMED}: {one!r:.80} is neither a function of the history nor a class of Invariant")


class Listener(Protocol):
    """Somebody who is told what the history is."""

    def begun(self, history: History) -> None:
        """Recording has begun, or begun anew."""

    def changed(self, change: Change) -> None: ...


class Judge:
    """A judge of one run. `tell` hears of each violation that is kept, when it is found."""

    def __init__(self, makes: Iterable[tuple[str, Make]], tell: Callable[[Violation], None] = lambda _: None) -> None:
        self.history = History()
        self.violations: list[Violation] = []
        self.counts: dict[str, int] = {}
        """Violations of each invariant, 0 where it held."""
        self._checks: dict[str, Invariant] = {}
        self._texts: dict[str, dict[str, None]] = {}
        self._tell = tell
        self.listener: Listener | None = None
        for name, make in makes:
            self._checks[name] = make()
            self.counts[name] = 0

    def begin(self, at_s: float, revision: int, objects: Iterable[tuple[str, Object]]) -> None:
        """What is there when recording begins, or begins anew because history was compacted."""
        self.history.begin(at_s, revision, objects)
        if self.listener is not None:
            self.listener.begun(self.history)
        self._ask(lambda check: check.begun(self.history))

    def changed(self, at_s: float, resource: str, obj: Object, revision: int, *, gone: bool = False) -> None:
        """An object was written at a revision of etcd, or deleted; in the order of revisions."""
        change = self.history.take(at_s, resource, obj, revision, gone=gone)
        if self.listener is not None:
            self.listener.changed(change)
        self._ask(lambda check: check.changed(change, self.history))

    def answered(self, answer: Answer) -> None:
        self.history.time_s = max(self.history.time_s, answer.returned_s)
        self._ask(lambda check: check.answered(answer, self.history))

    def observed(self, at_s: float, fact: Fact) -> None:
        self.history.time_s = max(self.history.time_s, at_s)
        self._ask(lambda check: check.observed(fact, self.history))

    def finished(self, at_s: float) -> None:
        """The end, at rest."""
        self.history.time_s = max(self.history.time_s, at_s)
        self.history.last = None
        self._ask(lambda check: check.finished(self.history))

    def unseen(self) -> list[str]:
        """Invariants that had nothing to compare: that nothing was found says nothing."""
        return [name for name, check in self._checks.items() if check.looked == 0]

    def unsettled(self) -> list[str]:
        """What `finished` would find now that may still come right."""
        self.history.last = None
        settling = {name: check for name, check in self._checks.items() if check.settles}
        asked = (self._asked(check, lambda one: one.finished(self.history)) for check in settling.values())
        return [text for texts in asked for text in texts]

    def add(self, name: str, text: str) -> None:
        """A violation; also one that somebody else found. What is said again is the same one."""
        texts = self._texts.setdefault(name, {})
        if text in texts:
            return
        self.counts[name] = self.counts.get(name, 0) + 1
        if len(texts) < KEPT:
            texts[text] = None
            violation = Violation(name, text, self.history.time_s)
            self.violations.append(violation)
            self._tell(violation)

    def _ask(self, told: Told) -> None:
        for name, check in self._checks.items():
            for text in self._asked(check, told):
                self.add(name, text)

    @staticmethod
    def _asked(check: Invariant, told: Told) -> list[str]:
        try:
            return list(islice(told(check) or (), AT_ONCE))
        except Exception as e:
            # A check is code of others: one that is wrong must not end the run, nor pass as one that holds.
            return [f"the check itself failed: {type(e).__name__}: {e}"]
