"""Views: what the table shows, objects of a kind or one of our own."""

from dataclasses import dataclass

from rayplane.control_plane.cli.top.source import Selection, Source
from rayplane.control_plane.cli.top.words import OWN


@dataclass(frozen=True, slots=True)
class View:
    """A view of the table: objects, or one of our own."""

    own: str = ""
    objects: Selection | None = None

    @property
    def title(self) -> str:
        if self.objects is None:
            return self.own
        where = f"in {self.objects.namespace}" if self.objects.namespace else "in all namespaces"
        of = self.objects.labels or self.objects.fields
        parts = (self.objects.info.plural, where if self.objects.info.namespaced else "", f"<{of}>" if of else "")
        return " ".join(part for part in parts if part)


async def first_view(source: Source, word: str, namespace: str) -> View:
    """What is shown first. Raises ClusterError for a kind that is not served."""
    if word in OWN:
        return View(own=OWN[word])
    info = await source.kind(word)
    return View(objects=Selection(info, namespace if info.namespaced else ""))
