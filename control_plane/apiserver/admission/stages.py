"""Stages, and how simulated containers answer: what cannot be read is refused, with the line that is wrong."""

from rayplane.control_plane.api.errors import Invalid, invalid_without_value
from rayplane.control_plane.apiserver.admission.plugins import only, writing_of
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest
from rayplane.control_plane.stages.definitions import errors_in, kinds, resource
from rayplane.control_plane.stages.stage import GROUP


@only(writing_of(*(resource(kind) for kind in kinds())))
async def judge(request: AdmissionRequest) -> None:
    """Invalid."""
    o = request.object
    try:
        errors = errors_in(o)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        # Of a shape that another definition lets in.
        errors = [invalid_without_value("spec", f"cannot be read: {e}")]
    if errors:
        raise Invalid.of(o.get("kind") or "", request.name, errors, group=GROUP)
