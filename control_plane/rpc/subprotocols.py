"""Subprotocols that a WebSocket's client offers, and the bearer token that a browser shows among them.

A browser sets no header of a WebSocket but this one, so Kubernetes' API servers take a token there as well
(`k8s.io/apiserver`, `authentication/request/websocket`): one offer of a known prefix and the token in base64url.
"""

import base64
import binascii

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

_BEARER = "base64url.bearer.authorization.k8s.io."
_OFFERS = "Sec-WebSocket-Protocol"

Headers = CIMultiDict[str] | CIMultiDictProxy[str]


class BadToken(ValueError):
    """An offer that looks like a token and is none. Its text says why, and nothing of the token."""


def offered(headers: Headers) -> list[str]:
    """The subprotocols that a request's headers offer, the client's favourite first."""
    return [one.strip() for line in headers.getall(_OFFERS, ()) for one in line.split(",") if one.strip()]


def of_any_name(headers: Headers) -> tuple[str, ...]:
    """Whatever a client calls what it speaks, for a socket that knows one way only."""
    return tuple(_parted(headers)[0])


def bearer_token(request: web.BaseRequest) -> str:
    """The token that a WebSocket's client offers as a subprotocol, "" without one. Raises BadToken."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return ""
    others, shown = _parted(request.headers)
    if not shown:
        return ""
    if len(shown) > 1:
        raise BadToken("several bearer tokens among the subprotocols: show one")
    if not others:
        # A browser ends a connection of which no offered protocol was chosen, and the token never is.
        raise BadToken("a bearer token among the subprotocols needs another subprotocol beside it")
    encoded = shown[0].removeprefix(_BEARER)
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars="-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as e:
        raise BadToken("the bearer token among the subprotocols is not base64url") from e


def drop_token(headers: CIMultiDict[str]) -> None:
    """Take the token out of what is handed on: whom it was for has read it."""
    others, shown = _parted(headers)
    if shown:
        headers.popall(_OFFERS)
        headers[_OFFERS] = ", ".join(others)


def _parted(headers: Headers) -> tuple[list[str], list[str]]:
    """Subprotocols, and tokens among them."""
    all_ = offered(headers)
    return [one for one in all_ if not one.startswith(_BEARER)], [one for one in all_ if one.startswith(_BEARER)]
