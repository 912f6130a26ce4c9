"""The catalog of a store: which images it has under which names, and which names stand for programs. Pure."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.node.images.errors import BadReference, ImageNotFound
from rayplane.node.images.references import Reference, is_digest, parse_reference

PULLED, LOADED = "pulled", "loaded"
PROGRAMS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials an image was pulled with: secrets (their uids) and hashes of what they hold; none: anybody's."""

    secrets: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.secrets or self.hashes)

    def admits(self, other: "Credentials") -> bool:
        return not self or bool(self.secrets & other.secrets or self.hashes & other.hashes)


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of a store, by the digest of its manifest.

    `names`: references with tags; `digests`: names without, under which a registry has it by digest; `size`: bytes of
    all its content; `source`: PULLED or LOADED; `added`: seconds since 1970.
    """

    digest: str
    config: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    source: str
    added: float
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def image_id(self) -> str:
        """What a container's status shows as `imageID`: where a registry has it, else the digest of its config."""
        return f"{self.digests[0]}@{self.digest}" if self.digests else self.config

    @property
    def goes_by_itself(self) -> bool:
        """Whether it may go when the disk gets full: it can be pulled again, or its names are another's by now."""
        return self.source == PULLED or not self.names

    def to_json(self) -> dict[str, Any]:
        own = self.credentials
        return {
            "config": self.config,
            "names": [*self.names],
            "digests": [*self.digests],
            "size": self.size,
            "source": self.source,
            "added": self.added,
            "credentials": {"secrets": sorted(own.secrets), "hashes": sorted(own.hashes)},
        }

    @staticmethod
    def from_json(digest: str, found: Mapping[str, Any]) -> "Stored":
        own = found["credentials"]
        return Stored(
            digest,
            found["config"],
            tuple(found["names"]),
            tuple(found["digests"]),
            found["size"],
            found["source"],
            found["added"],
            Credentials(frozenset(own["secrets"]), frozenset(own["hashes"])),
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A program of this machine that stands for all images whose name fits `pattern` (a name, or one with *, ?, [])."""

    pattern: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of a store. Changes give another one."""

    images: Mapping[str, Stored] = field(default_factory=dict)
    programs: tuple[Program, ...] = ()

    def find(self, reference: Reference) -> Stored | None:
        if reference.digest:
            found = self.images.get(reference.digest)
            return found or next((one for one in self.images.values() if one.config == reference.digest), None)
        name = str(reference)
        return next((one for one in self.images.values() if name in one.names), None)

    def program(self, text: str, reference: Reference) -> Program | None:
        """The program for an image, by its name as it is written or in full: an exact one first, then the longest."""
        forms = {text, str(reference), reference.name, reference.name.removeprefix("docker.io/library/")}
        forms |= {one.removeprefix("docker.io/").removeprefix("library/") for one in (str(reference), reference.name)}
        fitting = [one for one in self.programs if any(fnmatch.fnmatchcase(form, one.pattern) for form in forms)]
        return max(fitting, key=lambda one: (one.pattern in forms, len(one.pattern)), default=None)

    def chosen(self, text: str) -> tuple[Stored, str]:
        """An image by a name or the beginning of a digest, and that name if it was one. Raises ImageNotFound."""
        start = text.removeprefix("sha256:")
        if len(start) >= 4 and not set(start) - set("0123456789abcdef"):
            found = [
                one
                for one in self.images.values()
                if any(digest.removeprefix("sha256:").startswith(start) for digest in (one.digest, one.config))
            ]
            if len(found) == 1:
                return found[0], ""
        try:
            reference = parse_reference(text)
        except BadReference:
            reference = None
        image = self.find(reference) if reference is not None else None
        if image is None:
            raise ImageNotFound(f"no image {text!r} here: `rayplane image list` shows those there are")
        return image, "" if reference is None or reference.digest else str(reference)

    def with_image(self, image: Stored) -> "Catalog":
        """An image more. Its names are no longer those of others; what was known of it under other names stays."""
        taken = {*image.names}
        images = {
            digest: replace(one, names=tuple(name for name in one.names if name not in taken))
            for digest, one in self.images.items()
        }
        known = images.get(image.digest)
        if known is not None:
            image = replace(
                image,
                names=_united(known.names, image.names),
                digests=_united(known.digests, image.digests),
                source=LOADED if LOADED in (known.source, image.source) else PULLED,
                added=known.added,
                credentials=_either(known, image),
            )
        return replace(self, images={**images, image.digest: image})

    def without_name(self, image: Stored, name: str) -> "Catalog":
        names = tuple(one for one in image.names if one != name)
        return replace(self, images={**self.images, image.digest: replace(image, names=names)})

    def without(self, digests: Iterable[str]) -> "Catalog":
        gone = {*digests}
        return replace(self, images={digest: one for digest, one in self.images.items() if digest not in gone})

    def with_program(self, pattern: str, command: Sequence[str]) -> "Catalog":
        """A program for a name; none where `command` is empty."""
        others = tuple(one for one in self.programs if one.pattern != pattern)
        if not command:
            return replace(self, programs=others)
        return replace(self, programs=(*others, Program(pattern, tuple(command))))

    def to_json(self) -> dict[str, Any]:
        programs = [{"pattern": one.pattern, "command": [*one.command]} for one in self.programs]
        return {"images": {digest: one.to_json() for digest, one in self.images.items()}, "programs": programs}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Catalog":
        images = {digest: Stored.from_json(digest, one) for digest, one in found["images"].items() if is_digest(digest)}
        programs = tuple(Program(one["pattern"], tuple(one["command"])) for one in found["programs"])
        return Catalog(images, programs)


def _united(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _either(known: Stored, image: Stored) -> Credentials:
    """Whose an image is that came twice: anybody's if it was so once, or loaded by the cluster's administrator."""
    if not (known.credentials and image.credentials) or LOADED in (known.source, image.source):
        return Credentials()
    one, other = known.credentials, image.credentials
    return Credentials(one.secrets | other.secrets, one.hashes | other.hashes)
