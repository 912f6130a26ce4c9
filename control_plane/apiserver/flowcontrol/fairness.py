"""Queues for fairness under load (the idea of Kubernetes' API Priority and Fairness, with two levels).

All requests share one event loop, and each step of one waits for a step of every other: in a burst of hundreds a
renewal of a Lease would take seconds, and a leader or a node be taken for dead. So only some requests are worked on at
the same time, the others wait in the order they came. The cluster's own heartbeats and elections wait for nobody.
Streams have no part in this.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from rayplane.control_plane.api.errors import TooManyRequests
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.identities import CONTROLLER_MANAGER, MASTERS, NODES, SCHEDULER

AT_ONCE = 32
READING = frozenset({"get", "list", "watch"})
_HEARTBEATS = frozenset({"leases", "nodes"})
_COMPONENTS = frozenset({SCHEDULER, CONTROLLER_MANAGER})
_KINDS = {False: "readOnly", True: "mutating"}
_NO_WAIT = contextlib.nullcontext()


def is_urgent(user: User, plurals: Iterable[str]) -> bool:
    """Whether a request of components is about nothing but these resources (levels `leader-election`, `node-high`)."""
    component = user.name in _COMPONENTS or NODES in user.groups or MASTERS in user.groups
    return component and _HEARTBEATS.issuperset(plurals)


class Fairness:
    """The seats of a server, shared among its users.

    `slot` for as long as a request is under way, `turn` while it is worked on.
    """

    def __init__(self, in_flight_max: int) -> None:
        """`in_flight_max`: of each level; more are told to come again."""
        self._left = {False: in_flight_max, True: in_flight_max}
        self.in_flight = {"readOnly": 0, "mutating": 0}
        # Serves in the order of arrival.
        self._turns = asyncio.Semaphore(AT_ONCE)

    @contextlib.contextmanager
    def slot(self, *, urgent: bool = False, mutating: bool = False) -> Iterator[None]:
        """Room for one request that is no stream. TooManyRequests when there is none."""
        self.enter(urgent=urgent, mutating=mutating)
        try:
            yield
        finally:
            self.leave(urgent=urgent, mutating=mutating)

    def enter(self, *, urgent: bool = False, mutating: bool = False) -> None:
        """Take room until `leave`. TooManyRequests."""
        if self._left[urgent] <= 0:
            raise TooManyRequests(retry_after=1)
        self._left[urgent] -= 1
        self.in_flight[_KINDS[mutating]] += 1

    def leave(self, *, urgent: bool = False, mutating: bool = False) -> None:
        self._left[urgent] += 1
        self.in_flight[_KINDS[mutating]] -= 1

    def turn(self, user: User, plural: str) -> contextlib.AbstractAsyncContextManager[None]:
        return _NO_WAIT if is_urgent(user, (plural,)) else self._turns
