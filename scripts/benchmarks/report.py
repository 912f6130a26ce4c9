"""What a benchmark prints: a table for people, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[str, typer.Option("--json", metavar="FILE", help="Write the figures to FILE as JSON; - prints them.")]
Hosts = Annotated[str, typer.Option("--host", help="ray, process, or both with a comma between.")]

WIDTH_MIN = 120


def hosts(text: str, *known: str) -> list[str]:
    """The hosts that `--host` names, of those that a benchmark knows (ray and process unless it says more)."""
    known, found = known or ("ray", "process"), text.split(",")
    if not set(found) <= set(known):
        raise typer.BadParameter(f"--host {text!r}: use {','.join(known)}, or some of them")
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


GROWTH_MAX = 1.25
"""What a later part of a run may hold at most, as a multiple of what an earlier one did."""


def grows(first: float, last: float, noise: float) -> bool:
    """Whether a figure grew in a run; less than `noise` is nothing."""
    return last > first * GROWTH_MAX + noise


def table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """One line per row, columns in the order of the first row; values that are dicts or lists are for JSON only."""
    columns = [c for c, value in rows[0].items() if not isinstance(value, (dict, list))]
    found = Table(title=name, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        found.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        found.add_row(*(_cell(row.get(column)) for column in columns))
    return found


def show(
    name: str, rows: Sequence[dict[str, Any]], machine: dict[str, Any], *, target: str, notes: Sequence[str] = ()
) -> None:
    """A table (see `table`), the notes, and what was measured on; all of it as JSON into `target`."""
    out = Console(stderr=target == "-", highlight=False)
    out.width = max(out.width, WIDTH_MIN)
    out.print(table(name, rows))
    for note in notes:
        out.print(note)
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    out.print(
        f"machine: {machine['cores']} cores, {machine['ram_mb']} MB, {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, {versions}; load before {machine['load_before']}",
        style="dim",
    )
    if target:
        text = json.dumps({"bench": name, "rows": list(rows), "notes": list(notes), "machine": machine}, indent=1)
        if target == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(target).write_text(text + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)
