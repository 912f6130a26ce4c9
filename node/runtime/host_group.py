"""The control group of a node host: in it one for each pod, in that one for each container.

There is none where the machine does not let its user have some; then nothing here does anything.
"""

import asyncio
import logging
import os

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.tasks import finished
from rayplane.node.runtime.isolation.cgroups import Group, find
from rayplane.node.runtime.isolation.held_groups import held, remove_left
from rayplane.node.runtime.isolation.janitor import watch
from rayplane.node.runtime.isolation.limits import Limits, of_pod
from rayplane.storage.beneath import one_name

log = logging.getLogger(__name__)


class HostGroup:
    """A group with those below it.

    `name`: of the host on this machine, the same in its next life; empty for none; `pod_processes`: of a pod at most.
    """

    def __init__(self, name: str, pod_processes: int) -> None:
        self._name, self._pod_processes = name, pod_processes
        self.top: Group | None = None
        """None where there is none."""
        self._holds: list[int] = []
        """While these are open, the group is this host's. The first one's end wakes the janitor, who removes it."""
        self._pods: dict[str, Limits] = {}
        self._made: set[str] = set()
        self._bounded: set[str] = set()
        """Those made that are held to their limits."""

    async def open(self) -> None:
        """Have a fresh one; what an earlier life left in it is killed."""
        if self._name:
            await finished(self._open())

    async def _open(self) -> None:
        found = await asyncio.get_running_loop().run_in_executor(None, _fresh, self._name)
        if found is not None:
            self.top, self._holds = found

    async def close(self) -> None:
        """End what is left in it. Whoever starts a container from now on finds no group, and makes none."""
        top, self.top = self.top, None
        self._made.clear()
        self._bounded.clear()
        if top is not None:
            await asyncio.get_running_loop().run_in_executor(None, top.remove)
        while self._holds:
            os.close(self._holds.pop())

    def pod(self, uid: str) -> Group:
        assert self.top is not None
        return self.top.below(one_name(uid))

    def add(self, uid: str, pod: Object) -> None:
        """Know a pod; it has a group when its first container has one."""
        self._pods[uid] = of_pod(pod, self._pod_processes)

    def container(self, uid: str, name: str, limits: Limits) -> Group | None:
        """A new group in that of a pod, held to limits; None where there are none. Raises OSError."""
        if self.top is None:
            return None
        if uid not in self._bounded:
            whole = self._pods.get(uid)
            self._made.add(uid)  # what is made by half goes with the pod too
            is_new = self.pod(uid).make(hands_on=True)
            if whole is not None:
                self.pod(uid).set(whole, is_new=is_new)
            self._bounded.add(uid)
        group = self.pod(uid).below(name)
        try:
            group.set(limits, is_new=group.make())
        except OSError:
            group.remove()  # nobody is in it
            raise
        return group

    def limit(self, uid: str, pod: Object | None = None, *, reported: bool = True) -> None:
        """Hold a pod to its limits; `pod`: with those it has from now on, `reported` as in `of_pod`. Raises OSError."""
        known = self._pods.get(uid)
        if known is not None:
            if pod is not None:
                self._pods[uid] = of_pod(pod, self._pod_processes, reported=reported)
            if uid in self._made:
                self.pod(uid).set(self._pods[uid])

    def remove(self, uid: str) -> None:
        """End what is left of a pod."""
        self._pods.pop(uid, None)
        self._bounded.discard(uid)
        if uid in self._made:
            self._made.discard(uid)
            asyncio.get_running_loop().run_in_executor(None, self.pod(uid).remove)


def _fresh(name: str) -> tuple[Group, list[int]] | None:
    """A group and what holds it, its janitor first; None where the machine does not let its user have one."""
    holds: list[int] = []
    try:
        group = find(name)
        if group is None:
            return None
        group.remove()
        holds = held(group)
        remove_left()
        return group, [watch(group.paths), *holds]
    except OSError as e:
        for fd in holds:
            os.close(fd)
        log.warning("containers are held to their limits by looking: no control group can be had: %s", e)
        return None
