"""What must and what may be there, judged from what clients were told. Pure.

Each key has one writer, which writes one value after the other, every value once. Every write but the first has the
condition that the key is as the writer saw it last, so that one without an answer comes to nothing once a later one
was acknowledged. A key that was deleted is never written again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

#: A value; None: the key is not there.
Value = str | None


class Answer(Enum):
    """What a client knows of a write."""

    DONE = auto()
    UNKNOWN = auto()
    """No answer, or one that leaves it open: it may be done, now or later."""
    REFUSED = auto()
    """An answer that says that nothing was done, nor ever will be."""


@dataclass(slots=True)
class _Key:
    settled: Value = None
    open: list[Value] = field(default_factory=list)
    """Of writes without an answer since."""
    refused: set[Value] = field(default_factory=set)


class Ledger:
    """The record of answers. `problems`: whatever contradicts an answer."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self.problems: list[str] = []
        self.answers = dict.fromkeys(Answer, 0)

    def wrote(self, key: str, value: Value, answer: Answer) -> None:
        """A write (a deletion: None) has ended so."""
        found = self._keys.setdefault(key, _Key())
        self.answers[answer] += 1
        match answer:
            case Answer.DONE:
                found.settled, found.open = value, []
            case Answer.UNKNOWN:
                found.open.append(value)
            case Answer.REFUSED:
                found.refused.add(value)

    def read(self, key: str, value: Value) -> None:
        """A read that began after the last write had ended was answered so."""
        found = self._keys.setdefault(key, _Key())
        if value in found.open:
            found.settled, found.open = value, []
        elif value != found.settled:
            self.problems.append(self._wrong(key, value))

    def may_be(self, key: str) -> list[Value]:
        found = self._keys.get(key, _Key())
        return [found.settled, *found.open]

    def judge(self, there: Mapping[str, str], when: str = "in the end") -> None:
        """`there` is everything that can be read under the keys of this ledger."""
        for key in sorted(self._keys.keys() | there.keys()):
            if there.get(key) not in self.may_be(key):
                self.problems.append(f"{when}: {self._wrong(key, there.get(key))}")

    def _wrong(self, key: str, value: Value) -> str:
        may_be = " or ".join(repr(v) for v in self.may_be(key))
        refused = value in self._keys[key].refused if key in self._keys else False
        return f"{key} is {value!r}, not {may_be}" + (", though that write was refused" if refused else "")
