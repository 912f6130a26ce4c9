"""Role-based access control: who may do what, decided from roles and bindings.

`Policy` indexes roles by name and bindings by subject. It is fed object by object (from a watch),
and `authorize` looks only at the bindings of the asking user and groups. Not safe for use from
several threads at once; one event loop owns a policy.
Source: Kubernetes reference "Using RBAC Authorization".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rayplane.control_plane.api.errors import ApiError, quote
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS, FieldSelector
from rayplane.control_plane.api.machinery.selectors import EVERYTHING, LabelSelector
from rayplane.control_plane.api.meta import Object, labels, name, namespace
from rayplane.control_plane.identities import MASTERS, SERVICE_ACCOUNT_PREFIX

UNCOVERED_MAX = 100
RIGHTS_MAX = 20_000
FULL_AUTHORITY: tuple[Mapping[str, Any], ...] = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)
"""What whoever writes an aggregationRule must hold: it can gather any rule."""
Subject = tuple[str, str]
"""(kind, name); a service account's name is `namespace/name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """One request to be decided. `path` is set, and the rest empty, for non-resource requests."""

    user: str
    groups: Sequence[str] = ()
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: FieldSelector = ALL_FIELDS
    """What a list, watch or deletecollection is limited to."""
    labels: LabelSelector = EVERYTHING
    nodes: frozenset[str] | None = None
    """The nodes that the user is; None for who is no node. Roles do not look at it, nor at what follows."""
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer, with its reason. `reason` explains an allowed request, and a denied one when roles were missing."""

    allowed: bool
    reason: str = ""
    denied: bool = False
    """Nobody else is asked any more."""
    of_kind: bool = False
    """Whether it holds for all objects of the kind in the namespace, until roles and bindings change."""


class Rule:
    """A PolicyRule, compiled to sets."""

    __slots__ = ("groups", "names", "paths", "raw", "resources", "verbs")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.verbs = frozenset(_texts(raw, "verbs"))
        self.groups = frozenset(_texts(raw, "apiGroups"))
        self.resources = frozenset(_texts(raw, "resources"))
        # Names that cannot be read are no names, not all of them.
        self.names = frozenset(_texts(raw, "resourceNames") or ((_NO_NAME,) if raw.get("resourceNames") else ()))
        self.paths = _texts(raw, "nonResourceURLs")

    def allows(self, request: Attributes) -> bool:
        named = bool(self.names) and not request.path
        return self.concerns(request) and (not named or (request.name != "" and request.name in self.names))

    def concerns(self, request: Attributes) -> bool:
        """Whether it allows this for objects of some name."""
        if request.verb not in self.verbs and "*" not in self.verbs:
            return False
        if request.path:
            return self._allows_path(request.path)
        if request.group not in self.groups and "*" not in self.groups:
            return False
        return self._allows_resource(request)

    def _allows_resource(self, request: Attributes) -> bool:
        if "*" in self.resources:
            return True
        if not request.subresource:
            return request.resource in self.resources
        return (
            f"{request.resource}/{request.subresource}" in self.resources
            or f"*/{request.subresource}" in self.resources
        )

    def _allows_path(self, path: str) -> bool:
        return any(one in ("*", path) or (one.endswith("*") and path.startswith(one[:-1])) for one in self.paths)


_NO_NAME = ""


class _Binding(NamedTuple):
    """A binding's grant, as found from one of its subjects."""

    own: str
    kind: str
    role_kind: str
    role_name: str


