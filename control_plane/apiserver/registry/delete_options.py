"""Options of deletes as they are written (meta/v1 DeleteOptions), and the one for what cannot be read. Pure."""

from rayplane.control_plane.api.errors import invalid, not_supported
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.registry.bodies import check_dry_run, refuse_options
from rayplane.control_plane.apiserver.requests import DeleteOptions

IGNORE_READ_ERRORS = "ignoreStoreReadErrorWithClusterBreakingPotential"
UNSAFE_DELETE = "unsafe-delete-ignore-read-errors"
"""The verb that takes, beside `delete`."""
NOT_CORRUPT = invalid(
    IGNORE_READ_ERRORS, True, "is exclusively used to delete corrupt object(s), try again by removing this option"
)
_NOT_UNSAFE = ("dryRun", "propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions")
_POLICIES = ("Foreground", "Background", "Orphan")


def parse_delete_options(o: Object) -> DeleteOptions:
    """meta/v1 DeleteOptions as they come in a body. Invalid."""
    preconditions = o.get("preconditions") or {}
    policy, orphan = o.get("propagationPolicy"), o.get("orphanDependents")
    errors = []
    if policy is not None and orphan is not None:
        text = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(invalid("propagationPolicy", policy, text))
    if policy is not None and policy not in _POLICIES:
        errors.append(not_supported("propagationPolicy", policy, (*_POLICIES, "nil")))
    unsafe = o.get(IGNORE_READ_ERRORS) is True
    if unsafe:
        said = {**o, "preconditions": any(preconditions.values()) or None}
        others = [field for field in _NOT_UNSAFE if said.get(field) not in (None, [])]
        errors += [invalid(IGNORE_READ_ERRORS, True, f"cannot be set together with .{field}") for field in others]
    refuse_options("DeleteOptions", errors)
    return DeleteOptions(
        grace_period_s=o.get("gracePeriodSeconds"),
        propagation_policy=policy or "",
        orphan_dependents=orphan,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run=check_dry_run(o.get("dryRun") or [], "DeleteOptions"),
        ignore_read_errors=unsafe,
    )
