"""Tokens of service accounts, bound to the pods that mount them (authentication.k8s.io/v1 TokenRequest).

Source: kubelet's pkg/kubelet/token, for when a token is renewed.
"""

import random
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient

DAY_S = 24 * 3600.0
JITTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and how long it is good from when it was got."""

    text: str
    seconds: float
    renew_s: float
    """After so long it is to be renewed."""


class TokenManager:
    """A manager that asks the API for tokens."""

    def __init__(self, client: ApiClient, rng: random.Random) -> None:
        self._client = client
        self._rng = rng

    async def fetch(self, pod: Object, *, audience: str, seconds: int) -> Token:
        """A token of the pod's account. `audience` empty: the API's own. Raises ApiError."""
        account = pod["spec"].get("serviceAccountName") or "default"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta.name(pod), "uid": meta.uid(pod)}
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": meta.namespace(pod)},
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": bound,
            },
        }
        answer = await self._client.create("serviceaccounts", request, subresource="token")
        # The API may give less than it was asked for.
        given = float(meta.spec(answer).get("expirationSeconds") or seconds)
        return Token(str(meta.status(answer).get("token") or ""), given, renewal_s(given, self._rng.random()))


def renewal_s(seconds: float, chance: float) -> float:
    """After how long a token that is good for `seconds` is renewed: four fifths of that or a day, and a little earlier,
    so that not all come at once. `chance`: from 0 up to 1.
    """
    return max(0.0, min(seconds * 0.8, DAY_S) - chance * JITTER_S)
