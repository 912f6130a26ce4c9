"""Manifests, indexes and configurations of images, as the OCI image format 1.1 and Docker's schema 2 have them. Pure.

Registries and archives choose every byte: what is not as it must be is refused by name, never guessed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rayplane.node.images.errors import BadImage, Corrupt
from rayplane.node.images.references import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES, MANIFESTS = (OCI_INDEX, DOCKER_INDEX), (OCI_MANIFEST, DOCKER_MANIFEST)
DOCUMENT_MAX = 4 * 1024 * 1024
"""Bytes of a manifest, an index or a configuration."""
LAYERS_MAX = 127
INDEX_MAX = 1000


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor of content. `platform`: (os, architecture, variant), where it says one."""

    media_type: str
    digest: str
    size: int
    platform: tuple[str, str, str] | None = None
    annotations: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image: its configuration and its layers, the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """The word of an image on its containers, with the digests of its layers unpacked, the lowest first."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    platform: tuple[str, str] = ("linux", "")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def checked(data: bytes, digest: str) -> bytes:
    """The bytes. Raises Corrupt where they have another digest."""
    if digest_of(data) != digest:
        raise Corrupt(f"content is not what its digest {digest} says: get it again from where it came from")
    return data


def document(data: bytes, what: str) -> dict[str, Any]:
    """Raises BadImage where it is no JSON object of a bearable size."""
    if len(data) > DOCUMENT_MAX:
        raise BadImage(f"{what} has more than {DOCUMENT_MAX} bytes")
    try:
        found = orjson.loads(data)
    except ValueError as e:
        raise BadImage(f"{what} is no JSON: {e}") from e
    return _object(found, what)


def encoded(found: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same content."""
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS)


def media_type(found: Mapping[str, Any]) -> str:
    """What a document is; older ones do not say, but show it."""
    said = _text(found, "mediaType", "a manifest")
    if said:
        return said
    return OCI_INDEX if "manifests" in found else OCI_MANIFEST


def read_index(found: Mapping[str, Any]) -> tuple[Descriptor, ...]:
    """The manifests that an index names."""
    return tuple(_descriptor(one, "a manifest of an index") for one in _list(found, "manifests", "an index", INDEX_MAX))


def read_manifest(found: Mapping[str, Any]) -> Manifest:
    if found.get("schemaVersion") != 2:
        raise BadImage("a manifest must have schemaVersion 2: push the image again with a newer program")
    layers = _list(found, "layers", "a manifest", LAYERS_MAX)
    config = _descriptor(found.get("config"), "the config of a manifest")
    return Manifest(config, tuple(_descriptor(one, "a layer of a manifest") for one in layers))


def chosen(manifests: Sequence[Descriptor], architecture: str) -> Descriptor:
    """The manifest for Linux on an architecture, as Go names them. Raises BadImage."""
    fitting = [one for one in manifests if one.media_type in (*MANIFESTS, *INDEXES)]
    for one in fitting:
        if one.platform and one.platform[:2] == ("linux", architecture):
            return one
    unsaid = [one for one in fitting if one.platform is None]
    if len(unsaid) == 1 and len(fitting) == 1:
        return unsaid[0]
    raise BadImage(f"no match for platform in manifest: the image has nothing for linux/{architecture}")


def read_config(data: bytes) -> Config:
    """Raises BadImage."""
    found = document(data, "an image's config")
    own = _object(found.get("config") or {}, "config")
    roots = _object(found.get("rootfs") or {}, "rootfs")
    diff_ids = _words(roots, "diff_ids", LAYERS_MAX)
    if not all(is_digest(one) for one in diff_ids):
        raise BadImage("rootfs.diff_ids of an image's config must be sha256 digests")
    return Config(
        env=tuple(one for one in _words(own, "Env") if "=" in one and "\0" not in one),
        entrypoint=_words(own, "Entrypoint"),
        cmd=_words(own, "Cmd"),
        user=_text(own, "User", "config"),
        working_dir=_text(own, "WorkingDir", "config"),
        stop_signal=_text(own, "StopSignal", "config"),
        volumes=tuple(sorted(_object(own.get("Volumes") or {}, "config.Volumes")))[:LAYERS_MAX],
        diff_ids=diff_ids,
        platform=(_text(found, "os", "config") or "linux", _text(found, "architecture", "config")),
    )


def _descriptor(found: Any, what: str) -> Descriptor:
    one = _object(found, what)
    digest, size = _text(one, "digest", what), one.get("size")
    if not is_digest(digest):
        raise BadImage(f"{what} has no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadImage(f"{what} has no size")
    platform = None
    if one.get("platform"):
        said = _object(one["platform"], f"platform of {what}")
        platform = (_text(said, "os", what), _text(said, "architecture", what), _text(said, "variant", what))
    notes = _object(one.get("annotations") or {}, f"annotations of {what}")
    notes = {name: text for name, text in notes.items() if isinstance(text, str)}
    return Descriptor(_text(one, "mediaType", what), digest, size, platform, notes)


def _object(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BadImage(f"{what} must be a JSON object")
    return found


def _text(found: Mapping[str, Any], field: str, what: str) -> str:
    said = found.get(field) or ""
    if not isinstance(said, str) or "\0" in said:
        raise BadImage(f"{field} of {what} must be a string")
    return said


def _list(found: Mapping[str, Any], field: str, what: str, most: int) -> list[Any]:
    said = found.get(field) or []
    if not isinstance(said, list) or len(said) > most:
        raise BadImage(f"{field} of {what} must be a list of at most {most}")
    return said


def _words(found: Mapping[str, Any], field: str, most: int = 10_000) -> tuple[str, ...]:
    said = _list(found, field, "an image's config", most)
    if not all(isinstance(one, str) and "\0" not in one for one in said):
        raise BadImage(f"{field} of an image's config must hold strings")
    return tuple(said)
