"""Encryption at rest: the transformer, and an API server whose secrets are ciphertext in etcd."""

import base64
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.kinds import Kinds
from rayplane.control_plane.apiserver.storage.encryption import (
    BadEncryptionConfig,
    Encryption,
    Transformer,
    Untransformable,
    generate,
    key_name_of,
)
from rayplane.proto.etcd import kv_pb2
from tests.apiserver.conftest import Stack

WORD = b"correct horse battery staple"
KEY = "/registry/secrets/default/door"


def secret_of(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


def config(*providers: Any, resources: list[str] | None = None) -> bytes:
    entry = {"resources": resources or ["secrets"], "providers": list(providers)}
    document = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [entry]}
    return yaml.safe_dump(document).encode()


def aesgcm(*names: str) -> dict[str, Any]:
    return {"aesgcm": {"keys": [{"name": n, "secret": secret_of(n[0])} for n in names]}}


IDENTITY: dict[str, Any] = {"identity": {}}


def transformer(*providers: Any, seed: int = 1) -> Transformer:
    found = Encryption.parse(config(*providers), random.Random(seed).randbytes).of(Kinds().named("secrets"))
    assert found is not None
    return found


# --- the transformer ---


@given(st.binary(max_size=300), st.text(min_size=1, max_size=40))
def test_what_is_written_is_read_and_two_writes_never_look_alike(value: bytes, key: str) -> None:
    one = transformer(aesgcm("a"))
    first, second = one.to_storage(key, value), one.to_storage(key, value)
    assert first.startswith(b"k8s:enc:aesgcm:v1:a:") and first != second
    assert one.from_storage(key, first) == one.from_storage(key, second) == (value, False)


@given(st.data())
def test_no_damage_and_no_other_place_is_taken_for_an_object(data: st.DataObject) -> None:
    one = transformer(aesgcm("a"))
    stored = one.to_storage(KEY, WORD)
    at = data.draw(st.integers(0, len(stored) - 1))
    changed = stored[:at] + bytes([stored[at] ^ data.draw(st.integers(1, 255))]) + stored[at + 1 :]
    for key, damaged in ((KEY, changed), (KEY, stored[:at]), ("/registry/secrets/default/gate", stored)):
        with pytest.raises(Untransformable, match=f'unable to transform key "{key}": '):
            one.from_storage(key, damaged)


def test_the_format_is_that_of_kubernetes() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    stored = transformer(aesgcm("a")).to_storage(KEY, WORD)
    sealed = stored.removeprefix(b"k8s:enc:aesgcm:v1:a:")
    assert AESGCM(b"a" * 32).decrypt(sealed[:12], sealed[12:], KEY.encode()) == WORD


def test_the_first_key_writes_and_all_read_what_is_stale() -> None:
    stored = transformer(aesgcm("a")).to_storage(KEY, WORD)
    assert transformer(aesgcm("b", "a")).from_storage(KEY, stored) == (WORD, True)
    assert transformer(aesgcm("a", "b")).from_storage(KEY, stored) == (WORD, False)
    assert transformer(aesgcm("a"), IDENTITY).from_storage(KEY, WORD) == (WORD, True)
    assert transformer(IDENTITY, aesgcm("a")).from_storage(KEY, stored) == (WORD, True)
    with pytest.raises(Untransformable, match="no matching prefix found"):
        transformer(aesgcm("b"), IDENTITY).from_storage(KEY, stored)
    with pytest.raises(Untransformable, match="no matching prefix found"):
        transformer(aesgcm("a")).from_storage(KEY, WORD)


