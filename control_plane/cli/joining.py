"""Commands on nodes that join: token, join."""

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.control_plane.cli.options import Name, Output, State, progress, run, state_dir, wants_json
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.join.options import HASH, TOKEN, UNSAFE
from rayplane.control_plane.durations import DurationError, human_duration, parse_span

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.join import tokens

token = typer.Typer(help="Tokens with which machines join.")


def register(app: typer.Typer) -> None:
    app.command()(join)
    app.add_typer(token, name="token")


@token.command()
def create(
    text: Annotated[str, typer.Argument(metavar="[TOKEN]", help="ID.SECRET; a new one by default.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it is good; 0: for ever.")] = "24h",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    print_join_command: Annotated[
        bool, typer.Option("--print-join-command", help="Print all that a machine needs to join.")
    ] = False,
    name: Name = "default",
    state: State = None,
) -> None:
    """Make a token with which machines join as nodes, and let strangers read where the cluster is."""
    from rayplane.control_plane.cli.options import errors
    from rayplane.control_plane.cluster.join import tokens

    try:
        ttl_s = parse_span(ttl)
    except DurationError as e:
        raise UsageError(f"--ttl: {e}") from e
    made = text or tokens.new_token()

    async def work() -> str:
        async with access(state_dir(name, state)) as admin:
            await tokens.create(admin, made, admin.directory.clock, ttl_s=ttl_s, description=description)
            if print_join_command and tokens.is_local(admin):
                errors.print("this cluster listens on loopback addresses: only this machine can join")
            return tokens.join_command(admin, made) if print_join_command else made

    print(run(work()))


@token.command(name="list")
def show(output: Output = "", name: Name = "default", state: State = None) -> None:
    """Show the tokens there are."""
    from rayplane.control_plane.cli.options import console
    from rayplane.control_plane.cluster.join import tokens

    as_json = wants_json(output)

    async def work() -> "list[tokens.Listed]":
        async with access(state_dir(name, state)) as admin:
            return await tokens.listed(admin.api)

    found = run(work())
    if as_json:
        print(json.dumps([_described(one) for one in found], indent=2))
        return
    now = state_dir(name, state).clock.now()
    for one in found:
        own = one.token
        left = human_duration((own.expires - now).total_seconds()) if own.expires else "forever"
        console.print(f"{own.id}.{own.secret}  {left:>8}  {','.join(sorted(own.usages))}  {one.description}".rstrip())


def _described(one: "tokens.Listed") -> dict[str, Any]:
    own = one.token
    return {
        "token": f"{own.id}.{own.secret}",
        "expires": own.expires.isoformat() if own.expires is not None else None,
        "usages": sorted(own.usages),
        "groups": list(own.groups),
        "description": one.description,
    }


@token.command()
def delete(
    text: Annotated[str, typer.Argument(metavar="ID", help="The token, or its part before the point.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Delete a token: nobody joins with it any more. Nodes that did stay."""
    from rayplane.control_plane.cli.options import console
    from rayplane.control_plane.cluster.join import tokens

    async def work() -> str:
        async with access(state_dir(name, state)) as admin:
            return await tokens.delete(admin.api, text)

    console.print(f"token {run(work())} is deleted")


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the cluster's API.")],
    bearer: Annotated[str, typer.Option(TOKEN, help="Needed until there is a certificate.")] = "",
    pins: Annotated[
        list[str] | None, typer.Option(HASH, help="Of the cluster's authority: sha256:HEX; may be given again.")
    ] = None,
    unsafe: Annotated[bool, typer.Option(UNSAFE, help="Let the token alone say that it is the cluster.")] = False,
    node_name: Annotated[str, typer.Option(help="The node's name; the machine's by default.")] = "",
    node_ip: Annotated[
        str, typer.Option(help="This machine's address for others; the one from which it reaches the cluster.")
    ] = "",
    port: Annotated[int, typer.Option(help="Where the cluster reaches the node; any free one by default.")] = 0,
    runtime: Annotated[
        str, typer.Option(help="`process`, `simulated` or `cri:unix:///PATH`; the cluster's by default.")
    ] = "",
    cpu: Annotated[str, typer.Option(help="CPU of the node; the machine's by default.")] = "",
    memory: Annotated[str, typer.Option(help="Memory of the node; the machine's by default.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="All that it writes.  [default: ~/.rayplane-node/NODE]")] = None,
) -> None:
    """Make this machine a node of a cluster, until Ctrl-C or SIGTERM. It needs no Ray."""
    # Imported here: with it comes all that a node runs.
    from rayplane.control_plane.cluster.join.config import JoinConfig
    from rayplane.control_plane.cluster.join.node import join as run_node

    node = node_name or socket.gethostname().lower()
    config = JoinConfig(
        url=url,
        node=node,
        directory=(data_dir or Path.home() / ".rayplane-node" / node).absolute(),
        token=bearer,
        pins=tuple(pins or ()),
        unsafe=unsafe,
        address=node_ip,
        port=port,
        runtime=runtime,
        cpu=cpu,
        memory=memory,
    )
    with progress() as say:
        run(run_node(config, say))
