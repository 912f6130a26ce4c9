"""Containers of a pod by the part they play.

An init container with restartPolicy Always is a sidecar: it starts in its turn among the init containers, and then runs
beside all that come after it, as long as the pod does. Ephemeral containers have no part in resources and ports.

Source: Kubernetes concepts "Init Containers", "Sidecar Containers", "Ephemeral Containers".
"""

from collections.abc import Iterator, Mapping
from typing import Any

Container = Mapping[str, Any]
Spec = Mapping[str, Any]


RESIZABLE = ("containers", "initContainers")
"""The lists of a pod's spec whose containers may be resized."""
RESIZED = ("resources", "resizePolicy")
"""The fields of a container that a resize changes."""


def is_sidecar(init_container: Container) -> bool:
    return init_container.get("restartPolicy") == "Always"


def sidecars(spec: Spec) -> list[Any]:
    return [one for one in spec.get("initContainers") or () if is_sidecar(one)]


def lasting(spec: Spec) -> list[Any]:
    """Those that run as long as the pod: its containers, then its sidecars."""
    return [*(spec.get("containers") or ()), *sidecars(spec)]


def lifecycled(spec: Spec) -> list[Any]:
    """Those of the pod's own life: its containers, then its init containers and sidecars."""
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]


def in_order(spec: Spec) -> list[tuple[Any, bool]]:
    """Those of the pod's own life as they start, and whether each ends before the next one starts."""
    first = [(one, not is_sidecar(one)) for one in spec.get("initContainers") or ()]
    return [*first, *((one, False) for one in spec.get("containers") or ())]


def named(spec: Spec, name: str | None) -> Any | None:
    """The container, init container or sidecar of that name."""
    return next((one for one in lifecycled(spec) if one.get("name") == name), None)


def part_of(spec: Spec, name: str) -> str:
    """Where a container stands, as events say it: `spec.containers{web}`; empty where there is none of that name."""
    fields = ("initContainers", "containers", "ephemeralContainers")
    found = (field for field in fields if any(one.get("name") == name for one in spec.get(field) or ()))
    return next((f"spec.{field}{{{name}}}" for field in found), "")


def every(spec: Spec) -> Iterator[Any]:
    """Init containers and sidecars, containers, ephemeral containers."""
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(field) or ()
