"""Rules and selectors of webhooks and policies: which requests they are about.

Source: admissionregistration.k8s.io/v1 (RuleWithOperations, MatchResources), apiserver's plugin/webhook/predicates.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.selectors import LabelSelector, from_label_selector
from rayplane.control_plane.api.meta import Object

GROUP = "admissionregistration.k8s.io"
NAMESPACES = "namespaces"
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: operations on resources; `*` is any of each."""

    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: tuple[tuple[str, str], ...]
    """(resource, subresource); an empty subresource is the object itself."""
    scope: str
    names: frozenset[str] = frozenset()
    """Names of objects; empty: any. Only rules of policies have it."""

    @staticmethod
    def of(rule: Mapping[str, Any]) -> "Rule":
        resources = tuple((r.partition("/")[0], r.partition("/")[2]) for r in rule.get("resources") or ())
        return Rule(
            operations=frozenset(rule.get("operations") or ()),
            groups=frozenset(rule.get("apiGroups") or ()),
            versions=frozenset(rule.get("apiVersions") or ()),
            resources=resources,
            scope=rule.get("scope") or _ANY,
            names=frozenset(rule.get("resourceNames") or ()),
        )

    def matches(self, operation: str, info: ResourceInfo, subresource: str, namespace: str, name: str = "") -> bool:
        return (
            self.concerns(operation, info.group, info.plural, subresource)
            and _among(info.version, self.versions)
            and self._in_scope(info, namespace)
            and (not self.names or name in self.names)
        )

    def concerns(self, operation: str, group: str, plural: str, subresource: str) -> bool:
        """Whether some version of the resource may match."""
        return (
            _among(operation, self.operations)
            and _among(group, self.groups)
            and any(r in (_ANY, plural) and s in (_ANY, subresource) for r, s in self.resources)
        )

    def _in_scope(self, info: ResourceInfo, namespace: str) -> bool:
        if self.scope == _ANY:
            return True
        # A namespace is no namespaced object, though requests for it bear its name as their namespace.
        namespaced = bool(namespace) and info.name != NAMESPACES
        return namespaced == (self.scope == "Namespaced")


@dataclass(frozen=True, slots=True)
class Matching:
    """The requests that a webhook or a policy is about."""

    rules: tuple[Rule, ...]
    excluded: tuple[Rule, ...]
    equivalent: bool
    """Whether a rule for one version of a resource means all of them."""
    namespaces: LabelSelector
    objects: LabelSelector

    @staticmethod
    def of(match: Mapping[str, Any]) -> "Matching":
        """From a webhook, `matchConstraints` or `matchResources`, with their defaults set."""
        rules = match.get("rules") or match.get("resourceRules") or ()
        return Matching(
            rules=tuple(Rule.of(rule) for rule in rules),
            excluded=tuple(Rule.of(rule) for rule in match.get("excludeResourceRules") or ()),
            equivalent=match.get("matchPolicy") != "Exact",
            namespaces=from_label_selector(match.get("namespaceSelector") or {}),
            objects=from_label_selector(match.get("objectSelector") or {}),
        )

    def resource(
        self,
        operation: str,
        asked: ResourceInfo,
        others: Iterable[ResourceInfo],
        subresource: str,
        namespace: str,
        name: str = "",
    ) -> ResourceInfo | None:
        """The form in which the request is meant: as `asked` if a rule names it, else one of the `others`."""

        def named(rules: tuple[Rule, ...], info: ResourceInfo) -> bool:
            return any(rule.matches(operation, info, subresource, namespace, name) for rule in rules)

        forms = [asked, *(others if self.equivalent else ())]
        if any(named(self.excluded, info) for info in forms):
            return None
        return next((info for info in forms if named(self.rules, info)), None)

    def concerns(self, operation: str, group: str, plural: str, subresource: str) -> bool:
        """Whether it may be about some requests of a kind: what need not be asked of each of them."""
        return any(rule.concerns(operation, group, plural, subresource) for rule in self.rules)

    def selects_objects(self, new: Object | None, old: Object | None) -> bool:
        """Whether the object is meant as it is or as it was."""
        return self.objects.everything or any(self.objects.matches(labels(o)) for o in (new, old) if o is not None)


def labels(o: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = (o.get("metadata") or {}).get("labels") or {}
    return found


def _among(value: str, wanted: frozenset[str]) -> bool:
    return value in wanted or _ANY in wanted
