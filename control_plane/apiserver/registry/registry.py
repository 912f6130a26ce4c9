"""The registry, one path to objects for both faces: authorise, read or write, let subresources have their way."""

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson

from rayplane.control_plane.api.aggregation.backends import Finding
from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    invalid,
    quote,
)
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.machinery.field_selectors import ALL_FIELDS
from rayplane.control_plane.api.machinery.names import path_segment_errors
from rayplane.control_plane.api.machinery.patching import PatchKind
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.selectors import EVERYTHING, parse_labels
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.chain import Admission, Extensions
from rayplane.control_plane.apiserver.admission.mutating_policies import MutatingPolicies
from rayplane.control_plane.apiserver.admission.questions import Questions
from rayplane.control_plane.apiserver.admission.request import CONNECT, AdmissionRequest
from rayplane.control_plane.apiserver.admission.validating_policies import ValidatingPolicies
from rayplane.control_plane.apiserver.admission.webhooks import Webhooks
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.aggregator.client import BackendClient
from rayplane.control_plane.apiserver.apiextensions.definitions import Cleaner, CustomResources
from rayplane.control_plane.apiserver.apiextensions.forms import Forms
from rayplane.control_plane.apiserver.audit import Auditor, allowed
from rayplane.control_plane.apiserver.authorization.reviews import Reviews
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.configuration_files import AUDIT, ConfigurationFiles
from rayplane.control_plane.apiserver.flowcontrol import estimates
from rayplane.control_plane.apiserver.flowcontrol.fairness import LEVELS, SCHEMAS, Fairness, Flow
from rayplane.control_plane.apiserver.flowcontrol.matching import Asked
from rayplane.control_plane.apiserver.flowcontrol.queues import Ticket
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.outgoing.access import Access
from rayplane.control_plane.apiserver.outgoing.webhooks import WebhookClient
from rayplane.control_plane.apiserver.registry import metrics_kinds
from rayplane.control_plane.apiserver.registry.bodies import check_write_options, refuse_options
from rayplane.control_plane.apiserver.registry.component_statuses import ComponentStatuses
from rayplane.control_plane.apiserver.registry.delete_options import IGNORE_READ_ERRORS, UNSAFE_DELETE
from rayplane.control_plane.apiserver.registry.metrics import Metrics
from rayplane.control_plane.apiserver.registry.own_writes import OwnWrites
from rayplane.control_plane.apiserver.registry.packed import Packed
from rayplane.control_plane.apiserver.registry.reading import Listing, Reader, WatchItem
from rayplane.control_plane.apiserver.registry.subresources import Subresources
from rayplane.control_plane.apiserver.registry.token_requests import TokenRequests
from rayplane.control_plane.apiserver.registry.writing import Writer
from rayplane.control_plane.apiserver.request_metrics import RequestMetrics
from rayplane.control_plane.apiserver.requests import (
    SYSTEM,
    Answer,
    DeleteOptions,
    ListOptions,
    Target,
    User,
    WriteOptions,
)
from rayplane.control_plane.apiserver.storage.encryption import Encryption
from rayplane.control_plane.apiserver.storage.entries import Entry
from rayplane.control_plane.apiserver.storage.hearing import Hearing
from rayplane.control_plane.apiserver.storage.leases import EventLeases
from rayplane.control_plane.apiserver.storage.store import Storage
from rayplane.control_plane.apiserver.tracing.recent import Recent
from rayplane.control_plane.apiserver.tracing.spans import span, traced
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.apiserver.watch_cache.watchers import Shared
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.tasks import each_of, end_each
from rayplane.storage.env import Env

_DELETES_AT_ONCE = 16
# Subresources that are another view of the object and are read and written like it.
_PLAIN = frozenset({"", "status"})

P = ParamSpec("P")
T = TypeVar("T")

# The class below has a method `list`, which hides the type inside it.
_Items = Shared[WatchItem]


