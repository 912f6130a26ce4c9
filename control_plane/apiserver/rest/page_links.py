"""Links of HTML pages that are shown below another path than their server knows of.

Source: apimachinery, pkg/util/proxy/transport.go, which attributes have addresses; HTML Living Standard, 13.1.2.
"""

from collections.abc import Callable
from typing import Any

import re2

_ATTRIBUTES = (
    "action background cite classid codebase data formaction href icon longdesc manifest poster profile src usemap"
)
# Of linear time, whatever a page holds. The second group is a tag that goes on after the end.
_INSIDE = rb"""[A-Za-z](?:[^<>"']|"[^"]*"|'[^']*')*"""
_TAG = re2.compile(rb"""(<%s>)|(<(?:%s(?:"[^"]*|'[^']*)?)?\z)""" % (_INSIDE, _INSIDE))
_ADDRESS = re2.compile(
    rb"""(?i)([\s"'/](?:%s)\s*=\s*)(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""" % b"|".join(_ATTRIBUTES.encode().split())
)
TAG_MAX = 8 * 1024
"""Bytes of a tag that is waited for."""


class PageLinks:
    """The bytes of a page in parts, with each address of a tag's attributes changed by `located`."""

    def __init__(self, located: Callable[[str], str]) -> None:
        self._located = located
        self._held = b""
        """What begins a tag whose end has not come."""

    def feed(self, part: bytes) -> bytes:
        """What of the page can be handed on now."""
        text, self._held = self._held + part, b""
        return bytes(_TAG.sub(self._tag, text))

    def end(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held

    def _tag(self, found: Any) -> bytes:
        tag = found.group(0)
        if found.group(1) is not None:
            return bytes(_ADDRESS.sub(self._address, tag))
        if len(tag) > TAG_MAX:
            return bytes(tag)
        self._held = tag
        return b""

    def _address(self, found: Any) -> bytes:
        which = next(n for n in (2, 3, 4) if found.group(n) is not None)
        at = found.start(which) - found.start()
        whole, was = found.group(0), found.group(which)
        # A byte that is no character stays what it is.
        now = self._located(was.decode("latin-1")).encode("latin-1")
        return bytes(whole[:at] + now + whole[at + len(was) :])
