"""Pods of one template, judged once: what is right in one is right in all that differ in nothing but their names.

A workload makes thousands of pods of one template, and the rules for new pods are many. They read a pod's spec and its
annotations, and its name where volumes are made for it; admission mounts a token from a volume, which has another name
in each. So where nothing is wrong with a pod, nothing is wrong with any other of its shape, as it is here: that is what
is remembered. What is found is found anew each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import orjson

from rayplane.control_plane.api.kinds.strategy import SUFFIX_ALPHABET, SUFFIX_LENGTH
from rayplane.control_plane.api.meta import Object

TOKEN_VOLUME: Final = "kube-api-access-"
"""How the name of the volume begins that holds a pod's token; SUFFIX_LENGTH letters follow."""
_TOKEN: Final = re.compile(f"{TOKEN_VOLUME}[{SUFFIX_ALPHABET}]{{{SUFFIX_LENGTH}}}")
# No text of a pod that is right: it stands for the name of that volume.
_NAME: Final = b'"\\u0000"'
# Shapes that are longer are worked out anew, and of others no more are kept than this.
_LONGEST: Final = 16 * 1024
_SHAPES_MAX: Final = 256

_T = TypeVar("_T")


def shape_of(pod: Object) -> bytes | None:
    """What the rules for new pods read of a pod, without what differs in each; None where that cannot be told."""
    spec = pod.get("spec") or {}
    text = orjson.dumps((spec, (pod.get("metadata") or {}).get("annotations")))
    # The claims of ephemeral volumes are called by the pod's name.
    if len(text) > _LONGEST or b"\\u0000" in text or b'"ephemeral":' in text:
        return None
    named = {name for volume in spec.get("volumes") or () if _TOKEN.fullmatch(name := volume.get("name") or "")}
    if len(named) > 1:
        return None
    for name in map(str.encode, named):
        text = text.replace(b'"%s"' % name, _NAME)
        # What has it within a longer text (a container's annotation, say) may mean another thing by another name.
        if name in text:
            return None
    return text


def judged_once(judge: Callable[[Object], list[_T]]) -> Callable[[Object], list[_T]]:
    """Rules for new pods that remember the shapes in which they find nothing."""
    good: dict[bytes, None] = {}

    def judged(pod: Object) -> list[_T]:
        shape = shape_of(pod)
        if shape in good:
            return []
        found = judge(pod)
        if shape is not None and not found:
            if len(good) >= _SHAPES_MAX:
                good.clear()
            good[shape] = None
        return found

    return judged
