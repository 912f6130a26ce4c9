"""Commands on objects, over gRPC: for machines without kubectl. What they do is in the modules they import."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.control_plane.cli import completion
from rayplane.control_plane.cli.options import Name, Output, State, run, state_dir, tell, wants_json
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.durations import DurationError, parse_span

if TYPE_CHECKING:
    from rayplane.control_plane.cli.session import Session

Namespace = Annotated[
    str,
    typer.Option("-n", "--namespace", help="Namespace.  [default: default]", autocompletion=completion.namespaces),
]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="In all namespaces.")]
Selector = Annotated[str, typer.Option("-l", "--selector", help="Label selector, such as app=web,tier!=db.")]
Container = Annotated[str, typer.Option("-c", "--container", help="Which container; the pod's first by default.")]
Files = Annotated[list[str], typer.Option("-f", "--filename", help="A file, a directory, or - for standard input.")]
What = Annotated[
    list[str],
    typer.Argument(metavar="KIND [NAME..] | KIND/NAME..", help="What.", autocompletion=completion.objects),
]
SomeOf = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KIND NAME.. | KIND/NAME..]", help="What.", autocompletion=completion.objects),
]


def register(app: typer.Typer) -> None:
    for command in (get, apply, describe, delete, logs, scale):
        app.command()(command)
    app.command(name="exec")(execute)


def get(
    what: What,
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    field_selector: Annotated[str, typer.Option(help="Such as status.phase=Running.")] = "",
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="json, yaml, wide, name or jsonpath={.path}.",
            autocompletion=completion.one_of("json", "yaml", "wide", "name"),
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on showing changes.")] = False,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Rows only.")] = False,
    show_labels: Annotated[bool, typer.Option("--show-labels", help="Labels as the last column.")] = False,
    at: Annotated[
        str, typer.Option(help="As it was then: a revision, a time such as 2026-01-31T12:00:00Z, or -10m.")
    ] = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Show objects."""
    from rayplane.control_plane.cli import reading
    from rayplane.control_plane.cli.printing import check_format

    check_format(output)
    options = reading.GetOptions(
        output=output,
        all_namespaces=all_namespaces,
        selector=selector,
        field_selector=field_selector,
        watch=watch,
        headers=not no_headers,
        show_labels=show_labels,
        at=at,
    )
    with_session(name, state, namespace, lambda s: reading.get(s, what, options))


