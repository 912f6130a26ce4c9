"""HTTP extenders: programs elsewhere that have a say in where pods go; what they are told, and what they answer. Pure.

An answer is whatever a stranger sent: what is not as it should be is an `ExtenderError`, which says what is wrong.
Names of fields are read in any case, as Go reads them.

Source: Kubernetes "Scheduler extender", KEP-1819; k8s.io/kube-scheduler/extender/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.api.pods.resources import container_limits, container_requests

#: Characters of a reason that are told on.
REASON_MAX: Final = 1024
_SCALE: Final = 10
"""Extenders give 0 to 10 where plug-ins give 0 to 100."""
_INT64_MAX: Final = (1 << 63) - 1


class ExtenderError(Exception):
    """An extender was not reached, or answered an error or what is no answer; the message says which and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtenderTLS:
    """Whom to believe to be an extender, and what to show it: PEM, or paths of files with it."""

    insecure: bool = False
    """What it shows is not checked."""
    server_name: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    cert: bytes = b""
    key: bytes = b""
    ca: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extender:
    """One extender. It is asked what it has a verb for: the last part of a URL."""

    url: str
    filter_verb: str = ""
    prioritize_verb: str = ""
    preempt_verb: str = ""
    bind_verb: str = ""
    weight: int = 1
    tls: ExtenderTLS = field(default_factory=ExtenderTLS)
    timeout_s: float = 5.0
    knows_nodes: bool = False
    """It is told names of nodes, not the nodes (nodeCacheCapable)."""
    resources: frozenset[str] = frozenset()
    """It has a say in pods that ask for one of these; in all if empty (managedResources)."""
    ignorable: bool = False
    """Pods are scheduled without it where it fails."""

    def url_of(self, verb: str) -> str:
        return f"{self.url.rstrip('/')}/{verb}"

    def is_interested(self, pod: Object) -> bool:
        """Whether it has a say in a pod."""
        if not self.resources:
            return True
        return any(
            not self.resources.isdisjoint((*container_requests(one), *container_limits(one)))
            for one in lifecycled(meta.spec(pod))
        )


@dataclass(frozen=True, slots=True)
class Filtered:
    """The nodes that an extender lets a pod go to, and what it says of others."""

    nodes: frozenset[str]
    failed: Mapping[str, str]
    """Fewer pods on these might change that; on the `unresolvable` they would not."""
    unresolvable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Victims:
    """Pods of one node to be deleted, and how many disruption budgets that breaks."""

    pods: Sequence[Object]
    breaking: int


def arguments(extender: Extender, pod: Object, nodes: Mapping[str, Any]) -> Object:
    """ExtenderArgs: the pod, and the nodes that it may go to, by name."""
    if extender.knows_nodes:
        return {"Pod": pod, "Nodes": None, "NodeNames": [*nodes]}
    return {"Pod": pod, "Nodes": {"metadata": {}, "items": [*nodes.values()]}, "NodeNames": None}


def preemption_arguments(extender: Extender, pod: Object, victims: Mapping[str, Victims]) -> Object:
    """ExtenderPreemptionArgs: the pod, and by node whom the scheduler would delete for it."""

    def told(one: Victims, of_pod: Callable[[Object], Object]) -> Object:
        return {"Pods": [of_pod(victim) for victim in one.pods], "NumPDBViolations": one.breaking}

    by_id = extender.knows_nodes
    known = {
        node: told(one, lambda victim: {"UID": meta.uid(victim)} if by_id else victim) for node, one in victims.items()
    }
    return {
        "Pod": pod,
        "NodeNameToVictims": None if by_id else known,
        "NodeNameToMetaVictims": known if by_id else None,
    }


def binding_arguments(pod: Object, node: str) -> Object:
    """ExtenderBindingArgs."""
    name, namespace = meta.name(pod), meta.namespace(pod)
    return {"PodName": name, "PodNamespace": namespace, "PodUID": meta.uid(pod), "Node": node}


