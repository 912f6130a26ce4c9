"""Images as a node's status lists them (core/v1 ContainerImage). Pure.

Source: kubelet's default of `nodeStatusMaxImages`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

LISTED_MAX = 50


def listed(images: Iterable[tuple[Sequence[str], int]]) -> list[dict[str, Any]]:
    """The largest of images, which are names and bytes, those first."""
    largest = sorted(images, key=lambda one: (-one[1], *one[0]))[:LISTED_MAX]
    return [{"names": [*names], "sizeBytes": size} for names, size in largest]
