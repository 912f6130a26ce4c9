"""Archives of images: what `docker save` writes and OCI image layouts, read into a store and written from it.

An archive is read once to see where everything lies, and again entry by entry; nothing of it is unpacked as files.
"""

import io
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from rayplane.node.images.catalog import Stored
from rayplane.node.images.decompress import CHUNK, MAGICS, Plain
from rayplane.node.images.errors import BadImage, BadReference, TooLarge
from rayplane.node.images.manifests import (
    DOCUMENT_MAX,
    INDEX_MAX,
    INDEXES,
    LAYERS_MAX,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    checked,
    chosen,
    document,
    encoded,
    read_index,
    read_manifest,
)
from rayplane.node.images.platforms import architecture, own
from rayplane.node.images.references import DEFAULT_TAG, Reference, parse_reference
from rayplane.node.images.room import room_at
from rayplane.node.images.store import ImageStore
from rayplane.node.images.unpacking import Archive
from rayplane.storage.env.private import own_name

MEMBERS_MAX = 20_000
ARCHIVE_MAX = 64 * 1024**3
CONTAINERD_NAME, OCI_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_NO_IMAGES = "the file holds no images: give what `docker save` writes, or an OCI image layout"
_TIMES = 3
_LINKS_MAX = 8
_NESTED_MAX = 4
_BLOCK = HEAD_BYTES = tarfile.BLOCKSIZE


