"""Devices: administrators' access to those that others use, and who may say what in the status of claims.

Such access is given in namespaces alone that are marked for it. Whoever may write a claim's status needs one more right
for what changes in it: to bind claims, or to speak for a driver, of devices of the own node or of any.
Source: Kubernetes' hardening guide for dynamic resource allocation, resource/v1 (synthetic subresources and verbs).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from rayplane.control_plane.api import device_claims, meta
from rayplane.control_plane.api.authorization import rbac
from rayplane.control_plane.api.device_claims import CLAIMS
from rayplane.control_plane.api.errors import FieldError, Forbidden, Invalid, forbidden
from rayplane.control_plane.apiserver.admission.plugins import creation_of, only
from rayplane.control_plane.apiserver.admission.request import UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.identities import NODE_OF_TOKEN, SERVICE_ACCOUNT_PREFIX

_LABEL: Final = "resource.kubernetes.io/admin-access"
_TEMPLATES: Final = "resourceclaimtemplates.resource.k8s.io"
_OWN_NODE, _ANY_NODE = "associated-node:", "arbitrary-node:"
_creates: Final = creation_of(CLAIMS, _TEMPLATES)


def _tells(request: AdmissionRequest) -> bool:
    """A write of a claim's status."""
    return request.operation == UPDATE and request.info.name == CLAIMS and request.subresource == "status"


class DeviceAdministration:
    """The check of kube-apiserver's strategies for claims and their templates."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    @only(lambda request: _creates(request) or _tells(request))
    async def admit(self, request: AdmissionRequest) -> None:
        """Invalid for a claim that asks for such access or is given it, where the namespace does not allow it."""
        path = _given(request) if request.subresource else _asked(request)
        if path is None:
            return
        namespace = await self._lookup.get("namespaces", request.namespace)
        if namespace is None or meta.labels(namespace).get(_LABEL) != "true":
            text = f"admin access to devices requires the `{_LABEL}: true` label on the containing namespace"
            _refuse(request, [forbidden(path, text)])


def _asked(request: AdmissionRequest) -> str | None:
    """Where a new claim asks for such access."""
    spec = meta.spec(request.object)
    if request.creates(_TEMPLATES):
        spec = spec.get("spec") or {}
    return _first((one.get("exactly") or {} for one in (spec.get("devices") or {}).get("requests") or ()), "spec")


def _given(request: AdmissionRequest) -> str | None:
    """Where a status newly gives it."""
    allocation, before = (meta.status(one or {}).get("allocation") for one in (request.object, request.old))
    if device_claims.administers(before):
        return None
    return _first(device_claims.results(allocation), "status.allocation", "results")


def _first(entries: Iterable[Mapping[str, Any]], path: str, part: str = "requests") -> str | None:
    found = (index for index, one in enumerate(entries) if one.get("adminAccess"))
    return next((f"{path}.devices.{part}[{index}].adminAccess" for index in found), None)


@dataclass(frozen=True)
class _Right:
    """A right to a part of claims that is none but for this; one of the verbs is enough."""

    path: str
    what: str
    part: str
    verbs: tuple[str, ...]
    namespace: str = ""
    name: str = ""

    def lacking(self, cause: str) -> FieldError:
        """What is told who does not have it."""
        verb = f"[{' '.join(self.verbs)}]" if self.name else self.verbs[0]
        right = f'resource="resourceclaims/{self.part}", verb="{verb}" permission'
        return forbidden(self.path, f"changing {self.what} requires {right}: {cause}")


class ClaimRights:
    """The rights that a change in the status of a claim takes beside the one to write it."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    @only(_tells)
    async def admit(self, request: AdmissionRequest) -> None:
        """Invalid, with each right that is missing."""
        errors = []
        for right in _rights(request):
            if cause := await self._refusal(request, right):
                errors.append(right.lacking(cause))
        if errors:
            _refuse(request, errors)

    async def _refusal(self, request: AdmissionRequest, right: _Right) -> str:
        """Why the user does not have a right; empty for one who does."""
        info, causes = request.info, []
        for verb in right.verbs:
            part = {"resource": info.plural, "subresource": right.part, "namespace": right.namespace}
            asked = request.user.asks(verb, group=info.group, version=info.version, name=right.name, **part)
            decision = await self._authorizer.decide(asked)
            if decision.allowed:
                return ""
            causes.append(rbac.denied_message(asked, decision.reason))
        return Forbidden.of(info.plural, right.name, causes[0], group=info.group).message


def _rights(request: AdmissionRequest) -> Iterator[_Right]:
    """The rights that a change takes."""
    new, old = meta.status(request.object), meta.status(request.old or {})
    verb = "patch" if request.patches else "update"
    if any((new.get(field) or None) != (old.get(field) or None) for field in ("allocation", "reservedFor")):
        yield _Right("status", "status.allocation or status.reservedFor", "binding", (verb,))
    on_it = _is_on(request.user, device_claims.only_node(new.get("allocation")))
    verbs = (*((_OWN_NODE + verb,) if on_it else ()), _ANY_NODE + verb)
    for driver in device_claims.changed_drivers(new, old):
        yield _Right("status.devices", "status.devices", "driver", verbs, request.namespace, driver)


def _is_on(user: User, node: str) -> bool:
    """Whether it is an account whose token tells that it is on this node."""
    return bool(node) and user.name.startswith(SERVICE_ACCOUNT_PREFIX) and user.extra.get(NODE_OF_TOKEN) == (node,)


def _refuse(request: AdmissionRequest, errors: list[FieldError]) -> NoReturn:
    raise Invalid.of(request.info.kind, request.name, errors, group=request.info.group)
