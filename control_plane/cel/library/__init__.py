"""Functions that every expression has: CEL's own, cel-go's extensions, Kubernetes' libraries.

Owns their overloads by name. Does not own how calls are checked, dispatched and paid for.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from rayplane.control_plane.cel.functions import Overload
from rayplane.control_plane.cel.library import (
    authorization,
    conversions,
    lists,
    networks,
    operators,
    quantities,
    rearranged,
    texts,
)

_ALL: Final = (operators, conversions, texts, lists, rearranged, networks, quantities, authorization)


def by_name(overloads: Sequence[Overload]) -> Mapping[str, tuple[Overload, ...]]:
    """Overloads under the names of their functions."""
    found: dict[str, list[Overload]] = {}
    for one in overloads:
        found.setdefault(one.function, []).append(one)
    return {name: tuple(group) for name, group in found.items()}


FUNCTIONS: Final = by_name([one for module in _ALL for one in module.OVERLOADS])
