"""The admission chain: its plugins in their order."""

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.admission import (
    addresses,
    certificates,
    classes,
    devices,
    lifecycle,
    limits,
    noderestriction,
    pods,
    podsecurity,
    quota,
    rights,
)
from rayplane.control_plane.apiserver.admission.mutating_policies import MutatingPolicies
from rayplane.control_plane.apiserver.admission.request import CONNECT, DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.admission.validating_policies import ValidatingPolicies
from rayplane.control_plane.apiserver.admission.webhooks import Webhooks
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.tracing.spans import changes, span, traced
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

Plugin = Callable[[AdmissionRequest], Awaitable[None]]
_NO_WAIT = contextlib.nullcontext()
# Bytes of the largest object of which it is found out what a plugin changed.
_COMPARED_MAX = 64 * 1024


class Admission:
    """The chain of plugins.

    `admit` before defaults of creation and validation, `validate` and `reserve` after them, before the write.
    """

    def __init__(
        self,
        config: ApiServerConfig,
        env: Env,
        lookup: Lookup,
        authorizer: Authorizer,
        *,
        to_storage: quota.ToStorage,
        webhooks: Webhooks | None = None,
        policies: ValidatingPolicies | None = None,
        mutating: MutatingPolicies | None = None,
    ) -> None:
        """Without `webhooks` or policies none is asked."""
        self._lookup = lookup
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lifecycle = lifecycle.NamespaceLifecycle(lookup)
        self._nodes = noderestriction.NodeRestriction(lookup)
        self._plugins: tuple[Plugin, ...] = (
            self._lifecycle.admit,
            self._nodes.admit,
            limits.LimitRanger(lookup).admit,
            pods.ServiceAccounts(lookup).admit,
            pods.Priorities(lookup).admit,
            pods.DefaultTolerations(config.timing).admit,
            classes.DefaultClasses(lookup).admit,
            rights.Escalation(authorizer).admit,
            certificates.Certificates(authorizer).admit,
            devices.DeviceAdministration(lookup).admit,
        )
        self._webhooks = webhooks
        self._policies = policies
        self._mutating = mutating
        self._security = podsecurity.PodSecurity(config.pod_security, lookup)
        self._reservations: tuple[Plugin, ...] = (
            addresses.ServiceAddresses(config, env, lookup).admit,
            quota.Quotas(lookup, to_storage, env.clock.now).admit,
        )

    async def admit(self, request: AdmissionRequest) -> None:
        """Complete the new object or refuse it (ApiError)."""
        if request.operation == DELETE:
            await _step(self._lifecycle.admit, request)
            await _step(self._nodes.admit, request)
            if self._webhooks is not None:
                await self._webhooks.mutate(request)
                await self.validate(request)
            return
        await self._complete(request)
        work = await self._mutating.mutate(request) if self._mutating is not None else None
        mutation = await self._webhooks.mutate(request) if self._webhooks is not None else None
        if not (work is not None and work.changed) and not (mutation is not None and mutation.changed):
            return
        await self._complete(request)
        if self._mutating is not None and work is not None:
            await self._mutating.mutate_again(request, work)
        if self._webhooks is not None and mutation is not None:
            await self._webhooks.mutate_again(request, mutation)

    async def connect(self, request: AdmissionRequest) -> None:
        """Refuse a connection (ApiError); what it is for stays as its client says."""
        if self._webhooks is not None:
            await self._webhooks.mutate(request)
        await self.validate(request)

    async def _complete(self, request: AdmissionRequest) -> None:
        for plugin in self._plugins:
            await _step(plugin, request)

    async def validate(self, request: AdmissionRequest) -> None:
        """Judge the object as it would be stored (ApiError)."""
        try:
            if request.operation not in (DELETE, CONNECT):
                await _step(self._security.admit, request)
            if self._policies is not None:
                await self._policies.validate(request)
            if self._webhooks is not None:
                await self._webhooks.validate(request)
        finally:
            if request.annotations:
                audit.annotate(request.annotations)

    async def turn(self, request: AdmissionRequest) -> contextlib.AbstractAsyncContextManager[None]:
        """Where a quota counts, creates go one after the other: together they would only make each other fail."""
        if not (request.namespace and await self._lookup.list("resourcequotas", request.namespace)):
            return _NO_WAIT
        return self._turns.setdefault(request.namespace, asyncio.Lock())

    async def reserve(self, request: AdmissionRequest) -> None:
        """Fill guards and effects; to be called anew for each try of the transaction."""
        request.guards.clear()
        request.effects.clear()
        for plugin in self._reservations:
            await _step(plugin, request)


async def _step(plugin: Plugin, request: AdmissionRequest) -> None:
    """What a plugin does to a request, and where somebody wants to know, what that was."""
    if not traced():
        return await plugin(request)
    small = request.size <= _COMPARED_MAX
    before = copy.deepcopy(request.object) if small else None
    said = len(request.warnings)
    with span(f"admission {type(plugin.__self__).__name__}") as step:  # type: ignore[attr-defined]
        await plugin(request)
    changed = ", ".join(changes(before, request.object)) if before is not None else ""
    step.note({"changed": changed, "warnings": "; ".join(request.warnings[said:])})
