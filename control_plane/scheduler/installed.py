"""The plug-ins of the scheduler that packages of this machine offer, by entry points."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

from rayplane.control_plane.scheduler.framework import GROUP, PodPlugin, points_of

log = logging.getLogger(__name__)


def installed() -> dict[str, type[PodPlugin]]:
    """The plug-ins that packages offer, by name. One that cannot be imported is left out, and said."""
    found: dict[str, type[PodPlugin]] = {}
    for point in entry_points(group=GROUP):
        try:
            made = point.load()
        except Exception:
            log.exception("the scheduler plug-in %s cannot be imported", point.name)
            continue
        if isinstance(made, type) and issubclass(made, PodPlugin):
            found[point.name] = made
        else:
            log.error("the scheduler plug-in %s is no PodPlugin", point.name)
    return found


def points_of_installed() -> dict[str, frozenset[str]]:
    """The extension points of each plug-in that packages offer."""
    return {name: points_of(plugin) for name, plugin in installed().items()}
