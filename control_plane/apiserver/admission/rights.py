"""Nobody grants rights that they do not have: roles and bindings, as Kubernetes' RBAC checks them when written.

Any change of a role is checked, not only one of its rules: a label alone can hand all of them to an aggregating role.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.authorization import rbac
from rayplane.control_plane.api.errors import Forbidden, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer

_GROUP = "rbac.authorization.k8s.io"
_PLURALS = {"Role": "roles", "ClusterRole": "clusterroles"}
_BINDINGS = ("RoleBinding", "ClusterRoleBinding")
# What the garbage collector changes, and what the server keeps for itself, grants nothing.
_HARMLESS = frozenset({"ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"})


class Escalation:
    """A plugin that refuses roles with rights, and bindings to roles, beyond those of their writer."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    @only(lambda request: request.info.group == _GROUP and request.operation != DELETE)
    async def admit(self, request: AdmissionRequest) -> None:
        info, old, new = request.info, request.old, request.object
        if request.user.all_powerful:
            return
        if old is not None and grants(old) == grants(new):
            return
        if info.kind in _PLURALS:
            await self._role(request)
        elif info.kind in _BINDINGS:
            await self._binding(request)

    async def _role(self, request: AdmissionRequest) -> None:
        plural, name = request.info.plural, request.name
        if _stores_rules_only(request) and request.object["rules"] == await self._authorizer.role_rules(name):
            return  # they are in force, whatever is stored
        if await self._may(request, "escalate", plural, name):
            return
        await self._must_hold(request, request.object.get("rules") or ())
        aggregates = [o for o in (request.object, request.old or {}) if o.get("aggregationRule")]
        if aggregates and await self._authorizer.missing_rights(request.user, rbac.FULL_AUTHORITY, ""):
            text = "must have cluster-admin privileges to use the aggregationRule"
            raise Forbidden.of(plural, name, text, group=_GROUP)

    async def _binding(self, request: AdmissionRequest) -> None:
        ref = request.object.get("roleRef") or {}
        kind, name = ref.get("kind") or "", ref.get("name") or ""
        if kind not in _PLURALS:
            return  # validation says what is wrong
        if await self._may(request, "bind", _PLURALS[kind], name):
            return
        # As it holds now: an aggregating role grants what others say, not what is stored in it.
        rules = await self._authorizer.role_rules(name, request.namespace if kind == "Role" else "")
        if rules is None:
            raise NotFound.of(_PLURALS[kind], name, group=_GROUP)
        await self._must_hold(request, rules)

    async def _must_hold(self, request: AdmissionRequest, rules: Sequence[Mapping[str, Any]]) -> None:
        user = request.user
        missing = await self._authorizer.missing_rights(user, rules, request.namespace)
        if missing:
            text = rbac.escalation_message(user.name, user.groups, missing)
            raise Forbidden.of(request.info.plural, request.shown_name, text, group=_GROUP)

    async def _may(self, request: AdmissionRequest, verb: str, plural: str, name: str) -> bool:
        attributes = request.user.asks(verb, group=_GROUP, resource=plural, namespace=request.namespace, name=name)
        return (await self._authorizer.decide(attributes)).allowed


def _stores_rules_only(request: AdmissionRequest) -> bool:
    """Whether nothing but the rules of an aggregated role change."""
    new, old = ({**grants(o), "rules": None} for o in (request.object, request.old or request.object))
    return bool(request.old and request.object.get("rules") and old.get("aggregationRule")) and new == old


def grants(o: Object) -> Object:
    """The parts of an object that matter to who may do what, or who is trusted."""
    return {**o, "metadata": {k: v for k, v in o["metadata"].items() if k not in _HARMLESS}}
