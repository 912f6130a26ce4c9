"""Requests that two servers could read in two ways, or that mean no resource: the ingress refuses them. Pure.

What is no HTTP at all (chunks that are none, names of headers that are none) its server has refused before.
Source: RFC 9112, sections 3.2, 6.1 and 6.3; RFC 3986, section 5.2.4.
"""

import re
from collections.abc import Sequence

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def fault(target: str, path: str, hosts: Sequence[str], lengths: Sequence[str], codings: Sequence[str]) -> str:
    """Why a request is refused; empty for one that is in order.

    `target`: as it stands in the request; `path`: decoded; `hosts`, `lengths`, `codings`: the values of Host,
    Content-Length and Transfer-Encoding.
    """
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return "a request has one Host header, which names a host"
    if not target.startswith("/"):
        return "the target of a request is a path"
    if any(part in (".", "..") for part in path.split("/")):
        return "a path has no dot segments"
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in path):
        return "a path has no control characters"
    if codings and lengths:
        return "a body has a length or comes in chunks"
    if codings and [one.strip().lower() for one in codings] != ["chunked"]:
        return "a body comes in chunks, or has a length"
    if len(lengths) > 1 or (lengths and not (lengths[0].isascii() and lengths[0].isdecimal())):
        return "a body has one length"
    return ""
