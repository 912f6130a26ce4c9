"""Secrets with generated tokens of service accounts that nobody has used for long are marked invalid, then deleted.

Once a day all are looked at: those that accounts list, that no pod mounts, and that were neither made nor used within
`kept`. A marked one is kept for as long again, so that whoever still needs its token can say so by removing the label.
As long as nobody has noted uses for long enough nothing is done.
Source: Kubernetes concepts "Managing Service Accounts", legacy ServiceAccount token cleaner.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from rayplane.control_plane.api import legacy_tokens, meta
from rayplane.control_plane.api.authorization.node_graph import pod_references
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, Patch
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

SECRETS, ACCOUNTS, PODS = "secrets", "serviceaccounts", "pods"
KEPT = timedelta(days=365)
PAUSE_S = 24 * 3600.0
_ALL = "all"


class LegacyTokenCleaner(BaseController):
    """Its one key is all of them. `kept`: kube-controller-manager's --legacy-service-account-token-clean-up-period."""

    name = "legacy-serviceaccount-token-cleaner"
    component = "legacy-service-account-token-cleaner"
    watches = tuple(Watch(resource, None) for resource in (SECRETS, ACCOUNTS, PODS, "configmaps"))
    resync_keys = (_ALL,)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        noted = view.get("configmaps", legacy_tokens.TRACKING_NAMESPACE, legacy_tokens.TRACKING)
        since = legacy_tokens.tracked_since(noted) if noted is not None else None
        # On the first day some uses may have been missed.
        if since is None or now.wall < _begin(since) + timedelta(days=1) + KEPT:
            return result(requeue_after=PAUSE_S)
        return result(self._actions(view, now), requeue_after=PAUSE_S)

    def _actions(self, view: View, now: Moment) -> Iterator[Patch | Delete]:
        before = now.wall - KEPT
        unused = [secret for secret in view.list(SECRETS) if _is_unused(secret, before, view)]
        mounted = _mounted(view) if unused else frozenset()
        for secret in unused:
            if meta.key(secret) in mounted:
                continue
            marked = legacy_tokens.parse_day(meta.labels(secret).get(legacy_tokens.INVALID_SINCE))
            if marked is None:
                label = {legacy_tokens.INVALID_SINCE: legacy_tokens.day_of(now.wall)}
                patch = {"metadata": {"uid": meta.uid(secret), "labels": label}}
                yield Patch(SECRETS, meta.namespace(secret), meta.name(secret), patch)
            elif marked < before.date():
                yield Delete(SECRETS, secret, guard_version=True)


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _is_unused(secret: Object, before: datetime, view: View) -> bool:
    """Whether it holds a generated token that was neither made nor used since then."""
    if not legacy_tokens.is_token(secret) or meta.is_deleting(secret):
        return False
    if meta.parse_time(secret["metadata"]["creationTimestamp"]) >= before:
        return False
    label = meta.labels(secret).get(legacy_tokens.LAST_USED)
    if label is not None:
        used = legacy_tokens.parse_day(label)
        if used is None or used >= before.date():
            return False
    name, uid = legacy_tokens.account_of(secret)
    account = view.get(ACCOUNTS, meta.namespace(secret), name) if name else None
    return account is not None and uid in ("", meta.uid(account)) and legacy_tokens.is_generated(secret, account)


def _mounted(view: View) -> frozenset[str]:
    """Keys of the Secrets that pods use."""
    found = (ref for pod in view.list(PODS) for ref in pod_references(pod) if ref.resource == SECRETS)
    return frozenset(f"{ref.namespace}/{ref.name}" for ref in found)
