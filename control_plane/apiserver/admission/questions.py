"""Questions to webhooks and policies: whether a request is their business, and what it looks like to them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rayplane.control_plane.api.admission.matching import GROUP, NAMESPACES, Matching, labels
from rayplane.control_plane.api.admission.reviews import Question
from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.kinds.autoscaling.scale import get_scale
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.expressions import INLINE, KUBERNETES, Limits, TooDear
from rayplane.control_plane.apiserver.admission.request import CREATE, DELETE, UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

_OPTIONS = {CREATE: "CreateOptions", UPDATE: "UpdateOptions", DELETE: "DeleteOptions"}

_T = TypeVar("_T")


class Questions:
    """Requests as webhooks and policies see them."""

    def __init__(self, kinds: Kinds, forms: Forms, lookup: Lookup, env: Env) -> None:
        self._kinds = kinds
        self.forms = forms
        self._lookup = lookup
        self._env = env
        self._heavy = Heavy(env)

    async def meant(self, matching: Matching, request: AdmissionRequest) -> ResourceInfo | None:
        """The form in which a request is some webhook's or policy's business; None when it is none of it."""
        asked, namespace = asked_of(request), namespace_of(request)
        others = self.other_forms(asked) if matching.equivalent else ()
        info = matching.resource(request.operation, asked, others, request.subresource, namespace, request.name)
        if info is None or not matching.selects_objects(new_of(request), request.old):
            return None
        return info if await self._in_selected_namespace(matching, request, namespace) else None

    def other_forms(self, asked: ResourceInfo) -> list[ResourceInfo]:
        """The same resource in its other versions."""
        return [v for v in self._kinds.in_group(asked.group) if v.plural == asked.plural and v != asked]

    async def _in_selected_namespace(self, matching: Matching, request: AdmissionRequest, namespace: str) -> bool:
        if not namespace or matching.namespaces.everything:
            return True
        if request.info.name == NAMESPACES and request.operation != DELETE:
            return matching.namespaces.matches(labels(request.object))
        return matching.namespaces.matches(labels(await self.namespace(namespace)))

    async def namespace(self, namespace: str) -> Object:
        """Raises NotFound."""
        found = await self._lookup.get(NAMESPACES, namespace)
        if found is None:
            raise NotFound.of(NAMESPACES, namespace)
        return found

    async def put(self, request: AdmissionRequest, info: ResourceInfo) -> Question:
        """The request in the form of `info`."""
        new = new_of(request)
        return Question(
            uid=self._env.uuid(),
            operation=request.operation,
            info=info,
            asked=asked_of(request),
            subresource=request.subresource,
            namespace=namespace_of(request),
            name=request.name or (name(new) if new is not None else ""),
            user=request.user.info,
            new=await self._shown(info, request.subresource, new),
            old=await self._shown(info, request.subresource, request.old),
            dry_run=request.dry_run,
            options=_options(request),
        )

    async def decided(self, decide: Callable[[Mapping[str, Any], Limits], _T], names: Mapping[str, Any]) -> _T:
        """What expressions say of a request: where they are dear, nobody else waits for them."""
        try:
            return decide(names, INLINE)
        except TooDear:
            return await self._heavy.apart(decide, names, KUBERNETES)

    async def _shown(self, info: ResourceInfo, subresource: str, o: Object | None) -> Object | None:
        """A stored object, or the body of a subresource, as clients see it."""
        if o is None or o.get("kind") != info.kind:
            return o
        shown = await self.forms.from_stored(info, o)
        return get_scale(shown, self._kinds.scale_paths(info)) if subresource == "scale" else shown


def exempt(request: AdmissionRequest) -> bool:
    """Whoever breaks the cluster by a webhook or a policy can take it back."""
    return request.info.group == GROUP


def asked_of(request: AdmissionRequest) -> ResourceInfo:
    return request.asked or request.info


def namespace_of(request: AdmissionRequest) -> str:
    """A namespace is its own."""
    return request.name if request.info.name == NAMESPACES else request.namespace


def new_of(request: AdmissionRequest) -> Object | None:
    return None if request.operation == DELETE else request.object


def _options(request: AdmissionRequest) -> Object:
    options: Object = {"kind": _OPTIONS[request.operation], "apiVersion": "meta.k8s.io/v1"}
    if request.dry_run:
        options["dryRun"] = ["All"]
    if request.manager and request.operation != DELETE:
        options["fieldManager"] = request.manager
    return options
