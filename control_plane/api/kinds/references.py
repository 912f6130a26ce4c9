"""References to those who answer for something: paths below a domain."""

from __future__ import annotations

import re
from typing import Final

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.machinery import names

_PATH_TEXT: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_PATH: Final = re.compile(_PATH_TEXT)


def domain_prefixed_path(value: str, path: str, errs: Errors) -> None:
    """A path below a domain, such as `acme.io/foo`."""
    if not value:
        errs.append(required(path))
        return
    host, _, rest = value.partition("/")
    if not host or not rest:
        errs.append(invalid(path, value, 'must be a domain-prefixed path (such as "acme.io/foo")'))
        return
    checked(names.subdomain_errors(host), host, path, errs)
    if not _PATH.fullmatch(rest):
        errs.append(invalid(path, rest, f"Invalid path (regex used for validation is '{_PATH_TEXT}')"))
