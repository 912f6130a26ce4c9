"""Kubernetes' sentences about pods that found no node."""

from __future__ import annotations

from collections.abc import Mapping

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.config import DEVICES, Profile
from rayplane.control_plane.scheduler.device_resources import is_of_resources

NO_NODES = "no nodes available to schedule pods"


def fit_error(nodes: int, reasons: Mapping[str, int], *, problem: str = "", after: str = "") -> str:
    """ "0/3 nodes are available: 1 Insufficient cpu, 2 ... " with `after` (preemption's part) behind it.

    `reasons` has for each how many nodes gave it; `problem` is what stands against all nodes at once.
    """
    text = f"0/{nodes} nodes are available:"
    if problem:
        text += f" {problem}."
    else:
        parts = sorted(f"{count} {reason}" for reason, count in reasons.items() if count)
        text += f" {', '.join(parts)}." if parts else ""
    return f"{text} {after}" if after else text


def preemption_failed(nodes: int, unhelpful: int, no_victims: int) -> str:
    """What preemption has to say when it finds no way."""
    reasons = {
        "Preemption is not helpful for scheduling": unhelpful,
        "No preemption victims found for incoming pod": no_victims,
    }
    return f"preemption: {fit_error(nodes, reasons)}"


def after_filters(
    profile: Profile, found: str, *, claims: bool, stale: Object | None = None, refused_by: str = ""
) -> str:
    """What plug-ins say after no node would do, joined: DynamicResources of claims, and `found` of preemption.

    `claims`: whether the pod has any to devices. `stale`: the one that is given back. `refused_by`: the plug-in that
    refused the pod for all nodes at once. One that is asked before DynamicResources leaves that without a state, which
    is an error, and the last word.
    """
    if not profile.deallocates:
        return found
    if refused_by in profile.filters[: profile.filters.index(DEVICES) if DEVICES in profile.filters else None]:
        return "not found"
    if stale is not None:
        said = f"{'deletion' if is_of_resources(stale) else 'deallocation'} of ResourceClaim completed"
    else:
        said = "still not schedulable" if claims and not refused_by else "no new claims to deallocate"
    return f"{said}, {found}" if found else said


NO_PREEMPTION = "preemption: the profile has none"
NOT_ELIGIBLE_POLICY = "preemption: not eligible due to preemptionPolicy=Never."
NOT_ELIGIBLE_TERMINATING = "preemption: not eligible due to terminating pod on the nominated node."


def bound(key: str, node: str) -> str:
    return f"Successfully assigned {key} to {node}"


def gang_not_met(least: int, scheduled: int, remaining: int) -> str:
    """What is said of a gang that does not get its nodes: more may come, or can no more."""
    said = "is not yet satisfied" if scheduled + remaining >= least else "cannot be satisfied"
    return f"minCount ({least}) {said}: {scheduled} scheduled, {remaining} remaining"
