"""Authorization of requests: nodes by what their pods need, all by RBAC over the cached roles and bindings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayplane.control_plane.api.authorization import node as node_authorization
from rayplane.control_plane.api.authorization import rbac
from rayplane.control_plane.api.authorization.node_graph import ATTACHMENTS, SLICES, VOLUMES, NodeGraph
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.ingresses import INGRESSES
from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS, FieldSelector
from rayplane.control_plane.api.machinery.selectors import EVERYTHING, LabelSelector
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.authentication.impersonation import Way, asked_for
from rayplane.control_plane.apiserver.authentication.webhooks import Post
from rayplane.control_plane.apiserver.authorization.configuration import RBAC, USUAL, Step, WebhookSettings
from rayplane.control_plane.apiserver.authorization.webhooks import AuthorizationWebhook
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.tracing.spans import spanned, traced
from rayplane.control_plane.apiserver.watch_cache.following import Follower
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.identities import MASTERS

_GROUP = "rbac.authorization.k8s.io"
_ROLES = f"clusterroles.{_GROUP}"
_RESOURCES = (_ROLES, f"roles.{_GROUP}", f"rolebindings.{_GROUP}", f"clusterrolebindings.{_GROUP}")

# What is allowed for all objects of a kind is remembered, until rules change: not more than this.
_KNOWN_MAX = 4096
_CHARS_MAX = 253
_NO_NODE = rbac.Decision(False, of_kind=True)

#: Codes of refusals that may come before rights are looked at: who may not ask is told nothing but that.
MAY_COME_FIRST = frozenset({400, 404, 405, 406, 415, 422})


def _asked(_: object, attributes: rbac.Attributes, name: str) -> dict[str, object]:
    resource = "/".join(part for part in (attributes.resource, attributes.subresource) if part)
    return {"verb": attributes.verb, "resource": resource, "namespace": attributes.namespace, "name": name}


def _forbidden(asked: rbac.Attributes, name: str, reason: str) -> Forbidden:
    """The refusal of a request; `name`: of the object in the answer."""
    text = rbac.denied_message(asked, reason)
    if asked.path:
        return Forbidden(f"forbidden: {text}", details={})
    return Forbidden.of(asked.resource, name, text, group=asked.group)


class Authorizer:
    """An authorizer that decides requests.

    What it knows follows the caches; a denial is decided again on fresh caches.
    """

    def __init__(
        self,
        kinds: Kinds,
        hub: WatchHub,
        *,
        order: Sequence[Step] = USUAL,
        post: Callable[[WebhookSettings], Post] | None = None,
    ) -> None:
        """`order`: who decides. `post`: how a webhook among them is reached."""
        self._hub = hub
        self._order: Sequence[str | AuthorizationWebhook] = ()
        self._by_roles_first = False
        self._policy = rbac.Policy()
        self._roles: dict[str, Object] = {}
        """ClusterRoles as they are stored, by name."""
        self._stale = False
        self._known: dict[tuple[User, str, str, str, str], rbac.Decision] = {}
        self._usual_ways: dict[str, str] = {}
        """By user, how it has become somebody else."""
        self._graph = NodeGraph()
        self.take(order, post)
        self._rules = Follower(kinds, hub, _RESOURCES, clear=self._clear, put=self._put, remove=self._remove)
        self._nodes = Follower(
            kinds,
            hub,
            ("pods", VOLUMES, ATTACHMENTS, SLICES, INGRESSES),
            clear=self._clear_nodes,
            put=self._put_node,
            remove=self._drop,
        )

    def take(self, order: Sequence[Step], post: Callable[[WebhookSettings], Post] | None = None) -> None:
        """Have others decide from now on; as the constructor. Requests under way are decided by those of before."""
        self._order = [
            AuthorizationWebhook(one, post(one)) if isinstance(one, WebhookSettings) and post is not None else str(one)
            for one in order
        ]
        self._known.clear()
        self._by_roles_first = RBAC in order and all(isinstance(one, str) for one in order[: order.index(RBAC)])

    async def load(self) -> None:
        """Bring the policy in step with the caches. Cheap when it is."""
        await self._rules.load()
        if self._stale:
            self._aggregate()

    def _clear(self) -> None:
        self._policy = rbac.Policy()
        self._roles.clear()
        self._known.clear()

    def _put(self, resource: str, o: Object) -> None:
        self._known.clear()
        self._policy.put(o)
        if resource == _ROLES:
            self._stale = True
            self._roles[name(o)] = o

    def _remove(self, resource: str, o: Object) -> None:
        self._known.clear()
        self._policy.remove(o)
        if resource == _ROLES:
            self._stale = True
            self._roles.pop(name(o), None)

    def _aggregate(self) -> None:
        """Aggregated roles have the rules of the roles they select, whatever is stored in them."""
        self._stale = False
        self._known.clear()
        for key, rules in rbac.aggregated([*self._roles.values()]).items():
            self._policy.put({**self._roles[key], "rules": rules})

    def _clear_nodes(self) -> None:
        self._graph = NodeGraph()

    def _put_node(self, resource: str, o: Object) -> None:
        self._graph.put(resource, o)

    def _drop(self, resource: str, o: Object) -> None:
        self._graph.remove(resource, o)

    async def decide(self, attributes: rbac.Attributes) -> rbac.Decision:
        if MASTERS in attributes.groups:
            return rbac.Decision(True)
        said: dict[AuthorizationWebhook, rbac.Decision] = {}
        decision = await self._decide(attributes, said)
        if not decision.allowed and not decision.denied:
            # Maybe what was granted just now, or the pod that was bound just now, has not arrived yet.
            await self._hub.fresh()
            decision = await self._decide(attributes, said)
        return decision

    async def _decide(
        self, attributes: rbac.Attributes, said: dict[AuthorizationWebhook, rbac.Decision]
    ) -> rbac.Decision:
        """By all in their order, until one allows or denies. `said`: what webhooks have said of it."""
        reasons = []
        of_kind = True
        for one in self._order:
            if isinstance(one, AuthorizationWebhook):
                if one not in said:
                    said[one] = await one.decide(attributes)
                decision = said[one]
            else:
                decision = await (self._by_roles(attributes) if one == RBAC else self._by_needs(attributes))
            if decision.reason:
                reasons.append(decision.reason)
            of_kind = of_kind and decision.of_kind
            if decision.allowed or decision.denied:
                if of_kind == decision.of_kind and reasons in ([], [decision.reason]):
                    return decision  # nobody else had anything to say
                return replace(decision, reason="\n".join(reasons), of_kind=of_kind)
        return rbac.Decision(False, "\n".join(reasons))

    async def _by_needs(self, attributes: rbac.Attributes) -> rbac.Decision:
        """Nodes by what they need."""
        if attributes.nodes is None:
            return _NO_NODE
        await self._nodes.load()
        return node_authorization.decide(attributes, attributes.nodes, self._graph)

    async def _by_roles(self, attributes: rbac.Attributes) -> rbac.Decision:
        await self.load()
        return self._policy.authorize(attributes)

    async def check(
        self,
        user: User,
        verb: str,
        target: Target,
        fields: FieldSelector = ALL_FIELDS,
        labels: LabelSelector = EVERYTHING,
    ) -> None:
        """Forbidden, in Kubernetes' words, unless `user` may. `fields`, `labels`: what a list is limited to."""
        if user.all_powerful:
            return
        if traced() or fields is not ALL_FIELDS or labels is not EVERYTHING or user.extra:
            await self._require(_attributes(user, verb, target, fields, labels), target.name)
            return
        info = target.info
        key = user, verb, info.name, target.subresource, target.namespace
        found = self._known.get(key) if self._rules.in_step and not self._stale else None
        if found is None:
            found = await self._require(_attributes(user, verb, target), target.name)
            if found.of_kind:
                self._remember(key, found)
        else:
            audit.allowed(found.reason)

    def _remember(self, key: tuple[User, str, str, str, str], decision: rbac.Decision) -> None:
        # Names of namespaces are what clients say: no more of them than this, and none that is very long.
        if len(key[-1]) <= _CHARS_MAX and self._rules.in_step and not self._stale:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = decision

    def allows(self, user: User, verb: str, target: Target) -> bool:
        """Whether roles are known to allow it now; False too where only asking others could tell."""
        if self._stale or not self._rules.in_step or not self._by_roles_first:
            return False
        return self._policy.authorize(_attributes(user, verb, target)).allowed

    async def check_written(self, user: User, verb: str, *, name: str, **written: str) -> None:
        """As `check`, by what a request says (fields of Attributes), whether or not that is served."""
        if not user.all_powerful:
            if written["resource"] == "namespaces" and not written["group"]:
                # One is in itself.
                written["namespace"] = written["namespace"] or name
            await self._require(user.asks(verb, name=name, **written), name)

    async def acting(
        self, user: User, headers: Iterable[tuple[str, str]], request: rbac.Attributes | None = None
    ) -> User:
        """Whom the user acts as: somebody else where the headers say so and it may. BadRequest, Forbidden.

        `request`: what is asked, where that counts for who may act as whom.
        """
        asked = asked_for(headers)
        if asked is None:
            return user
        refused: list[Forbidden] = []
        # Who became somebody else in one way does so again.
        usual = self._usual_ways.get(user.name)
        for way in sorted(asked.ways(user, request), key=lambda one: one.verb != usual):
            refusal = await self._way_refused(way)
            if refusal is None:
                if len(self._usual_ways) >= _KNOWN_MAX:
                    self._usual_ways.clear()
                self._usual_ways[user.name] = way.verb
                audit.impersonates(way.user, way.constraint)
                return way.user
            refused.append(refusal)
        raise refused[0]

    async def _way_refused(self, way: Way) -> Forbidden | None:
        for right in way.rights:
            reason = right.why_not
            if not reason:
                decision = await self.decide(right.asked)
                if decision.allowed:
                    continue
                reason = decision.reason
            return _forbidden(right.asked, right.asked.name, reason)
        return None

    @spanned("authorization", about=_asked)
    async def _require(self, attributes: rbac.Attributes, name: str) -> rbac.Decision:
        """What allows the request, else Forbidden; `name`: of the object in the answer."""
        decision = await self.decide(attributes)
        if not decision.allowed:
            audit.denied(decision.reason)
            raise _forbidden(attributes, name, decision.reason)
        audit.allowed(decision.reason)
        return decision

    async def may_see(self, user: User, path: str) -> bool:
        """Whether a user may get what is at a path that is no resource."""
        return (await self.decide(user.asks("get", path=path))).allowed

    @spanned("authorization")
    async def check_path(self, user: User, verb: str, path: str) -> None:
        """As `check`, for paths that are no resources."""
        attributes = user.asks(verb, path=path)
        decision = await self.decide(attributes)
        if not decision.allowed:
            audit.denied(decision.reason)
            raise _forbidden(attributes, "", "")
        audit.allowed(decision.reason)

    @property
    def asks_others(self) -> bool:
        """Whether webhooks decide, too, whose rules nobody knows."""
        return any(isinstance(one, AuthorizationWebhook) for one in self._order)

    async def rules(self, user: User, namespace: str) -> list[dict[str, object]]:
        """Every rule that holds for the user in a namespace."""
        await self.load()
        return [dict(rule) for rule in self._policy.rules(user.name, user.groups, namespace)]

    async def role_rules(self, name: str, namespace: str = "") -> list[Mapping[str, Any]] | None:
        """What a Role, or without a namespace a ClusterRole, grants now, aggregation included; None: no such role."""
        await self._catch_up()
        return self._policy.role_rules(name, namespace)

    async def _catch_up(self) -> None:
        """Bring the policy in step with etcd: who grants rights is not judged by old ones."""
        await self._hub.fresh()
        await self.load()

    async def missing_rights(self, user: User, rules: Sequence[Mapping[str, Any]], scope: str) -> list[rbac.Attributes]:
        """The rights in `rules` (of a role in namespace `scope`, "" for the cluster) that `user` does not have."""
        await self._catch_up()
        return self._policy.uncovered(user.name, user.groups, scope=scope, rules=rules)


def _attributes(
    user: User, verb: str, target: Target, fields: FieldSelector = ALL_FIELDS, labels: LabelSelector = EVERYTHING
) -> rbac.Attributes:
    info = target.info
    return user.asks(
        verb,
        group=info.group,
        resource=info.plural,
        subresource=target.subresource,
        namespace=target.namespace,
        name=target.name or fields.requires("metadata.name") or "",
        fields=fields,
        labels=labels,
        version=info.version,
    )
