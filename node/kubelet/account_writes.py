"""Writes in the name of a pod's service account: what a stage makes is what the pod's own program could make.

The node gets a token for the account, as for any pod that it runs, and is given nothing more by it than what the
cluster's roles give the account; with nothing granted, nothing is made.
"""

import asyncio

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Forbidden
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.stages.effects import ChangeObject, MakeObject
from rayplane.node.kubelet.pod_credentials import Tokens

MANAGER = "rayplane-stages"
TRIES_MAX = 5
TOKEN_S = 600
_PAUSES = Backoff(0.5, 8.0)


class AccountWrites:
    """A writer for the pods of a host. Methods raise ApiError."""

    def __init__(self, client: ApiClient, tokens: Tokens) -> None:
        self._client = client
        self._tokens = tokens

    async def carry_out(self, pod: Object, effect: ChangeObject | MakeObject) -> None:
        """Try as often as it may help, within bounds."""
        failures = 0
        while True:
            try:
                await self._once(pod, effect)
                return
            except ApiError as e:
                failures += 1
                if not e.retryable or failures >= TRIES_MAX:
                    raise
                await asyncio.sleep(_PAUSES.pause_s(failures))

    async def _once(self, pod: Object, effect: ChangeObject | MakeObject) -> None:
        token = await self._tokens.fetch(pod, audience="", seconds=TOKEN_S)
        client = self._client.bearing(token.text)
        if isinstance(effect, ChangeObject):
            await client.patch("pods", meta.name(pod), meta.namespace(pod), effect.body, kind=effect.type)
            return
        made = effect.object
        resource, namespaced = _resource(made)
        if not namespaced:
            made = {**made, "metadata": {k: v for k, v in made["metadata"].items() if k != "namespace"}}
        if effect.type == "apply":
            # Accounts of set-up programs may often create, and no more: what is there then is well.
            there = False
            if not effect.subresource:
                try:
                    await client.create(resource, made)
                    return
                except AlreadyExists:
                    there = True
            try:
                await client.apply(resource, made, subresource=effect.subresource, field_manager=MANAGER, force=True)
            except Forbidden:
                if not there:
                    raise
            return
        place, name = meta.namespace(made), meta.name(made)
        await client.patch(
            resource, name, place, made, kind=effect.type, subresource=effect.subresource, field_manager=MANAGER
        )


def _resource(o: Object) -> tuple[str, bool]:
    """The resource of an object, and whether it is in a namespace; of a kind that users brought, by its regular name
    and where the object says.
    """
    version, kind = o["apiVersion"], o["kind"]
    info = builtin_registry().by_kind(version, kind)
    if info is not None:
        return info.name, info.namespaced
    group, _, _ = version.rpartition("/")
    plural = kind.lower() + ("es" if kind.endswith(("s", "x", "ch", "sh")) else "s")
    if plural.endswith("ys"):
        plural = plural[:-2] + "ies"
    return (f"{plural}.{group}" if group else plural), True
