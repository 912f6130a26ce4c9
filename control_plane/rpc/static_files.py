"""Files of a web page, served as they are, to be shown alone and to load nothing from elsewhere."""

import mimetypes
from importlib.resources.abc import Traversable

from aiohttp import web

HEADERS = {
    # xterm writes its own style sheets; nothing else is taken from anywhere but here.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer that a browser may get."""


def file_of(page: Traversable, name: str) -> web.Response | None:
    """The file of the page at a path below it, its index for "". None where there is none.

    A name leads nowhere else, as the names in each directory are looked up one by one.
    """
    found, name = page, name or "index.html"
    for part in name.split("/"):
        inside = {one.name: one for one in found.iterdir()} if found.is_dir() else {}
        if part not in inside:
            return None
        found = inside[part]
    if not found.is_file():
        return None
    kind, _ = mimetypes.guess_type(name)
    return web.Response(body=found.read_bytes(), headers=HEADERS | {"Content-Type": kind or "text/plain"})
