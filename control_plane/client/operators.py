"""Operators: controllers that people write as plain async functions, for live clusters and for the simulation alike.

    import rayplane

    @rayplane.reconcile("configmaps", label_selector="kind=invoice", owns=("secrets",))
    async def number(client, key, invoice):
        ...

A reconcile function is called with an `ApiClient`, a `Key` and the object as it was last seen, None when it is gone:
when the object changes, when one of a kind that it `owns` changes whose controller it is, and again after a failure, in
pauses that grow. One key is never in work twice at once. A number that it returns is the seconds until it is to be
called again. A file of operators has any number of them, or one `async def operate(client)` that does all by itself.
"""

import asyncio
import copy
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, Conflict
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.client.informer import Informer
from rayplane.control_plane.client.workqueue import WorkQueue

log = logging.getLogger(__name__)

OPERATE = "operate"
_MARK = "__rayplane_reconciles__"

F = TypeVar("F", bound=Callable[..., Any])
Operate = Callable[[ApiClient], Awaitable[None]]


class BadOperator(ValueError):
    """A file of operators has none, or one that cannot be called so."""


class Key(NamedTuple):
    """Namespace and name of an object; the namespace is empty outside of namespaces."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def of(cls, text: str) -> "Key":
        namespace, _, name = text.rpartition("/")
        return cls(namespace, name)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """One reconcile function and what it is called for."""

    function: Callable[[ApiClient, Key, Object | None], Awaitable[float | None]]
    resource: str
    namespace: str = ""
    label_selector: str = ""
    owns: tuple[str, ...] = ()


def reconcile(
    resource: str, *, namespace: str = "", label_selector: str = "", owns: Iterable[str] = ()
) -> Callable[[F], F]:
    """The decorator of reconcile functions, see the module. `resource`: as clients name it, "deployments.apps"."""

    def mark(function: F) -> F:
        called: Any = function
        if not inspect.iscoroutinefunction(called):
            raise BadOperator(f"{getattr(called, '__name__', called)} reconciles: write it as `async def`")
        setattr(function, _MARK, Reconciler(called, resource, namespace, label_selector, tuple(owns)))
        return function

    return mark


def has_operators(names: Mapping[str, Any]) -> bool:
    """Whether a module has any."""
    return OPERATE in names or bool(_reconcilers(names))


def _reconcilers(names: Mapping[str, Any]) -> list[Reconciler]:
    return [r for value in names.values() if isinstance(r := getattr(value, _MARK, None), Reconciler)]


def operate_by(names: Mapping[str, Any]) -> Operate:
    """What runs the operators of a module (its `vars`). Raises BadOperator."""
    found, own = _reconcilers(names), names.get(OPERATE)
    if own is not None and not inspect.iscoroutinefunction(own):
        raise BadOperator(f"`{OPERATE}` must be `async def {OPERATE}(client)`")
    if own is None and not found:
        raise BadOperator(f"there is neither `async def {OPERATE}(client)` nor a function with @rayplane.reconcile")

    async def operate(client: ApiClient) -> None:
        async with asyncio.TaskGroup() as group:
            for reconciler in found:
                group.create_task(run(client, reconciler))
            if own is not None:
                group.create_task(own(client))

    return operate


async def run(client: ApiClient, reconciler: Reconciler) -> None:
    """Call one reconcile function for ever. Ends only when it is cancelled."""
    queue = WorkQueue()
    informer = Informer(
        client, reconciler.resource, namespace=reconciler.namespace, label_selector=reconciler.label_selector
    )
    informer.add_handler(lambda _kind, _old, obj: queue.add(meta.key(obj)))
    owned = [Informer(client, resource, namespace=reconciler.namespace) for resource in reconciler.owns]
    for one in owned:
        one.add_handler(lambda _kind, _old, obj: _owner(queue, informer, obj))
    informers = [informer, *owned]
    try:
        for one in informers:
            one.start()
        await informer.synced()
        while True:
            key = await queue.get()
            try:
                await _call(client, reconciler, informer, queue, key)
            finally:
                queue.done(key)
    finally:
        queue.close()
        for one in informers:
            await one.stop()


def _owner(queue: WorkQueue, informer: Informer, obj: Object) -> None:
    """The controller of an object, if it is one of the informer's."""
    reference = meta.controller_of(obj) or {}
    for namespace in (meta.namespace(obj), ""):
        found = informer.get(namespace, str(reference.get("name")))
        if found is not None and meta.uid(found) == reference.get("uid"):
            queue.add(meta.key(found))
            return


def _seconds(answer: Any) -> float:
    """Raises TypeError, ValueError or OverflowError for what is no number."""
    seconds = float(answer)
    if math.isnan(seconds):
        raise ValueError("it returned no number of seconds")
    return seconds


async def _call(client: ApiClient, reconciler: Reconciler, informer: Informer, queue: WorkQueue, key: str) -> None:
    try:
        # Its own copy: it may change what it was given.
        answer = await reconciler.function(client, Key.of(key), copy.deepcopy(informer.get_key(key)))
        again_s = None if answer is None else _seconds(answer)
    except ApiError as e:
        # What another try, or a newer object, mends is usual; what is forbidden or invalid stays so.
        level = logging.DEBUG if e.retryable or isinstance(e, Conflict) else logging.WARNING
        log.log(level, "%s of %s: %s; trying again", reconciler.function.__name__, key, e)
        queue.add_rate_limited(key)
    except Exception:
        # The fault of one object must not keep the others waiting.
        log.exception("%s of %s failed; trying again", reconciler.function.__name__, key)
        queue.add_rate_limited(key)
    else:
        queue.forget(key)
        if again_s is not None:
            queue.add_after(key, again_s)