def describe(
    what: What,
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Show all there is to know of objects, with the events about them."""
    from rayplane.control_plane.cli import reading

    with_session(
        name,
        state,
        namespace,
        lambda s: reading.describe(s, what, selector=selector, all_namespaces=all_namespaces),
    )


def apply(
    filename: Files,
    namespace: Namespace = "",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Create objects, or make them have the fields that the files say."""
    from rayplane.control_plane.cli import changing
    from rayplane.control_plane.cluster import manifests

    told = wants_json(output)
    found = manifests.load(filename)
    with_session(name, state, namespace, lambda s: changing.apply(s, found), changes=told)


def delete(
    what: SomeOf = None,
    filename: Annotated[list[str] | None, typer.Option("-f", "--filename", help="What these files hold.")] = None,
    namespace: Namespace = "",
    selector: Selector = "",
    everything: Annotated[bool, typer.Option("--all", help="All of the kind.")] = False,
    grace_period: Annotated[int, typer.Option(help="Seconds to end in; their own when negative.")] = -1,
    now: Annotated[bool, typer.Option("--now", help="Like --grace-period 1.")] = False,
    force: Annotated[bool, typer.Option("--force", help="At once, without waiting for the node.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until they are gone.")] = True,
    timeout: Annotated[str, typer.Option(help="How long to wait, such as 30s or 5m.")] = "5m",
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="What is not there is fine.")] = False,
    cascade: Annotated[str, typer.Option(help="background, foreground or orphan.")] = "background",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Delete objects."""
    from rayplane.control_plane.cli import changing
    from rayplane.control_plane.cluster import manifests

    if cascade not in ("background", "foreground", "orphan"):
        raise UsageError(f"--cascade {cascade!r}: use background, foreground or orphan")
    if bool(what) == bool(filename):
        raise UsageError("say what to delete: either KIND NAME, or -f FILE")
    if now and grace_period >= 0:
        raise UsageError("--now and --grace-period: give one of them")
    grace = 0 if force and grace_period < 0 else 1 if now else grace_period
    options = changing.DeleteOptions(
        grace_s=grace if grace >= 0 else None,
        wait=wait,
        timeout_s=_seconds("--timeout", timeout),
        ignore_not_found=ignore_not_found,
        cascade=cascade,
    )
    told = wants_json(output)
    found = manifests.load(filename) if filename else []

    async def work(session: "Session") -> int:
        if found:
            places = await changing.places_of(session, found)
        else:
            places = await changing.places_named(session, what or [], selector=selector, everything=everything)
        return await changing.delete(session, places, options)

    with_session(name, state, namespace, work, changes=told)


def logs(
    pod: Annotated[
        str, typer.Argument(metavar="POD | KIND/NAME", help="A pod, or what has pods.", autocompletion=completion.pods)
    ],
    namespace: Namespace = "",
    container: Container = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the container ends.")] = False,
    tail: Annotated[int, typer.Option(help="Lines from the end; all when negative.")] = -1,
    previous: Annotated[bool, typer.Option("-p", "--previous", help="Of the run before.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="When each line was written.")] = False,
    since: Annotated[str, typer.Option(help="Only what is newer, such as 30s or 5m.")] = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Print what a container has written."""
    from rayplane.control_plane.cli import containers

    options = containers.LogOptions(
        container=container,
        follow=follow,
        tail=tail,
        previous=previous,
        timestamps=timestamps,
        since_s=int(_seconds("--since", since)) if since else 0,
    )
    with_session(name, state, namespace, lambda s: containers.logs(s, pod, options))


def execute(
    pod: Annotated[
        str, typer.Argument(metavar="POD", help="A pod, or what has pods as KIND/NAME.", autocompletion=completion.pods)
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGUMENT..]", help="What to run.")],
    namespace: Namespace = "",
    container: Container = "",
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="In a terminal; goes with -i.")] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Run a command in a container; exits as the command does."""
    from rayplane.control_plane.cli import containers
    from rayplane.control_plane.cli.keyboard import typed

    if tty and not stdin:
        raise UsageError("-t goes with -i")

    async def work(session: "Session") -> int:
        with typed(terminal=tty) if stdin else contextlib.nullcontext() as source:
            return await containers.execute(session, pod, command, container=container, typed=source)

    with_session(name, state, namespace, work)


def scale(
    what: What,
    replicas: Annotated[int, typer.Option(min=0, help="How many.")],
    namespace: Namespace = "",
    output: Output = "",
    name: Name = "default",
    state: State = None,
) -> None:
    """Set how many replicas objects have."""
    from rayplane.control_plane.cli import changing

    told = wants_json(output)
    with_session(name, state, namespace, lambda s: changing.scale(s, what, replicas), changes=told)


def with_session(
    name: str,
    state: str | None,
    namespace: str,
    work: "Callable[[Session], Awaitable[int]]",
    *,
    changes: bool = False,
) -> None:
    """Run `work` on the cluster; exits with its code. `changes`: what it changed is told as JSON."""
    from rayplane.control_plane.cli.session import session

    directory = state_dir(name, state)

    async def call() -> int:
        async with session(directory, namespace) as opened:
            if not changes:
                return await work(opened)
            done: list[dict[str, str]] = []
            try:
                return await work(replace(opened, changes=done))
            finally:  # also where it then failed: these are done
                tell({"changes": done}, "", as_json=True)

    code = run(call())
    if code:
        raise typer.Exit(code)


def _seconds(flag: str, text: str) -> float:
    try:
        return parse_span(text)
    except DurationError as e:
        raise UsageError(f"{flag}: {e}") from e