def test_which_resources_are_meant() -> None:
    text = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {"resources": ["leases.coordination.k8s.io"], "providers": [IDENTITY]},
            {"resources": ["secrets", "*.apps"], "providers": [aesgcm("a")]},
            {"resources": ["*.*"], "providers": [aesgcm("b")]},
        ],
    }
    found = Encryption.parse(yaml.safe_dump(text).encode(), random.Random(1).randbytes)

    def written(resource: str) -> str:
        one = found.of(Kinds().named(resource))
        assert one is not None
        return key_name_of(one.to_storage(KEY, WORD))

    asked = ("leases.coordination.k8s.io", "secrets", "deployments.apps", "pods")
    assert [written(r) for r in asked] == ["", "a", "a", "b"]
    only_core = Encryption.parse(config(aesgcm("a"), resources=["*."]), random.Random(1).randbytes)
    assert only_core.of(Kinds().named("pods")) and not only_core.of(Kinds().named("deployments.apps"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "no YAML"),
        (b"[]", "no EncryptionConfiguration"),
        (config(aesgcm("a"), resources=["*.*", "secrets"]), "covered by an earlier entry"),
        (config(aesgcm("a"), resources=["secrets", "secrets"]), "covered by an earlier entry"),
        (config(aesgcm("a", "a")), "there twice"),
        (config({"aesgcm": {"keys": [{"name": "a", "secret": "c2hvcnQ="}]}}), "16, 24 or 32 bytes"),
        (config({"aesgcm": {"keys": [{"name": "a:b", "secret": secret_of("a")}]}}), "without ':'"),
        (config({"aescbc": {"keys": []}}), "use aesgcm or identity"),
        (config(resources=["secrets"]), "at least one provider"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_why(text: bytes, said: str) -> None:
    with pytest.raises(BadEncryptionConfig, match=said) as refused:
        Encryption.parse(text, random.Random(1).randbytes)
    assert "c2hvcnQ=" not in str(refused.value)


def test_a_new_configuration_encrypts_secrets_and_reads_plain_ones() -> None:
    made = Encryption.parse(generate(random.Random(3).randbytes), random.Random(1).randbytes)
    one = made.of(Kinds().named("secrets"))
    assert one is not None and made.of(Kinds().named("configmaps")) is None
    assert one.from_storage(KEY, WORD) == (WORD, True)
    assert one.from_storage(KEY, one.to_storage(KEY, WORD)) == (WORD, False)
    other = Encryption.parse(generate(random.Random(4).randbytes), random.Random(1).randbytes).exact["secrets"]
    assert key_name_of(other.to_storage(KEY, WORD)) != key_name_of(one.to_storage(KEY, WORD)) != ""


# --- an API server ---


def door(word: bytes = WORD, **meta: Any) -> dict[str, Any]:
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "door", "namespace": "default", **meta},
        "data": {"word": base64.b64encode(word).decode()},
    }


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    made = Stack()
    await made.add_server(encryption=config(aesgcm("a"), IDENTITY))
    yield made
    await made.stop()


def stored(stack: Stack, key: str = KEY) -> bytes:
    kv: kv_pb2.KeyValue = stack.etcd.live[key.encode()]
    return kv.value


def hides(value: bytes) -> bool:
    return WORD not in value and base64.b64encode(WORD) not in value


async def test_secrets_are_never_plain_in_etcd_on_any_path(stack: Stack) -> None:
    client = stack.client()
    await client.create("secrets", door())
    await client.update("secrets", door(labels={"a": "b"}))
    await client.patch("secrets", "door", "default", {"metadata": {"finalizers": ["x.io/y"]}})
    await client.delete("secrets", "door", "default")
    await client.patch("secrets", "door", "default", {"metadata": {"finalizers": None}})
    assert KEY.encode() not in stack.etcd.live
    values = [e.kv.value for _, e in stack.etcd.history if e.kv.key == KEY.encode() and e.kv.value]
    assert len(values) == 4 and all(map(hides, values))
    assert all(key_name_of(v) == "a" for v in values)


async def test_every_read_shows_the_object(stack: Stack) -> None:
    client = stack.client()
    made = await client.create("secrets", door())
    for reader in (client, await second_client(stack, config(aesgcm("a")))):
        assert (await reader.get("secrets", "door", "default"))["data"] == made["data"]
        listed = await reader.list("secrets", "default")
        assert [o["data"] for o in listed.items] == [made["data"]]
    version = made["metadata"]["resourceVersion"]
    changed = await client.update("secrets", door(b"another"))
    past = await stack.servers[0].registry.storage.page(
        Kinds().named("secrets"), "/registry/secrets/", start="/registry/secrets/", limit=0, revision=int(version)
    )
    assert [e.object["data"] for e in past.entries] == [made["data"]]
    seen = []
    async for events in client.watch("secrets", "default", resource_version=str(int(version) - 1)):
        seen += [(e.type, e.object["data"]) for e in events]
        if len(seen) == 2:
            break
    assert seen == [("ADDED", made["data"]), ("MODIFIED", changed["data"])]


async def second_client(stack: Stack, encryption: bytes) -> Any:
    await stack.add_server(encryption=encryption)
    return stack.client(len(stack.servers) - 1)


async def test_a_create_whose_answer_was_lost_finds_its_own_ciphertext_again(stack: Stack) -> None:
    client = stack.client()
    stack.etcd.lose_answers = 1
    made = await client.create("secrets", door())
    assert await client.get("secrets", "door", "default") == made
    with pytest.raises(errors.AlreadyExists):
        await client.create("secrets", door())


