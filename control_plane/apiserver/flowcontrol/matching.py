"""Flow schemas: to which level a request goes, and which flow it is of there. Pure.

Source: Kubernetes reference "API Priority and Fairness"; apiserver's flowcontrol `rule.go` and `shufflesharding`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayplane.control_plane.api.meta import Object, name, uid
from rayplane.control_plane.apiserver.requests import User

ALL = "*"


class Asked(NamedTuple):
    """A request as schemas see it. `path` is empty for a resource, all that is of resources for a path."""

    user: str
    groups: tuple[str, ...]
    verb: str
    group: str = ""
    resource: str = ""
    """With the subresource: `pods/status`."""
    namespace: str = ""
    path: str = ""

    @staticmethod
    def of(user: User, verb: str, group: str, plural: str, subresource: str, *, namespace: str) -> Asked:
        """What is asked of a resource."""
        resource = f"{plural}/{subresource}" if subresource else plural
        return Asked(user.name, user.groups, verb, group, resource, namespace)


@dataclass(frozen=True, slots=True)
class Schema:
    """A flow schema. `rules` of its spec are asked in order."""

    name: str
    uid: str
    level: str
    precedence: int
    distinguisher: str
    rules: Sequence[Mapping[str, Any]]

    @staticmethod
    def of(o: Object) -> Schema:
        """The schema in an object that has its defaults. Attribute-, Key-, Type- or ValueError for what is none."""
        spec = o["spec"]
        return Schema(
            name=name(o),
            uid=uid(o),
            level=spec["priorityLevelConfiguration"]["name"],
            precedence=int(spec["matchingPrecedence"]),
            distinguisher=(spec.get("distinguisherMethod") or {}).get("type") or "",
            rules=tuple(spec.get("rules") or ()),
        )

    def matches(self, asked: Asked) -> bool:
        return any(_rule(rule, asked) for rule in self.rules)

    def flow(self, asked: Asked) -> str:
        """What tells its flows apart."""
        if self.distinguisher == "ByUser":
            return asked.user
        return asked.namespace if self.distinguisher == "ByNamespace" else ""


def in_order(schemas: Iterable[Schema]) -> list[Schema]:
    return sorted(schemas, key=lambda schema: (schema.precedence, schema.name))


def deal(schema: str, flow: str, queues: int, hand_size: int) -> tuple[int, ...]:
    """The hand of a flow: `hand_size` different ones of the queues 0 to `queues` - 1, always the same."""
    digest = hashlib.sha256(b"%s\0%s" % (_bytes(schema), _bytes(flow))).digest()
    entropy = int.from_bytes(digest[:8], "little")
    hand: list[int] = []
    for dealt in range(hand_size):
        entropy, card = divmod(entropy, queues - dealt)
        # The card's number among those that are left.
        for taken in sorted(hand):
            card += card >= taken
        hand.append(card)
    return tuple(hand)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _rule(rule: Mapping[str, Any], asked: Asked) -> bool:
    if not any(_subject(subject, asked) for subject in rule.get("subjects") or ()):
        return False
    if asked.path:
        return any(_path(one, asked) for one in rule.get("nonResourceRules") or ())
    return any(_resource(one, asked) for one in rule.get("resourceRules") or ())


def _account(subject: Mapping[str, Any], asked: Asked) -> bool:
    who = subject["serviceAccount"]
    prefix = f"system:serviceaccount:{who['namespace']}:"
    return asked.user.startswith(prefix) if who["name"] == ALL else asked.user == prefix + who["name"]


_SUBJECTS: dict[str, Callable[[Mapping[str, Any], Asked], bool]] = {
    "User": lambda subject, asked: subject["user"]["name"] in (ALL, asked.user),
    "Group": lambda subject, asked: subject["group"]["name"] == ALL or subject["group"]["name"] in asked.groups,
    "ServiceAccount": _account,
}


def _subject(subject: Mapping[str, Any], asked: Asked) -> bool:
    return _SUBJECTS[subject["kind"]](subject, asked)


def _has(values: Sequence[str] | None, wanted: str) -> bool:
    return bool(values) and (wanted in values or ALL in values)  # type: ignore[operator]


def _path(rule: Mapping[str, Any], asked: Asked) -> bool:
    return _has(rule.get("verbs"), asked.verb) and any(
        url == asked.path or (url.endswith(ALL) and asked.path.startswith(url[:-1]))
        for url in rule.get("nonResourceURLs") or ()
    )


def _resource(rule: Mapping[str, Any], asked: Asked) -> bool:
    if not (_has(rule.get("verbs"), asked.verb) and _has(rule.get("apiGroups"), asked.group)):
        return False
    if not _has(rule.get("resources"), asked.resource):
        return False
    return _has(rule.get("namespaces"), asked.namespace) if asked.namespace else bool(rule.get("clusterScope"))
