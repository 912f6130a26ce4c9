"""Documents of the repository, taken apart: blocks of code and commands."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code; `file` and `place` say what it belongs to, where the document says it."""

    language: str
    file: str
    place: str
    text: str


def documents() -> list[Path]:
    """All that git would keep: nothing in folders that others make (.venv, caches)."""
    skipped = {".venv", ".git", ".src", "node_modules"}
    found = (p for p in ROOT.rglob("*.md") if not skipped & {*p.relative_to(ROOT).parts})
    return sorted(p for p in found if not any("cache" in part for part in p.relative_to(ROOT).parts))


def blocks(document: Path) -> list[Block]:
    found = []
    for language, title, text in _BLOCK.findall(document.read_text()):
        file, _, place = title.partition(" ")
        found.append(Block(language, file, place, text))
    return found


def commands(document: Path) -> list[str]:
    """Commands in blocks, and what is set as code in the text."""
    return [*typed(document), *named(document)]


def typed(document: Path) -> list[str]:
    """Commands of shell blocks and of blocks without a language, without comments."""
    text = document.read_text().replace("\\\n", " ")
    return parted(line for b in _BLOCK.findall(text) if b[0] in ("", "sh") for line in b[2].splitlines())


def named(document: Path) -> list[str]:
    """What is set as code in the text, also over the end of a line."""
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", _BLOCK.sub("", document.read_text()))
    return parted(" ".join(text.split()) for text in found)


def parted(lines: Iterable[str]) -> list[str]:
    """Commands of lines, without comments."""
    parts = (
        part.strip().removesuffix(')"').rstrip(")")
        for line in lines
        for part in re.split(r"&&|\|\| | \| |; |\$\(|\) (?=kubectl )", line.partition(" # ")[0])
    )
    return [part for part in parts if part]


def drawn_tree(text: str) -> list[str]:
    """Paths of a drawn tree: a line begins with names that end in a slash, deeper ones belong to the last less deep."""
    found: list[str] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        names = re.match(r"\s*((?:[\w.]+/)+(?:\s+(?:[\w.]+/)+(?=\s))*)(?=\s|$)", line)
        if names is None:
            continue
        depth = len(line) - len(line.lstrip())
        above = [(d, name) for d, name in above if d < depth]
        prefix = "".join(name for _, name in above)
        found += [prefix + name for name in names[1].split()]
        above.append((depth, names[1].split()[0]))
    return found
