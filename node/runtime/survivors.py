"""Containers that an earlier life of a node host left in its runtime, until their pods take them over."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from rayplane.node.lifecycle.model import Survivor


@dataclass(frozen=True, slots=True)
class Left:
    """The rest of a pod: its sandbox, whose number is `attempt`, with the newest run of each container by name, and the
    runtime's name for how it runs.

    `unfinished`: ids of all containers that may run or begin to.
    """

    sandbox_id: str
    attempt: int
    runs: Mapping[str, Survivor] = field(default_factory=dict)
    unfinished: Collection[str] = ()
    handler: str = ""


class Survivors:
    """All that was left. A runtime whose containers end with their host has none. `settled`: called once all pods were
    seen.
    """

    def __init__(self, settled: Callable[[], None] = lambda: None) -> None:
        self._settled = settled
        self._left: dict[str, Left] = {}
        self._kept: dict[str, tuple[Left, frozenset[str]]] = {}

    @property
    def sandboxes(self) -> set[str]:
        """Ids of those that are somebody's, or may be."""
        return {left.sandbox_id for left in (*self._left.values(), *(left for left, _ in self._kept.values()))}

    def found(self, left: Mapping[str, Left]) -> None:
        """By the uid of the pod."""
        self._left = dict(left)

    def of(self, uid: str) -> Mapping[str, Survivor]:
        left = self._left.get(uid)
        return left.runs if left is not None else {}

    def keep(self, uid: str, containers: Collection[str]) -> None:
        """The pod goes on with these containers of it; with none it goes on with nothing."""
        left = self._left.pop(uid, None)
        if left is not None and containers:
            self._kept[uid] = left, frozenset(containers)

    def kept(self, uid: str) -> tuple[Left, frozenset[str]] | None:
        """What is kept of a pod."""
        return self._kept.get(uid)

    def take(self, uid: str) -> tuple[Left, frozenset[str]] | None:
        """What was kept of a pod, once."""
        return self._kept.pop(uid, None)

    def forget(self) -> None:
        """None of it is anybody's."""
        self._left.clear()
        self._kept.clear()

    def settle(self) -> None:
        """All pods of the host have been seen: what nobody kept is nobody's."""
        self._left.clear()
        self._settled()
