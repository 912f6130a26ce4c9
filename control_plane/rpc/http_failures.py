"""Failures of calls over HTTP, in the words of Go's client, which users know from Kubernetes."""

import os

import aiohttp


def reason(failure: Exception) -> str:
    """What to tell of a call that got no answer."""
    match failure:
        case TimeoutError():
            return "context deadline exceeded"
        case aiohttp.ClientConnectorCertificateError():
            return f"tls: failed to verify certificate: {failure.certificate_error}"
        case aiohttp.ClientConnectorError():
            error = failure.os_error
            why = os.strerror(error.errno).lower() if error.errno is not None and error.errno > 0 else str(error)
            return f"dial tcp {failure.host}:{failure.port}: connect: {why}"
    return str(failure) or type(failure).__name__
