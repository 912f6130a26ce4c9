"""The pod failure policy: what the failure of a pod means for its Job, by exit codes and conditions.

The first rule that matches decides. Source: API reference batch/v1 PodFailurePolicy; KEP-3329.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

_ACTIONS = frozenset({"Ignore", "FailIndex", "Count", "FailJob"})


@dataclass(frozen=True, slots=True)
class Finding:
    """The word of a policy on a failed pod."""

    action: str = ""
    """Empty: no rule matches, and the failure counts."""
    message: str = ""
    """Why the rule matches."""

    @property
    def counts(self) -> bool:
        return self.action != "Ignore"


_COUNTS = Finding()


def judge(rules: Sequence[Mapping[str, Any]] | None, pod: Object) -> Finding:
    """What the first rule that matches says of a failed pod."""
    for index, rule in enumerate(rules or ()):
        action = rule.get("action") or ""
        if action not in _ACTIONS:
            continue
        codes = rule.get("onExitCodes")
        why = _by_exit_code(pod, codes) if codes is not None else _by_condition(pod, rule.get("onPodConditions") or ())
        if why:
            return Finding(action, f"{why} matching {action} rule at index {index}")
    return _COUNTS


def _by_exit_code(pod: Object, codes: Mapping[str, Any]) -> str:
    status = meta.status(pod)
    for field in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(field) or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            code = ended.get("exitCode") or 0
            if codes.get("containerName") in (None, container.get("name")) and code and _is_meant(code, codes):
                return f"Container {container.get('name')} for pod {meta.key(pod)} failed with exit code {code}"
    return ""


def _is_meant(code: int, codes: Mapping[str, Any]) -> bool:
    named = code in (codes.get("values") or ())
    return {"In": named, "NotIn": not named}.get(codes.get("operator") or "", False)


def _by_condition(pod: Object, patterns: Sequence[Mapping[str, Any]]) -> str:
    for condition in meta.status(pod).get("conditions") or ():
        for pattern in patterns:
            if all(condition.get(field) == pattern.get(field) for field in ("type", "status")):
                return f"Pod {meta.key(pod)} has condition {condition.get('type')}"
    return ""
