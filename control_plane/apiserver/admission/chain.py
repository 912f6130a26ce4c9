"""The admission chain: its plugins in their order."""

import asyncio
import contextlib
import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

from rayplane.control_plane.api.admission.plugins import BUILT_IN, DEFAULT, switched_on
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.admission import (
    addresses,
    certificates,
    chaos,
    classes,
    definition_names,
    devices,
    lifecycle,
    limits,
    manifests,
    node_taints,
    noderestriction,
    pods,
    podsecurity,
    quota,
    resizes,
    rights,
    secrets,
    stages,
    topology,
)
from rayplane.control_plane.apiserver.admission.configuration import AdmissionSettings
from rayplane.control_plane.apiserver.admission.events import EventRates
from rayplane.control_plane.apiserver.admission.images import ImageReviews
from rayplane.control_plane.apiserver.admission.mutating_policies import MutatingPolicies
from rayplane.control_plane.apiserver.admission.optional import Provide, deny_all, optional
from rayplane.control_plane.apiserver.admission.plugins import Plugin, Plugins
from rayplane.control_plane.apiserver.admission.request import CONNECT, DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.admission.runtime_classes import RuntimeClasses
from rayplane.control_plane.apiserver.admission.validating_policies import ValidatingPolicies
from rayplane.control_plane.apiserver.admission.webhooks import Webhooks
from rayplane.control_plane.apiserver.authentication.webhooks import Post
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.tracing.spans import changes, span, traced
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.component_base.metrics import Family
from rayplane.storage.env import Env

