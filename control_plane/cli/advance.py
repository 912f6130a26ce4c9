"""The command `advance`: time goes forward."""

from typing import Annotated

import typer

from rayplane.control_plane.cli.options import Name, Output, State, progress, run, state_dir, tell, wants_json
from rayplane.control_plane.durations import human_duration


def register(app: typer.Typer) -> None:
    app.command()(advance)


def advance(
    span: Annotated[str, typer.Argument(metavar="SPAN", help="How far, such as 90s or 2h.")],
    name: Name = "default",
    output: Output = "",
    state: State = None,
) -> None:
    """Let time pass at once in a cluster that is one process (--host process): leases, schedules, certificates.

    Every timer that falls due meanwhile goes off in its turn. Real programs in pods keep the machine's time.
    """
    from rayplane.control_plane.cluster import advancing

    as_json, directory = wants_json(output), state_dir(name, state)
    with progress(quiet=as_json) as say:
        say(f"{span} go by")
        ahead_s = run(advancing.advance(directory, span))
    now = directory.clock.now().isoformat(timespec="seconds")
    text = f"it is {now}, {human_duration(ahead_s)} ahead of the machine"
    tell({"aheadSeconds": ahead_s, "now": now}, text, as_json=as_json)
