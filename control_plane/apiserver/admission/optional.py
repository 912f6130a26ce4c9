"""Admission plug-ins of Kubernetes that are off unless they are switched on.

Source: kubernetes/plugin/pkg/admission, each in the folder of its name.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Forbidden, NotFound
from rayplane.control_plane.api.kinds.pod_template.resources import is_extended
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.pods.resources import container_requests
from rayplane.control_plane.api.taints import NO_SCHEDULE, tolerates
from rayplane.control_plane.apiserver.admission.configuration import CLUSTER_DEFAULT, AdmissionSettings
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, AdmissionRequest
from rayplane.control_plane.apiserver.admission.tolerations import TolerationRestriction
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.requests import SYSTEM
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup

Provide = Callable[[str], Awaitable[None]]
"""Makes a namespace of this name. Raises ApiError."""
_HOSTNAME = "kubernetes.io/hostname"
_NODE_SELECTOR = "scheduler.alpha.kubernetes.io/node-selector"


async def always_pull_images(request: AdmissionRequest) -> None:
    """AlwaysPullImages: nobody runs an image that is on a node already without the right to pull it."""
    ephemeral = request.info.name == "pods" and request.subresource == "ephemeralcontainers"
    if _has_pod(request) or ephemeral:
        for container in every(meta.spec(request.object)):
            container["imagePullPolicy"] = "Always"


async def deny_service_external_ips(request: AdmissionRequest) -> None:
    """DenyServiceExternalIPs: no new ones; those there are may stay."""
    if not request.creates("services") and not request.updates("services"):
        return
    new, old = ({*(meta.spec(o).get("externalIPs") or ())} for o in (request.object, request.old or {}))
    if new - old:
        raise Forbidden.of("services", request.shown_name, "Use of external IPs is denied by admission control.")


async def extended_resource_toleration(request: AdmissionRequest) -> None:
    """ExtendedResourceToleration: who asks for a resource tolerates nodes that are kept for it."""
    if not _has_pod(request):
        return
    spec = request.object["spec"]
    asked = {name for one in every(spec) for name in container_requests(one)}
    for name in sorted(filter(is_extended, asked)):
        taint = {"key": name, "value": "", "effect": NO_SCHEDULE}
        if not any(tolerates(one, taint) for one in spec.get("tolerations") or ()):
            added = {"key": name, "operator": "Exists", "effect": NO_SCHEDULE}
            spec["tolerations"] = [*(spec.get("tolerations") or ()), added]


async def limit_anti_affinity(request: AdmissionRequest) -> None:
    """LimitPodHardAntiAffinityTopology: a pod keeps others off its own node at most."""
    if not _has_pod(request):
        return
    rules = (meta.spec(request.object).get("affinity") or {}).get("podAntiAffinity") or {}
    for term in rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
        key = term.get("topologyKey") or ""
        if key != _HOSTNAME:
            text = (
                f"affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {_HOSTNAME} "
                "is allowed"
            )
            raise Forbidden.of("pods", request.shown_name, text)


class NamespacePlugins:
    """NamespaceExists, NamespaceAutoProvision and PodNodeSelector."""

    def __init__(self, lookup: Lookup, selectors: Mapping[str, str], provide: Provide) -> None:
        """`selectors`: as in AdmissionSettings."""
        self._lookup = lookup
        self._selectors = selectors
        self._provide = provide

    async def provide(self, request: AdmissionRequest) -> None:
        """Make the namespace of what is created. Forbidden."""
        if request.operation != CREATE or request.dry_run or not request.info.namespaced or not request.namespace:
            return
        if await self._lookup.get("namespaces", request.namespace) is not None:
            return
        try:
            await self._provide(request.namespace)
        except AlreadyExists:
            return
        except ApiError as e:
            raise Forbidden.of(request.info.plural, request.shown_name, e.message, group=request.info.group) from e

    async def exists(self, request: AdmissionRequest) -> None:
        """Raises NotFound for whatever is written where no namespace is."""
        if not request.info.namespaced or not request.namespace:
            return
        if await self._lookup.get("namespaces", request.namespace) is None:
            raise NotFound.of("namespaces", request.namespace)

    async def select_nodes(self, request: AdmissionRequest) -> None:
        """Pods go to nodes that their namespace's annotation selects. Raises Forbidden."""
        if not request.creates("pods"):
            return
        namespace = await self._lookup.get("namespaces", request.namespace) or {}
        usual = self._selectors.get(CLUSTER_DEFAULT) or ""
        wanted = dict(_labels(meta.annotations(namespace).get(_NODE_SELECTOR, usual)))
        allowed = dict(_labels(self._selectors.get(request.namespace) or ""))
        spec = request.object["spec"]
        own: Mapping[str, str] = spec.get("nodeSelector") or {}
        if any(own.get(key, value) != value for key, value in wanted.items()):
            text = "pod node label selector conflicts with its namespace node label selector"
            raise Forbidden.of("pods", request.shown_name, text)
        chosen = {**own, **wanted}
        if allowed and chosen.items() - allowed.items():
            text = "pod node label selector labels conflict with its namespace whitelist"
            raise Forbidden.of("pods", request.shown_name, text)
        if wanted:
            spec["nodeSelector"] = chosen