def _in_turn(
    operation: "Callable[Concatenate[ObjectRegistry, User, Target, P], Awaitable[T]]",
) -> "Callable[Concatenate[ObjectRegistry, User, Target, P], Coroutine[Any, Any, T]]":
    """An operation that has seats while it is worked on, and waits for them when there is much to do."""
    verb = operation.__name__.replace("_", "")

    @functools.wraps(operation)
    async def in_turn(self: "ObjectRegistry", user: User, target: Target, *args: P.args, **kwargs: P.kwargs) -> T:
        ticket = await self.seat(user, verb, target)
        self.fairness.at_hand(ticket)
        try:
            return await operation(self, user, target, *args, **kwargs)
        finally:
            self.fairness.leave(ticket)

    return in_turn


def _serve_metrics(kinds: Kinds) -> list[str]:
    """Adds the resources of the metrics group to those that are served; their names."""
    for info in metrics_kinds.RESOURCES:
        kinds.registry.add(info)
        kinds.custom_schemas[info.api_version, info.kind] = metrics_kinds.SCHEMAS[info.kind]
    return [info.name for info in metrics_kinds.RESOURCES]


def _storage(config: ApiServerConfig, env: Env, etcd: EtcdClient) -> Storage:
    return Storage(
        etcd,
        Hearing(config.timing.etcd_patience_s),
        server=config.name,
        update_attempts=config.limits.update_attempts,
        encryption=Encryption.parse(config.encryption, env.rng.randbytes),
    )


