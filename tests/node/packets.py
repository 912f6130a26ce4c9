"""A reader of packet rules that are data: what becomes of the first packet of a connection."""

from dataclasses import dataclass

from rayplane.node.nftables.expressions import Choose, Field, Has, In, Own, Parts, Rule, Verdict, address, key, port
from rayplane.node.nftables.ruleset import Changes, Hook

_ACCEPT, _DROP = 1, 0


@dataclass(frozen=True)
class Packet:
    source: str
    destination: str
    protocol: int
    port: int

    def part(self, parts: Parts) -> bytes:
        fields = {
            Field.SOURCE: address(self.source),
            Field.DESTINATION: address(self.destination),
            Field.PROTOCOL: bytes([self.protocol]),
            Field.PORT: port(self.port),
        }
        return key(*(one.data if isinstance(one, Own) else fields[one] for one in parts))  # type: ignore[index]


class Reader:
    """A reader of a whole table."""

    def __init__(self, table: Changes) -> None:
        self._table = table
        self._ranges: dict[str, list[bytes]] = {}
        for name, found in table.elements:
            if table.sets[name].ranges:
                self._ranges.setdefault(name, []).append(found)

    def passes(self, packet: Packet, hook: int) -> bool:
        """Whether it comes through all chains of a hook."""
        base = [c for c in self._table.chains.values() if isinstance(c.hook, Hook) and c.hook.number == hook]
        filters = sorted((c for c in base if c.hook and c.hook.kind == "filter"), key=lambda c: c.hook.priority)  # type: ignore[union-attr]
        return all(self._run(chain.rules, packet) != _DROP for chain in filters)

    def _run(self, rules: tuple[Rule, ...], packet: Packet) -> int | None:
        """The last word of a chain, None when it has none."""
        for rule in rules:
            verdict = self._rule(rule, packet)
            if verdict is None:
                continue
            if verdict.code in (_ACCEPT, _DROP):
                return verdict.code
            said = self._run(self._table.chains[verdict.chain].rules, packet)
            if said is not None or verdict.code == -4:
                return said
        return None

    def _rule(self, rule: Rule, packet: Packet) -> Verdict | None:
        for statement in rule:
            if isinstance(statement, Verdict):
                return statement
            if isinstance(statement, Has):
                return None  # a new connection, unmarked
            if isinstance(statement, Choose):
                found = self._table.elements.get((statement.map, packet.part(statement.parts)))
                return found if isinstance(found, Verdict) else None
            assert isinstance(statement, In), statement
            if self._holds(statement.set, statement.parts, packet) == statement.unless:
                return None
        return None

    def _holds(self, name: str, parts: Parts, packet: Packet) -> bool:
        wanted = packet.part(parts)
        if not self._table.sets[name].ranges:
            return (name, wanted) in self._table.elements
        for found in self._ranges.get(name, ()):
            first, last = found[: len(found) // 2], found[len(found) // 2 :]
            fields = [slice(at, at + 4) for at in range(0, len(first), 4)]
            if all(first[one] <= wanted[one] <= last[one] for one in fields):
                return True
        return False
