"""The definition of linearizability, tried out on every order: too simple to be wrong, and for small histories."""

from collections.abc import Sequence

from rayplane.control_plane.invariants.linearizable import BUDGET_STEPS, Model, Operation, Verdict, search


def is_linearizable(model: Model, history: Sequence[Operation]) -> bool:
    return all(_extend(model, [model.init()], list(part)) for part in model.partition(history))


def _extend(model: Model, states: list[object], left: list[Operation]) -> bool:
    """Whether what is left can follow, in some order, with any choice of those that may never have happened."""
    if not any(op.known for op in left):
        return True
    for op in left:
        # Whatever returned before this one was called comes first.
        if any(other.returned < op.called for other in left):
            continue
        after = list({s for state in states for s in model.step(state, op.input, op.output)})
        if after and _extend(model, after, [other for other in left if other is not op]):
            return True
    return False


def check(model: Model, history: Sequence[Operation], *, budget: int = BUDGET_STEPS) -> Verdict:
    """The worst verdict of all parts."""
    verdicts = [search(model, part, budget=budget).verdict for part in model.partition(history)]
    for verdict in (Verdict.ILLEGAL, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.LINEARIZABLE
