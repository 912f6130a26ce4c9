"""The command line with all of its commands loaded, for tests that look through them."""

from typing import Any

import typer.main

from rayplane.control_plane.cli.app import app


def whole() -> Any:
    """The group of all commands, with their parameters."""
    root: Any = typer.main.get_command(app)
    with root.make_context("rayplane", [], resilient_parsing=True) as ctx:
        root.commands = {name: root.load(ctx, name) for name in root.commands}
    return root