_NO_WAIT = contextlib.nullcontext()
# What the plugins that are on by default look at for a new pod, beside the pod.
_FOR_PODS = (
    "namespaces",
    "serviceaccounts",
    "limitranges",
    "priorityclasses.scheduling.k8s.io",
    "runtimeclasses.node.k8s.io",
)
# Bytes of the largest object of which it is found out what a plugin changed.
_COMPARED_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Extensions:
    """The parts of the chain that users bring."""

    webhooks: Webhooks
    validating: ValidatingPolicies
    mutating: MutatingPolicies


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
        kinds: Kinds,
        to_storage: quota.ToStorage,
        provide: Provide,
        extensions: Extensions,
    ) -> None:
        """`take` has to follow."""
        self._on = switched_on(config.admission_plugins_on, config.admission_plugins_off)
        self._config, self._env, self._kinds = config, env, kinds
        self._lookup, self._authorizer, self._provide = lookup, authorizer, provide
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._plugins = self._at_deletion = self._validators = Plugins()
        self._denies = "AlwaysDeny" in self._on
        self._extensions = extensions
        self._taken = 0  # how often there were other settings
        self._webhooks = extensions.webhooks if "MutatingAdmissionWebhook" in self._on else None
        self._judges = extensions.webhooks if "ValidatingAdmissionWebhook" in self._on else None
        self._policies = extensions.validating if "ValidatingAdmissionPolicy" in self._on else None
        self._mutating = extensions.mutating if "MutatingAdmissionPolicy" in self._on else None
        quotas = {"ResourceQuota": quota.Quotas(lookup, to_storage, env.clock.now).admit}
        self._counts = "ResourceQuota" in self._on
        self._reservations = Plugins(
            (
                addresses.ServiceAddresses(config, env, lookup).admit,
                definition_names.DefinitionNames(kinds, env, lookup).admit,
                *_those(self._on, quotas),
            )
        )

    def take(self, settings: AdmissionSettings, images: Post | None) -> None:
        """Go by these settings from now on. `images`: how to ask whom they name. ValueError where one is missing."""
        self._taken += 1
        on, config, lookup, authorizer = self._on, self._config, self._lookup, self._authorizer
        security = settings.pod_security or config.pod_security
        validators: dict[str, Plugin] = {
            "NodeDeclaredFeatureValidator": resizes.DeclaredFeatures(lookup).admit,
            "PodResizeValidator": resizes.PodResizes(lookup).admit,
            "PodSecurity": podsecurity.PodSecurity(security, lookup).admit,
        }
        if settings.images is not None and images is not None:
            validators = {"ImagePolicyWebhook": ImageReviews(settings.images, images).admit, **validators}
        if settings.events is not None:
            validators["EventRateLimit"] = EventRates(settings.events).admit
        if missing := sorted(on & {"EventRateLimit", "ImagePolicyWebhook"} - validators.keys()):
            raise ValueError(f"admission plug-in {', '.join(missing)} needs an AdmissionConfiguration that names it")
        self._take_manifests(settings)
        self._validators = Plugins((*_those(on, validators), stages.judge, chaos.judge))
        more = optional(self._kinds, lookup, authorizer, settings=settings, provide=self._provide)
        default = classes.DefaultClasses(lookup)
        always = {
            "NamespaceLifecycle": lifecycle.NamespaceLifecycle(lookup).admit,
            "NamespaceExists": more.pop("NamespaceExists"),
            "NodeRestriction": noderestriction.NodeRestriction(lookup).admit,
        }
        plugins: dict[str, Plugin] = {
            "NamespaceAutoProvision": more.pop("NamespaceAutoProvision"),
            **always,
            "LimitRanger": limits.LimitRanger(lookup).admit,
            "ServiceAccount": pods.ServiceAccounts(lookup, self._env.rng).admit,
            "TaintNodesByCondition": node_taints.taint_node_by_condition,
            "Priority": pods.Priorities(lookup).admit,
            "DefaultTolerationSeconds": pods.DefaultTolerations(config.timing).admit,
            "DefaultStorageClass": default.claim,
            "DefaultIngressClass": default.ingress,
            "PersistentVolumeClaimResize": default.growth,
            **more,
            "RuntimeClass": RuntimeClasses(lookup).admit,
            "PodTopologyLabels": topology.TopologyLabels(lookup).admit,
        }
        self._plugins = Plugins((*_those(on, plugins), *self._fixed()))
        self._at_deletion = Plugins(_those(on, always))

    def _take_manifests(self, settings: AdmissionSettings) -> None:
        found, extensions = settings.manifests, self._extensions
        extensions.webhooks.take(found.get("MutatingAdmissionWebhook", ()), found.get("ValidatingAdmissionWebhook", ()))
        extensions.validating.take(found.get("ValidatingAdmissionPolicy", ()))
        extensions.mutating.take(found.get("MutatingAdmissionPolicy", ()))

    def _fixed(self) -> tuple[Plugin, ...]:
        """Those of how kinds are served, whatever is on."""
        lookup, authorizer = self._lookup, self._authorizer
        signers, experiments = certificates.Certificates(authorizer), chaos.Experiments(authorizer)
        return (
            rights.Escalation(authorizer).admit,
            manifests.keep_names,
            signers.admit,
            signers.attest,
            devices.DeviceAdministration(lookup).admit,
            experiments.admit,
            experiments.record,
            devices.ClaimRights(authorizer).admit,
            secrets.TokenSecrets(self._config, self._env, lookup, authorizer).admit,
        )

    async def admit(self, request: AdmissionRequest) -> None:
        """Complete the new object or refuse it (ApiError)."""
        with _warning(request):
            await self._admit(request)

    async def _admit(self, request: AdmissionRequest) -> None:
        if request.operation == DELETE:
            await _run(self._at_deletion, request)
            if self._webhooks is not None:
                await self._webhooks.mutate(request)
            await self.validate(request)
            return
        await _run(self._plugins, request)
        if (self._mutating is None or self._mutating.none) and (self._webhooks is None or self._webhooks.mutate_none):
            return
        work = await self._mutating.mutate(request) if self._mutating is not None else None
        mutation = await self._webhooks.mutate(request) if self._webhooks is not None else None
        if not (work is not None and work.changed) and not (mutation is not None and mutation.changed):
            return
        await _run(self._plugins, request)
        if self._mutating is not None and work is not None:
            await self._mutating.mutate_again(request, work)
        if self._webhooks is not None and mutation is not None:
            await self._webhooks.mutate_again(request, mutation)

    async def connect(self, request: AdmissionRequest) -> None:
        """Refuse a connection (ApiError); what it is for stays as its client says."""
        with _warning(request):
            if self._webhooks is not None:
                await self._webhooks.mutate(request)
            await self.validate(request)

    async def validate(self, request: AdmissionRequest) -> None:
        """Judge the object as it would be stored (ApiError)."""
        try:
            with _warning(request):
                if request.operation not in (DELETE, CONNECT):
                    await _run(self._validators, request)
                if self._policies is not None and not self._policies.none:
                    await self._policies.validate(request)
                if self._judges is not None and not self._judges.judge_none:
                    await self._judges.validate(request)
                if self._denies:
                    await deny_all(request)
        finally:
            if request.annotations:
                audit.annotate(request.annotations)

    def standing(self) -> tuple[int, ...] | None:
        """Something that differs once the plugins could make something else of the same new pod.

        None where nobody can tell: others than those that are on by default have a say.
        """
        if not (self._on <= DEFAULT | BUILT_IN and self._unextended):
            return None
        seen = [self._lookup.changes(resource) for resource in _FOR_PODS]
        known = tuple(count for count in seen if count is not None)
        return (self._taken, *known) if len(known) == len(seen) else None

    @property
    def _unextended(self) -> bool:
        """Whether no webhook and no policy has a say."""
        hooks, judges = self._webhooks, self._judges
        return (
            (self._mutating is None or self._mutating.none)
            and (hooks is None or hooks.mutate_none)
            and (self._policies is None or self._policies.none)
            and (judges is None or judges.judge_none)
        )

    def collect(self) -> Iterable[Family]:
        """Metrics of users' policies."""
        for part in (self._policies, self._mutating):
            if part is not None:
                yield from part.checks.collect()

    async def turn(self, request: AdmissionRequest) -> contextlib.AbstractAsyncContextManager[None]:
        """Where a quota counts, creates go one after the other: together they would only make each other fail.

        So do definitions of custom resources, for their names.
        """
        if request.info.name == CRDS:
            return self._turns.setdefault(CRDS, asyncio.Lock())
        if not (self._counts and request.namespace and await self._lookup.list("resourcequotas", request.namespace)):
            return _NO_WAIT
        return self._turns.setdefault(request.namespace, asyncio.Lock())

    async def reserve(self, request: AdmissionRequest) -> None:
        """Fill guards and effects; to be called anew for each try of the transaction."""
        request.guards.clear()
        request.effects.clear()
        await _run(self._reservations, request)


