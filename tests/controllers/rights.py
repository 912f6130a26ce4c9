"""What controllers may do: everything that one of them wants done in a test is allowed to its account by its role."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.bootstrap_policy import (
    cluster_role_bindings,
    cluster_roles,
    role_bindings,
    roles,
)
from rayplane.control_plane.api.authorization.controller_policy import user_of
from rayplane.control_plane.api.authorization.rbac import Attributes, Policy
from rayplane.control_plane.controllers.accounts import ACCOUNTS
from rayplane.control_plane.controllers.actions import (
    Action,
    ApproveCertificate,
    CollectAggregated,
    Create,
    Delete,
    DeleteSnapshot,
    DeleteVolume,
    Event,
    Expand,
    IfAbsent,
    IfAlive,
    IfUnclaimed,
    IfUnused,
    Migrate,
    Patch,
    Provision,
    PurgeNamespace,
    Recount,
    Rescale,
    SignCertificate,
    TakeSnapshot,
    Update,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.core import Controller, Result
from rayplane.control_plane.identities import CONTROLLER_MANAGER

Right = tuple[str, str, str, str]
"""(verb, resource[/subresource] with its group, namespace, name)"""
GROUPS = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
DEVICE_CLAIMS = "resourceclaims.resource.k8s.io"
CONTENTS = "volumesnapshotcontents.snapshot.storage.k8s.io"
REQUESTS = "certificatesigningrequests.certificates.k8s.io"
MIGRATIONS = "storageversionmigrations.storagemigration.k8s.io"


@functools.cache
def policy() -> Policy:
    found = Policy()
    for one in (*cluster_roles(), *cluster_role_bindings(), *roles(), *role_bindings()):
        found.put(one)
    return found


def allows(account: str, right: Right) -> bool:
    verb, what, namespace, name = right
    path, _, group = what.partition(".")
    if "/" in group:
        group, _, subresource = group.partition("/")
    else:
        path, _, subresource = path.partition("/")
    user = user_of(account) if account else CONTROLLER_MANAGER
    request = Attributes(
        user=user,
        groups=GROUPS,
        verb=verb,
        group=group,
        resource=path,
        subresource=subresource,
        namespace=namespace,
        name=name,
    )
    return policy().authorize(request).allowed


def check(controller: Controller, wanted: Result) -> None:
    """Fail for what the controller's account may not do."""
    account = ACCOUNTS.get(controller.name, "")
    for action in wanted.actions:
        for right in rights(action):
            assert allows(account, right), f"{controller.name} as {account or CONTROLLER_MANAGER} may not {right}"


def rights(action: Action) -> Iterator[Right]:
    if isinstance(action, Event):
        space = meta.namespace(action.about) or "default"
        yield from (("create", "events", space, ""), ("patch", "events", space, "e"))
    elif isinstance(action, (Create, Update, UpdateStatus, Patch, Delete)):
        yield from _of_write(action)
    elif isinstance(action, (IfAbsent, IfAlive, IfUnclaimed, IfUnused)):
        yield from _of_reads(action)
        for write in action.writes:
            yield from _of_write(write)
    else:
        yield from _of_special(action)


def _of_write(action: Write) -> Iterator[Right]:
    events = [event for event in (action.done, getattr(action, "failed", None)) if event is not None]
    for event in events:
        yield from rights(event)
    if isinstance(action, Patch):
        what = f"{action.resource}/{action.subresource}" if action.subresource else action.resource
        yield "patch", what, action.namespace, action.name
        return
    verb = {Create: "create", Update: "update", UpdateStatus: "update", Delete: "delete"}[type(action)]
    what = f"{action.resource}/status" if isinstance(action, UpdateStatus) else action.resource
    space, name = meta.namespace(action.obj), meta.name(action.obj)
    yield verb, what, space, "" if verb == "create" else name
    if isinstance(action, UpdateStatus) and action.resource == DEVICE_CLAIMS:
        yield verb, f"{DEVICE_CLAIMS}/binding", "", ""
    if isinstance(action, Create) and not name:
        yield "list", action.resource, space, ""  # where there was no answer


def _of_reads(action: IfAbsent | IfAlive | IfUnclaimed | IfUnused) -> Iterator[Right]:
    if isinstance(action, IfAbsent):
        yield from (("get", resource, space, name) for resource, space, name, _ in action.absent)
    elif isinstance(action, IfAlive):
        yield "get", action.resource, meta.namespace(action.owner), meta.name(action.owner)
    elif isinstance(action, IfUnclaimed):
        yield "list", "pods", meta.namespace(action.claim), ""
    else:
        yield "get", "nodes", "", action.node


def _of_special(action: Action) -> Iterator[Right]:
    if isinstance(action, Provision):
        yield "create", VOLUMES, "", ""
    elif isinstance(action, DeleteVolume):
        yield from (("get", resource, space, name) for resource, space, name, _ in action.absent)
        yield "delete", VOLUMES, "", "v"
    elif isinstance(action, Expand):
        yield from (("patch", VOLUMES, "", "v"), ("update", f"{CLAIMS}/status", "ns", "c"))
    elif isinstance(action, (TakeSnapshot, DeleteSnapshot)):
        yield "update", f"{CONTENTS}/status", "", "s"
    elif isinstance(action, PurgeNamespace):
        yield from ((verb, "widgets.example.org", "ns", "w") for verb in ("list", "delete", "deletecollection"))
        yield from (("update", f"namespaces/{part}", "", "ns") for part in ("status", "finalize"))
    elif isinstance(action, CollectAggregated):
        yield from ((verb, "flunders.example.com", "", "") for verb in ("list", "delete"))
    elif isinstance(action, Recount):
        yield from (("list", resource, meta.namespace(action.quota), "") for resource in action.resources)
        yield "update", "resourcequotas/status", "ns", "q"
    elif isinstance(action, ApproveCertificate):
        yield "create", "subjectaccessreviews.authorization.k8s.io", "", ""
        yield "patch", f"{REQUESTS}/approval", "", "r"
    elif isinstance(action, SignCertificate):
        yield "update", f"{REQUESTS}/status", "", "r"
    elif isinstance(action, Migrate):
        yield from ((verb, "widgets.example.org", "ns", "w") for verb in ("list", "patch"))
        yield "update", f"{MIGRATIONS}/status", "", "m"
    elif isinstance(action, Rescale):
        yield "patch", f"{action.resource}/scale", meta.namespace(action.obj), meta.name(action.obj)
