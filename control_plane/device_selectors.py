"""Selectors of devices: what an expression may say of a device, and what it may cost.

API servers refuse expressions by it, schedulers evaluate them by it. Source: Kubernetes'
`dynamic-resource-allocation/cel/compile.go`; API reference resource/v1 CELDeviceSelector.
"""

from dataclasses import replace
from typing import Final

from rayplane.control_plane.cel import BOOL, DYN, STRING, Declarations, Type, map_of, opaque

COST_MAX: Final = 1_000_000
"""What one expression may cost for one device."""
_ENTRIES_MAX: Final = 32
_NAMES: Final = replace(STRING, size_max=32)
_DOMAINS: Final = replace(STRING, size_max=63)


def _by_domain(values: Type) -> Type:
    return map_of(_DOMAINS, map_of(_NAMES, values, size_max=_ENTRIES_MAX), size_max=_ENTRIES_MAX)


_FIELDS: Final = {
    "driver": _DOMAINS,
    "attributes": _by_domain(replace(DYN, size_max=64)),
    "capacity": _by_domain(opaque("kubernetes.Quantity")),
    "allowMultipleAllocations": BOOL,
}
DECLARATIONS: Final = Declarations(
    {"device": Type("object", (), "kubernetes.DRADevice", fields=_FIELDS)},
    binds=True,
)
