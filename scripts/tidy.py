"""The shape of the tree: lengths, docstrings, charters, names, bounds. Run by scripts/test as one of its checks.

    python -m scripts.tidy [ROOT]

Each rule is a function of one module that yields where it is broken, and the numbers stand where the code is: they
are lowered when it gets better, never raised. What ruff, mypy, vulture and import-linter can tell is theirs.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PRODUCT = ("control_plane", "node", "storage", "proto", ".src")
FOLDERS = (*PRODUCT, "scripts", "tests")
CHARTERED = ("control_plane", "node", "storage")
GENERATED = "_pb2"

FUNCTION_LINES = {"product": 45, "tests": 54}
LONGEST_MODULE = {"product": 500, "tests": 565}
# A name that says nothing of what is in the module, so that anything ends up there.
VAGUE = {"common", "helper", "helpers", "misc", "shared_utils", "util", "utils"}
# First words of what is no sentence by itself: "Between two hosts.", "What a pod may do."
NO_SUBJECT = {
    *("After", "Also", "And", "As", "At", "Before", "Between", "By", "For", "From", "How", "If", "In", "Of", "On"),
    *("Or", "That", "Through", "To", "Under", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"),
    *("With", "Without"),
}
# What opens an order or a tale of what it does: "Start an actor.", "Calls the servers in turn.", "See the module."
VERBS = {
    *("Add", "Adds", "Answer", "Answers", "Ask", "Asks", "Begins", "Belongs", "Built", "Called", "Carries", "Closes"),
    *("Compared", "Composes", "Copies", "Create", "Creates", "Cuts", "Decides", "Delete", "Deletes", "Does", "Drives"),
    *("Ends", "Finds", "Follows", "Get", "Gets", "Gives", "Handles", "Hands", "Holds", "Interprets", "Is", "Keep"),
    *("Keeps", "Knows", "Learns", "Leaves", "Let", "Listens", "Loses", "Made", "Make", "Makes", "Masks", "Never"),
    *("Not", "Owns", "Pauses", "Prepare", "Promote", "Pure", "Puts", "Raises", "Reconciles", "Refuses", "Remembers"),
    *("Remove", "Removes", "Renews", "Repeat", "Replace", "Result", "Resume", "Runs", "Says", "Scans", "See", "Serves"),
    *("Start", "Starts", "Take", "Takes", "Tell", "Tells", "Unmount", "Valid", "Wait", "Write", "Writes", "Written"),
}
NUMBERS = {"float", "int", "float | None", "int | None"}
SPAN = re.compile(
    r"(^|_)(timeout|interval|period|delay|grace|backoff|ttl|patience|duration|lifetime|renew_deadline)$", re.IGNORECASE
)
# What gRPC's users call it; the name of a code in RFC 9113.
SPANS_NAMED_BY_OTHERS = {"timeout", "SETTINGS_TIMEOUT"}
QUEUES = {"Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOKED_AT = (ast.Module, ast.ClassDef, *FUNCTIONS, ast.Call, ast.arg, ast.AnnAssign, ast.Assign)


@dataclass
class Module:
    """One source file: its path from the root, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def in_product(self) -> bool:
        return self.path.parts[0] in PRODUCT

    @property
    def kind(self) -> str:
        """The kind of its limits: tests may list many cases."""
        return "tests" if self.path.parts[0] == "tests" else "product"

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """What the rules look at of its tree: most of what they take is to walk it."""
        return [node for node in ast.walk(self.tree) if isinstance(node, LOOKED_AT)]

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [n for n in self.nodes if isinstance(n, FUNCTIONS)]


Broken = Iterator[tuple[int, str]]
Rule = Callable[[Module], Broken]


def function_length(module: Module) -> Broken:
    """Functions fit on a screen: at most FUNCTION_LINES lines, signature and docstring not counted."""
    most = FUNCTION_LINES[module.kind]
    for function in module.functions:
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if lines > most:
            yield function.lineno, f"{function.name} has {lines} lines, more than {most}: take it apart"


def module_length(module: Module) -> Broken:
    """Modules are one idea: at most LONGEST_MODULE lines."""
    most = LONGEST_MODULE[module.kind]
    if (lines := module.text.count("\n")) > most:
        yield 1, f"{lines} lines, more than {most}: which second idea is in it?"