def read_filtered(extender: Extender, answer: Any, asked: Collection[str]) -> Filtered:
    """An ExtenderFilterResult to a question about these nodes. ExtenderError."""
    given = _fields(extender, answer)
    _raise(given)
    names, nodes = given.get("nodenames"), given.get("nodes")
    if extender.knows_nodes and names is not None:
        found = _names(extender, names)
    elif nodes is not None:
        items = _fields(extender, nodes).get("items") or []
        found = _names(extender, [_named(extender, item) for item in _list(extender, items)])
    else:
        found = []
    for name in found:
        if name not in asked:
            text = (
                f'extender "{extender.url}" claims a filtered node "{name}" which is not found in the input node list'
            )
            raise ExtenderError(text)
    return Filtered(
        frozenset(found),
        _reasons(extender, given.get("failednodes"), asked),
        _reasons(extender, given.get("failedandunresolvablenodes"), asked),
    )


def read_priorities(extender: Extender, answer: Any, asked: Collection[str]) -> dict[str, int]:
    """A HostPriorityList as scores that can be added to those of plug-ins, of these nodes. ExtenderError."""
    found: dict[str, int] = {}
    for one in _list(extender, [] if answer is None else answer):
        given = _fields(extender, one)
        host, score = given.get("host"), given.get("score") or 0
        if type(score) is not int or abs(score) > _INT64_MAX:
            raise _unreadable(extender, f"a score is {score!r:.50}")
        if isinstance(host, str) and host in asked:
            found[host] = found.get(host, 0) + score * extender.weight * _SCALE
    return found


def read_victims(extender: Extender, answer: Any, asked: Collection[str]) -> dict[str, tuple[list[str], int]]:
    """An ExtenderPreemptionResult: by node the uids of the pods to delete, and how many budgets that breaks.

    ExtenderError.
    """
    given = _fields(extender, answer).get("nodenametometavictims")
    if given is not None and not isinstance(given, dict):
        raise _unreadable(extender, "victims are no object")
    found: dict[str, tuple[list[str], int]] = {}
    for node, victims in (given or {}).items():
        if node not in asked:
            raise ExtenderError(f'nodeinfo not found for node name "{node[:REASON_MAX]}"')
        of_node = _fields(extender, victims)
        pods: list[Any] = [_fields(extender, one).get("uid") for one in _list(extender, of_node.get("pods") or [])]
        breaking = of_node.get("numpdbviolations") or 0
        if type(breaking) is not int or not all(isinstance(uid, str) for uid in pods):
            raise _unreadable(extender, "a victim has no uid, or violations are no number")
        found[node] = pods, breaking
    return found


def read_bound(extender: Extender, answer: Any) -> None:
    """An ExtenderBindingResult: ExtenderError where it tells an error."""
    _raise(_fields(extender, answer))


def _raise(given: Mapping[str, Any]) -> None:
    error = given.get("error")
    if error:
        raise ExtenderError(str(error)[:REASON_MAX])


def _reasons(extender: Extender, given: Any, asked: Collection[str]) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _unreadable(extender, "failed nodes are no object")
    return {name: str(reason)[:REASON_MAX] for name, reason in given.items() if name in asked}


def _fields(extender: Extender, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _unreadable(extender, f"an object is wanted, not {type(given).__name__}")
    return {key.lower(): value for key, value in given.items()}


def _list(extender: Extender, given: Any) -> Iterable[Any]:
    if not isinstance(given, list):
        raise _unreadable(extender, f"a list is wanted, not {type(given).__name__}")
    return given


def _named(extender: Extender, item: Any) -> Any:
    return _fields(extender, _fields(extender, item).get("metadata")).get("name")


def _names(extender: Extender, given: Any) -> list[str]:
    found = [name for name in _list(extender, given) if isinstance(name, str)]
    if len(found) != len(given):
        raise _unreadable(extender, "a node has no name")
    return found


def _unreadable(extender: Extender, why: str) -> ExtenderError:
    return ExtenderError(f'extender "{extender.url}" answered what cannot be read: {why}')