async def admit_all(_: AdmissionRequest) -> None:
    """AlwaysAdmit: nobody is refused by it."""


async def deny_all(request: AdmissionRequest) -> None:
    """AlwaysDeny: nobody writes but the server itself, which could not start."""
    if request.user != SYSTEM:
        text = "admission control is denying all modifications"
        raise Forbidden.of(request.info.plural, request.shown_name, text, group=request.info.group)


class OwnerReferences:
    """OwnerReferencesPermissionEnforcement: who cannot delete an object has nobody else delete it."""

    def __init__(self, kinds: Kinds, authorizer: Authorizer) -> None:
        self._kinds = kinds
        self._authorizer = authorizer

    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        if request.operation == DELETE or request.subresource or request.user.all_powerful:
            return
        new, old = (meta.metadata(o).get("ownerReferences") or [] for o in (request.object, request.old or {}))
        if new == old:
            return
        where = {"namespace": request.namespace, "name": request.name}
        # What is new can have owners: it belonged to nobody.
        if request.operation != CREATE:
            may = await self._may(request, "delete", group=request.info.group, resource=request.info.plural, **where)
            if not may:
                self._refuse(request, "cannot set an ownerRef on a resource you can't delete")
        known = [ref.get("uid") for ref in old if ref.get("blockOwnerDeletion")]
        for ref in new:
            if ref.get("blockOwnerDeletion") and ref.get("uid") not in known:
                await self._check_blocking(request, ref)

    async def _check_blocking(self, request: AdmissionRequest, ref: dict[str, Any]) -> None:
        info = self._kinds.registry.by_kind(ref.get("apiVersion") or "", ref.get("kind") or "")
        if info is None:
            self._refuse(
                request,
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for "
                f"APIVersion {ref.get('apiVersion')} Kind {ref.get('kind')}",
            )
            return
        of = {"group": info.group, "resource": info.plural, "subresource": "finalizers", "name": ref.get("name") or ""}
        namespace = request.namespace if info.namespaced else ""
        if not await self._may(request, "update", namespace=namespace, **of):
            text = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
            self._refuse(request, text)

    async def _may(self, request: AdmissionRequest, verb: str, **asked: str) -> bool:
        return (await self._authorizer.decide(request.user.asks(verb, **asked))).allowed

    @staticmethod
    def _refuse(request: AdmissionRequest, text: str) -> None:
        raise Forbidden.of(request.info.plural, request.shown_name, text, group=request.info.group)


def optional(
    kinds: Kinds, lookup: Lookup, authorizer: Authorizer, *, settings: AdmissionSettings, provide: Provide
) -> dict[str, Callable[[AdmissionRequest], Awaitable[None]]]:
    """All of them by name, in the order in which Kubernetes has them."""
    namespaces = NamespacePlugins(lookup, settings.node_selectors, provide)
    tolerations = TolerationRestriction(lookup, settings.tolerations, settings.tolerated)
    return {
        "AlwaysAdmit": admit_all,
        "NamespaceAutoProvision": namespaces.provide,
        "NamespaceExists": namespaces.exists,
        "AlwaysPullImages": always_pull_images,
        "LimitPodHardAntiAffinityTopology": limit_anti_affinity,
        "PodNodeSelector": namespaces.select_nodes,
        "PodTolerationRestriction": tolerations.admit,
        "ExtendedResourceToleration": extended_resource_toleration,
        "OwnerReferencesPermissionEnforcement": OwnerReferences(kinds, authorizer).admit,
        "DenyServiceExternalIPs": deny_service_external_ips,
    }


def _has_pod(request: AdmissionRequest) -> bool:
    return request.creates("pods") or request.updates("pods")


def _labels(text: str) -> Iterator[tuple[str, str]]:
    """`a=b,c=d` in pairs."""
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip():
            yield key.strip(), value.strip()
