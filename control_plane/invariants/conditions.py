"""Conditions of scenarios, judged from what is there."""

from collections.abc import Sequence
from typing import Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import is_bound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.faults.steps import CLAIMS, REPLICAS, ROLLED, WORKLOADS, Condition
from rayplane.control_plane.invariants.pods import CLAIMS as CLAIM_OBJECTS
from rayplane.control_plane.invariants.workloads import COUNTED


class View(Protocol):
    """Objects as they are now, such as a `History`."""

    def list(self, resource: str, namespace: str = "") -> Sequence[Object]: ...

    def get(self, resource: str, key: str) -> Object | None: ...


def unmet(condition: Condition, view: View) -> str | None:
    """Why a condition on objects does not hold; None when it does."""
    if condition.kind == CLAIMS:
        bound = sum(map(is_bound, view.list(CLAIM_OBJECTS, condition.namespace)))
        return None if bound == condition.count else f"{bound} are"
    workload = view.get(WORKLOADS[condition.kind], f"{condition.namespace}/{condition.name}")
    if workload is None:
        return "it does not exist"
    status, wanted = meta.status(workload), meta.spec(workload).get("replicas")
    if status.get("observedGeneration", 0) < meta.generation(workload):
        return "its controller has not seen its newest version"
    counts = {k: status.get(k, 0) for k in COUNTED}
    all_, ready, newest = counts.values()
    if condition.measure == REPLICAS:
        return None if {wanted, all_, ready, newest} == {condition.count} else f"it has {counts}"
    least = condition.count * (wanted or 0) / 100 if condition.percent else condition.count
    holds = least <= newest < all_ if condition.measure == ROLLED else ready >= least
    return None if holds else f"it has {counts}"
