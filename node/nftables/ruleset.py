"""Rules as data: sets, chains and elements; who wants which of them; what changes when somebody wants others. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Generic, TypeVar

from rayplane.node.nftables.expressions import Place, Rule, Verdict, show

Data = Verdict | Place | None
Element = tuple[str, bytes]
"""A set's name and a key of it; of one with ranges the first and the last key, one behind the other."""


@dataclass(frozen=True, slots=True)
class Set:
    """A set of keys, or a map. `sizes`: bytes of each part of a key.

    `gives`: what it has for a key. `ranges`: keys are ranges of every part. `forgets`: rules put keys in for a while.
    `counts`: rules count connections in it. `room`: how many keys rules may put in.
    """

    sizes: tuple[int, ...]
    gives: "Gives | None" = None
    ranges: bool = False
    forgets: bool = False
    counts: bool = False
    room: int = 0


class Gives(Enum):
    VERDICT = "verdict"
    PLACE = "place"


@dataclass(frozen=True, slots=True)
class Hook:
    """The way of packets to a chain. `kind`: filter or nat; `number`: NF_INET_PRE_ROUTING and so on."""

    kind: str
    number: int
    priority: int


PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a table that somebody wants to have.

    Of several who want a chain or an element of one name, the first by name gets it. What a set's name stands for does
    not change.
    """

    sets: Mapping[str, Set] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    elements: Mapping[Element, Data] = field(default_factory=dict)


NOTHING = Fragment()


@dataclass(slots=True)
class Changes:
    """The steps from one table to another. Chains that stand in `rules` get those instead of what they had."""

    sets: dict[str, Set] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    elements: dict[Element, Data] = field(default_factory=dict)
    gone_elements: dict[Element, Data] = field(default_factory=dict)
    gone_chains: dict[str, None] = field(default_factory=dict)
    gone_sets: dict[str, None] = field(default_factory=dict)


_Name = TypeVar("_Name", str, Element)
_Wanted = TypeVar("_Wanted")


class _Wants(Generic[_Name, _Wanted]):
    """Things by name with those who want them, and which of them changed."""

    def __init__(self) -> None:
        self._wanted: dict[_Name, dict[str, _Wanted]] = {}
        self._old: dict[_Name, tuple[_Wanted, ...]] = {}
        """What the kernel has under names that changed since: one or none."""

    def put(self, owner: str, before: Mapping[_Name, _Wanted], now: Mapping[_Name, _Wanted]) -> None:
        for name in before.keys() - now.keys():
            self._note(name)
            wanted = self._wanted[name]
            del wanted[owner]
            if not wanted:
                del self._wanted[name]
        for name, thing in now.items():
            if name not in before or before[name] != thing:
                self._note(name)
                self._wanted.setdefault(name, {})[owner] = thing

    def changed(self) -> Iterator[tuple[_Name, tuple[_Wanted, ...], tuple[_Wanted, ...]]]:
        """Names with what the kernel has and what it should have; from then on it has."""
        old, self._old = self._old, {}
        for name, was in old.items():
            now = self._now(name)
            if was != now:
                yield name, was, now

    def has(self, name: _Name) -> bool:
        return name in self._wanted

    def all(self) -> dict[_Name, _Wanted]:
        self._old = {}
        return {name: wanted[min(wanted)] for name, wanted in self._wanted.items()}

    def look(self) -> dict[_Name, _Wanted]:
        return {name: wanted[min(wanted)] for name, wanted in self._wanted.items()}

    def _note(self, name: _Name) -> None:
        if name not in self._old:
            self._old[name] = self._now(name)

    def _now(self, name: _Name) -> tuple[_Wanted, ...]:
        wanted = self._wanted.get(name)
        return (wanted[min(wanted)],) if wanted else ()


class Table:
    """The fragments of one table together, and how far that is from what was applied last."""

    def __init__(self) -> None:
        self._fragments: dict[str, Fragment] = {}
        self._sets: _Wants[str, Set] = _Wants()
        self._chains: _Wants[str, Chain] = _Wants()
        self._elements: _Wants[Element, Data] = _Wants()

    def put(self, owner: str, fragment: Fragment) -> None:
        """Have this of an owner instead of what he wanted before."""
        before = self._fragments.pop(owner, NOTHING)
        if fragment != NOTHING:
            self._fragments[owner] = fragment
        self._sets.put(owner, before.sets, fragment.sets)
        self._chains.put(owner, before.chains, fragment.chains)
        self._elements.put(owner, before.elements, fragment.elements)

    def owners(self, prefix: str) -> list[str]:
        return [owner for owner in self._fragments if owner.startswith(prefix)]

    def has(self, element: Element) -> bool:
        return self._elements.has(element)

    def changes(self) -> Changes:
        """What is to be done so that the kernel has what is wanted; that counts as done from now on."""
        found = Changes()
        for name, old_set, new_set in self._sets.changed():
            if old_set and new_set:
                raise ValueError(f"set {name} cannot become one of another kind")
            found.sets |= dict.fromkeys([name], *new_set) if new_set else {}
            found.gone_sets |= dict.fromkeys([name]) if old_set else {}
        for name, old, new in self._chains.changed():
            if not new:
                found.gone_chains[name] = None
            elif not old:
                found.chains[name] = new[0]
            else:
                found.rules[name] = new[0].rules
        for element, was, now in self._elements.changed():
            if was and element[0] not in found.gone_sets:
                found.gone_elements[element] = was[0]
            if now:
                found.elements[element] = now[0]
        return found

    def everything(self) -> Changes:
        """All that is wanted, for a table that is empty; that counts as done from now on."""
        return Changes(sets=self._sets.all(), chains=self._chains.all(), elements=self._elements.all())

    def listing(self) -> list[str]:
        """All rules and elements as text, for people and for tests."""
        chains, elements = self._chains.look(), self._elements.look()
        lines = [f"{name}: {show(rule)}" for name in sorted(chains) for rule in chains[name].rules]
        return lines + [f"@{name} {key.hex()} {elements[name, key] or ''}".rstrip() for name, key in sorted(elements)]


def range_elements(name: str, networks: Iterable[str]) -> dict[Element, Data]:
    """Elements of a set of addresses: those of some networks, as stretches that neither overlap nor touch."""
    found = collapse_addresses(IPv4Network(one) for one in networks)
    stretches: list[tuple[int, int]] = []
    for one in found:
        first, last = int(one.network_address), int(one.broadcast_address)
        if stretches and stretches[-1][1] + 1 == first:
            first = stretches.pop()[0]
        stretches.append((first, last))
    return {(name, IPv4Address(a).packed + IPv4Address(b).packed): None for a, b in stretches}
