"""Names of custom resources are one definition's, whichever servers judge it, and whenever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.apiserver.conftest import Stack
from tests.apiserver.test_definitions import CRDS, condition, definition, redefine

Txn = Callable[..., Awaitable[Any]]
PLACE = b"/registry/apiextensions.k8s.io/customresourcedefinitions/"


def other(kind: str = "Other", **names: Any) -> dict[str, Any]:
    """A definition of `others`, in the group of `things`."""
    made = definition(kind="Other")
    made["spec"]["names"] = {"kind": kind, "plural": "others", **names}
    return made


class Gate:
    """The way to etcd, which tells who comes with a definition, and holds back the first of a name."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch, held: bytes = b"") -> None:
        self._txn, self._held = stack.etcd.txn, PLACE + held if held else b""
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.refused = asyncio.Event()
        """A transaction with a definition was not done."""
        monkeypatch.setattr(stack.etcd, "txn", self.txn)

    async def txn(self, compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        keys = [op.request_put.key for op in success]
        if self._held and self._held in keys:
            self._held = b""
            self.reached.set()
            await self.go_on.wait()
        done = await self._txn(compare, success, failure, **options)
        if not done.succeeded and any(key.startswith(PLACE) for key in keys):
            self.refused.set()
        return done


async def both(
    stack: Stack, gate: Gate, first: Callable[[], Awaitable[Any]], second: Callable[[], Awaitable[Any]]
) -> None:
    """The second write is judged by a server that has not heard of the first, though it is done."""
    stack.etcd.frozen = True
    await first()
    judged = asyncio.ensure_future(second())
    refused = asyncio.ensure_future(gate.refused.wait())
    await asyncio.wait({judged, refused}, return_when=asyncio.FIRST_COMPLETED)
    refused.cancel()
    stack.etcd.frozen = False
    await stack.etcd.put(b"/wake", b"")
    await judged


async def accepted(stack: Stack, *names: str) -> list[str]:
    return [condition(await stack.client().get(CRDS, f"{n}.example.com"), "NamesAccepted")[1] for n in names]


async def until_accepted(stack: Stack, name: str) -> None:
    async with asyncio.timeout(30):
        while await accepted(stack, name) != ["NoConflicts"]:
            await asyncio.sleep(0.01)


CLASHES = [
    ({}, other("Thing", listKind="Rest"), "KindConflict"),
    ({"shortNames": ["th"]}, other(shortNames=["th"]), "ShortNamesConflict"),
    ({"singular": "one"}, other(singular="one"), "SingularConflict"),
]


@pytest.mark.parametrize(("names", "second", "reason"), CLASHES)
async def test_of_two_that_two_servers_take_at_once_one_waits(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any], second: dict[str, Any], reason: str
) -> None:
    await stack.add_server()
    one, two = stack.client(0), stack.client(1)
    gate = Gate(stack, monkeypatch)
    await both(stack, gate, lambda: one.create(CRDS, definition(**names)), lambda: two.create(CRDS, second))
    assert await accepted(stack, "things", "others") == ["NoConflicts", reason]
    waiting = await one.get(CRDS, "others.example.com")
    assert condition(waiting, "Established")[0] == "False"
    await one.delete(CRDS, "things.example.com")
    await until_accepted(stack, "others")


async def test_of_two_that_come_to_want_one_name_one_waits(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await stack.add_server()
    one, two = stack.client(0), stack.client(1)
    await one.create(CRDS, definition(shortNames=["a"]))
    await two.create(CRDS, other(shortNames=["b"]))
    await stack.servers[0].registry.hub.fresh()
    gate = Gate(stack, monkeypatch)
    await both(
        stack,
        gate,
        lambda: redefine(one, definition(shortNames=["x"])),
        lambda: redefine(two, other(shortNames=["x"])),
    )
    assert await accepted(stack, "things", "others") == ["NoConflicts", "ShortNamesConflict"]
    waiting = await one.get(CRDS, "others.example.com")
    assert condition(waiting, "Established")[0] == "True"
    assert waiting["status"]["acceptedNames"]["shortNames"] == ["b"]


async def test_who_waits_for_a_name_is_served_by_the_one_it_had(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition(shortNames=["a"]))
    await client.create(CRDS, other(shortNames=["b"]))
    await redefine(client, other(shortNames=["a"]))
    await stack.servers[0].registry.hub.fresh()
    served = {info.plural: info.short_names for info in stack.servers[0].registry.kinds.in_group("example.com")}
    assert served == {"things": ("a",), "others": ("b",)}
    assert await accepted(stack, "things", "others") == ["NoConflicts", "ShortNamesConflict"]


async def test_who_waits_gets_a_name_that_its_owner_gives_up(stack: Stack) -> None:
    client = stack.client()
    await client.create(CRDS, definition(shortNames=["a"]))
    await client.create(CRDS, other(shortNames=["a"]))
    assert await accepted(stack, "others") == ["ShortNamesConflict"]
    await redefine(client, definition(shortNames=["b"]))
    await until_accepted(stack, "others")
    assert (await client.list("others.v1.example.com")).items == []


async def test_who_was_judged_just_before_a_name_was_free_gets_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stack.client()
    await client.create(CRDS, definition())
    gate = Gate(stack, monkeypatch, held=b"others.example.com")
    late = asyncio.ensure_future(client.create(CRDS, other("Thing")))
    await gate.reached.wait()
    await client.delete(CRDS, "things.example.com")
    async with asyncio.timeout(30):
        while PLACE + b"things.example.com" in stack.etcd.live:
            await asyncio.sleep(0.01)
    await stack.servers[0].registry.hub.fresh()
    gate.go_on.set()
    assert condition(await late, "NamesAccepted")[0] == "False"
    await until_accepted(stack, "others")


async def test_many_at_once_in_one_group_are_all_accepted(stack: Stack) -> None:
    """They make each other wait, and none fail."""
    await stack.add_server()
    kinds = [f"Kind{chr(97 + n // 8)}{chr(97 + n % 8)}" for n in range(40)]
    made = [stack.client(n % 2).create(CRDS, definition(kind=kind)) for n, kind in enumerate(kinds)]
    assert {condition(crd, "NamesAccepted")[0] for crd in await asyncio.gather(*made)} == {"True"}
