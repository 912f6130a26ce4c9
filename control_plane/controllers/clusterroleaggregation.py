"""Aggregated ClusterRoles hold the rules of the roles that they select.

Servers go by the rules of the selected roles whatever is stored in the aggregated one, and let anybody who may change
it store just those: so this grants nothing, and takes no right to grant.
Source: kubernetes/pkg/controller/clusterroleaggregation.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.rbac import aggregated
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Update
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

ROLES = "clusterroles.rbac.authorization.k8s.io"


def _aggregating(_role: Object, view: View) -> Iterable[str]:
    return [meta.name(one) for one in view.list(ROLES) if one.get("aggregationRule")]


class ClusterRoleAggregation(BaseController):
    name = "clusterroleaggregation"
    component = "clusterrole-aggregation-controller"

    def __init__(self, *, coalesce_s: float) -> None:
        self.watches = (Watch(ROLES, _aggregating, delay_s=coalesce_s),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        role = view.get(ROLES, "", key)
        if role is None or meta.is_deleting(role) or not role.get("aggregationRule"):
            return NOTHING
        rules = aggregated(view.list(ROLES))[key]
        if (role.get("rules") or []) == rules:
            return NOTHING
        return result([Update(ROLES, {**meta.copy_for_write(role), "rules": rules})])
