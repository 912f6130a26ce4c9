"""Experiments: what makes no sense is refused, and nobody lets one hit the pods of namespaces where they may make none.

The controller that carries experiments out may do that everywhere, so whoever writes one is asked for the right.
"""

from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden, Invalid, forbidden, invalid_without_value
from rayplane.control_plane.api.kinds.metadata import IMMUTABLE
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.plugins import only, writing_of
from rayplane.control_plane.apiserver.admission.request import UPDATE, AdmissionRequest
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer

_CONCERNS = writing_of(*mesh.RESOURCES)
_EXPERIMENTS = {mesh.resource(kind): mesh.PLURALS[kind] for kind in mesh.EXPERIMENTS}
_FIXED = {*_EXPERIMENTS, mesh.resource(mesh.WORKFLOW)}


@only(_CONCERNS)
async def judge(request: AdmissionRequest) -> None:
    """Invalid."""
    o = request.object
    if request.old is not None and request.old.get("spec") == o.get("spec"):
        return  # so that what was let in before can be ended
    if request.old is not None and request.info.name in _FIXED:
        # What it did is undone, and goes on, as its spec says.
        raise Invalid.of(o.get("kind") or "", request.name, [forbidden("spec", IMMUTABLE)], group=mesh.GROUP)
    try:
        errors = mesh.errors_in(o)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        # Of a shape that another definition lets in.
        errors = [invalid_without_value("spec", f"cannot be read: {e}")]
    if errors:
        raise Invalid.of(o.get("kind") or "", request.name, errors, group=mesh.GROUP)


class Experiments:
    """A plugin that asks for the right to make such an experiment in each namespace that it may hit."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    @only(_CONCERNS)
    async def admit(self, request: AdmissionRequest) -> None:
        """Forbidden."""
        o, old = request.object, request.old
        if request.user.all_powerful or (old is not None and old.get("spec") == o.get("spec")):
            return
        try:
            hit = [(kind, space) for kind, _, _ in mesh.specs_of(o) for space in sorted(mesh.namespaces_of(o))]
        except (AttributeError, TypeError) as e:
            errors = [invalid_without_value("spec", f"cannot be read: {e}")]
            raise Invalid.of(o.get("kind") or "", request.name, errors, group=mesh.GROUP) from e
        for kind, namespace in hit:
            await self._ask(request, mesh.PLURALS[kind], namespace, "selector needs")

    @only(lambda request: request.operation == UPDATE and request.info.name in _EXPERIMENTS)
    async def record(self, request: AdmissionRequest) -> None:
        """Forbidden for records, which say who is hit, of pods in such namespaces."""
        try:
            records, before = (_records(one) for one in (request.object, request.old or {}))
            spaces = sorted({str(one.get("id") or "").partition("/")[0] for one in (*records, *before)})
        except (AttributeError, TypeError) as e:
            errors = [invalid_without_value("status", f"cannot be read: {e}")]
            raise Invalid.of(request.object.get("kind") or "", request.name, errors, group=mesh.GROUP) from e
        if records == before or request.user.all_powerful:
            return
        for namespace in spaces:
            await self._ask(request, _EXPERIMENTS[request.info.name], namespace, "records need")

    async def _ask(self, request: AdmissionRequest, plural: str, namespace: str, needs: str) -> None:
        asked = request.user.asks("create", group=mesh.GROUP, resource=plural, namespace=namespace)
        if not (await self._authorizer.decide(asked)).allowed:
            text = f'its {needs} the right to create {plural} in the namespace "{namespace}"'
            raise Forbidden.of(request.info.plural, request.shown_name, text, group=mesh.GROUP)


def _records(experiment: Object) -> list[dict[str, Any]]:
    return [*((meta.status(experiment).get("experiment") or {}).get("containerRecords") or ())]
