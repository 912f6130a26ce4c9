"""Objects that aggregated APIs keep, as others name them: no cache here follows them, so who keeps them is asked."""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import View

SERVICES: Final = "apiservices.apiregistration.k8s.io"
_MARK: Final = "elsewhere:"


def is_kept_elsewhere(group: str, view: View) -> bool:
    """Whether an API of this group is aggregated."""
    return any(_leads(service) and meta.spec(service).get("group") == group for service in view.list(SERVICES))


def _leads(service: Object) -> bool:
    return bool(meta.spec(service).get("service"))


def resource_of(api_version: str, kind: str) -> str:
    """Such a kind, where a resource is asked for."""
    return f"{_MARK}{api_version}/{kind}"


def kind_of(resource: str) -> tuple[str, str] | None:
    """(apiVersion, kind) of what `resource_of` made; None of a resource that is kept here."""
    if not resource.startswith(_MARK):
        return None
    api_version, _, kind = resource.removeprefix(_MARK).rpartition("/")
    return api_version, kind
