"""Who may do what: RBAC over the cached roles and bindings."""

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.api import rbac
from control_plane.api.errors import Forbidden
from control_plane.api.meta import Object, labels, name
from control_plane.apiserver import audit
from control_plane.apiserver.cache import DELETED, Event, ResourceCache
from control_plane.apiserver.hub import WatchHub
from control_plane.apiserver.kinds import Kinds
from control_plane.apiserver.requests import Target, User

_GROUP = "rbac.authorization.k8s.io"
_ROLES = f"clusterroles.{_GROUP}"
_RESOURCES = (_ROLES, f"roles.{_GROUP}", f"rolebindings.{_GROUP}", f"clusterrolebindings.{_GROUP}")


class Authorizer:
    """Decides requests. Its policy follows the caches; a denial is decided again on fresh caches."""

    def __init__(self, kinds: Kinds, hub: WatchHub) -> None:
        self._kinds = kinds
        self._hub = hub
        self._policy = rbac.Policy()
        self._caches: list[ResourceCache] = []
        self._installs: list[int] = []
        self._aggregated: dict[str, Object] = {}
        self._stale = False

    async def load(self) -> None:
        """Bring the policy in step with the caches. Cheap when it is."""
        if self._caches and all(c.ready and c.installs == n for c, n in zip(self._caches, self._installs, strict=True)):
            return
        caches = [await self._hub.cache(self._kinds.named(r)) for r in _RESOURCES]
        self._policy = rbac.Policy()
        self._aggregated.clear()
        for cache in caches:
            if self._on_event not in cache.listeners:
                cache.listeners.append(self._on_event)
            for entry in cache.readable():
                self._put(entry.object)
        self._caches, self._installs = caches, [c.installs for c in caches]
        self._stale = True

    def _on_event(self, event: Event) -> None:
        o = event.entry.object
        if event.type == DELETED:
            self._policy.remove(o)
            self._aggregated.pop(name(o), None)
            self._stale = self._stale or o["kind"] == "ClusterRole"
        else:
            self._put(o)

    def _put(self, o: Object) -> None:
        self._policy.put(o)
        if o["kind"] == "ClusterRole":
            self._stale = True
            if o.get("aggregationRule"):
                self._aggregated[name(o)] = o
            else:
                self._aggregated.pop(name(o), None)

    def _aggregate(self) -> None:
        """Aggregated roles have the rules of the roles they select, whatever is stored in them."""
        self._stale = False
        if not self._aggregated:
            return
        entries = self._caches[0].readable()
        labelled = [e.object for e in entries if labels(e.object)]
        # A role may select another aggregated one: two rounds settle admin, edit and view.
        for _ in range(2):
            made = {
                key: {**role, "rules": rbac.aggregated_rules(role, labelled)} for key, role in self._aggregated.items()
            }
            labelled = [made.get(name(o), o) for o in labelled]
        for role in made.values():
            self._policy.put(role)

    async def decide(self, attributes: rbac.Attributes) -> rbac.Decision:
        if rbac.MASTERS in attributes.groups:
            return rbac.Decision(True)
        await self.load()
        if self._stale:
            self._aggregate()
        decision = self._policy.authorize(attributes)
        if not decision.allowed:
            # Maybe what was granted just now has not arrived yet.
            await self._catch_up()
            decision = self._policy.authorize(attributes)
        return decision

    async def check(self, user: User, verb: str, target: Target) -> None:
        """Forbidden, in Kubernetes' words, unless `user` may."""
        if user.all_powerful:
            return
        info = target.info
        attributes = rbac.Attributes(
            user=user.name,
            groups=user.groups,
            verb=verb,
            group=info.group,
            resource=info.plural,
            subresource=target.subresource,
            namespace=target.namespace,
            name=target.name,
        )
        decision = await self.decide(attributes)
        if not decision.allowed:
            audit.denied(decision.reason)
            text = rbac.denied_message(attributes, decision.reason)
            raise Forbidden.of(info.plural, target.name, text, group=info.group)
        audit.allowed(decision.reason)

    async def check_path(self, user: User, verb: str, path: str) -> None:
        """As `check`, for paths that are no resources."""
        attributes = rbac.Attributes(user=user.name, groups=user.groups, verb=verb, path=path)
        decision = await self.decide(attributes)
        if not decision.allowed:
            audit.denied(decision.reason)
            text = f"forbidden: {rbac.denied_message(attributes)}"
            raise Forbidden(text, details={})
        audit.allowed(decision.reason)

    async def rules(self, user: User, namespace: str) -> list[dict[str, object]]:
        """Every rule that holds for the user in a namespace."""
        await self.load()
        if self._stale:
            self._aggregate()
        return [dict(rule) for rule in self._policy.rules(user.name, user.groups, namespace)]

    async def role_rules(self, name: str, namespace: str = "") -> list[Mapping[str, Any]] | None:
        """What a Role, or without a namespace a ClusterRole, grants now, aggregation included; None: no such role."""
        await self._catch_up()
        return self._policy.role_rules(name, namespace)

    async def _catch_up(self) -> None:
        """Bring the policy in step with etcd: who grants rights is not judged by old ones."""
        await self._hub.fresh()
        await self.load()
        if self._stale:
            self._aggregate()

    async def missing_rights(self, user: User, rules: Sequence[Mapping[str, Any]], scope: str) -> list[rbac.Attributes]:
        """The rights in `rules` (of a role in namespace `scope`, "" for the cluster) that `user` does not have."""
        await self._catch_up()
        return self._policy.uncovered(user.name, user.groups, scope=scope, rules=rules)
