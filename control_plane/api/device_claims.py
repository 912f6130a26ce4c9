"""Claims to devices: their names and marks, what those who use them are, and whether allocated devices are ready.

Source: Kubernetes API reference resource/v1 ResourceClaim; KEP-5007 (device binding conditions).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

CLAIMS: Final = "resourceclaims.resource.k8s.io"
CLASSES: Final = "deviceclasses.resource.k8s.io"
FINALIZER: Final = "resource.kubernetes.io/delete-protection"
"""Of a claim that has devices, or may get some."""
EXTENDED: Final = "resource.kubernetes.io/extended-resource-claim"
"""Annotation "true" of a claim that the scheduler made for a pod's extended resources."""
OF_CLASS: Final = "deviceclass.resource.kubernetes.io/"
"""With the name of a class behind it, the extended resource that every class of devices stands behind."""
RESERVED_MAX: Final = 256
"""Consumers of one claim."""
_Entry = Mapping[str, Any]


def consumers(claim: Object) -> Sequence[_Entry]:
    """Those that the claim is reserved for."""
    found: Sequence[_Entry] = meta.status(claim).get("reservedFor") or ()
    return found


def consumer(pod: Object) -> dict[str, str]:
    """The pod as one of those that use a claim."""
    return {"resource": "pods", "name": meta.name(pod), "uid": meta.uid(pod)}


def results(allocation: _Entry | None) -> Sequence[_Entry]:
    """The devices of an allocation, each with the request that it is for."""
    found: Sequence[_Entry] = ((allocation or {}).get("devices") or {}).get("results") or ()
    return found


def has_binding_conditions(allocation: _Entry | None) -> bool:
    """Whether some device must reach conditions before a pod is bound."""
    return any(one.get("bindingConditions") for one in results(allocation))


def readiness(claim: Object) -> str | None:
    """Empty when all devices of an allocated claim are ready, None while one is not, or why it never will be."""
    missing = False
    for result in results(meta.status(claim).get("allocation")):
        wanted = result.get("bindingConditions")
        if not wanted:
            continue
        conditions = {one.get("type"): one for one in _told(claim, result)}
        for name in result.get("bindingFailureConditions") or ():
            failed = conditions.get(name) or {}
            if failed.get("status") == "True":
                reason, message = failed.get("reason") or "", failed.get("message") or ""
                return f'claim {meta.name(claim)} binding failed: reason={reason}, message="{message}"'
        missing |= any((conditions.get(name) or {}).get("status") != "True" for name in wanted)
    return None if missing else ""


def _told(claim: Object, result: _Entry) -> Iterator[_Entry]:
    """What the driver says of a device that the claim has."""
    for device in meta.status(claim).get("devices") or ():
        if all(device.get(field) == result.get(field) for field in ("driver", "pool", "device", "shareID")):
            yield from device.get("conditions") or ()
