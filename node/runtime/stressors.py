"""Work beside one real container, as marks of its pod ask for it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.pods.marks import Stress
from rayplane.node.errors import RuntimeFailed
from rayplane.node.runtime.shim_client import ShimClient

AGAIN_S = 1.0
"""Until work that has ended by itself, as the kernel was out of memory, is begun anew."""
_ids = iter(range(1, 1 << 62))


class Stressors:
    """The processes that the shim has for that: those wanted and no others, from the container's start to its end."""

    def __init__(self, shim: ShimClient, container_id: str) -> None:
        self._shim, self._container_id = shim, container_id
        self._runs = False
        self._wanted: Mapping[str, Stress] = {}
        self._begun: dict[str, tuple[str, Stress]] = {}
        """By the mark: the shim's name of it, and what it is."""
        self._pids: dict[str, int] = {}

    @property
    def pids(self) -> list[int]:
        """The first of each session of them."""
        return [*self._pids.values()]

    def want(self, wanted: Mapping[str, Stress]) -> None:
        self._wanted = wanted
        for mark, (ident, of) in [*self._begun.items()]:
            if wanted.get(mark) != of:
                del self._begun[mark]
                self._shim.order(ident, op="kill", grace=0.0)
        if self._runs:
            for mark in wanted.keys() - self._begun.keys():
                self._begin(mark, wanted[mark])

    def started(self) -> None:
        """The container runs."""
        self._runs = True
        self.want(self._wanted)

    def ended(self) -> None:
        """It does not any more, and what is beside it ends with it."""
        self._runs = False
        self._begun.clear()

    def _begin(self, mark: str, of: Stress) -> None:
        ident = f"stress-{next(_ids)}"

        def told(message: dict[str, Any]) -> None:
            if message["ev"] == "started":
                self._pids[ident] = message["pid"]
                return
            self._pids.pop(ident, None)
            if self._begun.get(mark) == (ident, of):
                asyncio.get_running_loop().call_later(AGAIN_S, self._again, mark, (ident, of))

        self._begun[mark] = (ident, of)
        try:
            self._shim.order(
                ident,
                told,
                op="stress",
                of=self._container_id,
                burning=of.burning,
                load=of.load,
                holding=of.holding,
                hold_bytes=of.memory,
            )
        except RuntimeFailed:
            del self._begun[mark]  # the shim takes no orders: its containers end, too

    def _again(self, mark: str, ended: tuple[str, Stress]) -> None:
        if self._begun.get(mark) == ended:
            del self._begun[mark]
            self.want(self._wanted)
