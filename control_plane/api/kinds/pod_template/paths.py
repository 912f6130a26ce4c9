"""Paths in pods that stay below where they begin."""

from __future__ import annotations

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors


def validate_no_backsteps(where: str, path: str, errs: Errors) -> None:
    if ".." in where and ".." in where.split("/"):
        errs.append(invalid(path, where, "must not contain '..'"))


def validate_local_path(where: str, path: str, errs: Errors) -> None:
    """A relative path that does not climb."""
    if where.startswith("/"):
        errs.append(invalid(path, where, "must be a relative path"))
    validate_no_backsteps(where, path, errs)


def validate_own_path(where: str, path: str, errs: Errors) -> None:
    """A relative path of a file in a volume: names that begin with two dots are the volume's own."""
    validate_local_path(where, path, errs)
    if where.startswith("..") and not where.startswith("../"):
        errs.append(invalid(path, where, "must not start with '..'"))