@dataclass(slots=True)
class Policy:
    """All roles and bindings of a cluster."""

    _roles: dict[tuple[str, str], tuple[Rule, ...]] = field(default_factory=dict)
    _bindings: dict[tuple[str, Subject], dict[str, _Binding]] = field(default_factory=dict)
    _subjects: dict[tuple[str, str], tuple[Subject, ...]] = field(default_factory=dict)

    def put(self, obj: Object) -> None:
        """Add or replace a Role, ClusterRole, RoleBinding or ClusterRoleBinding."""
        kind, scope = obj.get("kind"), namespace(obj)
        if kind in ("Role", "ClusterRole"):
            self._roles[scope, name(obj)] = tuple(Rule(raw) for raw in _objects(obj.get("rules")))
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            self.remove(obj)
            ref = next(_objects([obj.get("roleRef")]), {})
            binding = _Binding(name(obj), kind, str(ref.get("kind") or ""), str(ref.get("name") or ""))
            found = tuple(_subject(one, scope) for one in _objects(obj.get("subjects")))
            self._subjects[scope, name(obj)] = found
            for subject in found:
                self._bindings.setdefault((scope, subject), {})[name(obj)] = binding

    def remove(self, obj: Object) -> None:
        """Forget an object `put` before; unknown ones are ignored."""
        kind, scope = obj.get("kind"), namespace(obj)
        if kind in ("Role", "ClusterRole"):
            self._roles.pop((scope, name(obj)), None)
            return
        for subject in self._subjects.pop((scope, name(obj)), ()):
            granted = self._bindings.get((scope, subject), {})
            granted.pop(name(obj), None)
            if not granted:
                self._bindings.pop((scope, subject), None)

    def authorize(self, request: Attributes) -> Decision:
        """Decide one request; allowed as soon as one rule allows it."""
        if MASTERS in request.groups:
            return Decision(True)
        missing: list[str] = []
        of_kind = True
        for rules, binding, subject, scope in self._granted(request, missing):
            for rule in rules:
                if not rule.concerns(request):
                    continue
                # What is granted by name is another grant for another name.
                of_kind = of_kind and not rule.names
                if rule.allows(request):
                    reason = f"RBAC: allowed by {_describe(binding, subject, scope)}"
                    return Decision(True, reason, of_kind=of_kind)
        if missing:
            return Decision(False, "RBAC: " + _join(missing))
        return Decision(False)

    def rules(self, user: str, groups: Sequence[str], scope: str) -> list[Mapping[str, Any]]:
        """Every PolicyRule that holds for a user in a namespace (SelfSubjectRulesReview)."""
        probe = Attributes(user=user, groups=groups, verb="", namespace=scope)
        found: list[Mapping[str, Any]] = []
        if MASTERS in groups:
            found += FULL_AUTHORITY
        for rules, _, _, _ in self._granted(probe, []):
            found += [rule.raw for rule in rules]
        return found

    def role_rules(self, name: str, scope: str = "") -> list[Mapping[str, Any]] | None:
        """The PolicyRules of a Role of namespace `scope`, or of a ClusterRole; None where there is no such role."""
        rules = self._roles.get((scope, name))
        return None if rules is None else [rule.raw for rule in rules]

    def uncovered(
        self, user: str, groups: Sequence[str], *, scope: str, rules: Iterable[Mapping[str, Any]]
    ) -> list[Attributes]:
        """The first single rights in `rules` that a user does not have: granting them would escalate.

        At most `UNCOVERED_MAX`; a right that is one of more than `RIGHTS_MAX` counts as one that the user lacks.
        """
        if MASTERS in groups:
            return []
        held = [Rule(raw) for raw in self.rules(user, groups, scope)]
        # Most rules are held as they stand: only what is left is taken apart, as it multiplies.
        wanted = (raw for raw in rules if not any(_covers_rule(rule, raw) for rule in held))
        missing = (
            right
            for number, right in enumerate(_single_rights(user, groups, scope=scope, rules=wanted))
            if number >= RIGHTS_MAX or not any(_covers(rule, right) for rule in held)
        )
        return list(itertools.islice(missing, UNCOVERED_MAX))

    def _granted(
        self, request: Attributes, missing: list[str]
    ) -> Iterator[tuple[tuple[Rule, ...], _Binding, Subject, str]]:
        subjects = _subjects_of(request.user, request.groups)
        scopes = ("", request.namespace) if request.namespace else ("",)
        for scope in scopes:
            for subject in subjects:
                for binding in self._bindings.get((scope, subject), {}).values():
                    where = scope if binding.role_kind == "Role" else ""
                    rules = self._roles.get((where, binding.role_name))
                    if rules is None:
                        kind = binding.role_kind.lower()
                        text = f'{kind}.rbac.authorization.k8s.io "{binding.role_name}" not found'
                        if text not in missing:
                            missing.append(text)
                        continue
                    yield rules, binding, subject, scope


