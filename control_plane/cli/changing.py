"""Commands that change objects: `apply`, `delete`, `scale`. Each returns the command's exit code."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.kinds import resource_of
from rayplane.control_plane.cli.printing import error_line, name_of
from rayplane.control_plane.cli.session import Session
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.manifests import FIELD_MANAGER, Manifest

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """One object."""

    info: ResourceInfo
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """Flags of `delete`."""

    grace_s: int | None = None
    wait: bool = True
    timeout_s: float = 300.0
    ignore_not_found: bool = False
    cascade: str = "background"


# --- apply --------------------------------------------------------------------------------------


async def apply(session: Session, manifests: Sequence[Manifest]) -> int:
    """Make the cluster's objects have the fields of the manifests; one that fails does not stop the others."""
    failed = False
    for manifest in manifests:
        try:
            place = await _place(session, manifest)
            change = await _apply(session, place, manifest.object)
        except ApiError as e:
            session.terminal.error(" ".join(f"{error_line(e)} ({manifest.source})".split()))
            failed = True
        except ClusterError as e:
            session.terminal.error(f"rayplane: {manifest.source}: {e}")
            failed = True
        else:
            line = f"{name_of(place.info, place.name)} {change}"
            session.changed(place.info.kind, place.namespace, place.name, change, line)
    return 1 if failed else 0


async def _apply(session: Session, place: Place, wanted: Object) -> str:
    resource = resource_of(place.info)
    try:
        before = await session.api.get(resource, place.name, place.namespace)
    except NotFound:
        before = None
    # Apply again what `get -o yaml` printed: who managed fields, and how far the object got, is not ours to set.
    after = await session.api.patch(
        resource,
        place.name,
        place.namespace,
        meta.strip_managed(wanted),
        kind="apply",
        field_manager=FIELD_MANAGER,
        field_validation="Strict",
        force=True,
    )
    if before is None:
        return "created"
    return "unchanged" if _wish(before) == _wish(after) else "configured"


def _wish(obj: Object) -> Object:
    """An object without what components change by themselves all the time."""
    kept = meta.without(obj, ("status",))
    return kept | {"metadata": meta.without(meta.metadata(obj), ("resourceVersion", "managedFields"))}


async def _place(session: Session, manifest: Manifest) -> Place:
    info = await session.kinds.of(manifest.object)
    own = meta.namespace(manifest.object)
    if info.namespaced and own and session.namespace and own != session.namespace:
        raise ClusterError(f"the object is of namespace {own!r}, not {session.namespace!r}; use -n {own}")
    namespace = (own or session.namespace_of(info)) if info.namespaced else ""
    return Place(info, namespace, meta.name(manifest.object))


# --- delete -------------------------------------------------------------------------------------


async def delete(session: Session, places: Sequence[Place], options: DeleteOptions) -> int:
    """Delete objects and wait until they are gone."""
    failed = False
    gone_soon: list[tuple[Place, str]] = []
    for place in places:
        try:
            uid = await _delete(session, place, options)
        except ApiError as e:
            if not (isinstance(e, NotFound) and options.ignore_not_found):
                session.failed(e)
                failed = True
            continue
        where = f" from {place.namespace} namespace" if place.namespace else ""
        kind = name_of(place.info, "").rstrip("/")
        line = f'{kind} "{place.name}" deleted{where}'
        session.changed(place.info.kind, place.namespace, place.name, "deleted", line)
        gone_soon.append((place, uid))
    if options.wait:
        await _await_gone(session, gone_soon, options.timeout_s)
    return 1 if failed else 0


async def _delete(session: Session, place: Place, options: DeleteOptions) -> str:
    """The uid of what is being deleted."""
    answer = await session.api.delete(
        resource_of(place.info),
        place.name,
        place.namespace,
        grace_period_s=options.grace_s,
        propagation=options.cascade.capitalize(),
    )
    details = answer.get("details")
    return str(details.get("uid", "")) if isinstance(details, dict) else meta.uid(answer)


async def _await_gone(session: Session, waiting: list[tuple[Place, str]], timeout_s: float) -> None:
    place: Place | None = None
    try:
        async with asyncio.timeout(timeout_s):
            for place, uid in waiting:
                while await _is_there(session, place, uid):
                    await asyncio.sleep(POLL_S)
    except TimeoutError:
        assert place is not None
        what = name_of(place.info, place.name)
        raise ClusterError(f"{what} is not gone after {timeout_s:g} s; look at its finalizers, or wait more") from None


async def _is_there(session: Session, place: Place, uid: str) -> bool:
    try:
        found = await session.api.get(resource_of(place.info), place.name, place.namespace)
    except NotFound:
        return False
    # Another of the same name is not the one that was deleted.
    return not uid or meta.uid(found) == uid


async def places_of(session: Session, manifests: Sequence[Manifest]) -> list[Place]:
    """Where the objects of manifests are."""
    return [await _place(session, m) for m in manifests]


async def places_named(session: Session, arguments: Sequence[str], *, selector: str, everything: bool) -> list[Place]:
    """The objects that arguments and flags name."""
    places = []
    for one in await session.kinds.choose(arguments):
        namespace = session.namespace_of(one.info)
        if one.names and (selector or everything):
            raise UsageError("give either names, or -l, or --all")
        if not one.names and not (selector or everything):
            raise UsageError("say which: names, -l SELECTOR or --all")
        names = list(one.names)
        if not names:
            found = await session.api.list(resource_of(one.info), namespace, label_selector=selector)
            names = [meta.name(o) for o in found.items]
        places += [Place(one.info, namespace, name) for name in names]
    if not places:
        session.terminal.error("No resources found")
    return places


# --- scale --------------------------------------------------------------------------------------


async def scale(session: Session, arguments: Sequence[str], replicas: int) -> int:
    """Set how many replicas objects have."""
    failed = False
    for one in await session.kinds.choose(arguments):
        if not one.names:
            raise UsageError("say which: KIND NAME or KIND/NAME")
        if "scale" not in one.info.subresources and not one.info.custom:
            raise ClusterError(f"{one.info.plural} have no replicas to scale")
        namespace = session.namespace_of(one.info)
        for name in one.names:
            try:
                await session.api.patch(
                    resource_of(one.info),
                    name,
                    namespace,
                    {"spec": {"replicas": replicas}},
                    subresource="scale",
                    field_manager=FIELD_MANAGER,
                )
            except ApiError as e:
                session.failed(e)
                failed = True
            else:
                session.changed(one.info.kind, namespace, name, "scaled", f"{name_of(one.info, name)} scaled")
    return 1 if failed else 0
