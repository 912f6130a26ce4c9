"""A debugger of runs: virtual time stands while a person looks, from between two instants of the loop.

Nothing that is looked at changes the run: without `do` it is the run of its seed, to the hash. A fork is a run of its
own: the same prefix from the beginning, and from this instant on another chance.
"""

from collections.abc import Callable
from typing import Any

import yaml

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.simulation.inspection import objects_now, overview, state_of
from rayplane.control_plane.simulation.plan import Strike, write_plan
from rayplane.control_plane.simulation.result import told
from rayplane.control_plane.simulation.run import Fork, Run
from rayplane.control_plane.simulation.scenario import read_struck
from rayplane.control_plane.simulation.trace import Event
from rayplane.control_plane.simulation.watching import Say, Until

HELP = """\
next [N]            to the next event, or the Nth
until TIME|EVENT    to a time (90s) or to an event: `until kill member-0`, `until VIOLATION`
show [COMPONENT]    everybody, or the state of one: `show member-0`
objects [KIND [NAME]]   what etcd holds: counts, the objects of a kind, or one
events [N]          the last of them
do FAULT            let it happen now: `do kill: leader`, `do partition: {hosts: [[lb]], for: 3s}`
fork [N]            how it ends with other chance from here on, N times
plan                what has struck so far, as a file for --plan
continue            to the end; quit ends the run here"""
PROMPT = "(rayplane) "
EVENTS_SHOWN = 20
FORKS_MAX = 100

Read = Callable[[], str | None]
"""The next line of commands; None when there are no more."""


class Debugger:
    """One session. `fork` runs another future and tells in a line how it ended."""

    def __init__(self, read: Read, say: Say, fork: Callable[[tuple[Strike, ...], Fork], str]) -> None:
        self._read = read
        self._say = say
        self._fork = fork
        self._run: Run | None = None
        self._waits: Until | None = None
        self._events_left = 0
        self._free = False

    @property
    def _parts(self) -> Run:
        assert self._run is not None, "there is no run to look at"
        return self._run

    def begin(self, parts: Run) -> None:
        """The run is there, nothing has happened yet."""
        self._run = parts
        parts.trace.listeners.append(self._heard)
        parts.loop.before_time = self._before

    def end(self) -> None:
        """The run is over; one that was refused has not begun."""
        if self._waits is not None:
            self._say(f"{self._waits} did not come any more: the run is over")
        self._run = None

    def _heard(self, event: Event) -> None:
        if self._events_left:
            self._events_left -= 1
            if not self._events_left:
                self._stop_at(event)
        elif self._waits is not None and self._waits.is_met_by(event):
            self._stop_at(event)

    def _stop_at(self, event: Event) -> None:
        self._waits = None
        self._say(told(event).strip())

    @property
    def _waiting(self) -> bool:
        return self._free or self._waits is not None or self._events_left > 0

    def _before(self, when: float) -> None:
        """Between two instants."""
        if self._waits is not None and self._waits.is_met_at(when):
            self._waits = None
        while not self._waiting:
            line = self._read()
            if line is None:
                self._free = True
                return
            self.command(line)
            if self._parts.loop.halted:
                return

    def command(self, line: str) -> None:
        """Carry out one line; what is wrong with it is said."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        command = self._commands().get(word)
        if command is None:
            self._say(f"no command {word!r:.40}; there are\n{HELP}")
            return
        try:
            command(rest.strip())
        except (ClusterError, FormError, ValueError, yaml.YAMLError) as e:
            self._say(" ".join(str(e).split()))

    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "next": self._next,
            "until": self._until,
            "show": self._show,
            "objects": self._objects,
            "events": self._last,
            "do": self._do,
            "fork": self._forks,
            "plan": lambda _: self._say(write_plan(self._parts.plan).rstrip()),
            "continue": self._continue,
            "quit": self._quit,
            "help": lambda _: self._say(HELP),
        }

    def _next(self, rest: str) -> None:
        self._events_left = _number(rest, 1)

    def _until(self, rest: str) -> None:
        self._waits = Until(rest, self._parts.loop.time())

    def _show(self, rest: str) -> None:
        lines = state_of(self._parts.cluster, rest) if rest else overview(self._parts.cluster)
        self._say("\n".join([f"{self._parts.loop.time():.6f} s", *lines]))

    def _objects(self, rest: str) -> None:
        self._say("\n".join(objects_now(self._parts.cluster, *rest.split()[:2])))

    def _last(self, rest: str) -> None:
        self._say("\n".join(self._parts.trace.last[-_number(rest, EVENTS_SHOWN) :]))

    def _do(self, rest: str) -> None:
        found: Any = yaml.safe_load(rest)
        striking = self._parts.striker.strike_now(read_struck(found, "do"))
        self._say("\n".join(striking) or "done")

    def _forks(self, rest: str) -> None:
        count = min(FORKS_MAX, _number(rest, 1))
        by_hand, now = tuple(self._parts.striker.by_hand), self._parts.loop.time()
        for number in range(1, count + 1):
            self._say(f"fork {number}: {self._fork(by_hand, Fork(now, number))}")

    def _continue(self, _: str) -> None:
        self._free = True

    def _quit(self, _: str) -> None:
        self._parts.loop.halted = "quit"


def _number(text: str, otherwise: int) -> int:
    """How many are asked for. Raises UsageError."""
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"{text!r:.40} is no number of 1 or more")
    return int(text or otherwise)