# A role that was written past the API grants what can be read of it, and never stops the decision on others.


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list."""
    return (one for one in value if isinstance(one, Mapping)) if isinstance(value, list | tuple) else iter(())


def _texts(raw: Mapping[str, Any], part: str) -> tuple[str, ...]:
    """The strings of a list in a rule."""
    value = raw.get(part)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ()


def _subject(raw: Mapping[str, Any], scope: str) -> Subject:
    kind, own = str(raw.get("kind") or ""), str(raw.get("name") or "")
    if kind == "ServiceAccount":
        return kind, f"{raw.get('namespace') or scope}/{own}"
    return kind, own


def _subjects_of(user: str, groups: Sequence[str]) -> list[Subject]:
    found: list[Subject] = [("User", user)]
    if user.startswith(SERVICE_ACCOUNT_PREFIX):
        space, _, own = user.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
        found.append(("ServiceAccount", f"{space}/{own}"))
    found += [("Group", one) for one in groups]
    return found


def _describe(binding: _Binding, subject: Subject, scope: str) -> str:
    own = f"{binding.own}/{scope}" if scope else binding.own
    kind, who = subject
    if kind == "ServiceAccount":
        space, _, account = who.partition("/")
        who = f"{account}/{space}"
    return f'{binding.kind} "{own}" of {binding.role_kind} "{binding.role_name}" to {kind} "{who}"'


def _join(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _single_rights(
    user: str, groups: Sequence[str], *, scope: str, rules: Iterable[Mapping[str, Any]]
) -> Iterator[Attributes]:
    for raw in rules:
        for verb in raw.get("verbs") or ():
            for path in raw.get("nonResourceURLs") or ():
                yield Attributes(user=user, groups=groups, verb=verb, path=path)
            for group in raw.get("apiGroups") or ():
                for full in raw.get("resources") or ():
                    resource, _, subresource = full.partition("/")
                    for own in raw.get("resourceNames") or ("",):
                        yield Attributes(
                            user=user,
                            groups=groups,
                            verb=verb,
                            group=group,
                            resource=resource,
                            subresource=subresource,
                            namespace=scope,
                            name=own,
                        )


def _covers(rule: Rule, right: Attributes) -> bool:
    """Does a held rule include a right, whose parts may be wildcards themselves?"""
    if right.verb not in rule.verbs and "*" not in rule.verbs:
        return False
    if right.path:
        return rule._allows_path(right.path)
    if right.group not in rule.groups and "*" not in rule.groups:
        return False
    if not rule._allows_resource(right):
        return False
    return not rule.names or (right.name != "" and right.name in rule.names)


def _covers_rule(rule: Rule, raw: Mapping[str, Any]) -> bool:
    """Is a whole PolicyRule, without names of objects or paths, part of a held rule?"""
    if rule.names or raw.get("nonResourceURLs"):
        return False
    return all(
        "*" in held or held.issuperset(raw.get(part) or ())
        for held, part in ((rule.verbs, "verbs"), (rule.groups, "apiGroups"), (rule.resources, "resources"))
    )


def rights_text(rights: Iterable[Attributes]) -> str:
    """Rights as Kubernetes lists them, one resource a line: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`."""
    verbs: dict[tuple[str, ...], list[str]] = {}
    for one in rights:
        resource = one.resource + (f"/{one.subresource}" if one.subresource else "")
        verbs.setdefault((one.group, resource, one.name, one.path), []).append(one.verb)
    lines = []
    for (group, resource, own, path), found in sorted(verbs.items()):
        fields = {"APIGroups": group, "Resources": resource} if not path else {"NonResourceURLs": path}
        if own:
            fields["ResourceNames"] = own
        parts = [f"{key}:[{quote(value)}]" for key, value in fields.items()]
        lines.append(f"{{{', '.join([*parts, f'Verbs:[{_quoted(found)}]'])}}}")
    return "\n".join(lines)


def _quoted(texts: Iterable[str]) -> str:
    return " ".join(quote(one) for one in texts)


def escalation_message(user: str, groups: Sequence[str], missing: Iterable[Attributes]) -> str:
    """Why a role or binding is refused to who lacks the rights in it."""
    return (
        f'user "{user}" (groups=[{_quoted(groups)}]) is attempting to grant RBAC permissions not currently held:\n'
        f"{rights_text(missing)}"
    )


def denied_message(request: Attributes, reason: str = "") -> str:
    """`User "u" cannot list resource "pods" in API group "" in the namespace "ns"`."""
    who = f'User "{request.user}" cannot {request.verb}'
    if request.path:
        text = f'{who} path "{request.path}"'
    else:
        resource = request.resource + (f"/{request.subresource}" if request.subresource else "")
        where = f' in the namespace "{request.namespace}"' if request.namespace else ""
        where = where or " at the cluster scope"
        text = f'{who} resource "{resource}" in API group "{request.group}"{where}'
    return f"{text}: {reason}" if reason else text


def aggregated_rules(role: Object, cluster_roles: Iterable[Object]) -> list[Mapping[str, Any]]:
    """The rules of an aggregated ClusterRole: those of all roles its selectors match, by name."""
    rule = next(_objects([role.get("aggregationRule")]), {})
    try:
        chosen = [selectors.from_label_selector(one) for one in _objects(rule.get("clusterRoleSelectors"))]
    except (ApiError, AttributeError, KeyError, TypeError, ValueError):
        return []
    found: list[Mapping[str, Any]] = []
    for other in sorted(cluster_roles, key=name):
        if name(other) == name(role):
            continue
        if any(selector.matches(labels(other)) for selector in chosen):
            found += [rule for rule in _objects(other.get("rules")) if rule not in found]
    return found


def aggregated(cluster_roles: Sequence[Object]) -> dict[str, list[Mapping[str, Any]]]:
    """The rules of all aggregated ClusterRoles, by name: a role may select another aggregated one.

    What is stored in them does not count: roles that select each other lose what their sources lose.
    """
    made: dict[str, list[Mapping[str, Any]]] = {name(one): [] for one in cluster_roles if one.get("aggregationRule")}
    for _ in range(len(made) + 1):
        known = [{**one, "rules": made[name(one)]} if name(one) in made else one for one in cluster_roles]
        found = {name(one): aggregated_rules(one, known) for one in cluster_roles if name(one) in made}
        if found == made:
            break
        made = found
    return made
