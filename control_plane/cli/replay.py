"""Command that tells a recorded run again, in the order of its time: `replay`."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli.options import Output, console, wants_json
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cli.recordings import read_recording

if TYPE_CHECKING:
    from rayplane.control_plane.recordings import Recording


def register(app: typer.Typer) -> None:
    app.command(name="replay")(replay)


def replay(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="What `chaos run` or `simulate` recorded.")],
    output: Output = "",
) -> None:
    """Tell what happened in a recorded run, and how it ended, without any cluster; exits with 1 where it did not hold.

    All objects as they were, at each of its moments, are shown by `rayplane dashboard --open RUN`.
    """
    as_json = wants_json(output)
    recording = read_recording(file)
    if as_json:
        print(json.dumps(_document(recording), indent=2))
    else:
        for line in lines(recording):
            console.print(plain(line), markup=False, soft_wrap=True)
    if not recording.ok:
        raise typer.Exit(1)


def lines(run: "Recording") -> Iterator[str]:
    """The run for people."""
    where = f" on cluster {run.cluster}" if run.cluster else ""
    yield f"{run.of} {run.name}, seed {run.seed}{where}, began {run.started:%Y-%m-%d %H:%M:%S}"
    for at_s, text in _story(run):
        yield f"{at_s:9.3f} s  {text}"
    for one in run.invariants:
        yield f"{one.name}: {'broken' if one.wrong else 'held' if one.seen else 'had nothing to compare'}"
    yield from (f"failed: {text}" for text in run.failures)
    if run.full_s is not None:
        yield f"objects were recorded until {run.full_s:.3f} s: there was no more room"
    yield f"{'held' if run.ok else 'did not hold'}, after {run.end_s:.3f} s"


def _story(run: "Recording") -> list[tuple[float, str]]:
    """What happened, faults with their ends, and violations, by their times in seconds."""
    found = list(run.events)
    for mark in run.marks:
        if mark.kind == "violation":
            found.append((mark.from_s, f"violation of {mark.invariant}: {mark.text}"))
        else:
            until = "to the end" if mark.until_s is None else f"until {mark.until_s:.3f} s"
            found.append((mark.from_s, f"fault {mark.text}, {until}"))
    return sorted(found, key=lambda one: one[0])


def _document(run: "Recording") -> dict[str, Any]:
    head = {"of": run.of, "name": run.name, "seed": run.seed, "cluster": run.cluster}
    return {
        **head,
        "started": run.started.isoformat(),
        "end": run.end_s,
        "ok": run.ok,
        "full": run.full_s,
        "damage": run.damage,
        "marks": [asdict(mark) for mark in run.marks],
        "events": [{"at": at_s, "text": text} for at_s, text in run.events],
        "invariants": [asdict(one) for one in run.invariants],
        "failures": run.failures,
    }
