"""Claims to devices: their names and marks, what those who use them are, and whether allocated devices are ready.

Source: Kubernetes API reference resource/v1 ResourceClaim; KEP-5007 (device binding conditions), KEP-4817 (who may say
what of devices).
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


def administers(allocation: _Entry | None) -> bool:
    """Whether some device is there for administrators, whoever else uses it."""
    return any(one.get("adminAccess") for one in results(allocation))


def only_node(allocation: _Entry | None) -> str:
    """The name of the one node that the devices are for; empty where they are for more, or by other marks."""
    terms: Sequence[_Entry] = ((allocation or {}).get("nodeSelector") or {}).get("nodeSelectorTerms") or ()
    fields: Sequence[_Entry] = terms[0].get("matchFields") or () if len(terms) == 1 else ()
    if len(fields) != 1 or terms[0].get("matchExpressions"):
        return ""
    values: Sequence[str] = fields[0].get("values") or ()
    named = fields[0].get("key") == "metadata.name" and fields[0].get("operator") == "In" and len(values) == 1
    return values[0] if named else ""


def changed_drivers(new: _Entry, old: _Entry) -> list[str]:
    """The drivers that more, less or something else is said of in the one status than in the other."""
    said, before = ({_key(one): one for one in status.get("devices") or ()} for status in (new, old))
    return sorted({key[0] for key in said.keys() | before.keys() if said.get(key) != before.get(key)})


def _key(device: _Entry) -> tuple[str, ...]:
    return tuple(str(device.get(field) or "") for field in ("driver", "pool", "device", "shareID"))


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