def module_docstring(module: Module) -> Broken:
    """Modules open with a sentence that ends on their first line."""
    if module.path.name == "__init__.py" and not module.text.strip():
        return
    if module.path.parts[0] == "tests":
        return
    said = ast.get_docstring(module.tree)
    if not said:
        yield 1, "no docstring: say in one sentence what is in this module"
    elif not said.split("\n")[0].endswith((".", ":")):
        yield 1, "the docstring's first sentence must end on its first line"


def docstring_subject(module: Module) -> Broken:
    """First lines of modules and classes are sentences of their own: a noun, not a clause without its subject."""
    if not module.in_product:
        return
    for node in module.nodes:
        match node:
            case ast.Module() | ast.ClassDef():
                refused = NO_SUBJECT
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                refused = {"Of"}  # they may open with what they tell: "Whether a pod is ready."
            case _:
                continue
        said = ast.get_docstring(node)
        if said and said.split()[0] in refused:
            yield getattr(node, "lineno", 1), f"{said.splitlines()[0]!r} has no subject: name the thing first"


def class_noun(module: Module) -> Broken:
    """Classes are things: their docstrings open with a noun, and methods say what is done."""
    for node in (n for n in module.nodes if isinstance(n, ast.ClassDef)):
        said = ast.get_docstring(node)
        if said and (said.startswith("`") or re.split(r"\W", said, maxsplit=1)[0] in VERBS):
            yield node.lineno, f"{said.splitlines()[0]!r} says not what it is: begin with a noun"


def package_charter(module: Module) -> Broken:
    """Packages open with what they own and what they don't."""
    if module.path.name == "__init__.py" and module.path.parts[0] in CHARTERED:
        said = " ".join((ast.get_docstring(module.tree) or "").split())
        if not re.search(r"\b[Oo]wns\b", said) or not re.search("[Dd]oes not|[Oo]wns no|[Kk]nows no", said):
            yield 1, "the package's docstring must say what it owns and what it does not own"


def vague_name(module: Module) -> Broken:
    """Modules are named for what is in them."""
    if module.path.stem in VAGUE:
        yield 1, f"{module.path.stem!r} names nothing: name the module for its idea"


def bounded_queue(module: Module) -> Broken:
    """Queues of the product have a bound."""
    if not module.in_product:
        return
    for node in module.nodes:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio" | "queue"), attr=name), args=[], keywords=[]):
                if name in QUEUES:
                    what = "give it a maxsize and say what happens when it is full"
                    yield node.lineno, f"{name}() grows without bound: {what}"


def span_unit(module: Module) -> Broken:
    """Numbers that are spans of time end with their unit: _s, _ms, _ticks."""
    for line, name in _numbers(module):
        if SPAN.search(name) and name not in SPANS_NAMED_BY_OTHERS:
            yield line, f"{name} is a span of time without a unit: end it with _s"


def _numbers(module: Module) -> Iterator[tuple[int, str]]:
    """Parameters, fields, constants and results of arithmetic that are numbers; not the attributes of others."""
    for node in module.nodes:
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as kind) if _is_number(kind):
                yield node.lineno, name
                continue
            case ast.AnnAssign(target=target, annotation=kind) if _is_number(kind):
                targets = [target]
            case ast.Assign(targets=targets, value=ast.BinOp() | ast.Constant(value=int() | float())):
                pass
            case _:
                continue
        yield from ((node.lineno, name) for t in targets if "." not in (name := ast.unparse(t).removeprefix("self.")))


def _is_number(kind: ast.expr) -> bool:
    return isinstance(kind, ast.Name | ast.BinOp) and ast.unparse(kind) in NUMBERS


RULES: tuple[Rule, ...] = (
    function_length,
    module_length,
    module_docstring,
    docstring_subject,
    class_noun,
    package_charter,
    vague_name,
    bounded_queue,
    span_unit,
)


def modules(root: Path) -> Iterator[Module]:
    """Every module of the tree but generated ones."""
    for folder in FOLDERS:
        # Links are not followed: what .src links to stands in the list by itself.
        for path in sorted((root / folder).rglob("*.py")):
            if GENERATED not in path.name and not any(p.is_symlink() for p in path.parents if p != root):
                text = path.read_text()
                yield Module(path.relative_to(root), text, ast.parse(text))


def broken(root: Path) -> list[str]:
    """One line for each place where a rule is broken: `path:line: rule: what to do`."""
    return [
        f"{module.path}:{line}: {rule.__name__.replace('_', '-')}: {what}"
        for module in modules(root)
        for rule in RULES
        for line, what in rule(module)
    ]


def main() -> int:
    found = broken(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
