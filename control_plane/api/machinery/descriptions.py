"""Descriptions of the API's types and fields, for OpenAPI documents and so for `kubectl explain`.

The sentences of the Kubernetes project are not kept here: they are read from the docstrings of `lightkube-models`, the
published models of the API, whose classes have the names of the definitions. Nothing of it is imported or run.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

_PACKAGE: Final = "lightkube-models"
# `* **name** ``type`` - text`, which goes on in the lines below.
_FIELD: Final = re.compile(r"\s*\* \*\*(\S+)\*\* ``[^`]*`` - ?(.*)")
_FIELDS_BELOW: Final = "**parameters**"
# Values that are no structs have no class.
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_APIEXTENSIONS: Final = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_VALUES: Final[Mapping[str, str]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": (
        "An amount, as a decimal number with a unit: none, a power of ten (m, k, M, G, ..., or an exponent such as e3) "
        "or a power of two (Ki, Mi, Gi, ...). It is kept exactly and written in its shortest form."
    ),
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "A whole number, or a text such as a percentage or a name.",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "A JSON object whose fields are not known here.",
    _META + "Time": "A moment, in the form of RFC 3339, to the second.",
    _META + "MicroTime": "A moment, in the form of RFC 3339, to the microsecond.",
    _META + "Patch": "A change of an object, in the form that the Content-Type names.",
    _META + "FieldsV1": "A set of fields, each as a key: f:NAME a field, k:KEYS and v:VALUE an item of a list.",
    _APIEXTENSIONS + "JSON": "Any JSON value.",
    _APIEXTENSIONS + "JSONSchemaPropsOrArray": "A schema, or a list of schemas.",
    _APIEXTENSIONS + "JSONSchemaPropsOrBool": "A schema, or whether there may be any value.",
    _APIEXTENSIONS + "JSONSchemaPropsOrStringArray": "A schema, or a list of names of fields.",
}


class Described(NamedTuple):
    """A type's description, and those of its fields by their JSON names."""

    text: str
    fields: Mapping[str, str]

    def field(self, name: str) -> str:
        """The description of a field; empty when there is none."""
        return self.fields.get(_attribute(name), "")


NOTHING: Final = Described("", {})


def describe(definition: str) -> Described:
    """The descriptions of a definition such as `io.k8s.api.apps.v1.Deployment`; NOTHING when there are none."""
    if text := _VALUES.get(definition):
        return Described(text, {})
    group, version, kind = definition.split(".")[-3:]
    docstring = _docstrings(version if group == "pkg" else f"{group}_{version}").get(kind)
    return _read(docstring) if docstring else NOTHING


def _attribute(name: str) -> str:
    """The name of a field as the attribute of a Python class."""
    if keyword.iskeyword(name):
        return name + "_"
    return "d_" + name[1:] if name.startswith("$") else name.replace("-", "_")


@lru_cache(maxsize=64)
def _docstrings(module: str) -> Mapping[str, str]:
    """The docstrings of a module's classes, read from its source."""
    try:
        path = metadata.distribution(_PACKAGE).locate_file(f"lightkube/models/{module}.py")
        tree = ast.parse(Path(str(path)).read_bytes())
    except (metadata.PackageNotFoundError, FileNotFoundError):
        return {}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: docstring for node in classes if (docstring := ast.get_docstring(node, clean=False))}


def _read(docstring: str) -> Described:
    head, _, below = docstring.partition(_FIELDS_BELOW)
    fields: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in below.splitlines():
        if found := _FIELD.fullmatch(line):
            lines = fields[found[1]] = []
            line = found[2]
        lines.append(line)
    return Described(_joined(head.splitlines()), {name: _joined(parts) for name, parts in fields.items()})


def _joined(lines: list[str]) -> str:
    return " ".join(stripped for line in lines if (stripped := line.strip()))