def archive_max(place: Path) -> int:
    """Bytes that an archive may have which is loaded by way of a directory: it is there as it came, as content, and
    unpacked. Raises OSError.
    """
    return min(ARCHIVE_MAX, room_at(place).bytes // _TIMES)


def check_head(head: bytes) -> None:
    """Raises BadImage where an archive does not begin as one: better than after all that a device without end gives."""
    if head.startswith(MAGICS):
        return
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError as e:
        raise BadImage(f"{_NO_IMAGES} ({e})") from e


def spooled(file: Path, target: Path) -> None:
    """Write what comes of a pipe or device, as far as it may be an archive. Raises BadImage, TooLarge, OSError."""
    most, size = archive_max(target.parent), 0
    with file.open("rb") as source, target.open("xb") as out:
        while data := source.read(CHUNK):
            if not size:
                check_head(data)
            size += len(data)
            if size > most:
                raise TooLarge(f"{file} gave more than {most} bytes, which is all that there is room for: free some")
            out.write(data)


class Members:
    """The files of an archive by their names, and links by where they lead. `file` is not compressed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for entry in Archive(Plain(file, ARCHIVE_MAX), entries_max=MEMBERS_MAX).entries():
            name = posixpath.normpath(entry.name.lstrip("/"))
            if entry.isreg() and getattr(entry, "sparse", None) is None:
                self._places[name] = (entry.offset_data, entry.size)
            elif entry.issym():
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
            elif entry.islnk():
                self._links[name] = posixpath.normpath(entry.linkname.lstrip("/"))

    def __contains__(self, name: str) -> bool:
        return self._real(name) in self._places

    def parts(self, name: str) -> Iterator[bytes]:
        """The content of a file. Raises BadImage."""
        real = self._real(name)
        if real not in self._places:
            raise BadImage(f"the archive names {name[:200]!r}, and does not have it")
        offset, size = self._places[real]
        while size > 0:
            self._file.seek(offset)
            data = self._file.read(min(CHUNK, size))
            if not data:
                raise BadImage(f"the archive ends in the middle of {name[:200]!r}")
            yield data
            offset, size = offset + len(data), size - len(data)

    def document(self, name: str) -> bytes:
        data = b""
        for part in self.parts(name):
            data += part
            if len(data) > DOCUMENT_MAX:
                raise BadImage(f"{name[:200]!r} of the archive has more than {DOCUMENT_MAX} bytes")
        return data

    def _real(self, name: str) -> str:
        name = posixpath.normpath(name)
        for _ in range(_LINKS_MAX):
            if name not in self._links:
                break
            name = self._links[name]
        return name


def load(store: ImageStore, path: Path, names: Sequence[Reference] = ()) -> list[Stored]:
    """Have the images of an archive in the store. `names`: for the only one, beside those that it has.

    Raises ImageError, OSError.
    """
    with store.working(), path.open("rb") as file:
        plain = Plain(file, archive_max(path.parent))
        if not plain.compressed:
            file.seek(0)
            return _Loading(store, Members(file), names).images()
        unpacked = Path(own_name(str(path)))
        try:
            with unpacked.open("w+b") as whole:
                while data := plain.read(CHUNK):
                    if not whole.tell():
                        check_head(data)
                    whole.write(data)
                whole.seek(0)
                return _Loading(store, Members(whole), names).images()
        finally:
            unpacked.unlink(missing_ok=True)


class _Loading:
    """One archive on its way into a store."""

    def __init__(self, store: ImageStore, members: Members, names: Sequence[Reference]) -> None:
        self._store, self._members, self._names = store, members, names

    def images(self) -> list[Stored]:
        if "index.json" in self._members:
            found = self._of_layout()
        elif "manifest.json" in self._members:
            found = self._of_docker()
        else:
            raise BadImage(_NO_IMAGES)
        if not found or (self._names and len(found) > 1):
            raise BadImage(f"the archive holds {len(found)} images: name one only where there is one")
        return [self._store.add(manifest, [*names, *self._names]) for manifest, names in found]

    def _of_layout(self) -> list[tuple[Descriptor, list[Reference]]]:
        index = own(read_index(document(self._members.document("index.json"), "index.json")))
        tags = self._docker_tags()
        found = []
        for one in index:
            manifest = self._manifest(one, _NESTED_MAX)
            config = read_manifest(document(self._store.blobs.document(manifest.digest), "a manifest")).config
            found.append((manifest, _names_of(one) or tags.get(config.digest, [])))
        return found

    def _docker_tags(self) -> dict[str, list[Reference]]:
        """Names by the digest of the config, where the archive is for both."""
        if "manifest.json" not in self._members:
            return {}
        return {
            f"sha256:{posixpath.basename(one['Config']).removesuffix('.json')}": _references(one.get("RepoTags"))
            for one in self._docker_images()
        }

    def _manifest(self, one: Descriptor, depth: int) -> Descriptor:
        """The image of a manifest or an index in the archive, with all its content kept."""
        data = checked(self._members.document(_blob(one.digest)), one.digest)
        if one.media_type in INDEXES:
            if not depth:
                raise BadImage("an index of indexes of indexes is no image")
            here = [inner for inner in read_index(document(data, "an index")) if _blob(inner.digest) in self._members]
            return self._manifest(chosen(here, architecture()), depth - 1)
        manifest = read_manifest(document(data, "a manifest"))
        for content in (manifest.config, *manifest.layers):
            self._keep(content)
        self._store.blobs.add([data], digest=one.digest)
        return Descriptor(one.media_type, one.digest, len(data))

    def _keep(self, content: Descriptor) -> None:
        if not self._store.blobs.has(content.digest, content.size):
            parts = self._members.parts(_blob(content.digest))
            self._store.blobs.add(parts, digest=content.digest, size=content.size)

    # --- docker save ------------------------------------------------------------------------------

    def _docker_images(self) -> list[dict[str, Any]]:
        try:
            found = orjson.loads(self._members.document("manifest.json"))
        except ValueError as e:
            raise BadImage(f"manifest.json of the archive is no JSON: {e}") from e
        if not isinstance(found, list) or len(found) > INDEX_MAX or not all(_is_docker(one) for one in found):
            raise BadImage("manifest.json of the archive is not as `docker save` writes it")
        return found

    def _of_docker(self) -> list[tuple[Descriptor, list[Reference]]]:
        return [(self._docker_image(one), _references(one.get("RepoTags"))) for one in self._docker_images()]

    def _docker_image(self, one: dict[str, Any]) -> Descriptor:
        blobs = self._store.blobs
        config, config_size = blobs.add([self._members.document(one["Config"])])
        layers = []
        for path in one["Layers"]:
            digest, size = blobs.add(self._members.parts(path))
            layers.append(Descriptor(f"{OCI_LAYER}{self._compression(path)}", digest, size))
        return keep_manifest(store=self._store, config=Descriptor(OCI_CONFIG, config, config_size), layers=layers)

    def _compression(self, path: str) -> str:
        head = next(self._members.parts(path), b"")[:4]
        return "+gzip" if head.startswith(b"\x1f\x8b") else "+zstd" if head == b"\x28\xb5\x2f\xfd" else ""


def keep_manifest(*, store: ImageStore, config: Descriptor, layers: Sequence[Descriptor]) -> Descriptor:
    """A manifest of content that the store has."""
    content = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json()}
    data = encoded(content | {"layers": [layer.to_json() for layer in layers]})
    digest, size = store.blobs.add([data])
    return Descriptor(OCI_MANIFEST, digest, size)


# --- writing ------------------------------------------------------------------------------------


def saved(store: ImageStore, image: Stored) -> Iterator[bytes]:
    """An archive of an image: an OCI image layout that `docker load` reads too. The same image gives the same bytes."""
    manifest_data = store.blobs.document(image.digest)
    manifest = read_manifest(document(manifest_data, "a manifest"))
    own = Descriptor(OCI_MANIFEST, image.digest, len(manifest_data)).to_json()
    named = [own | {"annotations": {CONTAINERD_NAME: name, OCI_NAME: name.rpartition(":")[2]}} for name in image.names]
    docker = {
        "Config": _blob(manifest.config.digest),
        "RepoTags": [*image.names],
        "Layers": [_blob(layer.digest) for layer in manifest.layers],
    }
    yield from _member("oci-layout", encoded({"imageLayoutVersion": "1.0.0"}))
    yield from _member("index.json", encoded({"schemaVersion": 2, "manifests": named or [own]}))
    yield from _member("manifest.json", orjson.dumps([docker]))
    blobs = [image.digest, manifest.config.digest]
    blobs += [layer.digest for layer in manifest.layers]
    for content in dict.fromkeys(blobs):
        with store.blobs.open(content) as blob:
            size = blob.seek(0, io.SEEK_END)
            blob.seek(0)
            yield _header(_blob(content), size)
            while data := blob.read(CHUNK):
                yield data
            yield bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.PAX_FORMAT)


# --- small things -------------------------------------------------------------------------------


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"


def _is_docker(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("Config"), str):
        return False
    layers, tags = found.get("Layers"), found.get("RepoTags") or []
    if not isinstance(layers, list) or not isinstance(tags, list) or len(layers) > LAYERS_MAX:
        return False
    return all(isinstance(one, str) for one in (*layers, *tags))


def _names_of(one: Descriptor) -> list[Reference]:
    """The names of an image in a layout; a tag alone is none."""
    notes = one.annotations or {}
    for text in (notes.get(CONTAINERD_NAME), notes.get(OCI_NAME)):
        if text and set(text) & set("/:"):
            return _references([text])
    tag = notes.get(OCI_NAME)
    return _references([f"{tag}:{DEFAULT_TAG}"]) if tag and tag.isidentifier() and tag != DEFAULT_TAG else []


def _references(texts: Any) -> list[Reference]:
    found = []
    for text in texts or ():
        try:
            reference = parse_reference(text)
        except BadReference:
            continue  # `<none>:<none>`
        if reference.tag and not reference.digest:
            found.append(reference)
    return found


def packed(directory: Path) -> Iterator[bytes]:
    """A folder with an OCI image layout, as an archive. Raises BadImage where it is none."""
    if not (directory / "index.json").is_file():
        raise BadImage(f"{directory} holds no images: an OCI image layout has an index.json")
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield _header(str(path.relative_to(directory)), size)
            while data := file.read(CHUNK):
                yield data
            yield bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK)
