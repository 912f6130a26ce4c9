"""Objects from files: YAML or JSON, several documents to a file, lists taken apart."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from rayplane.control_plane.api.machinery import yaml_reader
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import ClusterError, refusal

FIELD_MANAGER = "rayplane"
"""As whom objects of files are written."""
_SUFFIXES = (".yaml", ".yml", ".json")


class ManifestError(ClusterError):
    """A file cannot be read as objects; the message names the file and the document."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object and where it stands."""

    source: str
    """`web.yaml` or `web.yaml, document 2`."""
    object: Object


def load(paths: Sequence[str], *, stdin: Callable[[], bytes] = lambda: sys.stdin.buffer.read()) -> list[Manifest]:
    """All objects of the files; `-` is standard input, a directory stands for its .yaml, .yml and .json files."""
    found: list[Manifest] = []
    for path in paths:
        if path == "-":
            found += parse(stdin(), "standard input")
            continue
        for file in _files(Path(path)):
            try:
                found += parse(file.read_bytes(), str(file))
            except OSError as e:
                raise ManifestError(f"cannot read {file}: {refusal(e)}") from e
    if not found:
        raise ManifestError(f"no objects in {', '.join(paths)}: an object has apiVersion, kind and metadata.name")
    return found


def parse(data: bytes, source: str) -> list[Manifest]:
    """The objects of one file."""
    documents = yaml_reader.documents(data)
    found = []
    for number, document in enumerate(documents, 1):
        place = f"{source}, document {number}" if len(documents) > 1 else source
        found += [Manifest(place, o) for o in _objects(_value(document, place), place)]
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise ManifestError(f"there is no file {path}: check its name")
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES and f.is_file())
    if not files:
        raise ManifestError(f"no .yaml, .yml or .json file in {path}")
    return files


def _value(document: bytes, place: str) -> object:
    if document.lstrip().startswith(b"{"):
        try:
            return orjson.loads(document)
        except orjson.JSONDecodeError:
            pass  # YAML's flow style looks like JSON at its beginning
    try:
        return yaml_reader.parse(document)
    except ValueError as e:
        raise ManifestError(f"{place}: {e}") from e


def _objects(value: object, place: str) -> Iterator[Object]:
    if not isinstance(value, dict):
        raise ManifestError(f"{place}: not an object; it must be a mapping with apiVersion and kind")
    for field in ("apiVersion", "kind"):
        if not isinstance(value.get(field), str) or not value[field]:
            raise ManifestError(f"{place}: {field} is missing")
    if value["kind"].endswith("List") and isinstance(value.get("items"), list):
        for number, item in enumerate(value["items"], 1):
            yield from _objects(item, f"{place}, item {number}")
        return
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise ManifestError(f"{place}: metadata.name of this {value['kind']} is missing")
    yield value
