"""Calls of plug-ins in Python, and how long they take.

What is asked while pods are decided runs on the scheduler's loop, where nobody else goes on meanwhile. A call that does
not return cannot be ended; but where a plug-in has taken longer than its `timeout_s` for one pod at one extension
point, that pod's try ends with an error, and whoever takes long is told by name.

Pure: the clock is given. Source: kube-scheduler's metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.component_base.metrics import Family, Histograms, exponential, histogram
from rayplane.control_plane.scheduler.framework import PluginError, PodPlugin, called, failed, told

SLOW_S: Final = 0.1
"""A plug-in that takes so long for one pod holds up the others noticeably."""
_TOLD_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Slow:
    """A plug-in that has held up the loop for one pod."""

    plugin: str
    point: str
    pod: Object
    seconds: float

    def __str__(self) -> str:
        where = self.point[0].upper() + self.point[1:]
        return f'{where} plugin "{self.plugin}" took {self.seconds:.2f} s for this pod, and all others waited'


class PluginWatch:
    """Durations by plug-in, extension point and outcome; and who was slow since that was last asked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._durations = Histograms(exponential(0.00001, 1.5, 20))
        self._last: tuple[str, str, str] = ("", "", "")
        self._spent_s = 0.0
        self._slow: dict[tuple[str, str], Slow] = {}
        self._told_at: dict[tuple[str, str], float] = {}

    def took(self, plugin: str, point: str, seconds: float, *, is_error: bool) -> None:
        """A call has ended."""
        self._durations.observe(seconds, plugin, point, "Error" if is_error else "Success")

    def held_up(self, plugin: str, point: str, pod: Object, seconds: float) -> float:
        """A call on the loop has ended; seconds that the plug-in has spent on this pod at this point in a row."""
        at = (plugin, point, meta.uid(pod))
        self._spent_s = seconds if at != self._last else self._spent_s + seconds
        self._last = at
        if self._spent_s >= SLOW_S:
            self._slow[plugin, point] = Slow(plugin, point, pod, self._spent_s)
        return self._spent_s

    def slow(self) -> list[Slow]:
        """Those to tell of now: each not more often than once a minute."""
        found, now = [], self.clock()
        for at, one in self._slow.items():
            if now - self._told_at.get(at, -_TOLD_EVERY_S) >= _TOLD_EVERY_S:
                self._told_at[at] = now
                found.append(one)
        self._slow.clear()
        return found

    def collect(self) -> Iterable[Family]:
        name, about = "scheduler_plugin_execution_duration_seconds", "Time that a plug-in in Python took for a call."
        yield histogram(name, about, self._durations.by_labels, "plugin", "extension_point", "status")


@dataclass(frozen=True, slots=True)
class PluginCalls:
    """One plug-in, as it is called on the loop."""

    name: str
    plugin: PodPlugin
    watch: PluginWatch

    def called(self, point: str, pod: Object, method: Callable[..., Any], *args: Any) -> Any:
        """What it answers. PluginError."""
        return self._watched(point, pod, lambda: called(self.name, point, method, *args))

    def told(self, point: str, pod: Object, method: Callable[..., Any], *args: Any) -> str:
        """As `called`, where the answer is a text."""
        found: str = self._watched(point, pod, lambda: told(self.name, point, method, *args))
        return found

    def _watched(self, point: str, pod: Object, call: Callable[[], Any]) -> Any:
        watch, is_error = self.watch, False
        begun = watch.clock()
        try:
            return call()
        except PluginError:
            is_error = True
            raise
        finally:
            seconds = watch.clock() - begun
            watch.took(self.name, point, seconds, is_error=is_error)
            if watch.held_up(self.name, point, pod, seconds) > self.plugin.timeout_s and not is_error:
                raise failed(self.name, point, TimeoutError())
