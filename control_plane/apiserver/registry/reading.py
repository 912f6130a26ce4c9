"""Reads: get, list and watch.

Reads are linearizable unless the client names a version: the caches are first brought up to etcd's present revision. If
they cannot be (the stream from etcd hangs), the read goes to etcd itself. Version 0 asks for any state; it gets the
present one too, as what another server has shown to the client before must not be gone. Continue tokens pin the
revision of the first page; later pages are read from etcd's history.
"""

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Expired,
    FieldError,
    Invalid,
    NotFound,
    Timeout,
    forbidden,
    not_supported,
)
from rayplane.control_plane.api.kinds.registry import rules_for
from rayplane.control_plane.api.machinery import selectors
from rayplane.control_plane.api.machinery.decoding import json_kind, json_syntax_error
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS, parse_fields
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.requests import ListOptions, Target
from rayplane.control_plane.apiserver.storage.entries import Broken, Entry
from rayplane.control_plane.apiserver.storage.store import CONTINUE_TOO_OLD, Storage
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.watchers import (
    ADDED,
    BOOKMARK,
    DELETED,
    ERROR,
    MODIFIED,
    Event,
    Seen,
    Selection,
    Shared,
    Watcher,
    line_of,
)
from rayplane.storage.env import Env

_PAGE = 500
_LIST_TOO_OLD = "The resourceVersion for the provided list is too old."
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9_-]")
_TOKEN_VERSION = "meta.k8s.io/v1"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Listing:
    """The answer to a list, before it is put into bytes."""

    info: ResourceInfo
    entries: Sequence[Entry]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class WatchItem:
    """One event of a watch. `event`: the change that it tells of as it is, with what all who are told share."""

    type: str
    json: bytes
    entry: Entry | None = None
    event: Event | None = None

    @property
    def line(self) -> bytes:
        """The JSON line of a REST stream."""
        if self.event is not None and self.entry is not None:
            return self.event.line(self.type, self.entry)
        return line_of(self.type, self.json)


# The class below has a method `list`, which hides the type inside it.
_Items = Shared[WatchItem]
_Entries = list[Entry]


