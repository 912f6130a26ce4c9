"""The zone of a cluster, kept as the host's informers say.

Changes are only noted; the next question makes the names new. A roll-out that nobody asks about costs nothing.
"""

import logging

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import Informer
from rayplane.node.dns.names import ServiceNames, names_of
from rayplane.node.dns.zone import Zone
from rayplane.node.proxy.rules import SLICES_BY_SERVICE, services_of

log = logging.getLogger(__name__)


class Feed:
    """A zone's feeder. `slices` has the index `SLICES_BY_SERVICE`."""

    def __init__(self, zone: Zone, *, services: Informer, slices: Informer, namespaces: Informer) -> None:
        self._zone = zone
        self._services = services
        self._slices = slices
        self._changed: dict[str, None] = {}
        services.add_handler(lambda kind, old, new: self._note(meta.key(new)))
        slices.add_handler(lambda kind, old, new: self._note(*services_of(old or new), *services_of(new)))
        namespaces.add_handler(self._namespace)

    def zone(self) -> Zone:
        """The zone as of now."""
        if self._changed:
            changed, self._changed = self._changed, {}
            for key in changed:
                self._zone.set_service(key, self._names(key))
        return self._zone

    def _names(self, key: str) -> ServiceNames | None:
        service = self._services.get_key(key)
        try:
            return names_of(service, self._slices.by_index(SLICES_BY_SERVICE, key)) if service is not None else None
        except Exception:
            # One object of a form that is not its kind's must not silence all the others.
            log.exception("service %s has no names", key)
            return None

    def _note(self, *services: str) -> None:
        self._changed.update(dict.fromkeys(services))

    def _namespace(self, kind: str, old: Object | None, new: Object) -> None:
        self._zone.set_namespace(meta.name(new), exists=kind != "DELETED")
