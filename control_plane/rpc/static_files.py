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


class Page:
    """The files below a folder, each read once."""

    def __init__(self, folder: Traversable) -> None:
        self._folder = folder
        self._read: dict[str, tuple[bytes, str]] = {}

    def file(self, name: str) -> web.Response | None:
        """The one at a path below the folder, its index for "". None where there is none."""
        name = name or "index.html"
        if name not in self._read:
            if (found := self._found(name)) is None:
                return None
            self._read[name] = found.read_bytes(), mimetypes.guess_type(name)[0] or "text/plain"
        body, kind = self._read[name]
        return web.Response(body=body, headers=HEADERS | {"Content-Type": kind})

    def _found(self, name: str) -> Traversable | None:
        """A name leads nowhere else, as the names in each directory are looked up one by one."""
        found = self._folder
        for part in name.split("/"):
            inside = {one.name: one for one in found.iterdir()} if found.is_dir() else {}
            if part not in inside:
                return None
            found = inside[part]
        return found if found.is_file() else None
