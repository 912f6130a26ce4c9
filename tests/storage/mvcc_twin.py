"""An MVCC store that keeps every state it was ever in: too slow to use, too simple to be wrong."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kv:
    key: bytes
    value: bytes
    create: int
    mod: int
    version: int
    lease: int


State = dict[bytes, Kv]


def in_range(key: bytes, end: bytes, candidate: bytes) -> bool:
    if end == b"":
        return candidate == key
    if end == b"\0":
        return candidate >= key
    return key <= candidate < end


class Twin:
    def __init__(self) -> None:
        self.states: list[State] = [{}, {}]  # by revision; 1 is the empty store
        self.log: list[tuple[int, str, bytes, Kv | None]] = []  # revision, type, key, previous
        self.compacted = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def write(self, operations: list[tuple[str, bytes, bytes, int]]) -> None:
        """("put", key, value, lease) and ("delete", key, end, 0)."""
        state, main, changed = dict(self.states[-1]), self.revision + 1, False
        for kind, key, argument, lease in operations:
            if kind == "put":
                old = state.get(key)
                new = Kv(key, argument, main, main, 1, lease)
                if old is not None:
                    new = replace(new, create=old.create, version=old.version + 1)
                state[key] = new
                self.log.append((main, "put", key, old))
                changed = True
            else:
                for name in sorted(k for k in state if in_range(key, argument, k)):
                    self.log.append((main, "delete", name, state.pop(name)))
                    changed = True
        if changed:
            self.states.append(state)

    def range(self, key: bytes, end: bytes, revision: int) -> list[Kv]:
        state = self.states[revision or self.revision]
        return [state[k] for k in sorted(state) if in_range(key, end, k)]

    def events(self, start: int, key: bytes, end: bytes) -> list[tuple[int, str, bytes]]:
        return [(main, kind, k) for main, kind, k, _ in self.log if main >= start and in_range(key, end, k)]
