"""Failures of calls over HTTP, in the words of Go's client, which users know from Kubernetes."""

import os

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
            error = failure.os_error
            why = os.strerror(error.errno).lower() if error.errno is not None and error.errno > 0 else str(error)
            return f"dial tcp {failure.host}:{failure.port}: connect: {why}"
        case aiohttp.ServerDisconnectedError():
            return "EOF"
        case aiohttp.ClientResponseError() if isinstance(failure.__cause__, HttpProcessingError):
            what = failure.message.splitlines()[0].rstrip(":") if failure.message else ""
            return f"malformed HTTP response: {what}"
    return str(failure) or type(failure).__name__
