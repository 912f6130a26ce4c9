"""The outside part of deleting a namespace: its content, found by live lists. Nothing goes before all pods have gone.

Caches may lag and do not cover every resource, so the API server is asked; one instance remembers between rounds which
resources were not empty yet. Source of the order: Kubernetes KEP-5080 (ordered namespace deletion).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict, MethodNotAllowed, NotFound
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS, form_as_stored
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ops
from rayplane.control_plane.controllers.actions import Action, PurgeNamespace, Write
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.namespace import FINALIZER, Remains, conditions_of

PODS = "pods"
BATCH = 200
RETRY_S = 0.25
"""How soon a namespace is looked through again, when its end has just begun."""
RETRY_MAX_S = 5.0
"""The same for one that has been ending for long; in between a tenth of that time."""
_CANNOT_BE_SHOWN = 500


class NamespacePurger:
    """The outside part: finds content by live lists, since caches may lag and do not cover every resource."""

    def __init__(self, client: ApiClient, now: Callable[[], datetime]) -> None:
        """`now`: the wall clock."""
        self._client, self._now = client, now
        self._remaining: dict[str, dict[str, str]] = {}

    async def purge(self, action: Action) -> list[Write]:
        """Delete what is there; raises ActionFailed (come again) until nothing is left."""
        assert isinstance(action, PurgeNamespace)
        namespace, uid = action.namespace, meta.uid(action.namespace)
        # Only what was not empty is asked again; when that is, a last round over everything must find nothing.
        resources = self._remaining.pop(uid, None)
        last_round = resources is None
        if resources is None:
            try:
                resources = await self._resources()
            except ApiError as e:
                await self._tell(namespace, Remains(undiscovered=e.message))
                raise
        remains = Remains()
        left = {}
        for resource, form in resources.items():
            if await self._purge_resource(resource, form, meta.name(namespace), remains):
                left[resource] = form
            if PODS in left:
                break  # what protects pods, or what they use, must not go before them
        elsewhere = [] if PODS in left else await self._purge_aggregated(meta.name(namespace), remains)
        namespace = await self._tell(namespace, remains)
        if left:
            self._remaining[uid] = left
        if remains.failures or remains.undiscovered:
            raise ActionFailed((remains.failures or [remains.undiscovered])[0], retry_s=1.0)
        if left or elsewhere or not last_round:
            text = f"{meta.name(namespace)} still has {', '.join([*left, *elsewhere]) or 'to be looked through'}"
            raise ActionFailed(text, retry_s=self._patience(namespace) if left or elsewhere else 0.0)
        finalized = meta.copy_for_write(namespace)
        kept = [f for f in meta.spec(namespace).get("finalizers") or () if f != FINALIZER]
        finalized.setdefault("spec", {})["finalizers"] = kept
        with contextlib.suppress(NotFound):
            await self._client.update("namespaces", finalized, subresource="finalize")
        return []

    def _patience(self, namespace: Object) -> float:
        now = self._now()
        began = meta.metadata(namespace).get("deletionTimestamp")
        ending_s = (now - (meta.parse_time(began) if began else now)).total_seconds()
        return min(max(RETRY_S, ending_s / 10), RETRY_MAX_S)

    async def _resources(self) -> dict[str, str]:
        """Every stored namespaced resource and the form to ask for: pods first, events last (deletions make some)."""
        found = {i.name: i.name for i in builtin_registry().stored() if i.namespaced}
        for crd in (await self._client.list(CRDS)).items:
            if meta.spec(crd).get("scope") == "Namespaced":
                found[meta.name(crd)] = form_as_stored(crd)
        return dict(sorted(found.items(), key=lambda named: (named[0] != PODS, named[0].startswith("events"))))

    async def _tell(self, namespace: Object, remains: Remains) -> Object:
        """Store why the namespace is still there, where it is for long enough to be asked; the namespace as stored."""
        status = meta.status(namespace)
        if not remains and not status.get("conditions"):
            return namespace
        conditions = conditions_of(namespace, remains, self._now())
        if conditions == status.get("conditions"):
            return namespace
        told = {**meta.copy_for_write(namespace), "status": {**status, "conditions": conditions}}
        try:
            return await self._client.update("namespaces", told, subresource="status")
        except (Conflict, NotFound):
            return namespace  # the next round sees what is stored

    async def _purge_aggregated(self, namespace: str, remains: Remains) -> list[str]:
        """Delete all objects that servers of aggregated APIs keep; of which resources there were any."""
        try:
            found = await self._client.purge_aggregated(namespace)
        except ApiError as e:
            remains.failures.append(e.message)
            return []
        remains.counts.update(found.deleting)
        remains.finalizers.update(found.finalizers)
        remains.failures += found.failures
        if found.stale:
            stale = ", ".join(f"{one}: stale GroupVersion discovery: {one}" for one in found.stale)
            remains.undiscovered = f"unable to retrieve the complete list of server APIs: {stale}"
        return sorted(found.objects)

    async def _purge_resource(self, resource: str, form: str, namespace: str, remains: Remains) -> int:
        """Delete all objects of one resource; how many there were."""
        try:
            items = (await self._client.list(form, namespace)).items
        except (NotFound, MethodNotAllowed):
            return 0  # not served (any more)
        except ApiError as e:
            if e.code != _CANNOT_BE_SHOWN:
                raise
            # The others need not wait for that.
            remains.failures.append(e.message)
            return 1
        doomed = [o for o in items if not meta.is_deleting(o)]
        remains.add(resource, (o for o in items if meta.is_deleting(o)))
        for start in range(0, len(doomed), BATCH):
            answers = await self._client.batch(
                [
                    ops.delete(resource, meta.name(o), namespace, uid=meta.uid(o), propagation="Background")
                    for o in doomed[start : start + BATCH]
                ]
            )
            failed = [a for a in answers if isinstance(a, ApiError) and not isinstance(a, NotFound)]
            if failed:
                remains.failures.append(failed[0].message)
                break
        return len(items)
