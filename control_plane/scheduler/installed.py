"""The plug-ins of the scheduler that packages of this machine offer, by entry points."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rayplane.control_plane.scheduler.framework import GROUP, PluginError, PodPlugin, points_of, words_of

log = logging.getLogger(__name__)


def installed() -> dict[str, type[PodPlugin]]:
    """The plug-ins that packages offer, by name. One that cannot be imported is a class that cannot be made: it fails
    the pods of the profiles that name it, and nobody else.
    """
    return {name: _missing(name, found) if isinstance(found, str) else found for name, found in _loaded()}


def points_of_installed() -> dict[str, frozenset[str]]:
    """The extension points of each plug-in that packages offer and that can be imported."""
    return {name: points_of(found) for name, found in _loaded() if not isinstance(found, str)}


def _loaded() -> Iterator[tuple[str, type[PodPlugin] | str]]:
    for point in entry_points(group=GROUP):
        found = _load(point)
        if isinstance(found, str):
            log.error("the scheduler plug-in %s %s", point.name, found)
        yield point.name, found


def _load(point: EntryPoint) -> type[PodPlugin] | str:
    """The class, or what is wrong with it."""
    try:
        made = point.load()
    except BaseException as e:  # a module that calls sys.exit ends nothing but itself
        log.debug("the scheduler plug-in %s cannot be imported", point.name, exc_info=True)
        return f"cannot be imported: {words_of(e)}"
    return made if isinstance(made, type) and issubclass(made, PodPlugin) else "is no PodPlugin"


def _missing(name: str, why: str) -> type[PodPlugin]:
    class Missing(PodPlugin):
        """A stand-in for what is not there."""

        def __init__(self, args: Mapping[str, Any]) -> None:
            raise PluginError(f'plugin "{name}" {why}')

    return Missing
