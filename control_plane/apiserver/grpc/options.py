"""Options of calls as the registry takes them."""

from functools import lru_cache

from rayplane.control_plane.api.machinery import patching
from rayplane.control_plane.api.machinery.remembering import LONGEST
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.registry.bodies import program
from rayplane.control_plane.apiserver.registry.delete_options import parse_delete_options
from rayplane.control_plane.apiserver.requests import DeleteOptions, ListOptions, WriteOptions
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import objects_pb2 as pb

_PATCHES: dict[int, str] = {
    pb.MERGE: "application/merge-patch+json",
    pb.JSON: "application/json-patch+json",
    pb.STRATEGIC: "application/strategic-merge-patch+json",
    pb.APPLY: "application/apply-patch+yaml",
}


def patch_kind(number: int, info: ResourceInfo) -> patching.PatchKind:
    """UnsupportedMediaType for what is no type, or none for this resource."""
    return patching.patch_kind(_PATCHES.get(number, ""), custom=info.custom)


def write_options(options: pb.WriteOptions, context: Context, *, patches: bool = False) -> WriteOptions:
    """Components of the cluster are silent about who they are.

    Nobody is recorded as the manager of what they write: it would make each of their writes half as costly again, and
    every pod larger by half. They send what they have read, so there is nothing to warn of.
    """
    agent = context.metadata.get("user-agent", "")
    said = options.dry_run, options.field_manager, options.field_validation, options.force, agent, patches
    # Most calls say the same, or nothing.
    long = len(options.field_manager) + len(options.field_validation) + len(agent) > LONGEST
    return _write_options.__wrapped__(*said) if long else _write_options(*said)


@lru_cache(1024)
def _write_options(
    dry_run: bool, manager: str, validation: str, force: bool, agent: str, patches: bool
) -> WriteOptions:
    return WriteOptions(
        dry_run=dry_run,
        field_manager=manager,
        field_validation=validation or ("" if agent else "Ignore"),
        force=force,
        user_agent=program(agent),
        patches=patches,
    )


def delete_options(request: pb.DeleteRequest | pb.DeleteCollectionRequest) -> DeleteOptions:
    """Raises Invalid."""
    o: Object = {}
    if isinstance(request, pb.DeleteRequest):
        o["preconditions"] = {"uid": request.uid, "resourceVersion": request.resource_version}
    if request.HasField("grace_period_seconds"):
        o["gracePeriodSeconds"] = request.grace_period_seconds
    if request.HasField("orphan_dependents"):
        o["orphanDependents"] = request.orphan_dependents
    if request.propagation_policy:
        o["propagationPolicy"] = request.propagation_policy
    if request.dry_run:
        o["dryRun"] = ["All"]
    return parse_delete_options(o)


def list_options(request: pb.ListRequest | pb.DeleteCollectionRequest) -> ListOptions:
    return ListOptions(
        label_selector=request.label_selector,
        field_selector=request.field_selector,
        limit=request.limit,
        continue_token=getattr(request, "continue"),
        resource_version=request.resource_version,
        resource_version_match=request.resource_version_match,
    )


def watch_options(request: pb.WatchRequest) -> ListOptions:
    initial = request.send_initial_events
    return ListOptions(
        label_selector=request.label_selector,
        field_selector=request.field_selector,
        resource_version=request.resource_version,
        resource_version_match="NotOlderThan" if initial else "",
        allow_bookmarks=request.allow_bookmarks,
        send_initial_events=initial or None,
        timeout_s=float(request.timeout_seconds) or None,
    )
