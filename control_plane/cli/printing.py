"""Printing of objects and errors: kubectl's tables, names, JSON, YAML and error lines."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.columns import labels_text
from rayplane.control_plane.api.machinery.jsonpath import JsonPathError, find
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cluster.errors import UsageError

FORMATS = ("json", "yaml", "wide", "name")
JSONPATH = "jsonpath="
HEAD, BAD, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"
_GAP = 3
_WIDTH_MIN = 6
_DONE = ("Completed", "Succeeded", "Complete")
_ILL = "`rayplane status` says what is wrong"
_ADVICE = {
    "ServiceUnavailable": _ILL,
    "InternalError": _ILL,
    "Timeout": f"it may have been done: look before you try again; {_ILL}",
    "Conflict": "somebody else wrote it meanwhile: look, and try again",
    "TooManyRequests": "try again in a moment",
}
_BAD = frozenset(
    (
        "NotReady",
        "Failed",
        "Error",
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "OOMKilled",
        "Lost",
        "Unknown",
    )
)


def check_format(output: str) -> None:
    """Raises UsageError."""
    if output and output not in FORMATS and not output.startswith(JSONPATH):
        raise UsageError(f"-o {output!r}: use {', '.join(FORMATS)} or jsonpath={{.path}}")


def error_line(error: ApiError) -> str:
    """`Error from server (NotFound): pods "x" not found`; what is wrong with an object is said as it is."""
    if error.reason == "Invalid":
        return f"The {error.message}"
    reason = f" ({error.reason})" if error.reason else ""
    return f"Error from server{reason}: {error.message}"


def advised(error: ApiError) -> str:
    """The same in one line, and what to do where that is known."""
    line = " ".join(error_line(error).split())
    if error.reason == "NotFound" and (kind := (error.details or {}).get("kind")):
        return f"{line}; `rayplane get {kind} -A` shows what there is"
    return f"{line}; {_ADVICE[error.reason]}" if error.reason in _ADVICE else line


def plain(value: object) -> str:
    """Without what would command a terminal: others have a say in the texts that are shown."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def name_of(info: ResourceInfo, name: str) -> str:
    """`pod/web`, `deployment.apps/web`."""
    group = f".{info.group}" if info.group else ""
    return f"{info.singular}{group}/{name}"


class Line(NamedTuple):
    """A line, and how it is shown in colours."""

    text: str
    style: str = ""


class TableWriter:
    """Rows of Tables as lines. Keeps the widths of columns, so that rows of a watch stand under their header."""

    def __init__(
        self, *, wide: bool = False, namespace: bool = False, header: bool = True, labels: bool = False
    ) -> None:
        self._wide = wide
        self._namespace = namespace
        self._labels = labels
        self._header = header
        self._widths: list[int] = []

    def lines(self, table: Mapping[str, Any], objs: Sequence[Object], *, prefix: str = "") -> list[Line]:
        """`objs` are those of the rows; `prefix` stands before their names."""
        columns = table["columnDefinitions"]
        shown = [i for i, c in enumerate(columns) if self._wide or not c.get("priority")]
        names = next((i for i, c in enumerate(columns) if c.get("format") == "name"), 0)
        rows, styles = [], []
        if self._header:
            styles.append(HEAD)
            before = ["NAMESPACE"] if self._namespace else []
            rows.append([*before, *(columns[i]["name"].upper() for i in shown), *(["LABELS"] if self._labels else [])])
            self._header = False
        for row, obj in zip(table["rows"], objs, strict=True):
            cells = [prefix + cell_text(row["cells"][i]) if i == names else cell_text(row["cells"][i]) for i in shown]
            before = [meta.namespace(obj)] if self._namespace else []
            told = {c["name"]: cell_text(cell) for c, cell in zip(columns, row["cells"], strict=True)}
            styles.append(BAD if looks_bad(told) else "")
            rows.append([*before, *cells, *([labels_text(meta.labels(obj))] if self._labels else [])])
        return [Line(*pair) for pair in zip(aligned(rows, self._widths), styles, strict=True)]


def looks_bad(told: Mapping[str, str]) -> bool:
    """Whether a row, as cells by columns, tells of something that is not as it should be."""
    status, (have, _, want) = told.get("Status", ""), told.get("Ready", "").partition("/")
    if status in _DONE:
        return False
    return told.get("Type") == "Warning" or status.split(",")[0] in _BAD or bool(want and have != want)


def aligned(rows: Sequence[Sequence[str]], widths: list[int] | None = None) -> list[str]:
    """Rows as lines with columns three blanks apart. `widths` are those so far, and grow."""
    widths = widths if widths is not None else []
    for row in rows:
        widths += [_WIDTH_MIN] * (len(row) - len(widths))
        for i, cell in enumerate(row):
            widths[i] = max(widths[i], len(cell) + _GAP)
    return ["".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def cell_text(value: Any) -> str:
    """A cell of a Table as it is shown."""
    if value is None:
        return "<none>"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("\n", "\\n")


def listed(objs: Sequence[Object]) -> Object:
    """Several objects as one."""
    return {"apiVersion": "v1", "items": list(objs), "kind": "List", "metadata": {"resourceVersion": ""}}


def formatted(value: Object, output: str) -> str:
    """An object (or List) as JSON, YAML or what a JSONPath finds. Field managers are left out, as kubectl does."""
    items = value.get("items")
    if value.get("kind") == "List" and isinstance(items, list):
        value = value | {"items": [meta.strip_managed(o) for o in items]}
    else:
        value = meta.strip_managed(value)
    if output == "json":
        return json.dumps(value, indent=4, ensure_ascii=False)
    if output == "yaml":
        from rayplane.control_plane.cli.yaml_text import yaml_text

        return yaml_text(value)
    try:
        found = find(value, output.removeprefix(JSONPATH))
    except JsonPathError as e:
        raise UsageError(str(e)) from e
    return " ".join(f if isinstance(f, str) else json.dumps(f, ensure_ascii=False) for f in found)
