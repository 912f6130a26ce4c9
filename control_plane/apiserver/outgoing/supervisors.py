"""Calls to the cluster's supervisors, of whom one answers: faults that it begins and ends, trials, views."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    InternalError,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
)
from rayplane.control_plane.client.api import api_error
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.rpc.errors import Code

GROUP, VERSION, FAULTS = "chaos.rayplane.io", "v1", "faults"
"""The resource that RBAC is asked about, which is stored nowhere."""
_TIMEOUT_S = 30.0
_READS = ("List", "Look", "Targets")
_ERRORS: dict[str, type[ApiError]] = {
    "INVALID_ARGUMENT": BadRequest,
    "FAILED_PRECONDITION": Conflict,
    "PERMISSION_DENIED": Forbidden,
    "RESOURCE_EXHAUSTED": TooManyRequests,
    "UNAVAILABLE": ServiceUnavailable,
    "CANCELLED": ServiceUnavailable,
    "DEADLINE_EXCEEDED": ServiceUnavailable,
}
_UNKNOWN = RpcError(Code.UNAVAILABLE, "this server knows no supervisor", unsent=True)
_NOTHING = ("", "", "")


class Supervisors:
    """The supervisors of one cluster. `addresses` tells host:port of each. Methods raise ApiError."""

    def __init__(self, network: Network, addresses: Callable[[], Sequence[str]]) -> None:
        self._network = network
        self._addresses = addresses

    async def ask(
        self, service: ServiceDescriptor, method: str, request: Message, *, of: tuple[str, str, str] = _NOTHING
    ) -> Any:
        """The answer of the first that hears the call. `of`: group, resource and name of what may not be there."""
        error = _UNKNOWN
        for address in self._addresses():
            stub = Stub(self._network.channel(address), service)
            try:
                return await getattr(stub, method)(request, timeout=_TIMEOUT_S)
            except RpcError as e:
                error = e
                if not e.unsent:
                    break
        raise refusal(error, of=of, reads=method in _READS) from error

    async def told(
        self, service: ServiceDescriptor, method: str, request: Message, *, of: tuple[str, str, str] = _NOTHING
    ) -> AsyncGenerator[Any, None]:
        """As `ask`, with all that the first one tells that hears the call."""
        error = _UNKNOWN
        for address in self._addresses():
            stub = Stub(self._network.channel(address), service)
            try:
                async with aclosing(getattr(stub, method)(request)) as told:
                    async for one in told:
                        yield one
                return
            except RpcError as e:
                error = e
                if not e.unsent:
                    break
        raise refusal(error, of=of, reads=method in _READS) from error


def refusal(error: RpcError, *, of: tuple[str, str, str] = _NOTHING, reads: bool = False) -> ApiError:
    """The API's error for a call of a supervisor that failed: unless it `reads`, it may have been carried out."""
    if error.details:
        return api_error(error)
    code, (group, resource, name) = error.code.name, of
    if code == "NOT_FOUND":
        return NotFound.of(resource, name, group=group)
    kind = _ERRORS.get(code, InternalError)
    if kind is not ServiceUnavailable:
        return kind(error.message, details={})
    unsure = "" if reads or error.unsent else " (it may have been done all the same)"
    return kind(f"the supervisor does not answer: {error.message}{unsure}", details={})
