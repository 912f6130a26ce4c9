"""References to images: their names in full, as Docker and Kubernetes normalise them. Pure.

`nginx` means `docker.io/library/nginx:latest`. Source: the grammar of distribution references.
"""

import re
from dataclasses import dataclass

from rayplane.node.images.errors import BadReference

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX = 255
_ALIASES = {"index.docker.io": DEFAULT_REGISTRY}
_LIBRARY = "library/"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_HEX = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in full. At least one of `tag` and `digest` is there; where both are, the digest counts."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The name without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag and not self.digest else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Raises BadReference."""
    if not text or len(text) > NAME_MAX + 256:
        raise BadReference("an image's name is empty, or too long: use one as docker.io/library/nginx:1.27")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _bad(text, "the digest after '@' must be sha256: and 64 hexadecimal digits")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    elif not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} is no tag")
    registry, path = _split(head)
    if not _REGISTRY.fullmatch(registry):
        raise _bad(text, f"{registry!r} is no registry")
    if not _PATH.fullmatch(path):
        raise _bad(text, "a name has small letters and digits, with '.', '_', '-' between them and '/' between parts")
    if _HEX.fullmatch(head):
        raise _bad(text, "64 hexadecimal digits are taken for an image's id: write sha256: before them")
    if len(f"{registry}/{path}") > NAME_MAX:
        raise _bad(text, f"a name has at most {NAME_MAX} characters")
    return Reference(registry, path, tag or ("" if digest else DEFAULT_TAG), digest)


def _split(head: str) -> tuple[str, str]:
    """Registry and repository of a name."""
    first, slash, path = head.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost" or first.lower() != first):
        first, path = DEFAULT_REGISTRY, head
    first = _ALIASES.get(first, first)
    if first == DEFAULT_REGISTRY and "/" not in path:
        path = f"{_LIBRARY}{path}"
    return first, path


def _bad(text: str, why: str) -> BadReference:
    return BadReference(f"couldn't parse image name {text[:NAME_MAX]!r}: invalid reference format: {why}")
