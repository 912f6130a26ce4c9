"""The compiled view of the API's types: fields, scalar kinds, merge keys, list-map keys.

Definitions are compiled on first use from the generated data (Kubernetes v1.37) or from the
OpenAPI schema of a CustomResourceDefinition, and are shared and immutable from then on.

    definition("io.k8s.api.core.v1.PodSpec").fields["containers"].merge_key == "name"
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources as package_files
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.gates import DROPPED

# Kinds of a Type. Scalars first; see `SCALARS`.
STRING: Final = "string"
INT32: Final = "int32"
INT64: Final = "int64"
BOOL: Final = "bool"
DOUBLE: Final = "double"
BYTES: Final = "bytes"
QUANTITY: Final = "quantity"
INT_OR_STRING: Final = "int-or-string"
TIME: Final = "time"
MICRO_TIME: Final = "micro-time"
OBJECT: Final = "object"  # any JSON object, kept as it is
ANY: Final = "any"  # any JSON value, kept as it is
LIST: Final = "list"
MAP: Final = "map"  # string keys, values of one type
STRUCT: Final = "struct"
SCALARS: Final = frozenset({STRING, INT32, INT64, BOOL, DOUBLE, BYTES, QUANTITY, INT_OR_STRING, TIME, MICRO_TIME})

# What a key of a list's item is where it is left out, in merging by keys: the zero value, but for these.
_KEY_DEFAULTS: Final[Mapping[tuple[str, str], str]] = {
    ("ContainerPort", "protocol"): "TCP",
    ("ServicePort", "protocol"): "TCP",
}
# Fields of which an empty list says something else than none: it resets the owners.
_MEANT_EMPTY: Final = frozenset({("ObjectMeta", "managedFields")})
# Fields of which the published description names no type, since they take several.
_PROPS: Final = "@io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
_FORMS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("JSONSchemaProps", "items"): (_PROPS, "[]" + _PROPS),
    ("JSONSchemaProps", "additionalItems"): (_PROPS, BOOL),
    ("JSONSchemaProps", "additionalProperties"): (_PROPS, BOOL),
    ("JSONSchemaProps", "dependencies"): (_PROPS, "[]" + STRING),
}
_ZERO_KEYS: Final[Mapping[str, Any]] = {STRING: "", INT32: 0, INT64: 0, BOOL: False}


class Type:
    """The type of a value: a scalar, a list or map of `items`, or a struct by `definition`."""

    __slots__ = ("_definition", "forms", "item", "items", "kind", "reference")

    def __init__(
        self,
        kind: str,
        *,
        items: Type | None = None,
        item: Field | None = None,
        reference: str = "",
        forms: tuple[Type, ...] = (),
    ) -> None:
        self.kind = kind
        self.forms = forms
        """Of `any`: the types of which it must be one, told apart by their JSON types; empty: whatever there is."""
        self.items = items
        self.item = item
        """What server-side apply has to know about each item, where a schema says it (custom resources)."""
        self.reference = reference
        self._definition: Definition | None = None

    @classmethod
    def struct(cls, definition: Definition) -> Type:
        """The type of a struct that stands in no table, such as part of a custom resource."""
        made = cls(STRUCT, reference=definition.name)
        made._definition = definition
        return made

    @property
    def definition(self) -> Definition:
        """The struct's definition, resolved on first use. Only for `kind == STRUCT`."""
        if self._definition is None:
            self._definition = definition(self.reference)
        return self._definition

    def form_of(self, value: Any) -> Type:
        """The one of `forms` that has the JSON type of a value, or the first, which does not fit either."""
        return next((form for form in self.forms if type(value) is _JSON_TYPES.get(form.kind)), self.forms[0])

    @property
    def element(self) -> Type:
        """The type of the items of a list or map."""
        assert self.items is not None, f"{self.kind} has no items"
        return self.items

    @property
    def go_name(self) -> str:
        """The Go type as decoding errors print it: `int32`, `[]v1.Container`."""
        match self.kind:
            case "list":
                return "[]" + self.element.go_name
            case "map":
                return "map[string]" + self.element.go_name
            case "struct":
                version, _, name = self.reference.rpartition(".")
                return f"{version.rpartition('.')[2]}.{name}"
        return _GO_NAMES.get(self.kind, self.kind)

    def __repr__(self) -> str:
        return f"Type({self.go_name})"


# Python's, of the types that stand among forms.
_JSON_TYPES: Final[Mapping[str, type]] = {STRUCT: dict, LIST: list, BOOL: bool}
_GO_NAMES: Final = {
    DOUBLE: "float64",
    BYTES: "[]uint8",
    QUANTITY: "resource.Quantity",
    INT_OR_STRING: "intstr.IntOrString",
    TIME: "v1.Time",
    MICRO_TIME: "v1.MicroTime",
    OBJECT: "runtime.RawExtension",
    ANY: "interface {}",
}


