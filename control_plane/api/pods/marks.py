"""Marks on pods: annotations by which experiments tell a pod's node to fail it, or to kill containers. Pure.

Each experiment has marks of its own, named by its uid, so that several can mark a pod without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FAILED, KILLED = "failed.chaos.rayplane.io/", "killed.chaos.rayplane.io/"


def failed(uid: str) -> str:
    """The mark of a pod that is kept from working: nothing of it runs while there is one."""
    return f"{FAILED}{uid}"


def killed(uid: str) -> str:
    """The mark of a pod whose containers are killed, whenever it changes."""
    return f"{KILLED}{uid}"


def kill(number: int, containers: Sequence[str]) -> str:
    """The value of such a mark: which kill it is, and whom it hits."""
    return f"{number}:{','.join(containers)}"


def is_failed(annotations: Mapping[str, str]) -> bool:
    return any(name.startswith(FAILED) for name in annotations)


def newly_killed(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """The containers that marks ask to be killed now, and did not before."""
    found: dict[str, None] = {}
    for name, value in new.items():
        if name.startswith(KILLED) and old.get(name) != value:
            found |= dict.fromkeys(filter(None, value.partition(":")[2].split(",")))
    return tuple(found)