class Reader:
    """All reads of the registry. Authorisation is the caller's."""

    def __init__(
        self, kinds: Kinds, forms: Forms, storage: Storage, hub: WatchHub, *, env: Env, timing: Timing
    ) -> None:
        self._kinds = kinds
        self._forms = forms
        self._storage = storage
        self._hub = hub
        self._env = env
        self._timing = timing

    # --- get ----------------------------------------------------------------------------------

    async def get(self, target: Target, resource_version: str = "") -> Entry:
        """The stored object. NotFound."""
        info = self._kinds.stored(target.info)
        entry = await self.find(info, target.namespace, target.name, resource_version)
        if entry is None:
            raise NotFound.of(target.info.plural, target.name, group=target.info.group)
        return entry

    async def find(self, info: ResourceInfo, namespace: str, name: str, resource_version: str = "") -> Entry | None:
        """As `get`, None where there is none."""
        try:
            cache = await self._reached(info, resource_version)
        except Timeout:
            if _version(resource_version):
                raise
            return await self._storage.get(info, namespace, name)
        return cache.get(namespace, name)

    async def _reached(self, info: ResourceInfo, resource_version: str) -> ResourceCache:
        """The cache, brought up to what a read with this resourceVersion may see at the oldest.

        In this order: a cache may be dropped while one waits, but a loaded one is as fresh as the hub.
        """
        await self._reach(resource_version)
        return await self._hub.cache(info)

    async def _reach(self, resource_version: str) -> None:
        """Bring the caches to what a read with this resourceVersion may see at the oldest."""
        if version := _version(resource_version):
            await self._hub.reached(version)
        else:
            await self._hub.fresh()

    # --- list ---------------------------------------------------------------------------------

    def selection(self, target: Target, options: ListOptions) -> Selection:
        """What the selectors of a request select. BadRequest when they cannot be parsed, or name another object."""
        info = target.info
        custom = self._kinds.custom(info)
        selectable = custom.selectable if custom is not None else ()
        fields = parse_fields(options.field_selector, rules_for(info).fields, selectable=selectable)
        if target.name and not fields.everything and fields.requires("metadata.name") != target.name:
            raise BadRequest("fieldSelector metadata.name doesn't match requested name")
        kinds = self._kinds
        convert = None
        if not (info.is_storage_version or fields.everything or self._kinds.webhook(info)):

            def convert(o: Any) -> Any:
                return kinds.from_stored(info, o)

        return Selection(
            namespace=target.namespace,
            name=target.name,
            labels=selectors.parse_labels(options.label_selector),
            fields=fields,
            convert=convert,
        )

    async def list(self, target: Target, options: ListOptions) -> Listing:
        """Expired when the pinned revision is compacted, Timeout when a future one is asked for."""
        return await self.shown(await self.select(target, options))

    async def shown(self, listing: Listing) -> Listing:
        """A listing of objects in the form that was asked for."""
        entries = await self._forms.entries(listing.info, listing.entries)
        return listing if entries is listing.entries else replace(listing, entries=entries)

    async def select(self, target: Target, options: ListOptions) -> Listing:
        """As `list`, of objects as they are stored."""
        _check_match(options)
        selection, late = self._parted(target.info, self.selection(target, options))
        listing = await self._selected(target, selection, options)
        if late is None:
            return listing
        found = [e for e in (await self.shown(listing)).entries if late.matches(e)]
        return replace(listing, entries=found, remaining=None)

    def _parted(self, info: ResourceInfo, selection: Selection) -> tuple[Selection, Selection | None]:
        """What can be selected from objects as they are stored, and what only from those that a webhook makes."""
        fields = selection.fields
        if self._kinds.webhook(info) is None or fields.paths <= set(METADATA_FIELDS):
            return selection, None
        plain = replace(selection, fields=fields.of(lambda path: path in METADATA_FIELDS))
        return plain, Selection(fields=fields.of(lambda path: path not in METADATA_FIELDS))

    async def _selected(self, target: Target, selection: Selection, options: ListOptions) -> Listing:
        info = self._kinds.stored(target.info)
        if options.continue_token:
            if options.resource_version not in ("", "0"):
                raise BadRequest("specifying resource version is not allowed when using continue")
            revision, start = _parse_token(options.continue_token, info.key_prefix(target.namespace))
            return await self._pages(target.info, selection, start=start, revision=revision, limit=options.limit)
        version = _version(options.resource_version)
        match = options.resource_version_match
        if version and (match == "Exact" or (not match and options.limit)):
            await self._hub.reached(version)
            return await self._pages(target.info, selection, revision=version, limit=options.limit)
        try:
            cache = await self._reached(info, options.resource_version)
        except Timeout:
            if version:
                raise
            return await self._pages(target.info, selection, revision=0, limit=options.limit)
        return self._from_cache(target.info, cache, selection, options.limit)

    def _from_cache(self, info: ResourceInfo, cache: ResourceCache, selection: Selection, limit: int) -> Listing:
        entries = cache.select(selection)
        revision = self._hub.revision
        if limit <= 0 or len(entries) <= limit:
            return Listing(info, entries, revision)
        shown = entries[:limit]
        prefix = cache.info.key_prefix(selection.namespace)
        left = len(entries) - limit if selection.content_free else None
        token = _make_token(revision, shown[-1].key + "\0", prefix)
        return Listing(info, shown, revision, token, left)

    async def _pages(
        self, info: ResourceInfo, selection: Selection, *, start: str = "", revision: int, limit: int
    ) -> Listing:
        """Read at a revision of the past (0: now) from etcd, until `limit` entries match; from `start` on."""
        stored = self._kinds.stored(info)
        prefix = stored.key_prefix(selection.namespace)
        continued, start = bool(start), start or prefix
        found: _Entries = []
        size = limit if limit and selection.content_free else max(limit, _PAGE)
        while True:
            try:
                page = await self._storage.page(stored, prefix, start=start, limit=size, revision=revision)
            except Expired as e:
                if not continued:
                    raise Expired(_LIST_TOO_OLD) from e
                raise _ExpiredPage(_make_token(-1, start, prefix)) from e
            revision, left, start = page.revision, page.left, page.last_key + "\0"
            for index, entry in enumerate(page.entries):
                if not isinstance(entry, Broken) and selection.matches(entry):
                    found.append(entry)
                if limit and len(found) == limit:
                    left += len(page.entries) - index - 1
                    start = entry.key + "\0"
                    break
            if left <= 0:
                return Listing(info, found, revision)
            if limit and len(found) >= limit:
                remaining = left if selection.content_free else None
                return Listing(info, found, revision, _make_token(revision, start, prefix), remaining)

    # --- watch --------------------------------------------------------------------------------

    def check_watch(self, target: Target, options: ListOptions) -> Selection:
        """What a watch selects. Invalid or BadRequest for one that cannot begin, ServiceUnavailable where nothing would
        be told."""
        self._hub.check_hearing()
        _check_initial_events(options)
        _version(options.resource_version)
        return self.selection(target, options)

    async def watch(
        self, target: Target, options: ListOptions, *, begun: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[_Items, None]:
        """Groups of events that were ready together. Ends after the timeout, or when the watcher is too slow. `begun`
        is called when it only waits for events, or for its reader.

        What goes wrong after `check_watch`, at once or later, comes as a last ERROR item, as in Kubernetes.
        """
        selection, late = self._parted(target.info, self.check_watch(target, options))
        info = self._kinds.stored(target.info)
        try:
            cache, watcher, initial_end = await self._join(info, selection, options)
        except ApiError as e:
            begun()
            yield Shared([_error_item(e)])
            return
        begun()
        try:
            events = self._events(target.info, watcher, options, initial_end, late)
            async with contextlib.aclosing(events):
                async for items in events:
                    yield items
        except ApiError as e:
            yield Shared([_error_item(e)])
        finally:
            cache.leave(watcher)

    async def _join(
        self, info: ResourceInfo, selection: Selection, options: ListOptions
    ) -> tuple[ResourceCache, Watcher, int | None]:
        """A watcher, and the revision at which its initial events end, where the client wants to know."""
        version = _version(options.resource_version)
        if version and not options.send_initial_events:
            cache = await self._hub.cache(info)
            return cache, cache.watch(selection, version), None
        cache = await self._reached(info, options.resource_version)
        revision = self._hub.revision
        initial = options.send_initial_events is not False
        watcher = cache.watch_from_now(selection, revision, initial=initial)
        return cache, watcher, revision if options.send_initial_events else None

    async def _events(
        self,
        info: ResourceInfo,
        watcher: Watcher,
        options: ListOptions,
        initial_end: int | None,
        late: Selection | None,
    ) -> AsyncGenerator[_Items, None]:
        loop = asyncio.get_running_loop()
        limit = options.timeout_s
        if limit is None:
            limit = self._timing.watch_timeout_s * (1 + self._env.rng.random())
        end = loop.time() + limit
        interval = self._timing.bookmark_interval_s if options.allow_bookmarks else limit
        bookmark_at = loop.time() + interval
        if initial_end is not None:
            while watcher.initial:
                yield await self._items(info, await watcher.take(0) or Shared(), late)
            if options.allow_bookmarks:
                yield Shared([_bookmark(info, initial_end, initial_end=True)])
        while (now := loop.time()) < end:
            position = self._hub.revision
            taken = await watcher.take(max(min(bookmark_at, end) - now, 0.0))
            if taken is None:
                break
            if taken:
                yield await self._items(info, taken, late)
            elif options.allow_bookmarks and loop.time() >= bookmark_at:
                # Nothing waits, so everything up to where the hub was before the wait has been sent. Who comes from a
                # server that is ahead is never sent back.
                yield Shared([_bookmark(info, max(position, watcher.after))])
                bookmark_at = loop.time() + interval
        if isinstance(watcher.error, ApiError):
            yield Shared([_error_item(watcher.error)])

    async def _items(self, info: ResourceInfo, taken: Shared[Seen], late: Selection | None) -> _Items:
        """The items of some changes, made once for all who are told the same in the same form."""
        shown = await self._forms.entries(info, [entry for _, entry, _ in taken])
        if late is None:
            return taken.form(
                info.api_version,
                lambda seen: Shared(
                    self._item(info, type_, e, event) for (type_, _, event), e in zip(seen, shown, strict=True)
                ),
            )
        earlier = [event.previous for type_, _, event in taken if type_ == MODIFIED and event and event.previous]
        befores = iter(await self._forms.entries(info, earlier))
        items: _Items = Shared()
        for (type_, _, event), entry in zip(taken, shown, strict=True):
            before = next(befores) if type_ == MODIFIED and event and event.previous else None
            told = _late(type_, entry, before, late)
            if told is not None:
                items.append(self._item(info, *told, None))
        return items

    def _item(self, info: ResourceInfo, type_: str, entry: Entry, event: Event | None) -> WatchItem:
        if info.is_storage_version and not info.custom:
            return WatchItem(type_, entry.json, entry, event)
        return WatchItem(type_, self._kinds.json(info, entry), entry)


def _late(type_: str, entry: Entry, before: Entry | None, selection: Selection) -> tuple[str, Entry] | None:
    """What is told of a change to who selects by what a webhook makes of objects; `before`: what was modified."""
    now = selection.matches(entry)
    if before is None:
        return (type_, entry) if now else None
    if not selection.matches(before):
        return (ADDED, entry) if now else None
    return (MODIFIED, entry) if now else (DELETED, before.at(entry.revision))


def _version(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        shown = text[:100]
        raise BadRequest(
            f'resourceVersion: Invalid value: "{shown}": strconv.ParseUint: parsing "{shown}": invalid syntax'
        )
    digits = text.lstrip("0")
    if len(digits) > 20 or int(digits or "0") >= 1 << 64:
        shown = text[:100]
        raise BadRequest(
            f'resourceVersion: Invalid value: "{shown}": strconv.ParseUint: parsing "{shown}": value out of range'
        )
    return int(digits or "0")


_EXACT, _NOT_OLDER = "Exact", "NotOlderThan"
_MATCH, _INITIAL = "resourceVersionMatch", "sendInitialEvents"


def _check_match(options: ListOptions) -> None:
    match = options.resource_version_match
    found: list[FieldError] = []
    if match:
        if not options.resource_version:
            found.append(forbidden(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided"))
        if options.continue_token:
            found.append(forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
        if match not in (_EXACT, _NOT_OLDER):
            found.append(not_supported(_MATCH, match, (_EXACT, _NOT_OLDER, "")))
        if match == _EXACT and options.resource_version == "0":
            found.append(forbidden(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"'))
    if options.send_initial_events is not None:
        found.append(forbidden(_INITIAL, f"{_INITIAL} is forbidden for list"))
    _refuse(found)


def _check_initial_events(options: ListOptions) -> None:
    match = options.resource_version_match
    found: list[FieldError] = []
    if options.send_initial_events is not None and match != _NOT_OLDER:
        found.append(forbidden(_MATCH, f"{_INITIAL} requires setting {_MATCH} to {_NOT_OLDER}"))
    if match:
        if options.send_initial_events is None:
            found.append(forbidden(_MATCH, f"{_MATCH} is forbidden for watch unless {_INITIAL} is provided"))
        if match != _NOT_OLDER:
            found.append(not_supported(_MATCH, match, (_NOT_OLDER,)))
        if options.continue_token:
            found.append(forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
    _refuse(found)


def _refuse(found: list[FieldError]) -> None:
    if found:
        raise Invalid.of("ListOptions", "", found, group="meta.k8s.io")


def _make_token(revision: int, start: str, prefix: str) -> str:
    relative = start.removeprefix(prefix)
    raw = orjson.dumps({"v": _TOKEN_VERSION, "rv": revision, "start": relative})
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _parse_token(token: str, prefix: str) -> tuple[int, str]:
    """(revision, key to start at). The key is relative to the listed prefix and cannot leave it. BadRequest."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        bad = _NOT_BASE64.search(token)
        at = bad.start() if bad else len(token) - len(token) % 4
        raise _bad_token(f": illegal base64 data at input byte {at}") from None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _bad_token(f": {json_syntax_error(raw)}") from None
    if not isinstance(value, dict):
        raise _bad_token(f": json: cannot unmarshal {json_kind(value)} into Go value of type storage.continueToken")
    if value.get("v") != _TOKEN_VERSION:
        raise _bad_token(f': server does not recognize this encoded version "{str(value.get("v"))[:100]}"')
    revision, start = value.get("rv", 0), value.get("start", "")
    if type(revision) is not int or not -1 <= revision < 1 << 63 or revision == 0:
        raise _bad_token(f": incorrect encoded start resourceVersion (version {_TOKEN_VERSION})")
    if type(start) is not str or not start:
        raise _bad_token(f": encoded start key empty (version {_TOKEN_VERSION})")
    if start.startswith("/") or ".." in start.split("/"):
        raise _bad_token(f": {start[:100]}")
    return max(revision, 0), prefix + start


def _bad_token(why: str) -> BadRequest:
    return BadRequest(f"invalid continue token: continue key is not valid{why}")


class _ExpiredPage(Expired):
    """An error that tells with which token the list may go on, at the price of consistency."""

    def __init__(self, fresh_token: str) -> None:
        super().__init__(CONTINUE_TOO_OLD)
        self._fresh_token = fresh_token

    @property
    def status(self) -> dict[str, Any]:
        return {**super().status, "metadata": {"continue": self._fresh_token}}


def _error_item(error: ApiError) -> WatchItem:
    return WatchItem(ERROR, orjson.dumps(error.status))


def _bookmark(info: ResourceInfo, revision: int, *, initial_end: bool = False) -> WatchItem:
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    if initial_end:
        meta["annotations"] = {INITIAL_EVENTS_END: "true"}
    body = {"kind": info.kind, "apiVersion": info.api_version, "metadata": meta}
    return WatchItem(BOOKMARK, orjson.dumps(body))