class Field:
    """One field of a struct with what patches and server-side apply need to know about it."""

    __slots__ = (
        "default",
        "dropped",
        "exact",
        "list_keys",
        "list_type",
        "map_type",
        "merge_key",
        "name",
        "nullable",
        "omit_zero",
        "required",
        "retain_keys",
        "strategy",
        "type",
        "written",
    )

    def __init__(self, name: str, type_: Type, *, required: bool, notes: Mapping[str, Any]) -> None:
        strategies = str(notes.get("strategy", "")).split(",")
        self.name = name
        self.type = type_
        self.required = required
        self.retain_keys = "retainKeys" in strategies
        """Strategic merge patch: the union's `$retainKeys` list is expected."""
        self.strategy = next((s for s in strategies if s in ("merge", "replace")), "")
        self.merge_key: str = notes.get("key", "")
        self.list_type: str = notes.get("list", "atomic" if type_.kind == LIST else "")
        """`atomic`, `set` or `map`; empty for what is no list."""
        self.list_keys: tuple[str, ...] = tuple(notes.get("keys", ()))
        self.map_type: str = notes.get("map", "")
        self.nullable: bool = notes.get("nullable", False)
        """null is a value, or stands for the default: it stays."""
        self.default: Any = notes.get("default")
        """The value where the field is left out and is a key of its list; None: it is then no part of the key."""
        self.dropped: bool = notes.get("dropped", False)
        """Known, and never kept; see `gates`."""
        self.exact: type | None = None if self.dropped else _EXACT.get(type_.kind)
        """The Python type that is valid without a further look, where there is one."""
        self.omit_zero: bool = notes.get("omit_zero", False)
        """0, "", false, [] and {} mean "not given" and are never written to JSON."""
        self.written: int = notes.get("written", 0)
        """1: a struct that Kubernetes has, empty, where nothing in it is given; -1: what it has as null then. So it
        never comes or goes."""


_EXACT: Final[Mapping[str, type]] = {STRING: str, BOOL: bool, DOUBLE: float, OBJECT: dict}


_EMPTY: Final[Mapping[str, Any]] = {}


class Definition:
    """A struct: its fields by JSON name, and which kinds it is the body of."""

    __slots__ = ("fields", "kinds", "map_type", "name", "preserve_unknown", "required", "written")

    def __init__(
        self,
        name: str,
        fields: dict[str, Field],
        *,
        required: tuple[str, ...] = (),
        kinds: tuple[tuple[str, str, str], ...] = (),
        map_type: str = "",
        preserve_unknown: bool = False,
    ) -> None:
        self.name = name
        self.fields = fields
        self.written: Mapping[str, Mapping[str, Any] | None] = {
            name: _EMPTY if field.written > 0 else None for name, field in fields.items() if field.written
        }
        """What Kubernetes has in the place of fields that are not given: an empty struct, or null."""
        self.required = required
        self.kinds = kinds
        self.map_type = map_type
        """`atomic` when the whole struct has one owner in server-side apply."""
        self.preserve_unknown = preserve_unknown

    @property
    def short_name(self) -> str:
        return self.name.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"Definition({self.name})"


def load_table(file: str, table: str) -> dict[str, Any]:
    """One table of the generated data, by file name."""
    packed = package_files.files("rayplane.control_plane.api").joinpath(f"data/{file}").read_bytes()
    data: dict[str, Any] = orjson.loads(gzip.decompress(packed))[table]
    return data


@lru_cache(maxsize=1)
def raw_definitions() -> dict[str, Any]:
    """The generated table as it is stored: `{name: {fields, required, kinds, map}}`."""
    return load_table("schema.json.gz", "definitions")


@lru_cache(maxsize=3)
def _omitted(table: str) -> dict[str, Any]:
    return load_table("omitted.json.gz", table)


_compiled: dict[str, Definition] = {}


def definition(name: str) -> Definition:
    """The compiled definition. KeyError for a name that is not in the generated data."""
    found = _compiled.get(name)
    if found is None:
        found = _compiled[name] = _compile(name, raw_definitions()[name])
    return found


@lru_cache(maxsize=1)
def _names_by_kind() -> dict[tuple[str, str], str]:
    table: dict[tuple[str, str], str] = {}
    for name, entry in raw_definitions().items():
        for group, version, kind in entry.get("kinds", ()):
            table.setdefault((f"{group}/{version}" if group else version, kind), name)
    return table


def definition_name(api_version: str, kind: str) -> str | None:
    """Name of the definition of a built-in kind, lists and request bodies included."""
    return _names_by_kind().get((api_version, kind))


def definition_of(api_version: str, kind: str) -> Definition | None:
    """The definition of a built-in kind, None for kinds Kubernetes does not define."""
    name = definition_name(api_version, kind)
    return definition(name) if name else None


