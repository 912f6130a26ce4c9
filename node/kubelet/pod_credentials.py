"""Credentials that files of one pod show: tokens of its account, certificates of its own.

They are renewed in time; while that fails the ones that it has stay, until they are over.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import MountError
from rayplane.node.kubelet.pod_certificates import Certificate
from rayplane.node.kubelet.token_manager import Token
from rayplane.node.volumes.projected import (
    CertifiedKey,
    TokenWanted,
    certificates_wanted,
    mount_failed,
    tokens_wanted,
)

log = logging.getLogger(__name__)

RENEW_AGAIN_S = 60.0
"""What cannot be renewed is tried again after this long, as a kubelet looks at a pod's volumes every minute."""


class Tokens(Protocol):
    """A source that gets tokens for pods."""

    async def fetch(self, pod: Object, *, audience: str, seconds: int) -> Token:
        """Return a token of the pod's account. Raises ApiError."""


class Certificates(Protocol):
    """A source that gets certificates for pods."""

    async def fetch(self, pod: Object, volume: str, number: int, source: dict[str, Any]) -> Certificate:
        """Return a certificate of the pod's own. Raises ApiError, MountError."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A credential that files show, with moments of the loop's time."""

    value: str | CertifiedKey
    renewed_at: float
    ends_at: float


_Wanted = TokenWanted | tuple[str, int]


class PodCredentials:
    """The credentials of one pod."""

    __slots__ = ("_certificates", "_held", "_tokens")

    def __init__(self, tokens: Tokens, certificates: Certificates) -> None:
        self._tokens, self._certificates = tokens, certificates
        self._held: dict[_Wanted, _Held] = {}

    @property
    def due(self) -> float | None:
        """When the next is to be renewed, in the loop's time."""
        return min((held.renewed_at for held in self._held.values()), default=None)

    @property
    def tokens(self) -> dict[TokenWanted, str]:
        return {w: h.value for w, h in self._held.items() if isinstance(w, TokenWanted) and isinstance(h.value, str)}

    @property
    def certificates(self) -> dict[tuple[str, int], CertifiedKey]:
        """By the volume and the number of the source there."""
        held = self._held.items()
        return {w: h.value for w, h in held if isinstance(w, tuple) and isinstance(h.value, CertifiedKey)}

    async def fetch(self, pod: Object, volume: dict[str, Any]) -> None:
        """Have all that the volume shows. Raises MountError where one is missing, or is over."""
        for wanted in tokens_wanted(volume):
            if self._is_due(wanted):
                got = self._token(pod, wanted)
                await self._renew(pod, volume["name"], wanted, got, "token")
        for number, source in certificates_wanted(volume):
            own = (volume["name"], number)
            if self._is_due(own):
                await self._renew(pod, volume["name"], own, self._certificate(pod, own, source), "certificate")

    def _is_due(self, wanted: _Wanted) -> bool:
        held = self._held.get(wanted)
        return held is None or asyncio.get_running_loop().time() >= held.renewed_at

    async def _token(self, pod: Object, wanted: TokenWanted) -> tuple[str | CertifiedKey, float, float]:
        token = await self._tokens.fetch(pod, audience=wanted.audience, seconds=wanted.seconds)
        return token.text, token.renew_s, token.seconds

    async def _certificate(
        self, pod: Object, own: tuple[str, int], source: dict[str, Any]
    ) -> tuple[str | CertifiedKey, float, float]:
        found = await self._certificates.fetch(pod, *own, source)
        return found.certified, found.renew_s, found.seconds

    async def _renew(
        self, pod: Object, volume: str, wanted: _Wanted, getting: Awaitable[tuple[Any, float, float]], what: str
    ) -> None:
        held, now = self._held.get(wanted), asyncio.get_running_loop().time()
        try:
            value, renew_s, seconds = await getting
        except (ApiError, MountError) as e:
            why = e.message if isinstance(e, ApiError) else str(e)
            if held is None:
                raise mount_failed(volume, f"failed to fetch {what}: {why}") from e
            self._held[wanted] = replace(held, renewed_at=now + RENEW_AGAIN_S)
            if now >= held.ends_at:
                raise mount_failed(volume, f"{what} expired and refresh failed: {why}") from e
            log.warning("a %s of pod %s cannot be renewed: %s", what, meta.key(pod), why)
        else:
            self._held[wanted] = _Held(value, now + renew_s, now + seconds)
