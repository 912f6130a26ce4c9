"""New pods that are asked for by the same bytes: worked out once, and stored under a name of its own each.

A workload asks for hundreds of pods in the same words, and nothing but name, uid and time differs in what is stored.
Decoding, defaults, admission and validation make the same of these words again as long as nothing has changed that they
look at (`Admission.standing`). What may look at more, or at a pod's name, is asked about each pod: webhooks, policies,
plugins that somebody switched on, quotas. Each by itself are pods, too, whose volumes are called after them, that are
made with their node, whose fields somebody manages, or of which somebody wants to know how they came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.pod_template.alike import shape_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.admission import Admission, AdmissionRequest
from rayplane.control_plane.apiserver.requests import Target, User, WriteOptions
from rayplane.control_plane.apiserver.tracing.spans import traced

# Words that are longer are worked out anew, and of others no more are remembered than this.
_LONGEST: Final = 16 * 1024
_REMEMBERED_MAX: Final = 64

Keep = Callable[[Sequence[str], AdmissionRequest], None]
"""Takes what a client is warned of, and a request that is about to be stored."""
_Words = tuple[User, Target, bytes, str, WriteOptions, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Made:
    """The outcome of a pod's words. Never change it."""

    pod: Object
    warnings: Sequence[str]
    annotations: dict[str, str]
    """What the audit log was told of the decisions."""

    def another(self, uid: str, now: str) -> Object:
        """One more, without a name; all but its metadata is shared."""
        metadata = {**self.pod["metadata"], "name": "", "uid": uid, "creationTimestamp": now}
        return {**self.pod, "metadata": metadata}

    def tell(self) -> None:
        """Tell the audit log of one more."""
        if self.annotations:
            audit.annotate(self.annotations)


class Asked:
    """Words that may come again."""

    __slots__ = ("_admission", "_known", "_words")

    def __init__(self, admission: Admission, known: dict[_Words, Made], words: _Words) -> None:
        self._admission = admission
        self._known = known
        self._words = words

    @property
    def found(self) -> Made | None:
        """What was made of them before."""
        return self._known.get(self._words)

    def keep(self, warnings: Sequence[str], request: AdmissionRequest) -> None:
        """Remember what was made of them, if the next may be like it."""
        pod = request.object
        if not pod["metadata"].get("generateName") or meta.node_name(pod) or shape_of(pod) is None:
            return
        if self._admission.standing() != self._words[-1]:
            return  # others had a say meanwhile, which is not in the words
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        self._known[self._words] = Made(pod, [*warnings, *request.warnings], dict(request.annotations))


class Alike:
    """The pods that one server has made lately."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._known: dict[_Words, Made] = {}

    def asked(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Asked | None:
        """None for what is worked out anew each time."""
        if target.info.name != "pods" or len(body) > _LONGEST or options.manager or options.dry_run or traced():
            return None
        standing = self._admission.standing() if user.nodes is None and not user.extra else None
        if standing is None:
            return None
        return Asked(self._admission, self._known, (user, target, body, content_type, options, standing))
