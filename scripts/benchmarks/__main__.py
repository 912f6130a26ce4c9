"""The command line of `scripts/bench`."""

import sys

import typer

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli.interrupts import EXIT_INTERRUPTED, heed
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.rpc import RpcError
from scripts.benchmarks.api import api
from scripts.benchmarks.chaos import chaos
from scripts.benchmarks.controllers import controllers
from scripts.benchmarks.endurance import endurance
from scripts.benchmarks.kv import kv
from scripts.benchmarks.nodes import nodes
from scripts.benchmarks.pods import pods
from scripts.benchmarks.scheduler import scheduler
from scripts.benchmarks.soak import soak
from scripts.benchmarks.up import up
from scripts.benchmarks.watch import watch

app = typer.Typer(
    name="bench",
    help="Measure rayplane. Every subcommand brings up clusters of its own and takes them down.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (up, pods, nodes, scheduler, kv, api, chaos, watch, endurance, soak, controllers):
    app.command()(command)


def main() -> None:
    """Run the command of sys.argv; what goes wrong with a cluster is one line, what ends it ends the cluster."""
    heed()
    try:
        app()
    except (ClusterError, ApiError, RpcError) as e:
        sys.exit(f"bench: {' '.join(str(e).split())}")
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