async def test_an_unchanged_rewrite_encrypts_anew_only_where_the_key_is_old(stack: Stack) -> None:
    """As `kubectl get secrets -o json | kubectl replace -f -` after a change of keys."""
    await stack.client().create("secrets", door())
    before = stored(stack)
    same = await stack.client().get("secrets", "door", "default")
    await stack.client().update("secrets", same)
    assert stored(stack) == before
    other = await second_client(stack, config(aesgcm("b", "a")))
    await other.update("secrets", await other.get("secrets", "door", "default"))
    assert key_name_of(stored(stack)) == "b"
    with pytest.raises(errors.InternalError, match="no matching prefix found"):
        await stack.client().get("secrets", "door", "default")


async def test_plain_secrets_of_before_are_read_and_encrypted_when_they_are_written() -> None:
    stack = Stack()
    await stack.add_server()
    await stack.client().create("secrets", door())
    assert not hides(stored(stack))
    other = await second_client(stack, config(aesgcm("a"), IDENTITY))
    found = await other.get("secrets", "door", "default")
    assert base64.b64decode(found["data"]["word"]) == WORD
    await other.update("secrets", found)
    assert hides(stored(stack)) and key_name_of(stored(stack)) == "a"
    await stack.stop()


async def test_one_secret_that_cannot_be_read_does_not_take_the_rest_with_it(stack: Stack) -> None:
    """Get, and a list or watch that would show it, fail as in Kubernetes; all others go on, also of a new server."""
    client = stack.client()
    await client.create("namespaces", {"metadata": {"name": "safe"}})
    safe = await client.create("secrets", door() | {"metadata": {"name": "door", "namespace": "safe"}})
    await client.create("secrets", door())
    watching = client.watch("secrets", "default")
    assert [e.type for e in await anext(watching)] == ["ADDED"]
    # Around the API.
    sealed = stored(stack)
    await stack.etcd.put(KEY.encode(), sealed[:-1] + bytes([sealed[-1] ^ 1]))
    said = 'unable to transform key "/registry/secrets/default/door": cipher: message authentication failed'
    with pytest.raises(errors.InternalError, match=said):
        await anext(watching)
    # Who has to wait for a turn asks for as many seats as a list is thought to take.
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "carol"}
    bound = {"metadata": {"name": "carol"}, "roleRef": role, "subjects": [subject]}
    await client.create("clusterrolebindings.rbac.authorization.k8s.io", bound)
    carol = stack.client_as("carol")
    for reader in (client, carol, await second_client(stack, config(aesgcm("a")))):
        with pytest.raises(errors.InternalError, match=said):
            await reader.get("secrets", "door", "default")
        with pytest.raises(errors.InternalError, match=said):
            await reader.list("secrets")
        with pytest.raises(errors.InternalError, match=said):
            await reader.update("secrets", door(b"another"))
        with pytest.raises(errors.InternalError, match=said):
            await anext(reader.watch("secrets", "default"))
        assert (await reader.list("secrets", "safe")).items == [safe]
        assert (await reader.list("namespaces")).items
    await stack.etcd.put(KEY.encode(), stored(stack, "/registry/secrets/safe/door"))
    with pytest.raises(errors.InternalError, match=said):
        await client.get("secrets", "door", "default")
    # What is put right, or taken away, is seen again.
    encryption = stack.servers[0].registry.storage.encryption.of(Kinds().named("secrets"))
    assert encryption is not None
    plain = b'{"kind":"Secret","apiVersion":"v1","metadata":{"name":"door","namespace":"default"}}'
    right = encryption.to_storage(KEY, plain)
    await stack.etcd.put(KEY.encode(), right)
    assert (await client.get("secrets", "door", "default"))["metadata"]["name"] == "door"


async def test_an_api_server_starts_though_roles_and_definitions_cannot_be_read() -> None:
    stack = Stack(new=True)
    await stack.add_server(encryption=config(aesgcm("a"), IDENTITY, resources=["*.*"]))
    await stack.client().create("secrets", door())
    await stack.client().create("resourcequotas", {
        "metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {"secrets": "5"}}
    })  # fmt: skip
    await stack.client().create("secrets", door() | {"metadata": {"name": "window", "namespace": "default"}})
    plain = [k for k, kv in stack.etcd.live.items() if k.startswith(b"/registry/") and not key_name_of(kv.value)]
    assert all(k.startswith(b"/registry/masterleases/") for k in plain)
    other = await second_client(stack, config(aesgcm("b"), IDENTITY, resources=["*.*"]))
    with pytest.raises(errors.InternalError, match="no matching prefix found"):
        await other.get("secrets", "door", "default")
    await stack.stop()
