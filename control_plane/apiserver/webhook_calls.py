"""Calls of webhooks, as those who ask see them."""

from __future__ import annotations

from typing import Any, Protocol


class CallFailed(Exception):
    """A webhook that was not reached, or did not answer with a success; it says why."""


class Caller(Protocol):
    """A way to webhooks."""

    async def post(self, client: dict[str, Any], body: bytes, timeout_s: float) -> bytes:
        """The answer of the one at `client` (a WebhookClientConfig). Raises CallFailed."""
