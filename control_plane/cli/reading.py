"""Commands that read objects: `get` and `describe`. Each returns the command's exit code."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.tables import to_table
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.describe import described
from rayplane.control_plane.cli.following import follow
from rayplane.control_plane.cli.kinds import Chosen, resource_of
from rayplane.control_plane.cli.printing import Line, TableWriter, check_format, formatted, listed, name_of
from rayplane.control_plane.cli.session import Session
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.history import instant


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOptions:
    """Flags of `get`."""

    output: str = ""
    all_namespaces: bool = False
    selector: str = ""
    field_selector: str = ""
    watch: bool = False
    headers: bool = True
    show_labels: bool = False
    at: str = ""
    """A revision or time of the past; empty is now."""

    @property
    def as_table(self) -> bool:
        return self.output in ("", "wide")


_Found = list[tuple[ResourceInfo, list[Object]]]


async def get(session: Session, arguments: Sequence[str], options: GetOptions) -> int:
    """Show objects. Those that are there are shown even if others are not."""
    check_format(options.output)
    chosen = await session.kinds.choose(arguments)
    selected = options.selector or options.field_selector
    if any(c.names for c in chosen) and (selected or options.all_namespaces):
        raise UsageError("give either names, or -l, --field-selector and -A")
    if options.watch:
        if len(chosen) != 1 or len(chosen[0].names) > 1 or options.at:
            raise UsageError("-w watches one kind, or one object, from now on")
        return await _watch(session, chosen[0], options)
    if options.at:
        session = session.at(await instant(session.etcd, options.at, session.clock.now()))
    found, failed = await _find(session, chosen, options)
    if options.as_table:
        _print_tables(session, found, options, several=len(chosen) > 1, quiet=failed)
    elif options.output == "name":
        for info, objs in found:
            for obj in objs:
                session.terminal.line(name_of(info, meta.name(obj)))
    else:
        everything = [o for _, objs in found for o in objs]
        one = len(chosen) == 1 and len(chosen[0].names) == 1
        if everything or not failed:
            value = everything[0] if one and everything else listed(everything)
            session.terminal.write(f"{formatted(value, options.output)}\n".encode())
    return 1 if failed else 0


async def describe(session: Session, arguments: Sequence[str], *, selector: str, all_namespaces: bool) -> int:
    """Show all there is to know of objects, with the events about them."""
    chosen = await session.kinds.choose(arguments)
    options = GetOptions(selector=selector, all_namespaces=all_namespaces)
    found, failed = await _find(session, chosen, options)
    texts = []
    for info, objs in found:
        for obj in objs:
            texts.append("\n".join(described(obj, await events_of(session, info, obj), session.clock.now())))
    if texts:
        session.terminal.line("\n\n\n".join(texts))
    elif not failed:
        session.terminal.error(_nothing(session, [c.info for c in chosen], all_namespaces))
    return 1 if failed else 0


async def _find(session: Session, chosen: Sequence[Chosen], options: GetOptions) -> tuple[_Found, bool]:
    found: _Found = []
    failed = False
    for one in chosen:
        namespace = "" if options.all_namespaces else session.namespace_of(one.info)
        objs: list[Object] = []
        try:
            if not one.names:
                listing = await session.api.list(
                    resource_of(one.info),
                    namespace,
                    label_selector=options.selector,
                    field_selector=options.field_selector,
                    resource_version=session.revision,
                )
                objs += listing.items
        except ApiError as e:
            session.failed(e)
            failed = True
        for name in one.names:
            try:
                objs.append(await _one(session, one.info, name, namespace))
            except ApiError as e:
                session.failed(e)
                failed = True
        found.append((one.info, objs))
    return found, failed


async def _one(session: Session, info: ResourceInfo, name: str, namespace: str) -> Object:
    if not session.revision:
        return await session.api.get(resource_of(info), name, namespace)
    selector = f"metadata.name={name}"
    found = await session.api.list(
        resource_of(info), namespace, field_selector=selector, resource_version=session.revision
    )
    if not found.items:
        raise NotFound.of(info.plural, name, group=info.group)
    return found.items[0]


def _print_tables(session: Session, found: _Found, options: GetOptions, *, several: bool, quiet: bool) -> None:
    blank = False
    for info, objs in found:
        if not objs:
            continue
        if blank:
            session.terminal.line("")
        blank = True
        writer = _writer(info, options)
        for line in _table_lines(session, writer, info, objs, prefix=name_of(info, "") if several else ""):
            session.terminal.line(*line)
    if not blank and not quiet:
        session.terminal.error(_nothing(session, [i for i, _ in found], options.all_namespaces))


def _writer(info: ResourceInfo, options: GetOptions) -> TableWriter:
    return TableWriter(
        wide=options.output == "wide",
        namespace=options.all_namespaces and info.namespaced,
        header=options.headers,
        labels=options.show_labels,
    )


def _table_lines(
    session: Session, writer: TableWriter, info: ResourceInfo, objs: Sequence[Object], *, prefix: str = ""
) -> list[Line]:
    table = to_table(
        rules_for(info).printer,
        objs,
        now=session.clock.now(),
        include_object="None",
        columns=session.kinds.columns(info),
    )
    return writer.lines(table, objs, prefix=prefix)


def _nothing(session: Session, infos: Sequence[ResourceInfo], all_namespaces: bool) -> str:
    if all_namespaces or not any(i.namespaced for i in infos):
        return "No resources found"
    return f"No resources found in {session.namespace or 'default'} namespace."


async def events_of(session: Session, info: ResourceInfo, obj: Object) -> list[Object]:
    """Events about an object, the oldest first."""
    selector = f"involvedObject.name={meta.name(obj)},involvedObject.kind={info.kind}"
    if info.namespaced:
        selector += f",involvedObject.uid={meta.uid(obj)}"
    events = (await session.api.list("events", meta.namespace(obj), field_selector=selector)).items
    return sorted(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))


# --- watching -----------------------------------------------------------------------------------


async def _watch(session: Session, chosen: Chosen, options: GetOptions) -> int:
    """Show objects, and each again whenever it changes, until interrupted."""
    info = chosen.info
    resource = resource_of(info)
    namespace = "" if options.all_namespaces else session.namespace_of(info)
    fields = f"metadata.name={chosen.names[0]}" if chosen.names else options.field_selector
    if chosen.names:
        await session.api.get(resource, chosen.names[0], namespace)
    writer = _writer(info, options)
    parts = follow(session.api, resource, namespace, label_selector=options.selector, field_selector=fields)
    async with aclosing(parts):
        async for part in parts:
            _show(session, writer, info, [e.object for e in part.events], options)
    return 0


def _show(
    session: Session, writer: TableWriter, info: ResourceInfo, objs: Sequence[Object], options: GetOptions
) -> None:
    if options.as_table:
        for row in _table_lines(session, writer, info, objs) if objs else ():
            session.terminal.line(*row)
        return
    if options.output == "name":
        lines = [name_of(info, meta.name(o)) for o in objs]
    else:
        separator = ["---"] if options.output == "yaml" else []
        lines = [line for o in objs for line in (*separator, formatted(o, options.output))]
    for line in lines:
        session.terminal.line(line)
