"""The interface of plug-ins in Python that are not part of the scheduler. Pure.

A package offers a plug-in by an entry point of group `rayplane.scheduler_plugins`, whose name is the plug-in's and
whose object is a subclass of `PodPlugin`. A KubeSchedulerConfiguration then names it among the plug-ins of a profile,
at single extension points or at `multiPoint`, and gives it arguments by `pluginConfig`. One instance serves one
profile.

    class OnlyBigNodes(PodPlugin):
        def __init__(self, args):
            self.least = args.get("cores", 8)

        def filter(self, state, pod, node):
            if int(node.object["status"]["allocatable"]["cpu"]) < self.least:
                return "node(s) were too small"

What a plug-in raises is an error of the pod that it was asked about, which tries again after its back-off.

Source: Kubernetes "Scheduling Framework", extension points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rayplane.control_plane.api.meta import Object

GROUP: Final = "rayplane.scheduler_plugins"
State = dict[str, Any]
"""Whatever the calls about one attempt to schedule a pod have to tell each other."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as plug-ins see it: the API's object, and the pods that are, or will be, there. Not to be changed."""

    name: str
    object: Mapping[str, Any]
    pods: tuple[Object, ...]


class Unresolvable(str):
    """A refusal that fewer pods on the node would not change."""

    __slots__ = ()


class PodPlugin:
    """A plug-in that has nothing to say. Others override what they have an opinion on, and are asked nothing else.

    A text refuses, None or "" does not. Pods and nodes are those of the API and shared: not to be changed. Methods
    run on the scheduler's own loop and must not wait, as all pods wait for them: for one pod at one extension point at
    most `timeout_s`, and from a tenth of a second on that is logged and told. Not so `permit`, `pre_bind`, `bind` and
    `post_bind`: they may be `async`, and run in a thread where they are not, for at most `timeout_s`.
    """

    wakes_on: ClassVar[tuple[str, ...] | None] = None
    """Kinds, such as `Node`, `AssignedPod` or `PersistentVolumeClaim`, whose changes may help a pod that it refused;
    None: of all (see `events.Resource`)."""
    timeout_s: ClassVar[float] = 60.0

    def __init__(self, args: Mapping[str, Any]) -> None:
        """`args`: as the profile's pluginConfig gives them."""

    def helps(self, pod: Object, kind: str, old: Any, new: Any) -> bool:
        """Whether a change of one of these kinds may help a pod; the object before and after, None where it was not."""
        return True

    def pre_enqueue(self, pod: Object) -> str | None:
        """Why a pod is not to be tried yet."""
        return None

    def sort_key(self, pod: Object) -> Any:
        """The place of a pod in the queue: the smallest is first."""
        return 0

    def pre_filter(self, state: State, pod: Object) -> str | None:
        """Why no node will do at all."""
        return None

    def filter(self, state: State, pod: Object, node: Node) -> str | None:
        """Why a node will not do."""
        return None

    def post_filter(self, state: State, pod: Object, refusals: Mapping[str, str]) -> str | None:
        """The node that will do soon, of those that refused a pod; None when there is none."""
        return None

    def pre_score(self, state: State, pod: Object, nodes: tuple[Node, ...]) -> None:
        """Get ready to score these nodes."""

    def score(self, state: State, pod: Object, node: Node) -> int:
        """How good a node is; after `normalize` from 0 to 100."""
        return 0

    def normalize(self, state: State, pod: Object, scores: Mapping[str, int]) -> Mapping[str, int]:
        """The scores of all nodes, made comparable."""
        return scores

    def reserve(self, state: State, pod: Object, node: str) -> str | None:
        """Take what the pod needs on its node; or why that cannot be."""
        return None

    def unreserve(self, state: State, pod: Object, node: str) -> None:
        """Give back what `reserve` took; called also where it took nothing."""

    def permit(self, state: State, pod: Object, node: str) -> Any:
        """Why the pod may not be bound; may wait until that is known."""
        return None

    def pre_bind(self, state: State, pod: Object, node: str) -> Any:
        """Do what must be done before the pod is bound; or why that cannot be."""
        return None

    def bind(self, state: State, pod: Object, node: str) -> Any:
        """Bind the pod: True when that is done, False to leave it to the next plug-in."""
        return False

    def post_bind(self, state: State, pod: Object, node: str) -> Any:
        """Hear that the pod was bound."""


METHODS: Final = {
    "preEnqueue": "pre_enqueue",
    "queueSort": "sort_key",
    "preFilter": "pre_filter",
    "filter": "filter",
    "postFilter": "post_filter",
    "preScore": "pre_score",
    "score": "score",
    "reserve": "reserve",
    "permit": "permit",
    "preBind": "pre_bind",
    "bind": "bind",
    "postBind": "post_bind",
}
"""By extension point."""


def points_of(plugin: type) -> frozenset[str]:
    """The extension points at which a plug-in has something to do: those whose methods it defines."""
    return frozenset(point for point, method in METHODS.items() if defines(plugin, method))


def defines(plugin: type, method: str) -> bool:
    """Whether a class has a method of its own by this name."""
    found = getattr(plugin, method, None)
    return callable(found) and found is not getattr(PodPlugin, method)


class PluginError(Exception):
    """A plug-in failed; the message says which, where, and how."""


def called(name: str, point: str, method: Callable[..., Any], *args: Any) -> Any:
    """What a plug-in answers. PluginError for whatever it raises, be it `sys.exit`: it ends nobody else's work."""
    try:
        return method(*args)
    except BaseException as e:
        raise failed(name, point, e) from e


def told(name: str, point: str, method: Callable[..., Any], *args: Any) -> str:
    """As `called`, where the answer is a text: empty for none, whatever kind of thing the plug-in answers with."""

    def text() -> str:
        answer = method(*args)
        return answer if isinstance(answer, str) else str(answer) if answer else ""

    found: str = called(name, point, text)
    return found


def failed(name: str, point: str, error: BaseException) -> PluginError:
    what = words_of(error)
    if isinstance(error, TimeoutError) and what == type(error).__name__:
        what = "timed out"
    return PluginError(f'running {point[0].upper()}{point[1:]} plugin "{name}": {what}')


def words_of(error: BaseException) -> str:
    """What an error says; of one that is no Exception, such as SystemExit, also what it is."""
    try:
        said = str(error)
    except BaseException:  # of a plug-in's own making
        said = ""
    kind = type(error).__name__
    return said if said and isinstance(error, Exception) else f"{kind}: {said}" if said else kind
