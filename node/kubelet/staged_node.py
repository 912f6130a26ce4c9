"""Stages of a simulated node: what they made of its status lies over what the kubelet says, until they do not match.

A stage that has been played on the node is not played again while it matches the node as it would be without it; when
it does so no more, what it made is gone. As KWOK's nodes a node's phase is `Running` for them.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.choice import next_transition
from rayplane.control_plane.stages.effects import WriteStatus, play
from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.stage import Stage, Tell
from rayplane.control_plane.stages.templates import Given
from rayplane.node.kubelet.stage_player import PlayerParts

PHASE = "Running"
_SAME = ("status", "reason", "message")


class StagedNode:
    """One node. `given` has the functions for templates; `changed` is called when its status should be written."""

    def __init__(self, parts: PlayerParts, given: Callable[[], Given], changed: Callable[[], None]) -> None:
        self._parts = parts
        self._given = given
        self._changed = changed
        self._made: dict[str, Any] = {}
        self._conditions: dict[str, dict[str, Any]] = {}
        self._played: Stage | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._base: Object = {}

    @property
    def concerned(self) -> bool:
        """Tells whether there is, or was, any stage for nodes."""
        return bool(self._parts.catalog.nodes) or self._played is not None

    def look(self, node: Object, own: dict[str, Any]) -> None:
        """The node or the stages changed. `own`: the status as the kubelet says it."""
        self._base = {**node, "status": {**own, "phase": PHASE}}
        stages = self._parts.catalog.nodes
        if self._played is not None and not (self._played in stages and self._played.matches(self._base)):
            self._made, self._conditions, self._played = {}, {}, None
            self._changed()
        if self._timer is not None:
            return
        others = [stage for stage in stages if stage is not self._played]
        chosen = next_transition(others, self._view(), self._parts.env.clock.now(), self._parts.env.rng.random)
        if chosen is not None:
            self._timer = asyncio.get_running_loop().call_later(chosen.delay_s, self._due, chosen.stage)

    def over(self, own: dict[str, Any]) -> dict[str, Any]:
        """The status with what stages made of it."""
        if self._played is None:
            return own
        conditions = [self._conditions.get(one["type"], one) for one in own.get("conditions") or ()]
        known = {one["type"] for one in conditions}
        conditions += [one for kind, one in self._conditions.items() if kind not in known]
        return {**own, **self._made, "conditions": conditions}

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _view(self) -> Object:
        return {**self._base, "status": self.over(self._base["status"])}

    def _due(self, stage: Stage) -> None:
        self._timer = None
        view = self._view()
        if not stage.matches(view):
            return
        try:
            effects = play(stage, view, self._given())
        except Failed as e:
            self._parts.events.record(self._base, "Warning", "StageFailed", f"Stage {stage.name}: {e}")
            return
        for effect in effects:
            if isinstance(effect, Tell):
                self._parts.events.record(self._base, effect.type, effect.reason, effect.message)
            elif isinstance(effect, WriteStatus):
                self._take(view["status"], effect.status)
        self._played = stage
        self._changed()

    def _take(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Keep what a stage changed, times of conditions aside."""
        known = {one["type"]: one for one in before.get("conditions") or ()}
        for one in after.get("conditions") or ():
            old = known.get(one.get("type") or "") or {}
            if any(one.get(field) != old.get(field) for field in _SAME):
                self._conditions[one.get("type") or ""] = one
        for field, value in after.items():
            if field != "conditions" and value != before.get(field):
                self._made[field] = value
