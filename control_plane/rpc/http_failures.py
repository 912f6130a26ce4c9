"""Failures of calls over HTTP, in the words of Go's client, which users know from Kubernetes."""

import os
import socket

import aiohttp
from aiohttp.http import HttpProcessingError


def reason(failure: Exception) -> str:
    """What to tell of a call that got no answer."""
    match failure:
        case TimeoutError():
            return "context deadline exceeded"
        case aiohttp.ClientConnectorCertificateError():
            return f"tls: failed to verify certificate: {failure.certificate_error}"
        case aiohttp.ClientSSLError():
            return f"tls: {failure.os_error.strerror or failure.os_error}"
        case aiohttp.ClientConnectorError():
            return not_connected(failure.host, failure.port, failure.os_error)
        case aiohttp.ServerDisconnectedError():
            return "EOF"
        case aiohttp.ClientResponseError() if isinstance(failure.__cause__, HttpProcessingError):
            what = failure.message.splitlines()[0].rstrip(":") if failure.message else ""
            return f"malformed HTTP response: {what}"
    return str(failure) or type(failure).__name__


def not_connected(host: str, port: int | None, error: OSError) -> str:
    """What to tell of a connection that did not come about."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    # The event loop puts the address into the words.
    why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
    return f"dial tcp {host}:{port}: connect: {why.lower()}"
