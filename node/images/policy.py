"""Pull policies: whether an image is used as it is here, fetched, or done without. Pure.

Source: Kubernetes documentation, "Images"; kubelet's image manager.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from rayplane.node.images.errors import NoPull
from rayplane.node.images.references import DEFAULT_TAG, Reference


class Choice(Enum):
    """The way to an image."""

    USE = "use"
    PULL = "pull"
    STAND_IN = "stand in"
    """This machine stands for it, or it is simulated."""


def choose(said: str, policy: str, *, present: bool, pulls: bool, refuses: bool) -> Choice:
    """The way to the image that is called `said`.

    `present`: it is in the store, for this pod; `pulls`: its registry may be asked; `refuses`: nothing stands in for
    images. Raises NoPull.
    """
    if pulls and (policy == "Always" or (not present and policy != "Never")):
        return Choice.PULL
    if present:
        return Choice.USE
    if policy == "Never":
        raise NoPull(f'Container image "{said}" is not present with pull policy of Never')
    if refuses:
        raise NoPull(
            f'Container image "{said}" is not present, and its registry is not to be asked: load it, or --pull'
        )
    return Choice.STAND_IN


def policy_of(container: Mapping[str, Any], reference: Reference) -> str:
    """The container's own policy, else what the API would have made it."""
    own = container.get("imagePullPolicy") or container.get("pullPolicy")
    if own:
        return str(own)
    return "Always" if reference.tag == DEFAULT_TAG and not reference.digest else "IfNotPresent"
