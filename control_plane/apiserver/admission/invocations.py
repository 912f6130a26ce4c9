"""Invocations of webhooks, as the audit log is told of them: which were asked, what they changed, which failed openly.

Source: Kubernetes concepts "Dynamic Admission Control" (Mutating webhook auditing annotations); apiserver's
plugin/webhook/mutating and plugin/webhook/validating.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.control_plane.api.audit import Level
from rayplane.control_plane.api.machinery.names import qualified_name_errors
from rayplane.control_plane.apiserver import audit

_SUFFIX = "webhook.admission.k8s.io"


@dataclass(frozen=True, slots=True)
class Invocation:
    """One asking of a webhook. `round`: 1 where it is asked again; `index`: its place among those of the round."""

    webhook: str
    configuration: str
    mutating: bool
    round: int
    index: int

    def failed_open(self) -> None:
        """It did not answer, and that is ignored."""
        kind = "mutation" if self.mutating else "validating"
        audit.annotate({f"failed-open.{kind}.{_SUFFIX}/{self._place}": self.webhook})

    def mutated(self, changed: bool) -> None:
        """It has been asked, whatever came of it."""
        audit.annotate({f"mutation.{_SUFFIX}/{self._place}": self._text(mutated=changed)})

    def patched(self, operations: list[Any]) -> None:
        """Its patch was applied. That tells of what was written: only where that is recorded, too."""
        text = self._text(patch=operations, patchType="JSONPatch")
        audit.annotate({f"patch.{_SUFFIX}/{self._place}": text}, Level.REQUEST)

    def said(self, annotations: dict[str, str]) -> None:
        """Its own annotations, under its name; what is no name of an annotation is left out."""
        named = {f"{self.webhook}/{key}": value for key, value in annotations.items() if "/" not in key}
        audit.annotate({key: value for key, value in named.items() if not qualified_name_errors(key)})

    @property
    def _place(self) -> str:
        return f"round_{self.round}_index_{self.index}"

    def _text(self, **more: Any) -> str:
        return orjson.dumps({"configuration": self.configuration, "webhook": self.webhook, **more}).decode()
