"""The error of a call, the same on both sides of the wire."""

import grpc

Code = grpc.StatusCode


class RpcError(Exception):
    """A call failed. Handlers raise it; stubs raise it again with the same code, message and details.

    `details` is free bytes for the service's own use, `google_status` a serialized google.rpc.Status that tells the
    same to libraries of gRPC; both travel as trailing metadata, where they must be short.
    `refused` and `unsent` are the caller's network's own findings, and do not travel. Refused: nothing listens at the
    address, so the process is gone, not merely slow or cut off. Unsent: no handler has seen the call nor ever will.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        details: bytes = b"",
        *,
        google_status: bytes = b"",
        refused: bool = False,
        unsent: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.google_status = google_status
        self.refused = refused
        self.unsent = unsent or refused

    @property
    def retryable(self) -> bool:
        """Whether another replica, or this one a little later, may answer."""
        return self.code is grpc.StatusCode.UNAVAILABLE

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def error_of(exception: Exception) -> RpcError:
    """The RpcError that tells a caller of `exception`.

    Exceptions of the layers below may name their gRPC code in a `code` attribute (a string); anything else is
    INTERNAL, with its type so that a reader of the log can find it.
    """
    if isinstance(exception, RpcError):
        return exception
    name = getattr(exception, "code", None)
    if isinstance(name, str) and hasattr(grpc.StatusCode, name):
        return RpcError(grpc.StatusCode[name], str(exception))
    return RpcError(grpc.StatusCode.INTERNAL, f"{type(exception).__name__}: {exception}")


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in words."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset by peer"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
