"""Experiments: what makes no sense is refused, and nobody lets one hit the pods of namespaces where they may make none.

The controller that carries experiments out may do that everywhere, so whoever writes one is asked for the right.
"""

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api.errors import Forbidden, Invalid, invalid_without_value
from rayplane.control_plane.apiserver.admission.plugins import only, writing_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer

_CONCERNS = writing_of(*(mesh.resource(kind) for kind in mesh.PLURALS))


@only(_CONCERNS)
async def judge(request: AdmissionRequest) -> None:
    """Invalid."""
    o = request.object
    if request.old is not None and request.old.get("spec") == o.get("spec"):
        return  # so that what was let in before can be ended
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
            plural = mesh.PLURALS[kind]
            asked = request.user.asks("create", group=mesh.GROUP, resource=plural, namespace=namespace)
            if not (await self._authorizer.decide(asked)).allowed:
                text = f'its selector needs the right to create {plural} in the namespace "{namespace}"'
                raise Forbidden.of(request.info.plural, request.name, text, group=mesh.GROUP)
