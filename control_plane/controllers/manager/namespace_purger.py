"""The outside part of deleting a namespace: its content, found by live lists.

Caches may lag and do not cover every resource, so the API server is asked; one instance remembers between rounds which
resources were not empty yet.
"""

from __future__ import annotations

import contextlib

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, MethodNotAllowed, NotFound
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.controllers.core import Action, PurgeNamespace, Write
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.namespace import FINALIZER

BATCH = 200
RETRY_S = 0.25
_CRDS = "customresourcedefinitions.apiextensions.k8s.io"


class NamespacePurger:
    """The outside part: finds content by live lists, since caches may lag and do not cover every resource."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._remaining: dict[str, list[str]] = {}

    async def purge(self, action: Action) -> list[Write]:
        """Delete what is there; raises ActionFailed (come again) until nothing is left."""
        assert isinstance(action, PurgeNamespace)
        namespace, uid = action.namespace, meta.uid(action.namespace)
        # Only what was not empty is asked again; when that is, a last round over everything must find nothing.
        resources = self._remaining.pop(uid, None)
        last_round = resources is None
        resources = await self._resources() if resources is None else resources
        left = [r for r in resources if await self._purge_resource(r, meta.name(namespace))]
        if left:
            self._remaining[uid] = left
        if left or not last_round:
            text = f"{meta.name(namespace)} still has {', '.join(left) or 'to be looked through'}"
            raise ActionFailed(text, retry_s=RETRY_S if left else 0.0)
        finalized = meta.copy_for_write(namespace)
        kept = [f for f in meta.spec(namespace).get("finalizers") or () if f != FINALIZER]
        finalized.setdefault("spec", {})["finalizers"] = kept
        with contextlib.suppress(NotFound):
            await self._client.update("namespaces", finalized, subresource="finalize")
        return []

    async def _resources(self) -> list[str]:
        """Every stored namespaced resource, events last (deletions make some)."""
        built_in = [i.name for i in builtin_registry().stored() if i.namespaced]
        custom = [
            f"{meta.spec(crd)['names']['plural']}.{meta.spec(crd)['group']}"
            for crd in (await self._client.list(_CRDS)).items
            if meta.spec(crd).get("scope") == "Namespaced"
        ]
        found = dict.fromkeys([*built_in, *custom])
        return sorted(found, key=lambda resource: resource.startswith("events"))

    async def _purge_resource(self, resource: str, namespace: str) -> int:
        """Delete all objects of one resource; how many there were."""
        try:
            items = (await self._client.list(resource, namespace)).items
        except (NotFound, MethodNotAllowed):
            return 0  # not served (any more)
        doomed = [o for o in items if not meta.is_deleting(o)]
        for start in range(0, len(doomed), BATCH):
            answers = await self._client.batch(
                [
                    ops.delete(resource, meta.name(o), namespace, uid=meta.uid(o), propagation="Background")
                    for o in doomed[start : start + BATCH]
                ]
            )
            failed = [a for a in answers if isinstance(a, ApiError) and not isinstance(a, NotFound)]
            if failed:
                raise ActionFailed(f"cannot delete {resource} in {namespace}: {failed[0].message}", retry_s=1.0)
        return len(items)
