"""Tokens of service accounts, bound to the pods that mount them (authentication.k8s.io/v1 TokenRequest)."""

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient


class TokenManager:
    """A manager that asks the API for tokens."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def fetch(self, pod: Object, *, audience: str, seconds: int) -> str:
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
        return str(meta.status(answer).get("token") or "")
