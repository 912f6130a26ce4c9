"""Stages that come along: what programs of others' applications make while they start, for pods that run none.

Owns a file for each application, by its name; the annotation MAKES of each Stage names the Secret or ConfigMap.
Does not own how stages are played, nor who puts them into a cluster.
"""

from importlib.resources import files

MAKES = "rayplane.io/makes"
_SUFFIX = ".yaml"


def shipped() -> dict[str, bytes]:
    """The files by the names of their applications."""
    found = {one.name: one for one in files(__name__).iterdir() if one.name.endswith(_SUFFIX)}
    return {name.removesuffix(_SUFFIX): found[name].read_bytes() for name in sorted(found)}
