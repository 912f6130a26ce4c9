"""Commands on a cluster's past: `diff`, `rewind` and `fork`; `get --at` is with the other commands on objects."""

from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.kubectl_plugin import STATE_VARIABLE
from rayplane.control_plane.cli.objects import with_session
from rayplane.control_plane.cli.options import Name, Output, State, progress, run, state_dir, wants_json
from rayplane.control_plane.cluster.errors import UsageError

if TYPE_CHECKING:
    from rayplane.control_plane.cli.session import Session

Kinds = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KIND..]", help="Only these kinds.", autocompletion=completion.kinds),
]
Namespace = Annotated[
    str, typer.Option("-n", "--namespace", help="Only of this one.", autocompletion=completion.namespaces)
]


def register(app: typer.Typer) -> None:
    for command in (diff, rewind, fork):
        app.command()(command)


def diff(
    since: Annotated[str, typer.Option("--from", help="A revision, a time, or a span back such as -10m.")],
    kinds: Kinds = None,
    to: Annotated[str, typer.Option("--to", help="As --from; now by default.")] = "",
    namespace: Namespace = "",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Show what became of objects between two instants: which came, went and changed, in which fields, by whom, when.

    Events and leases only where they are named: they change all the time.
    """
    as_json = wants_json(output)

    async def work(session: "Session") -> int:
        from rayplane.control_plane.cli import past

        return await past.diff(session, kinds, namespace, since=since, to=to, as_json=as_json)

    with_session(name, state, namespace, work)


def rewind(
    to: Annotated[str, typer.Option("--to", help="A revision, a time, or a span back such as -10m.")],
    kinds: Kinds = None,
    namespace: Namespace = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be written.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Write objects again as they were: what came since is deleted, what went is made anew, the rest updated.

    History stays: these are new writes. Controllers then make pods fit their Deployments, Jobs and the like again; a
    pod of nobody that went is started anew, one that still runs goes on. Nodes, volumes and claims, what claims would
    go with (their namespaces and owners), what every cluster begins with, and (unless named by -n) its own namespaces
    are left as they are.
    """
    if not (dry_run or yes):
        raise UsageError("rewinding deletes and changes objects: look with --dry-run, then say --yes")
    told = wants_json(output)

    async def work(session: "Session") -> int:
        from rayplane.control_plane.cli import past

        return await past.rewind(session, kinds, namespace, to=to, dry_run=dry_run)

    with_session(name, state, namespace, work, changes=told)


def fork(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The cluster to start from; it runs on.", autocompletion=completion.clusters
        ),
    ],
    at: Annotated[str, typer.Option(help="A revision, a time, or a span back such as -10m.")],
    name: Annotated[str, typer.Option("--name", help="What the new cluster is called.")],
    source_dir: Annotated[
        str | None, typer.Option("--from-state-dir", envvar=STATE_VARIABLE, help="The state of NAME.")
    ] = None,
    output: Output = "",
    # Of no variable: that one is of a cluster that is there.
    state: Annotated[
        str | None, typer.Option("--state-dir", help="The new one's.  [default: ~/.rayplane/NAME]")
    ] = None,
) -> None:
    """Start a second cluster that goes on from what a running one was: its objects and history up to then, with keys,
    ports, addresses and data of its own. Bytes in volumes are not copied.
    """
    # Imported here: it brings etcd's store along.
    from rayplane.control_plane.cli.cluster import print_access
    from rayplane.control_plane.cli.options import console
    from rayplane.control_plane.cluster.backup import fork as forked

    as_json = wants_json(output)
    if name == source:
        raise UsageError(f"--name {name}: the new cluster needs another name")
    directory, origin = state_dir(name, state), state_dir(source, source_dir)
    if source_dir:
        origin.check_called(source, name_by="NAME", directory_by="--from-state-dir")
    with progress(quiet=as_json) as say:
        found, header = run(forked(origin, directory, name, at, say))
    if not as_json:
        console.print(f"cluster {name!r} goes on from {source!r} at revision {header.revision}")
    print_access(directory, found, as_json=as_json)
