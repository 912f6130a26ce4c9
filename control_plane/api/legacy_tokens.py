"""Tokens of service accounts that Secrets hold: which Secrets those are, and what is noted of their use, in days.

Source: Kubernetes concepts "Managing Service Accounts", legacy ServiceAccount token tracking and cleaner.
"""

from __future__ import annotations

import base64
import re
from datetime import date, datetime
from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

SECRET_TYPE: Final = "kubernetes.io/service-account-token"
ACCOUNT: Final = "kubernetes.io/service-account.name"
ACCOUNT_UID: Final = "kubernetes.io/service-account.uid"
LAST_USED: Final = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE: Final = "kubernetes.io/legacy-token-invalid-since"
"""Labels of a Secret; each is a day of UTC."""
TRACKING: Final = "kube-apiserver-legacy-service-account-token-tracking"
TRACKING_NAMESPACE: Final = "kube-system"
"""The ConfigMap that says since when uses are noted, under `SINCE`."""
SINCE: Final = "since"
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def is_token(secret: Object) -> bool:
    return secret.get("type") == SECRET_TYPE


def holds(secret: Object, token: str) -> bool:
    """Whether this very token is in the Secret: others may merely be bound to it."""
    kept = (secret.get("data") or {}).get("token")
    return is_token(secret) and kept == base64.b64encode(token.encode()).decode()


def account_of(secret: Object) -> tuple[str, str]:
    """(name, uid) of the account whose token it is to hold; either may be empty."""
    notes = meta.annotations(secret)
    return notes.get(ACCOUNT) or "", notes.get(ACCOUNT_UID) or ""


def is_generated(secret: Object, account: Object) -> bool:
    """Whether the account lists it among its secrets, as those are that were once made for every account."""
    return any((one or {}).get("name") == meta.name(secret) for one in account.get("secrets") or ())


def day_of(moment: datetime) -> str:
    """`moment`: of UTC."""
    return moment.strftime("%Y-%m-%d")


def parse_day(text: object) -> date | None:
    """The day that a label tells; None for none or no such day."""
    if not isinstance(text, str) or not _DAY.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def tracking(now: datetime) -> Object:
    """The ConfigMap, of who begins to note uses now."""
    own = {"name": TRACKING, "namespace": TRACKING_NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": {SINCE: day_of(now)}}


def tracked_since(config_map: Object) -> date | None:
    """The day that the ConfigMap says; None where it says none."""
    return parse_day((config_map.get("data") or {}).get(SINCE))