class ObjectRegistry:
    """All operations on objects. Every method raises ApiError."""

    def __init__(self, config: ApiServerConfig, env: Env, etcd: EtcdClient, network: Network) -> None:
        self.files = ConfigurationFiles(config, env)
        config = self.files.newest(config)
        self.etcd = etcd
        self.requests = RequestMetrics()
        self.recent = Recent(config.name, env.clock.now)
        self.fairness = Fairness(config.limits.requests_in_flight, wait_max_s=config.timing.queue_wait_s)
        self.kinds = Kinds()
        self.env = env
        self.storage = _storage(config, env, etcd)
        self.hub = WatchHub(etcd, self.storage, env=env, limits=config.limits, timing=config.timing)
        self.lookup = Lookup(self.kinds, self.hub)
        self.metrics = Metrics(self.lookup, network, env)
        self._computed: dict[str, Metrics | ComponentStatuses] = {
            **dict.fromkeys(_serve_metrics(self.kinds), self.metrics),
            "componentstatuses": ComponentStatuses(self.lookup, self.hub, env),
        }
        self.cleaner = Cleaner()
        self.custom = CustomResources(self.kinds, self.hub, self.cleaner)
        self._access = Access(config, env)
        self.authorizer = self._access.authorizer(self.kinds, self.hub)
        self.auditor = Auditor(config.audit, env) if config.audit is not None else None
        self.authenticator = self._access.authenticator(self.lookup.get, self._mark_used)
        self._webhooks = WebhookClient(self.lookup, network, env.rng)
        backends = BackendClient(self.lookup, network, env.rng, config.tls_dir)
        self.aggregator = Aggregator(
            self.kinds, self.hub, self.lookup, client=backends, tell=self._tell_available, leisure=config.timing.leisure
        )
        self.forms = Forms(self.kinds, self._webhooks, env)
        self.reader = Reader(self.kinds, self.forms, self.storage, self.hub, env=env, timing=config.timing)
        self.packed = Packed(self.kinds, self.reader)
        self.chain, self._leases = self._admission(config), EventLeases(etcd, config.timing)
        self.writer = Writer(self.kinds, self.forms, self.storage, self.hub, self.chain, env=env, leases=self._leases)
        self._own = OwnWrites(self.kinds, self.writer, env)
        tokens = self.authenticator.tokens
        self.subresources = Subresources(
            self.kinds,
            self.forms,
            self.reader,
            self.writer,
            self.lookup,
            admission=self.chain,
            reviews=Reviews(self.authorizer, self.authenticator),
            token_requests=TokenRequests(config, env, reader=self.reader, lookup=self.lookup, tokens=tokens),
            env=env,
        )

    def _admission(self, config: ApiServerConfig) -> Admission:
        questions = Questions(self.kinds, self.forms, self.lookup, self.authorizer, default=self._default, env=self.env)
        webhooks = Webhooks(self.kinds, self.hub, questions, caller=self._webhooks)
        validating = ValidatingPolicies(self.kinds, self.hub, self.lookup, questions)
        mutating = MutatingPolicies(self.kinds, self.hub, self.lookup, questions)
        chain = Admission(
            config,
            self.env,
            self.lookup,
            self.authorizer,
            kinds=self.kinds,
            to_storage=self.storage.to_storage,
            provide=lambda name: self.writer.make_namespace(name),
            extensions=Extensions(webhooks, validating, mutating),
        )
        return self._access.admission(chain)

    def _default(self, info: ResourceInfo, o: Object) -> None:
        self.writer.default(info, o)

    async def target(
        self,
        group: str,
        version: str,
        plural: str,
        *,
        namespace: str = "",
        name: str = "",
        subresource: str = "",
    ) -> Target:
        """What a request names. NotFound for what is not served, BadRequest for what can be no name."""
        named = {"namespace": namespace, "name": name, "subresource": subresource}
        if found := self.known_target(group, version, plural, **named):
            return found
        if "." in group:
            # It may have been defined just now, through another server.
            await self.custom.catch_up()
            if found := self.known_target(group, version, plural, **named):
                return found
        raise NotFound("the server could not find the requested resource", details={})

    def known_target(
        self, group: str, version: str, plural: str, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> Target | None:
        """As `target`; None for what is not known to be served."""
        info = self.kinds.served(group, version, plural)
        if info is None:
            return None
        if subresource and subresource not in info.subresources:
            raise NotFound("the server could not find the requested resource", details={})
        for what, value in (("Name", name), ("Namespace", namespace)):
            problems = path_segment_errors(value)
            if problems:
                raise BadRequest(f'{what} parameter invalid: "{value}": {", ".join(problems)}')
        if not info.namespaced:
            namespace = name if info.name == "namespaces" else ""
        return Target(info, namespace, name, subresource)

    async def start(self) -> None:
        """Serve custom resources and look after deleted definitions. The hub must run."""
        await self.custom.load()
        self.fairness.follow(*[await self.hub.cache(self.kinds.named(r)) for r in (SCHEMAS, LEVELS)])
        self._access.start()
        self.files.follow(self._access.takers | ({AUDIT: self.auditor.take} if self.auditor is not None else {}))
        await self.aggregator.start()
        self.cleaner.start(self._empty, self._own.release)

    async def stop(self) -> None:
        self.recent.stop()
        await end_each(
            self.files.stop,
            self.packed.stop,
            self.aggregator.stop,
            self.cleaner.stop,
            self.forms.stop,
            self._webhooks.close,
            self._access.stop,
            self.hub.stop,
            self._leases.stop,
            self.storage.stop,
        )

    async def _empty(self, definition: str) -> bool:
        """Delete the objects of a custom resource whose definition is being deleted; True when none is left."""
        crd = await self.lookup.get(CRDS, definition)
        try:
            info = self.kinds.named(definition)
        except LookupError:
            return True
        if crd is None or not crd["metadata"].get("deletionTimestamp"):
            return True
        target = Target(info)
        listing = await self.delete_collection(SYSTEM, target, ListOptions(), DeleteOptions())
        if not listing.entries:
            return True
        return not (await self.reader.list(target, ListOptions())).entries

    async def _tell_available(self, name: str, finding: Finding) -> None:
        await self._own.tell_available(name, finding)

    async def _mark_used(self, secret: Object, day: str) -> None:
        await self._own.mark_used(secret, day)

    # --- turns --------------------------------------------------------------------------------

    def flow(self, user: User, verb: str, target: Target) -> Flow:
        """Which flow a request is of: the same for all that look alike."""
        info = target.info
        asked = Asked.of(user, verb, info.group, info.plural, target.subresource, namespace=target.namespace)
        return self.fairness.flow(asked)

    async def seat(self, user: User, verb: str, target: Target) -> Ticket:
        """Seats for a request; `fairness.leave` must follow. TooManyRequests."""
        flow = self.flow(user, verb, target)
        ticket = self._ticket(flow, verb, target)
        # Nearly always there is a seat.
        if traced() or not self.fairness.at_once(flow, ticket):
            await self.fairness.seat(flow, ticket)
        return ticket

    async def watch_seat(self, user: User, target: Target, options: ListOptions) -> Ticket:
        """As `seat`, for the beginning of a watch."""
        begins = options.send_initial_events is not False and options.resource_version in ("", "0")
        flow = self.flow(user, "watch", target)
        ticket = self._ticket(flow, "watch", target, begins=begins or bool(options.send_initial_events))
        return await self.fairness.seat(flow, ticket)

    def _ticket(self, flow: Flow, verb: str, target: Target, *, begins: bool = False) -> Ticket:
        """As wide as the request is thought to be, where that matters. `begins`: a watch lists what there is."""
        if flow.level.spec.exempt or verb == "get" or (cache := self.hub.peek(self.kinds.stored(target.info))) is None:
            return Ticket(target.name)
        if verb in ("list", "watch"):
            shown = len(cache) if verb == "list" or begins else 1
            return Ticket.wide(target.name, estimates.of_list(shown, cache.object_bytes, flow.level.widest))
        watches = cache.watched_by_all
        flow.counts.watches.observe(watches)
        if watches < estimates.WATCHES_PER_SEAT:
            return Ticket(target.name)
        final, linger_s = estimates.of_write(watches, flow.level.widest)
        return Ticket.wide(target.name, 1, final=final, linger_s=linger_s)

    # --- reads --------------------------------------------------------------------------------

    @_in_turn
    async def get(self, user: User, target: Target, resource_version: str = "") -> bytes:
        """One object as JSON."""
        await self.allow(user, "get", target)
        if (computed := self._computed.get(target.info.name)) is not None:
            return (await computed.get(target.info, target.namespace, target.name, self.hub.revision)).json
        if target.subresource not in _PLAIN:
            return await self.subresources.get(_plain(target), resource_version)
        entry = await self.reader.get(_plain(target), resource_version)
        return await self.forms.json(target.info, entry)

    @_in_turn
    async def list(self, user: User, target: Target, options: ListOptions) -> Listing:
        await self.allow(user, "list", target, options)
        if (computed := self._computed.get(target.info.name)) is not None:
            selection = self.reader.selection(_plain(target), options)
            return await computed.list(target.info, selection, self.hub.revision)
        return await self.reader.list(_plain(target), options)

    async def watch(
        self, user: User, target: Target, options: ListOptions, ticket: Ticket | None = None
    ) -> AsyncGenerator[_Items, None]:
        """See `Reader.watch`. Refusals come with the first item asked for. It has seats until it has begun, the
        ticket's where there is one.
        """
        ticket = ticket or await self.watch_seat(user, target, options)
        try:
            await self.allow(user, "watch", target, options)
            watch = self.reader.watch(_plain(target), options, begun=lambda: self.fairness.leave(ticket))
            async with contextlib.aclosing(watch) as groups:
                async for items in groups:
                    yield items
        finally:
            self.fairness.leave(ticket)

    # --- writes -------------------------------------------------------------------------------

    @_in_turn
    async def create(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        await self.allow(user, "create", target)
        check_write_options(options, "CreateOptions")
        plain = _plain(target)
        if target.subresource:
            return await self.subresources.create(user, plain, body, content_type, options)
        if not target.info.persisted:
            return await self.subresources.review(user, plain, body, content_type, options)
        return await self.writer.create(user, plain, body, content_type, options)

    @_in_turn
    async def update(self, user: User, target: Target, body: bytes, content_type: str, options: WriteOptions) -> Answer:
        await self.allow(user, "update", target)
        check_write_options(options, "UpdateOptions")
        plain = _plain(target)
        if target.subresource not in _PLAIN:
            return await self.subresources.update(user, plain, body, content_type, options)

        async def may_create() -> None:
            await self.authorizer.check(user, "create", target)

        return await self.writer.update(user, plain, body, content_type, options, may_create=may_create)

    @_in_turn
    async def patch(self, user: User, target: Target, kind: PatchKind, body: bytes, options: WriteOptions) -> Answer:
        await self.allow(user, "patch", target)
        check_write_options(options, "PatchOptions", kind)
        plain = _plain(target)
        if target.subresource not in _PLAIN:
            return await self.subresources.patch(user, plain, kind, body, options)

        async def may_create() -> None:
            await self.authorizer.check(user, "create", target)

        return await self.writer.patch(user, plain, kind, body, options, may_create=may_create)

    @_in_turn
    async def delete(self, user: User, target: Target, options: DeleteOptions) -> Answer:
        await self.allow(user, "delete", target)
        if target.subresource:
            raise MethodNotAllowed(details={})
        if options.ignore_read_errors:
            await self._allow_unsafe(user, target)
        return await self.writer.delete(user, _plain(target), options)

    async def _allow_unsafe(self, user: User, target: Target) -> None:
        """Who deletes what cannot be read needs one right more. Forbidden."""
        try:
            await self.authorizer.check(user, UNSAFE_DELETE, target)
        except Forbidden as e:
            text = f"not permitted to do {quote(UNSAFE_DELETE)}, reason: {e.message}"
            raise Forbidden.of(target.info.plural, target.name, text, group=target.info.group) from e

    @_in_turn
    async def delete_collection(
        self, user: User, target: Target, options: ListOptions, delete: DeleteOptions
    ) -> Listing:
        """Delete everything that is selected; the answer lists what it was."""
        await self.allow(user, "deletecollection", target, options)
        if delete.ignore_read_errors:
            text = "is not allowed with DELETECOLLECTION, try again after removing the option"
            refuse_options("DeleteOptions", [invalid(IGNORE_READ_ERRORS, True, text)])
        plain = _plain(target)
        listing = await self.reader.select(plain, options)

        async def one(entry: Entry) -> None:
            single = Target(target.info, entry.namespace, entry.name)
            # Somebody else may have been faster.
            with contextlib.suppress(NotFound):
                await self.writer.delete(user, single, delete)

        await each_of(listing.entries, one, at_once=_DELETES_AT_ONCE)
        return await self.reader.shown(listing)

    async def connect(self, user: User, target: Target, options: Object) -> None:
        """Have webhooks and policies judge a connection, for which the user has the right. `options` say what for."""
        info, form = target.info, target.info.subresources[target.subresource]
        whole = {"kind": form.kind, "apiVersion": form.api_version, **{k: v for k, v in options.items() if v}}
        namespace, part = _plain(target).namespace, target.subresource
        await self.chain.connect(AdmissionRequest(CONNECT, info, user, namespace, target.name, whole, subresource=part))

    def allows(self, user: User, verb: str, target: Target) -> bool:
        """Whether a plain read is known to be allowed, without asking anybody."""
        info = target.info
        if verb not in info.verbs or not info.persisted or info.name in self._computed:
            return False
        return user.all_powerful or self.authorizer.allows(user, verb, target)

    async def allow(self, user: User, verb: str, target: Target, options: ListOptions | None = None) -> None:
        """MethodNotAllowed for a verb that is not served here, Forbidden for a user who may not."""
        info = target.info
        served = info.subresources[target.subresource].verbs if target.subresource else info.verbs
        computed = verb == "create" or info.name in self._computed
        if verb not in served or not (info.persisted or computed):
            raise MethodNotAllowed(details={})
        if verb == "create" and info.told_verbs and not target.subresource:
            text = "create not allowed while custom resource definition is terminating"
            raise MethodNotAllowed(text, details={"group": info.group, "kind": info.plural})
        if user.all_powerful:
            with span("authorization") as step:
                if step:
                    step.note({"verb": verb, "resource": info.name, "authorizer": f"{MASTERS} may do everything"})
                allowed()
            return
        if verb == "create" and not target.subresource:
            target = Target(info, target.namespace)
        fields, labels = ALL_FIELDS, EVERYTHING
        # What cannot be understood limits nothing: who may ask is told what is wrong with it.
        if options is not None and options.field_selector:
            with contextlib.suppress(BadRequest):
                fields = self.reader.selection(
                    _plain(target), ListOptions(field_selector=options.field_selector)
                ).fields
        if options is not None and options.label_selector:
            with contextlib.suppress(BadRequest):
                labels = parse_labels(options.label_selector)
        await self.authorizer.check(user, verb, target, fields, labels)


def _plain(target: Target) -> Target:
    """The target as storage sees it: authorisation looks at a namespace as being in itself."""
    if target.info.namespaced or not target.namespace:
        return target
    return Target(target.info, "", target.name, target.subresource)


def error_json(error: ApiError) -> bytes:
    return orjson.dumps(error.status)
