"""A custom resource for tests of what a registry can learn at run time."""

from __future__ import annotations

from rayplane.control_plane.api.machinery.resources import ResourceInfo


def custom(version: str = "v1", plural: str = "foos", kind: str = "Foo") -> ResourceInfo:
    return ResourceInfo(
        group="example.com",
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        namespaced=True,
        verbs=("get", "list"),
        definition="",
        storage_prefix=f"/registry/example.com/{plural}/",
        stored_api_version="example.com/v1",
        short_names=("fo",),
        custom=True,
        list_kind=f"{kind}List",
    )
