"""What others look up is what there is now, also where it was asked for before."""

from rayplane.control_plane.api.meta import name
from tests.apiserver.conftest import Stack

CLASSES = "priorityclasses.scheduling.k8s.io"


async def names(stack: Stack, resource: str, namespace: str = "") -> list[str]:
    registry = stack.servers[0].registry
    await registry.hub.fresh()
    return [name(o) for o in await registry.lookup.list(resource, namespace)]


async def test_a_list_that_was_asked_for_before_has_what_was_made_since_and_not_what_went(stack: Stack) -> None:
    client = stack.client()
    before = await names(stack, CLASSES)
    await client.create(CLASSES, {"metadata": {"name": "a"}, "value": 1})
    assert await names(stack, CLASSES) == ["a", *before]
    await client.patch(CLASSES, "a", "", {"description": "d"})
    registry = stack.servers[0].registry
    await registry.hub.fresh()
    assert (await registry.lookup.list(CLASSES))[0]["description"] == "d"
    await client.delete(CLASSES, "a")
    assert await names(stack, CLASSES) == before


async def test_a_list_is_its_callers_own(stack: Stack) -> None:
    before = await names(stack, CLASSES)
    (await stack.servers[0].registry.lookup.list(CLASSES)).clear()
    assert await names(stack, CLASSES) == before


async def test_lists_of_namespaces_are_kept_apart(stack: Stack) -> None:
    client = stack.client()
    for namespace in ("default", "kube-public"):
        await client.create(
            "limitranges", {"metadata": {"name": f"of-{namespace}", "namespace": namespace}, "spec": {}}
        )
    for _ in range(2):
        assert await names(stack, "limitranges", "default") == ["of-default"]
        assert await names(stack, "limitranges", "kube-public") == ["of-kube-public"]
        assert await names(stack, "limitranges") == ["of-default", "of-kube-public"]
