"""Stages of files, checked before a cluster is brought up and put into it then, and `stages`: what comes along."""

from collections.abc import Sequence
from typing import Annotated

import typer

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli.manifests import Manifest, ManifestError, load, parse
from rayplane.control_plane.cli.session import FIELD_MANAGER
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.stages.examples import MAKES, shipped


def register(app: typer.Typer) -> None:
    app.command(name="stages")(show)


def show(application: Annotated[str, typer.Argument(help="Empty: say which there are.")] = "") -> None:
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
    return [meta.annotations(one.object)[MAKES] for one in parse(text, "")]


def example(name: str) -> str:
    """The application whose Stages make an object of that name; empty where none do."""
    return next((application for application, text in shipped().items() if name in makes(text)), "")


def read(paths: Sequence[str]) -> list[Manifest]:
    """The objects of what comes along by that name, else of the files.

    Raises ManifestError that names document, field and line.
    """
    # Imported here since with it comes all that compiles expressions.
    from rayplane.control_plane.stages.definitions import errors_in, kinds
    from rayplane.control_plane.stages.stage import API_VERSION

    known = shipped()
    found: list[Manifest] = []
    for path in paths:
        found += parse(known[path], path) if path in known else load([path])
    for one in found:
        o = one.object
        if o["apiVersion"] != API_VERSION or o["kind"] not in kinds():
            raise ManifestError(f"{one.source}: {o['apiVersion']} {o['kind']}: use one of {', '.join(kinds())}")
        try:
            errors = errors_in(o)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise ManifestError(f"{one.source}: {o['kind']} {meta.name(o)} cannot be read: {e}") from e
        if errors:
            text = "; ".join(map(str, errors))
            raise ManifestError(f"{one.source}: {o['kind']} {meta.name(o)}: {text}")
    return found


async def put(directory: StateDir, manifests: Sequence[Manifest]) -> None:
    """Apply the objects to the cluster. Raises ClusterError."""
    from rayplane.control_plane.stages.definitions import resource
    from rayplane.control_plane.stages.stage import STAGE

    if not manifests:
        return
    async with access(directory) as admin:
        for one in manifests:
            o, kind = one.object, one.object["kind"]
            if kind != STAGE and not kind.startswith("Cluster"):
                o = {**o, "metadata": {"namespace": "default", **o["metadata"]}}
            try:
                await admin.api.apply(resource(kind), o, field_manager=FIELD_MANAGER, force=True)
            except ApiError as e:
                raise ClusterError(f"{one.source}: {kind} {meta.name(o)}: {e.message}") from e