@contextlib.contextmanager
def _warning(request: AdmissionRequest) -> Iterator[None]:
    """Have a refusal tell what its client is warned of."""
    try:
        yield
    except ApiError as e:
        e.warnings = request.warnings
        raise


async def _run(plugins: Plugins, request: AdmissionRequest) -> None:
    step = _traced if traced() else None
    for plugin in plugins.of(request):
        await (plugin(request) if step is None else step(plugin, request))


async def _traced(plugin: Plugin, request: AdmissionRequest) -> None:
    """What a plugin does to a request, and for who wants to know, what that was."""
    small = request.size <= _COMPARED_MAX
    before = copy.deepcopy(request.object) if small else None
    said = len(request.warnings)
    with span(f"admission {_name(plugin)}") as step:
        await plugin(request)
    changed = ", ".join(changes(before, request.object)) if before is not None else ""
    step.note({"changed": changed, "warnings": "; ".join(request.warnings[said:])})


def _name(plugin: Plugin) -> str:
    """What a trace calls it: its class, or the function that it is."""
    owner = getattr(plugin, "__self__", None)
    return plugin.__name__ if owner is None else type(owner).__name__  # type: ignore[attr-defined]


def _those(on: Collection[str], plugins: Mapping[str, Plugin]) -> tuple[Plugin, ...]:
    return tuple(plugin for name, plugin in plugins.items() if name in on)
