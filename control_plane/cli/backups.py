"""Commands on the state of a cluster as a file: backup, restore.

What they do is imported when they run: it brings etcd's store along, half of what any other command would load.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from rayplane.control_plane.cli.cluster import print_access
from rayplane.control_plane.cli.option_files import content
from rayplane.control_plane.cli.options import Name, Output, State, console, progress, run, state_dir, wants_json


def register(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write.")],
    name: Name = "default",
    output: Output = "",
    state: State = None,
) -> None:
    """Write the cluster's state to a file."""
    as_json = wants_json(output)
    from rayplane.control_plane.cluster import backup as backups

    with progress(quiet=as_json) as say:
        header = run(backups.backup(state_dir(name, state), file, say))
    if as_json:
        print(json.dumps({"file": str(file), "cluster": header.cluster, "revision": header.revision}))
        return
    console.print(f"{file}: cluster {header.cluster!r} at revision {header.revision}")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    name: Name = "default",
    force: Annotated[bool, typer.Option("--force", help="Even if the cluster holds workloads.")] = False,
    encryption_key: Annotated[
        Path | None,
        typer.Option(help="pki/encryption.yaml of the backup's cluster, where it is not on this machine."),
    ] = None,
    output: Output = "",
    state: State = None,
) -> None:
    """Bring a fresh cluster (up already or not) to a backup's state, and go on from it."""
    as_json = wants_json(output)
    directory = state_dir(name, state)
    key = content("--encryption-key", encryption_key)
    from rayplane.control_plane.cluster import backup as backups

    with progress(quiet=as_json) as say:
        found, header = run(backups.restore(directory, name, file, say, force=force, key=key))
    if not as_json:
        console.print(f"cluster {name!r} goes on from {header.cluster!r} at revision {header.revision}")
    print_access(directory, found, as_json=as_json)