@lru_cache(maxsize=4096)
def parse_type(expression: str) -> Type:
    """A type from the generated notation: `[]T`, `{}T`, `@definition` or a scalar's name."""
    if expression.startswith("[]"):
        return Type(LIST, items=parse_type(expression[2:]))
    if expression.startswith("{}"):
        return Type(MAP, items=parse_type(expression[2:]))
    if expression.startswith("@"):
        return Type(STRUCT, reference=expression[1:])
    return Type(expression)


def _compile(name: str, entry: Mapping[str, Any]) -> Definition:
    required = tuple(entry.get("required", ()))
    omitted = frozenset(_omitted("omitted").get(name, ()))
    written, null = (frozenset(_omitted(table).get(name, ())) for table in ("written", "null"))
    short = name.rpartition(".")[2]
    fields: dict[str, Field] = {}
    for field_name, value in entry["fields"].items():
        expression, notes = (value, {}) if isinstance(value, str) else value
        type_ = _of_forms(parse_type(expression), _FORMS.get((short, field_name), ()))
        default = _KEY_DEFAULTS.get((short, field_name), _ZERO_KEYS.get(type_.kind))
        notes = {
            **notes,
            "omit_zero": field_name in omitted and (short, field_name) not in _MEANT_EMPTY,
            "written": (field_name in written) - (field_name in null),
            "default": default,
            "dropped": f"{short}.{field_name}" in DROPPED,
        }
        fields[field_name] = Field(field_name, type_, required=field_name in required, notes=notes)
    return Definition(
        name,
        fields,
        required=required,
        kinds=tuple((group, version, kind) for group, version, kind in entry.get("kinds", ())),
        map_type=entry.get("map", ""),
    )


def _of_forms(type_: Type, forms: tuple[str, ...]) -> Type:
    if not forms:
        return type_
    if type_.kind == MAP:
        return Type(MAP, items=_of_forms(type_.element, forms))
    return Type(ANY, forms=tuple(parse_type(form) for form in forms))


# --- custom resources ------------------------------------------------------------------------

OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_JSON_SCALARS: Final = {"string": STRING, "integer": INT64, "number": DOUBLE, "boolean": BOOL}


def from_openapi(name: str, schema: Mapping[str, Any], *, root: bool = False) -> Definition:
    """Compile a structural schema (`apiextensions.k8s.io/v1` JSONSchemaProps) to a definition.

    With `root`, apiVersion, kind and metadata are added, as every custom resource has them.
    Types and keys are taken over; value rules (minimum, pattern, CEL) are not in this view.
    """
    required = tuple(schema.get("required") or ())
    fields: dict[str, Field] = {}
    for field_name, sub in (schema.get("properties") or {}).items():
        fields[field_name] = Field(
            field_name,
            _type_from_openapi(f"{name}.{field_name}", sub),
            required=field_name in required,
            notes=_notes_from_openapi(sub),
        )
    if root:
        for implied in ("apiVersion", "kind"):
            fields[implied] = Field(implied, Type(STRING), required=False, notes={})
        meta = Type(STRUCT, reference=OBJECT_META)
        fields["metadata"] = Field("metadata", meta, required=False, notes={})
    return Definition(
        name,
        fields,
        required=required,
        map_type=schema.get("x-kubernetes-map-type", ""),
        preserve_unknown=bool(schema.get("x-kubernetes-preserve-unknown-fields")),
    )


def _type_from_openapi(name: str, schema: Mapping[str, Any]) -> Type:
    if schema.get("x-kubernetes-int-or-string"):
        return Type(INT_OR_STRING)
    kind = schema.get("type", "")
    if kind == "array":
        return _of_items(LIST, name, schema.get("items") or {})
    if not kind and schema.get("x-kubernetes-preserve-unknown-fields"):
        return Type(OBJECT)
    if kind != "object":
        narrow = INT32 if schema.get("format") == "int32" else None
        return Type(narrow or _JSON_SCALARS.get(kind, ANY))
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return _of_items(MAP, name, values)
    if values is True:
        return Type(OBJECT)
    made = from_openapi(name, schema, root=bool(schema.get("x-kubernetes-embedded-resource")))
    return Type.struct(made)


def _of_items(kind: str, name: str, schema: Mapping[str, Any]) -> Type:
    items, notes = _type_from_openapi(name, schema), _notes_from_openapi(schema)
    return Type(kind, items=items, item=Field("", items, required=False, notes=notes) if notes else None)


def _notes_from_openapi(schema: Mapping[str, Any]) -> dict[str, Any]:
    notes = {
        "list": schema.get("x-kubernetes-list-type"),
        "keys": schema.get("x-kubernetes-list-map-keys"),
        "map": schema.get("x-kubernetes-map-type"),
        "default": schema.get("default"),
        "nullable": bool(schema.get("nullable") or schema.get("default") is not None) or None,
    }
    return {key: value for key, value in notes.items() if value is not None}
