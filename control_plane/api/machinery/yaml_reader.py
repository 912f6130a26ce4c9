"""YAML bodies as JSON values, read as Kubernetes reads them and within the budget. Pure.

YAML 1.1 with these differences: times stay strings, numbers of base 60 are strings, `1e3` is a number, keys become
strings. A text is looked at event by event before anything is built from it: libyaml's events cost no more than the
text is long, what composing and constructing would make of them can be exponential (aliases, merge keys) or recursive.
Source: sigs.k8s.io/yaml, go-yaml v2 (`document contains excessive aliasing`, `anchor 'a' value contains itself`).
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import orjson
import yaml

from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.machinery.budget import LIMITS, Budget, Meter, TooDeep

_DIGITS_MAX: Final = 400  # more are no float either
_SEPARATOR: Final = re.compile(rb"^---(?:[ \t].*)?$", re.MULTILINE)


class YamlError(ValueError):
    """A text that is no YAML, or not one that is read here; the message is Kubernetes'."""

    def __init__(self, text: str) -> None:
        super().__init__(f"error converting YAML to JSON: yaml: {text}")


class _Loader(yaml.CSafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("timestamp", "int", "float", "value")
    ]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    # Each branch reads a text once from the left: no digit can be read in two ways.
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """An int or float; none of base 60, whose cost is quadratic, and none that JSON cannot say."""
    text = str(loader.construct_scalar(node))
    made: Any = None
    if ":" not in text and len(text) <= _DIGITS_MAX:
        make = loader.construct_yaml_int if node.tag.endswith(":int") else loader.construct_yaml_float
        made = make(node)
        if type(made) is int and not -(2**63) <= made < 2**64:
            made = float(made)
    if made is None or not math.isfinite(made):
        raise yaml.constructor.ConstructorError(None, None, f"unsupported value: {text[:40]}", node.start_mark)
    return made


def _no_json(_: _Loader, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(None, None, f"unsupported value of type {node.tag}", node.start_mark)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
for _tag in ("omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _no_json)


def parse(body: bytes, limits: Budget = LIMITS) -> Any:
    """A YAML document as JSON values. Raises YamlError, TooManyValues."""
    if body.lstrip()[:1] == b"{":  # kubectl sends JSON under this media type
        try:
            value = orjson.loads(body)
            budget.check_json(body, value, limits)
            return value
        except orjson.JSONDecodeError:
            pass  # YAML's flow style starts alike
        except TooDeep as error:
            raise YamlError(str(error)) from error
    loader = _Loader(body)
    try:
        _look_over(body, limits)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, limits)
        return _with_string_keys(loader.construct_document(node))
    except YamlError:
        raise
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # PyYAML's constructors say LookupError of a scalar that does not fit its explicit tag.
        raise YamlError(" ".join(str(error).split())) from error
    finally:
        loader.dispose()


def documents(data: bytes) -> list[bytes]:
    """The documents of a file that say anything."""
    return [one for one in _SEPARATOR.split(data.removeprefix(b"\xef\xbb\xbf")) if _says_something(one)]


def _says_something(document: bytes) -> bool:
    lines = (line.strip() for line in document.splitlines())
    return any(line and not line.startswith(b"#") and line != b"..." for line in lines)


def _look_over(body: bytes, limits: Budget) -> None:
    """Refuse what would be too much to compose: nodes by number and depth. Raises YamlError, TooManyValues."""
    if body.count(b"%TAG") > limits.yaml_directives:
        raise YamlError(f"a document may have at most {limits.yaml_directives} %TAG directives")
    meter, depth = Meter(limits.values), 0
    for event in yaml.parse(body, Loader=_Loader):
        meter.spend()
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.depth:
                raise YamlError("exceeded max depth")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _measure(root: yaml.Node, limits: Budget) -> None:
    """Refuse what would be too much to construct: values and depth with every alias written out. Raises YamlError."""
    sizes: dict[int, tuple[int, int, int] | None] = {}  # None while a node's own items are measured

    def size(node: yaml.Node) -> tuple[int, int, int]:
        """(values, depth, characters); nodes are at most `limits.depth` deep here, an alias is a known node."""
        mark = id(node)
        if mark in sizes:
            found = sizes[mark]
            if found is None:
                raise YamlError(f"anchor value contains itself (line {node.start_mark.line + 1})")
            return found
        sizes[mark] = None
        values, depth, chars = 1, 0, len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        for item in _items(node):
            item_values, item_depth, item_chars = size(item)
            values, depth, chars = values + item_values, max(depth, item_depth), chars + item_chars
        if values > limits.values or chars > limits.copied_bytes:
            raise YamlError("document contains excessive aliasing")
        depth += isinstance(node, yaml.CollectionNode)
        if depth > limits.depth:
            raise YamlError("exceeded max depth")
        sizes[mark] = (values, depth, chars)
        return values, depth, chars

    size(root)


def _items(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _with_string_keys(value: Any) -> Any:
    if type(value) is dict:
        return {_key(key): _with_string_keys(item) for key, item in value.items()}
    if type(value) is list:
        return [_with_string_keys(item) for item in value]
    return value.decode("latin-1") if type(value) is bytes else value


def _key(key: Any) -> str:
    if type(key) is bool:
        return "true" if key else "false"
    return "null" if key is None else str(key)


def duplicates(body: bytes) -> list[str]:
    """Findings in the words of Kubernetes' YAML decoder, for keys that stand twice in a mapping.

    `body` has been parsed: its nodes are within the budget, and each is looked at once, aliased or not.
    """
    root = yaml.compose(body, Loader=_Loader)
    findings: list[str] = []
    todo: list[yaml.Node] = [root] if root is not None else []
    visited: set[int] = set()
    while todo:
        node = todo.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo.extend(reversed(node.value))
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        findings.append(f'line {line}: key "{key.value}" already set in map')
                    seen.add(key.value)
                todo.append(value)
    return findings
