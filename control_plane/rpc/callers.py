"""Callers and the methods they may call: judged from the caller's certificate before a handler runs.

    Service(descriptor, handler, callers=each(ADMINISTRATORS, "Add", "Remove") | each(EVERYONE, "Status"))

A method that is named nowhere may be called by nobody: its service is not even made.
"""

import math
from dataclasses import dataclass, field

import grpc

from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc.errors import RpcError


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller: taken from the client certificate's subject (CN is the user, each O is a group)."""

    user: str
    groups: tuple[str, ...] = ()
    not_after: float = field(default=math.inf, compare=False, repr=False)
    """When the certificate expires, in seconds since 1970: a connection may outlive it."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Those whose certificate names one of these users or groups.

    `everyone`: whoever the transport lets in, which with TLS is who shows a certificate of the cluster's authority. For
    handlers that judge their callers themselves, and for what is no secret.
    """

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    everyone: bool = False

    @staticmethod
    def of(*, users: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> "Callers":
        return Callers(frozenset(users), frozenset(groups))

    def refusal(self, identity: Identity | None, path: str) -> RpcError | None:
        """Why this caller may not call the method at `path`: UNAUTHENTICATED or PERMISSION_DENIED; None if it may."""
        if self.everyone:
            return None
        # A certificate without a name is nobody's, whatever its groups.
        if identity is None or not identity.user:
            return RpcError(grpc.StatusCode.UNAUTHENTICATED, f"{path} needs a client certificate that names a user")
        if identity.user in self.users or not self.groups.isdisjoint(identity.groups):
            return None
        return RpcError(grpc.StatusCode.PERMISSION_DENIED, f"{identity.user} may not call {path}: only {self} may")

    def __str__(self) -> str:
        names = [f"group {g}" for g in sorted(self.groups)] + [f"user {u}" for u in sorted(self.users)]
        return "everyone who can connect" if self.everyone else ", ".join(names) or "nobody"


EVERYONE = Callers(everyone=True)
ADMINISTRATORS = Callers.of(groups=(MASTERS,))


def each(callers: Callers, *methods: str) -> dict[str, Callers]:
    """The same callers for each of these methods."""
    return dict.fromkeys(methods, callers)
