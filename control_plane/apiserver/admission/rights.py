"""Nobody grants rights that they do not have: roles and bindings, as Kubernetes' RBAC checks them when written."""

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.api import rbac
from control_plane.api.errors import Forbidden, NotFound
from control_plane.apiserver.admission.request import DELETE, AdmissionRequest
from control_plane.apiserver.authz import Authorizer
from control_plane.apiserver.lookup import Lookup

_GROUP = "rbac.authorization.k8s.io"
_ROLES = {"Role": f"roles.{_GROUP}", "ClusterRole": f"clusterroles.{_GROUP}"}
_BINDINGS = ("RoleBinding", "ClusterRoleBinding")


class Escalation:
    """Refuses roles with rights, and bindings to roles, beyond those of their writer."""

    def __init__(self, lookup: Lookup, authorizer: Authorizer) -> None:
        self._lookup = lookup
        self._authorizer = authorizer

    async def admit(self, request: AdmissionRequest) -> None:
        info = request.info
        if info.group != _GROUP or request.operation == DELETE or request.user.all_powerful:
            return
        if info.kind in _ROLES:
            if request.old is not None and request.old.get("rules") == request.object.get("rules"):
                return
            await self._check(request, request.object.get("rules") or (), "escalate", info.plural, request.name)
        elif info.kind in _BINDINGS:
            await self._binding(request)

    async def _binding(self, request: AdmissionRequest) -> None:
        ref = request.object.get("roleRef") or {}
        kind, name = ref.get("kind") or "", ref.get("name") or ""
        if kind not in _ROLES:
            return  # validation says what is wrong
        namespace = request.namespace if kind == "Role" else ""
        role = await self._lookup.get(_ROLES[kind], name, namespace)
        if role is None:
            if await self._may(request, "bind", _ROLES[kind].partition(".")[0], name):
                return
            raise NotFound.of(_ROLES[kind].partition(".")[0], name, group=_GROUP)
        await self._check(request, role.get("rules") or (), "bind", _ROLES[kind].partition(".")[0], name)

    async def _check(
        self, request: AdmissionRequest, rules: Sequence[Mapping[str, Any]], verb: str, plural: str, name: str
    ) -> None:
        missing = await self._authorizer.missing_rights(request.user, rules, request.namespace)
        if not missing or await self._may(request, verb, plural, name):
            return
        user = request.user
        first = missing[0]
        what = first.path or f'{first.resource or "*"} in API group "{first.group}"'
        text = (
            f'user "{user.name}" (groups={list(user.groups)}) is attempting to grant RBAC permissions not currently '
            f"held: {first.verb} {what}"
        )
        raise Forbidden.of(request.info.plural, request.name, text, group=_GROUP)

    async def _may(self, request: AdmissionRequest, verb: str, plural: str, name: str) -> bool:
        attributes = rbac.Attributes(
            user=request.user.name,
            groups=request.user.groups,
            verb=verb,
            group=_GROUP,
            resource=plural,
            namespace=request.namespace,
            name=name,
        )
        return (await self._authorizer.decide(attributes)).allowed
