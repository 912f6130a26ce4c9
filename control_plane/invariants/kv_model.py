"""An etcd key space as a sequential object: registers with versions under one ascending revision.

Source: etcd documentation, "API reference": KeyValue, Txn and ResponseHeader. Every request is a transaction:
compares, then one of two lists of operations; a plain put, get or delete is one without compares.

Numbers that no client was told (a write of unknown outcome got some revision) are kept as bounds: `-n` is "unknown,
at least n" until an answer shows it. So a state stands for all that agree with what was seen, and stays one state.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rayplane.control_plane.invariants.linearizable import Operation


class Kv(NamedTuple):
    """The content of a key. Revisions may be bounds, see the module; in answers they never are."""

    value: bytes
    create: int
    mod: int
    version: int


class Put(NamedTuple):
    """A put, answered with what was there before (`prev`), else None."""

    key: bytes
    value: bytes
    prev: bool = False


class Get(NamedTuple):
    """A get, answered with Kv or None."""

    key: bytes


class Delete(NamedTuple):
    """A delete, answered with the number of deleted keys."""

    key: bytes


Op = Put | Get | Delete


class Compare(NamedTuple):
    """A condition: `field` (of Kv) equals `target`; of a missing key all numbers are 0 and no value equals."""

    key: bytes
    field: str
    target: int | bytes


class Request(NamedTuple):
    ops: tuple[Op, ...]
    compare: tuple[Compare, ...] = ()
    otherwise: tuple[Op, ...] = ()

    @property
    def keys(self) -> list[bytes]:
        return sorted({part.key for part in (*self.compare, *self.ops, *self.otherwise)})

    @property
    def writes(self) -> bool:
        return any(not isinstance(op, Get) for op in (*self.ops, *self.otherwise))


class Response(NamedTuple):
    """The answer to a transaction. `results` None: nobody was told, only the revision became known."""

    revision: int
    results: tuple[Kv | int | None, ...] | None
    succeeded: bool = True

    @property
    def told(self) -> tuple[Kv | int | None, ...]:
        """The results, of an answer that has them."""
        assert self.results is not None
        return self.results


class State(NamedTuple):
    """A store's state. `revision`: the store's, or the least it can be. `keys`: those present, sorted."""

    revision: int = 1
    keys: tuple[tuple[bytes, Kv], ...] = ()


_Keys = dict[bytes, Kv]


class KvModel:
    """The model; see `checker.Model`."""

    def partition(self, history: Sequence[Operation]) -> Iterable[list[Operation]]:
        """By keys, those together that meet in one transaction."""
        group: dict[bytes, bytes] = {}

        def root(key: bytes) -> bytes:
            while (up := group.setdefault(key, key)) != key:
                key = up
            return key

        for op in history:
            first, *others = op.input.keys
            for key in others:
                group[root(key)] = root(first)
        parts: dict[bytes, list[Operation]] = {}
        for op in history:
            parts.setdefault(root(op.input.keys[0]), []).append(op)
        return [parts[key] for key in sorted(parts)]

    def init(self) -> State:
        return State()

    def step(self, state: State, input: Request, output: Response | None) -> list[State]:
        if output is None:
            after = []
            for succeeded in (True, False):
                keys = dict(state.keys)
                if _decide(keys, input.compare, succeeded):
                    wrote, _ = _run(keys, input.ops if succeeded else input.otherwise, -state.revision - 1, None)
                    after.append(_state(state.revision + wrote, keys))
            return after
        keys = dict(state.keys)
        if not _decide(keys, input.compare, output.succeeded):
            return []
        ops = input.ops if output.succeeded else input.otherwise
        if output.results is not None and len(ops) != len(output.results):
            return []
        wrote, fits = _run(keys, ops, output.revision, output.results)
        if not fits or output.revision < state.revision + wrote:
            return []
        return [_state(output.revision, keys)]

    def describe(self, input: Request, output: Response | None) -> str:
        text = ", ".join(map(_op_text, input.ops))
        if input.compare:
            conditions = " and ".join(f"{c.key.decode()}.{c.field}={_text(c.target)}" for c in input.compare)
            text = f"if {conditions} then {text}" + (
                f" else {', '.join(map(_op_text, input.otherwise))}" if input.otherwise else ""
            )
        if output is None:
            return f"{text} -> unknown"
        branch = "" if output.succeeded else "else "
        results = "unknown" if output.results is None else ", ".join(map(_text, output.results))
        return f"{text} -> {branch}{results} @{output.revision}"

    def describe_state(self, state: State) -> str:
        held = ", ".join(f"{key.decode()}: {_text(kv)}" for key, kv in state.keys)
        return f"{{{held}}} @{state.revision}"


def _state(revision: int, keys: _Keys) -> State:
    return State(revision, tuple(sorted(keys.items())))


def _decide(keys: _Keys, compares: Iterable[Compare], succeeded: bool) -> bool:
    """Whether the compares can come out so; binds what their success tells."""
    missing = Kv(b"", 0, 0, 0)
    open_ = False
    for compare in compares:
        kv = keys.get(compare.key, missing)
        have = getattr(kv, compare.field)
        if isinstance(have, bytes):
            equal = compare.key in keys and have == compare.target
        elif have < 0 and isinstance(compare.target, int) and compare.target >= -have:
            open_ = True
            equal = True
            if succeeded:
                keys[compare.key] = _bound(kv, compare.field, compare.target)
        else:
            equal = have == compare.target
        if not equal:
            return not succeeded
    return succeeded or open_


def _bound(kv: Kv, field: str, revision: int) -> Kv:
    if kv.version == 1:
        return kv._replace(create=revision, mod=revision)
    return kv._replace(create=revision) if field == "create" else kv._replace(mod=revision)


def _run(keys: _Keys, ops: Sequence[Op], revision: int, results: Sequence[Kv | int | None] | None) -> tuple[bool, bool]:
    """Carry out one list of operations; whether anything was written, and whether the results fit."""
    wrote = False
    for number, op in enumerate(ops):
        held = keys.get(op.key)
        result = results[number] if results is not None else None
        if isinstance(op, Put):
            if results is not None and op.prev:
                held = _observe(held, result, revision - 1)
                if held is _MISFIT:
                    return wrote, False
            created, version = (held.create, held.version) if held is not None else (revision, 0)
            keys[op.key] = Kv(op.value, created, revision, version + 1)
            wrote = True
        elif isinstance(op, Get):
            if results is None:
                continue
            seen = _observe(held, result, revision)
            if seen is _MISFIT:
                return wrote, False
            if seen is not None:
                keys[op.key] = seen
        else:
            if results is not None and result != (held is not None):
                return wrote, False
            wrote |= keys.pop(op.key, None) is not None
    return wrote, True


_MISFIT = Kv(b"misfit", 0, 0, 0)


def _observe(held: Kv | None, seen: Kv | int | None, newest: int) -> Kv | None:
    """What is held, sharpened by what was seen; _MISFIT when they differ. No revision seen may be above `newest`."""
    if held is None or not isinstance(seen, Kv):
        return held if held is None and seen is None else _MISFIT
    for have, found in ((held.create, seen.create), (held.mod, seen.mod)):
        if (found != have if have > 0 else found < -have) or found > newest:
            return _MISFIT
    one = (seen.create == seen.mod) == (seen.version == 1)
    return seen if one and held.value == seen.value and held.version == seen.version else _MISFIT


def _op_text(op: Op) -> str:
    if isinstance(op, Put):
        return f"put {op.key.decode()}={_text(op.value)}"
    return f"{'get' if isinstance(op, Get) else 'delete'} {op.key.decode()}"


def _text(thing: Kv | int | bytes | None) -> str:
    if isinstance(thing, Kv):
        mod = str(thing.mod) if thing.mod > 0 else f"{-thing.mod}+"
        return f"{_text(thing.value)}/v{thing.version}@{mod}"
    return thing.decode(errors="replace") if isinstance(thing, bytes) else str(thing)
