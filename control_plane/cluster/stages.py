"""Stages of files: read and checked before a cluster is brought up, and put into it then."""

from collections.abc import Sequence

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.manifests import FIELD_MANAGER, Manifest, ManifestError, load, parse
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.stages.examples import shipped


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
