"""Custom resources whose versions a webhook converts: a real HTTPS server that converts, refuses, fails and lies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.outgoing import webhooks as outgoing
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.controllers.actions import PurgeNamespace
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.namespace_purger import NamespacePurger
from tests.apiserver.conftest import Stack
from tests.apiserver.test_definitions import CRDS, definition, redefine, thing, version
from tests.apiserver.test_webhooks import BUNDLE, _context

V1, V2, OLD = "things.v1.example.com", "things.v2.example.com", "things.v1beta1.example.com"
FIELD = {"v1": "n", "v2": "count", "v1beta1": "number"}
Answer = Callable[[Object], "Awaitable[Any] | Any"]


def renamed(o: Object, to: str) -> Object:
    """A Thing in another version, in which its number has another name."""
    new: Object = orjson.loads(orjson.dumps(o))
    new["apiVersion"], spec = to, new.get("spec") or {}
    for name in FIELD.values():
        if name in spec:
            spec[FIELD[to.rpartition("/")[2]]] = spec.pop(name)
    return new


class Converter:
    """A conversion webhook: `answer(review)` gives the response, or parts of it, or a whole answer."""

    def __init__(self) -> None:
        self.reviews: list[Object] = []
        self.port = 0
        self.answer: Answer = lambda review: {}

    async def handle(self, request: web.Request) -> web.Response:
        review = orjson.loads(await request.read())
        self.reviews.append(review)
        answer = self.answer(review)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, web.Response):
            return answer
        asked = review["request"]
        made = [renamed(o, asked["desiredAPIVersion"]) for o in asked["objects"]]
        response = {"uid": asked["uid"], "convertedObjects": made, "result": {"status": "Success"}, **answer}
        body = {"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    @property
    def asked(self) -> list[tuple[str, list[str]]]:
        """The versions that were wanted, and of which objects."""
        requests = [review["request"] for review in self.reviews]
        return [(r["desiredAPIVersion"], [o["metadata"]["name"] for o in r["objects"]]) for r in requests]

    @property
    def webhook(self) -> Object:
        client = {"url": f"https://127.0.0.1:{self.port}/convert", "caBundle": BUNDLE}
        return {"clientConfig": client, "conversionReviewVersions": ["v1", "v1beta1"]}


@pytest_asyncio.fixture
async def converter() -> AsyncIterator[Converter]:
    made = Converter()
    # Who waits for a client that has left keeps the server from its end.
    runner = web.ServerRunner(web.Server(made.handle, handler_cancellation=True))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_context())
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def of(name: str, *, storage: bool = False, **more: Any) -> Object:
    """A version; the number must be at least one."""
    made = version(name, {"properties": {FIELD[name]: {"type": "integer", "minimum": 1}}}, storage=storage, **more)
    made["schema"]["openAPIV3Schema"]["properties"]["status"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    made["subresources"] = {
        "status": {},
        "scale": {"specReplicasPath": f".spec.{FIELD[name]}", "statusReplicasPath": ".status.have"},
    }
    return made


def converted(converter: Converter, *versions: Object) -> Object:
    """The definition; v2 is stored unless other versions are given."""
    crd = definition(*(versions or (of("v1"), of("v2", storage=True))))
    crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": converter.webhook}
    return crd


async def stored(stack: Stack, name: str = "one") -> Object:
    """An object as it stands in etcd."""
    response = await stack.etcd.range(f"/registry/example.com/things/default/{name}".encode())
    found: Object = orjson.loads(response.kvs[0].value)
    return found


def spec_of(o: Object) -> Object:
    return {o["apiVersion"].rpartition("/")[2]: o["spec"]}


async def test_an_object_is_stored_in_one_version_and_served_in_each(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    made = await client.create(V1, thing({"n": 1}))
    assert spec_of(made) == {"v1": {"n": 1}}
    assert spec_of(await stored(stack)) == {"v2": {"count": 1}}
    [there, back] = converter.reviews
    assert (there["apiVersion"], there["kind"]) == ("apiextensions.k8s.io/v1", "ConversionReview")
    assert there["request"]["desiredAPIVersion"] == "example.com/v2"
    assert there["request"]["objects"][0]["metadata"]["uid"] == made["metadata"]["uid"]
    assert back["request"]["objects"][0] == {
        **there["request"]["objects"][0],
        "apiVersion": "example.com/v2",
        "spec": {"count": 1},
    }
    assert spec_of(await client.get(V2, "one", "default")) == {"v2": {"count": 1}}
    made["spec"]["n"] = 2
    assert (await client.update(V1, made))["spec"] == {"n": 2}
    assert (await client.patch(V1, "one", "default", {"spec": {"n": 3}}, kind="merge"))["spec"] == {"n": 3}
    assert (await client.patch(V2, "one", "default", {"spec": {"count": 4}}, kind="merge"))["spec"] == {"count": 4}
    status = await client.patch(V1, "one", "default", {"status": {"have": 4}}, kind="merge", subresource="status")
    assert (status["spec"], status["status"]) == ({"n": 4}, {"have": 4})
    for resource in (V1, V2):
        scale = await client.get(resource, "one", "default", subresource="scale")
        assert (scale["spec"], scale["status"]["replicas"]) == ({"replicas": 4}, 4)
    scale = await client.patch(V1, "one", "default", {"spec": {"replicas": 7}}, kind="merge", subresource="scale")
    assert scale["spec"] == {"replicas": 7}
    assert spec_of(await stored(stack)) == {"v2": {"count": 7}}
    assert [spec_of(o) for o in (await client.list(V1, "default")).items] == [{"v1": {"n": 7}}]
    await client.delete(V1, "one", "default")
    assert (await client.list(V2, "default")).items == []


async def test_an_object_is_judged_in_the_version_that_it_came_in(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    with pytest.raises(
        errors.Invalid, match=r"spec\.n: Invalid value: 0: spec\.n in body should be greater"
    ) as refused:
        await client.create(V1, thing({"n": 0}))
    assert [cause["field"] for cause in refused.value.status["details"]["causes"]] == ["spec.n"]
    made = await client.create(V2, thing({"count": 1}))
    made["spec"]["count"] = 0
    with pytest.raises(errors.Invalid, match=r"spec\.count"):
        await client.update(V2, made)


async def test_the_same_bytes_are_converted_once(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    for name in ("a", "b", "c"):
        await client.create(V2, thing({"count": 1}, name))
    assert converter.reviews == []
    first, second = await asyncio.gather(client.list(V1, "default"), client.list(V1))
    assert [spec_of(o) for o in first.items] == [{"v1": {"n": 1}}] * 3 == [spec_of(o) for o in second.items]
    assert converter.asked == [("example.com/v1", ["a", "b", "c"])]
    await client.list(V1)
    assert (await client.get(V1, "b", "default"))["spec"] == {"n": 1}
    assert len(converter.reviews) == 1
    # What the system alone writes is nothing new to the webhook.
    await client.patch(V2, "b", "default", {"metadata": {"labels": {"x": "y"}}}, kind="merge")
    assert [o["metadata"]["name"] for o in (await client.list(V1, label_selector="x=y")).items] == ["b"]
    assert converter.asked[1:] == [("example.com/v1", ["b"])]


async def test_a_list_is_converted_in_pieces(
    stack: Stack, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.control_plane.apiserver.apiextensions.forms.OBJECTS_MAX", 2)
    client = stack.client()
    await client.create(CRDS, converted(converter))
    for name in "abcde":
        await client.create(V2, thing({"count": ord(name)}, name))
    found = (await client.list(V1)).items
    assert [o["spec"]["n"] for o in found] == [ord(name) for name in "abcde"]
    assert [names for _, names in converter.asked] == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_watch_shows_its_own_version(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    await client.create(V2, thing({"count": 1}))
    told: list[tuple[str, Object]] = []

    async def follow() -> None:
        async for events in client.watch(V1, "default"):
            told.extend((event.type, event.object) for event in events if event.type != "BOOKMARK")
            if told and told[-1][0] == "DELETED":
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        while not told:
            await asyncio.sleep(0.01)
        await client.patch(V2, "one", "default", {"spec": {"count": 2}}, kind="merge")
        while len(told) < 2:
            await asyncio.sleep(0.01)
        await client.delete(V2, "one", "default")
    assert [type_ for type_, _ in told] == ["ADDED", "MODIFIED", "DELETED"]
    assert [spec_of(o) for _, o in told] == [{"v1": {"n": 1}}, {"v1": {"n": 2}}, {"v1": {"n": 2}}]
    assert len({o["metadata"]["resourceVersion"] for _, o in told}) == 3


async def test_fields_are_selected_in_the_version_that_is_asked_for(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    old = of("v1", selectableFields=[{"jsonPath": ".spec.n"}])
    await client.create(CRDS, converted(converter, old, of("v2", storage=True)))
    for name, number in (("a", 1), ("b", 2)):
        await client.create(V2, thing({"count": number}, name))
    found = (await client.list(V1, "default", field_selector="spec.n=2")).items
    assert [o["metadata"]["name"] for o in found] == ["b"]
    found = (await client.list(V1, "default", field_selector="metadata.name=a,spec.n!=2")).items
    assert [o["metadata"]["name"] for o in found] == ["a"]
    told: list[tuple[str, str]] = []

    async def follow() -> None:
        async for events in client.watch(V1, "default", field_selector="spec.n=2"):
            told.extend((e.type, e.object["metadata"]["name"]) for e in events if e.type != "BOOKMARK")
            if len(told) == 4:
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        while not told:
            await asyncio.sleep(0.01)
        for name, number in (("a", 3), ("a", 2), ("b", 1), ("a", 2)):
            await client.patch(V2, name, "default", {"spec": {"count": number}}, kind="merge")
        await client.delete(V2, "b", "default")
        await client.delete(V2, "a", "default")
    assert told == [("ADDED", "b"), ("ADDED", "a"), ("DELETED", "b"), ("DELETED", "a")]


async def test_who_applies_in_several_versions_keeps_what_is_theirs(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter, of("v1"), of("v1beta1"), of("v2", storage=True)))

    async def apply(resource: str, manager: str, number: int, *, force: bool = False) -> Object:
        api_version = f"example.com/{resource.split('.')[1]}"
        spec = {FIELD[resource.split(".")[1]]: number}
        body = {"apiVersion": api_version, "kind": "Thing", **thing(spec)}
        return await client.patch(resource, "one", "default", body, kind="apply", field_manager=manager, force=force)

    made = await apply(V1, "red", 1)
    assert made["spec"] == {"n": 1}
    assert (await apply(OLD, "blue", 1))["spec"] == {"number": 1}
    with pytest.raises(errors.Conflict, match=r'conflicts? with "(red|blue)"'):
        await apply(V2, "green", 2)
    won = await apply(V2, "green", 2, force=True)
    owned = {e["manager"]: (e["apiVersion"], e["fieldsV1"].get("f:spec")) for e in won["metadata"]["managedFields"]}
    assert owned == {"green": ("example.com/v2", {"f:count": {}})}
    assert (await client.get(OLD, "one", "default"))["spec"] == {"number": 2}


# --- what a webhook may change --------------------------------------------------------------------


async def test_labels_and_annotations_may_be_changed_and_the_rest_of_metadata_stays(
    stack: Stack, converter: Converter
) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    made = thing({"count": 1})
    made["metadata"] |= {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["example.com/f"]}
    made = await client.create(V2, made)

    def answer(review: Object) -> Object:
        [o] = review["request"]["objects"]
        new = renamed(o, review["request"]["desiredAPIVersion"])
        new["metadata"] |= {"labels": {"e": "f"}, "finalizers": [], "generation": 77, "resourceVersion": "1"}
        del new["metadata"]["annotations"]
        return {"convertedObjects": [new]}

    converter.answer = answer
    shown = (await client.get(V1, "one", "default"))["metadata"]
    assert shown == {**{k: v for k, v in made["metadata"].items() if k != "annotations"}, "labels": {"e": "f"}}


GVK = "example.com/v2, Kind=Thing"


def changed(**changes: Any) -> Answer:
    """An answer whose objects have other parts."""

    def answer(review: Object) -> Object:
        made = [renamed(o, review["request"]["desiredAPIVersion"]) for o in review["request"]["objects"]]
        metadata = changes.get("metadata") or {}
        rest = {k: v for k, v in changes.items() if k != "metadata"}
        made = [
            {**o, **rest, "metadata": {**o["metadata"], **metadata} if metadata is not None else None} for o in made
        ]
        return {"convertedObjects": made}

    return answer


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


LIES: list[tuple[Answer, str]] = [
    (lambda review: {"uid": "other"}, f'webhook for {GVK} failed: expected response.uid="[-0-9a-f]+", got "other"'),
    (lambda review: {"convertedObjects": []}, f"webhook for {GVK} returned 0 objects, expected 1"),
    (lambda review: {"convertedObjects": 7}, "failed: response.convertedObjects is no list"),
    (lambda review: {"convertedObjects": [None]}, "returned invalid object: it is no object"),
    (changed(kind="Other"), r"returned invalid object: invalid kind \(expected Thing, received Other\)"),
    (
        changed(apiVersion="example.com/v3"),
        r"invalid groupVersion \(expected example.com/v1, received example.com/v3\)",
    ),
    (changed(metadata={"name": "other"}), "returned invalid object: must have the same name: one != other"),
    (changed(metadata={"namespace": "other"}), "must have the same namespace: default != other"),
    (changed(metadata={"uid": "other"}), "must have the same UID: [-0-9a-f]+ != other"),
    (changed(metadata={"labels": {"a": 1}}), r"metadata.labels\[a\] must be a string"),
    (changed(metadata={"labels": {"a b": "c"}}), "metadata.labels: Invalid value"),
    (changed(metadata={"annotations": []}), "invalid metadata.annotations in converted object"),
    (changed(spec=deep(200)), "exceeded max depth"),
    (lambda review: {"result": {"status": "Failure", "message": "not today"}}, f"webhook for {GVK} failed: not today"),
    (lambda review: {"result": None}, "failed: response.result.status was '', not 'Success'"),
    (lambda review: web.Response(text="hello"), f"webhook for {GVK} failed: couldn't get JSON"),
    (lambda review: web.Response(text="[]"), "failed: the webhook's response is no ConversionReview"),
    (lambda review: web.json_response({}), "expected webhook response of apiextensions.k8s.io/v1"),
    (
        lambda review: web.Response(status=503),
        f'webhook for {GVK} failed: Post "https://.*/convert\\?timeout=30s": .*503',
    ),
    (lambda review: web.Response(body=b" " * (outgoing.ANSWER_BYTES_MAX + 1)), "the answer is larger than"),
]


async def watched(client: ApiClient) -> None:
    async for _ in client.watch(V1, "default"):
        pytest.fail("a lie was told")


async def test_a_lie_fails_who_needs_it_and_nobody_else(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    await client.create(V2, thing({"count": 1}))
    for number, (answer, message) in enumerate(LIES, start=2):
        await client.patch(V2, "one", "default", {"spec": {"count": number}}, kind="merge")
        converter.answer = answer
        for ask in (partial(client.get, V1, "one", "default"), partial(client.list, V1), partial(watched, client)):
            with pytest.raises(errors.ApiError, match=message) as refused:
                await ask()
            assert (refused.value.code, refused.value.reason) == (500, "")
        assert (await client.get(V2, "one", "default"))["spec"] == {"count": number}
        # It is asked again once it has come to its senses.
        converter.answer = lambda review: {}
        assert (await client.get(V1, "one", "default"))["spec"] == {"n": number}


async def test_what_is_no_valid_spec_any_more_stops_nobody(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    await client.create(V2, thing({"count": 1}))
    converter.answer = changed(spec="a text", status=[1], extra=1)
    assert {k: v for k, v in (await client.get(V1, "one", "default")).items() if k in ("spec", "status", "extra")} == {
        "spec": "a text",
        "status": [1],
    }
    scale = await client.get(V1, "one", "default", subresource="scale")
    assert scale["kind"] == "Scale"


async def test_a_webhook_that_hangs_is_left_when_its_client_goes_and_ends_with_the_server(
    stack: Stack, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    await client.create(V2, thing({"count": 1}))
    hangs, left = asyncio.Event(), list[Object]()

    async def hang(review: Object) -> Object:
        hangs.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.append(review)
        return {}

    converter.answer = hang
    asking = asyncio.create_task(client.get(V1, "one", "default"))
    async with asyncio.timeout(60):
        await hangs.wait()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    monkeypatch.setattr("rayplane.control_plane.apiserver.apiextensions.forms.TIMEOUT_S", 0.05)
    await client.patch(V2, "one", "default", {"spec": {"count": 2}}, kind="merge")
    with pytest.raises(errors.ApiError, match=r"failed: Post .*timeout=0.05s\": context deadline exceeded"):
        await client.get(V1, "one", "default")
    # What the first one asked is asked on, as others may want it, for as long as the server is there.
    await stack.servers[0].stop()
    async with asyncio.timeout(20):
        while len(left) < len(converter.reviews):
            await asyncio.sleep(0.01)


async def test_a_webhook_that_is_gone_wedges_nothing(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    crd = converted(converter)
    crd["spec"]["conversion"]["webhook"]["clientConfig"] = {"url": "https://127.0.0.1:1/convert"}
    await client.create(CRDS, crd)
    await client.create(V2, thing({"count": 1}, "a"))
    await client.create(V2, {**thing({"count": 1}, "b")})
    gone = (
        r'webhook for example.com/v2, Kind=Thing failed: Post "https://127.0.0.1:1/convert\?timeout=30s": dial tcp 127'
    )
    with pytest.raises(errors.ApiError, match=gone):
        await client.get(V1, "a", "default")
    with pytest.raises(errors.ApiError, match=r"example.com/v1, Kind=Thing failed"):
        await client.create(V1, thing({"n": 1}, "c"))
    # What nobody needs to see in another version needs nobody who converts.
    await client.delete(V1, "a", "default")
    assert [o["metadata"]["name"] for o in (await client.list(V2)).items] == ["b"]
    await client.delete(CRDS, "things.example.com")
    async with asyncio.timeout(60):
        while True:
            try:
                await client.get(CRDS, "things.example.com")
            except errors.NotFound:
                break
            await asyncio.sleep(0.01)


async def test_a_namespace_ends_although_nobody_converts_what_is_in_it(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter, of("v1", storage=True), of("v2")))
    await client.create(V1, thing({"n": 1}))
    namespace = await client.get("namespaces", "default")
    converter.answer = lambda review: web.Response(status=503)
    purger = NamespacePurger(client, lambda: datetime.now(UTC))
    with pytest.raises(ActionFailed, match=r"default still has .*things\.example\.com"):
        await purger.purge(PurgeNamespace(namespace))
    assert (await client.list(V1, "default")).items == []
    # What was stored in another version than that of today is told of, and the rest goes.
    await client.create(V1, thing({"n": 1}))
    await redefine(client, converted(converter, of("v1"), of("v2", storage=True)))
    await client.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}})
    with pytest.raises(ActionFailed, match=r"conversion webhook for example.com/v1, Kind=Thing failed"):
        await NamespacePurger(client, lambda: datetime.now(UTC)).purge(PurgeNamespace(namespace))
    assert (await client.list("configmaps", "default")).items == []
    conditions = (await client.get("namespaces", "default"))["status"]["conditions"]
    failed = next(c["message"] for c in conditions if c["type"] == "NamespaceDeletionContentFailure")
    assert "conversion webhook for example.com/v1, Kind=Thing failed" in failed


# --- versions come and go -------------------------------------------------------------------------


async def test_objects_of_an_earlier_storage_version_are_converted_and_written_anew(
    stack: Stack, converter: Converter
) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter, of("v1", storage=True)))
    await client.create(V1, thing({"n": 1}))
    await redefine(client, converted(converter, of("v1"), of("v2", storage=True)))
    assert (await client.get(CRDS, "things.example.com"))["status"]["storedVersions"] == ["v1", "v2"]
    assert spec_of(await stored(stack)) == {"v1": {"n": 1}}
    assert spec_of(await client.get(V2, "one", "default")) == {"v2": {"count": 1}}
    assert spec_of(await client.get(V1, "one", "default")) == {"v1": {"n": 1}}
    # A write of nothing is how objects are migrated.
    await client.patch(V1, "one", "default", {}, kind="merge")
    assert spec_of(await stored(stack)) == {"v2": {"count": 1}}
    only = converted(converter, of("v2", storage=True))
    with pytest.raises(
        errors.Invalid, match=r"status\.storedVersions\[0\]: Invalid value: .* missing from spec.versions"
    ):
        await redefine(client, only)
    await client.patch(
        CRDS, "things.example.com", "", {"status": {"storedVersions": ["v2"]}}, kind="merge", subresource="status"
    )
    await redefine(client, only)
    assert spec_of(await client.get(V2, "one", "default")) == {"v2": {"count": 1}}
    with pytest.raises(errors.NotFound):
        await client.get(V1, "one", "default")


async def test_a_webhook_of_the_old_reviews_may_leave_out_what_it_answers(stack: Stack, converter: Converter) -> None:
    client = stack.client()
    crd = converted(converter)
    crd["spec"]["conversion"]["webhook"]["conversionReviewVersions"] = ["v2alpha1", "v1beta1", "v1"]
    await client.create(CRDS, crd)
    converter.answer = lambda review: {"uid": ""}
    assert (await client.create(V1, thing({"n": 1})))["spec"] == {"n": 1}
    assert converter.reviews[0]["apiVersion"] == "apiextensions.k8s.io/v1beta1"


async def test_a_change_of_the_webhook_ends_watches_and_forgets_what_it_said(
    stack: Stack, converter: Converter
) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter))
    await client.create(V2, thing({"count": 1}))
    assert (await client.get(V1, "one", "default"))["spec"] == {"n": 1}

    async def follow() -> None:
        async for _ in client.watch(V2, "default"):
            pass

    watching = asyncio.create_task(follow())
    cache = stack.servers[0].registry.hub.peek(stack.servers[0].registry.kinds.named("things.example.com"))
    assert cache is not None
    async with asyncio.timeout(60):
        while not cache.watcher_count:
            await asyncio.sleep(0.01)
        crd = converted(converter)
        crd["spec"]["conversion"] = {"strategy": "None", "webhook": None}
        await redefine(client, crd)
        with pytest.raises(errors.Expired, match="its definition has changed"):
            await watching
    # Without the webhook the other version's field is unknown there, and drops out.
    assert (await client.get(V1, "one", "default"))["spec"] == {}


REFUSED: list[tuple[Object, list[str]]] = [
    ({"strategy": "Webhook"}, ["webhookClientConfig", "conversionReviewVersions"]),
    ({"strategy": "Other"}, ["strategy"]),
    ({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}, ["conversionReviewVersions"]),
    (
        {"strategy": "Webhook", "webhook": {"clientConfig": {}, "conversionReviewVersions": ["v7"]}},
        ["webhookClientConfig", "conversionReviewVersions"],
    ),
    (
        {
            "strategy": "Webhook",
            "webhook": {"clientConfig": {"url": "http://a"}, "conversionReviewVersions": ["v1", "v1"]},
        },
        ["webhookClientConfig.url", "conversionReviewVersions[1]"],
    ),
]


async def test_a_conversion_that_cannot_be_is_refused(stack: Stack) -> None:
    for conversion, fields in REFUSED:
        crd = definition()
        crd["spec"]["conversion"] = conversion
        with pytest.raises(errors.Invalid) as refused:
            await stack.client().create(CRDS, crd)
        found = [cause["field"] for cause in refused.value.status["details"]["causes"]]
        assert found == [f"spec.conversion.{field}" for field in fields]
