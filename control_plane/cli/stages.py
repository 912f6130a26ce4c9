"""The command `stages`: Stages that come along."""

from typing import Annotated

import typer

from rayplane.control_plane.api import meta
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.stages.examples import MAKES, shipped


def _begun(incomplete: str) -> list[str]:
    return sorted(name for name in shipped() if name.startswith(incomplete))


def register(app: typer.Typer) -> None:
    app.command(name="stages")(show)


def show(
    application: Annotated[
        str,
        typer.Argument(
            help="Empty: say which there are.",
            autocompletion=_begun,
        ),
    ] = "",
) -> None:
    """Print Stages that come along, for `kubectl apply -f -`: they make what programs of an application would, which
    simulated pods do not run.
    """
    found = shipped()
    if not application:
        for name, text in found.items():
            print(f"{name}: {', '.join(makes(text))}")
        return
    if application not in found:
        raise UsageError(f"no Stages of {application!r} come along; use one of {', '.join(found)}")
    print(found[application].decode(), end="")


def makes(text: bytes) -> list[str]:
    """The names of the objects that Stages of a file make."""
    from rayplane.control_plane.cluster.manifests import parse

    return [meta.annotations(one.object)[MAKES] for one in parse(text, "")]


def example(name: str) -> str:
    """The application whose Stages make an object of that name; empty where none do."""
    return next((application for application, text in shipped().items() if name in makes(text)), "")
