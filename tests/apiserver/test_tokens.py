"""Tokens of service accounts: how long they live, and what they die with."""

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from rayplane.control_plane.api import errors, legacy_tokens
from rayplane.control_plane.api.meta import Object, parse_time
from rayplane.control_plane.apiserver.bootstrap import keep_tracking
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.rpc.tls import Authority
from rayplane.storage.env import SystemClock
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.test_rights import BINDINGS, ROLES, binding, role

EXTRA = "authentication.kubernetes.io/"
YEAR_S = 365 * 24 * 3600


@dataclass
class Clock(SystemClock):
    """A clock that runs ahead when told to."""

    ahead: timedelta = timedelta()

    def now(self) -> Any:
        return super().now() + self.ahead


@dataclass
class Issuer:
    """A server that issues tokens."""

    stack: Stack
    client: ApiClient
    clock: Clock

    async def request(self, account: str = "default", **spec: Any) -> Object:
        body = {"metadata": {"name": account, "namespace": "default"}, "spec": spec}
        return await self.client.create("serviceaccounts", body, subresource="token")

    async def token(self, **spec: Any) -> str:
        return str((await self.request(**spec))["status"]["token"])

    async def user(self, token: str) -> User:
        return await self.stack.servers[0].registry.authenticator.of_token(token)

    async def review(self, token: str) -> Object:
        answer = await self.client.create("tokenreviews.authentication.k8s.io", {"spec": {"token": token}})
        return dict(answer["status"])

    async def refused(self, token: str) -> None:
        with pytest.raises(errors.Unauthorized):
            await self.user(token)
        assert "authenticated" not in await self.review(token)


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    stack, clock = Stack(), Clock()
    await stack.add_server(token_key=Authority.create("tokens").key, env=replace(make_env(), clock=clock))
    client = stack.client()
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    await client.create("serviceaccounts", {"metadata": {"name": "other", "namespace": "default"}})
    yield Issuer(stack, client, clock)
    await stack.stop()


OBJECTS: dict[str, tuple[str, Object]] = {
    "Pod": (
        "pods",
        {
            "metadata": {"name": "o", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        },
    ),
    "Secret": ("secrets", {"metadata": {"name": "o", "namespace": "default"}}),
    "Node": ("nodes", {"metadata": {"name": "o"}}),
}


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("made_again", [False, True])
async def test_a_bound_token_dies_with_what_it_is_bound_to(issuer: Issuer, kind: str, made_again: bool) -> None:
    resource, o = OBJECTS[kind]
    await issuer.client.create(resource, o)
    token = await issuer.token(boundObjectRef={"apiVersion": "v1", "kind": kind, "name": "o"})
    assert (await issuer.user(token)).name == "system:serviceaccount:default:default"
    namespace = o["metadata"].get("namespace", "")
    await issuer.client.delete(resource, "o", namespace, grace_period_s=0)
    if made_again:
        await issuer.client.create(resource, o)
    # Whoever has seen it go finds the token gone.
    assert len((await issuer.client.list(resource, namespace)).items) == made_again
    await issuer.refused(token)


@pytest.mark.parametrize(
    ("asked", "lives"), [({}, YEAR_S), ({"audiences": ["other"]}, 3607), ({"seconds": 3600}, 3600)]
)
async def test_a_mounted_token_outlives_the_time_at_which_it_is_replaced(
    issuer: Issuer, asked: dict[str, Any], lives: int
) -> None:
    await issuer.client.create(*OBJECTS["Pod"])
    seconds = asked.pop("seconds", 3607)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "o"}
    made = await issuer.request(expirationSeconds=seconds, boundObjectRef=bound, **asked)
    claims = jwt.decode(made["status"]["token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == lives
    renewed = int(parse_time(made["status"]["expirationTimestamp"]).timestamp())
    assert renewed - claims["iat"] in (seconds, seconds + 1)
    assert claims["kubernetes.io"].get("warnafter") == (claims["iat"] + 3607 if lives == YEAR_S else None)


async def test_a_token_names_the_published_key_that_it_is_signed_with(issuer: Issuer) -> None:
    tokens = issuer.stack.servers[0].registry.authenticator.tokens
    (key,) = jwt.PyJWKSet.from_dict({"keys": [tokens.public_jwk()]}).keys
    der = key.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert jwt.get_unverified_header(await issuer.token())["kid"] == key.key_id == digest


async def test_a_token_says_what_it_is_bound_to(issuer: Issuer) -> None:
    node = await issuer.client.create("nodes", {"metadata": {"name": "n1"}})
    pod = await issuer.client.create(*OBJECTS["Pod"])
    token = await issuer.token(boundObjectRef={"apiVersion": "v1", "kind": "Pod", "name": "o"})
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    expected = {
        "credential-id": (f"JTI={jti}",),
        "node-name": ("n1",),
        "node-uid": (node["metadata"]["uid"],),
        "pod-name": ("o",),
        "pod-uid": (pod["metadata"]["uid"],),
    }
    extra = {EXTRA + key: value for key, value in expected.items()}
    assert (await issuer.user(token)).extra == extra
    review = await issuer.review(token)
    assert review["authenticated"]
    assert review["user"]["extra"] == {key: list(value) for key, value in extra.items()}
    # The pod's token dies with the pod, not with its node.
    await issuer.client.delete("nodes", "n1", "")
    await issuer.user(token)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"expirationSeconds": 599}, "may not specify a duration less than 10 minutes"),
        ({"expirationSeconds": 0}, "may not specify a duration less than 10 minutes"),
        ({"expirationSeconds": 2**32 + 1}, "may not specify a duration larger than 2\\^32 seconds"),
        (
            {"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "o"}},
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            {"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "o"}},
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        ({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "none"}}, 'secrets "none" not found'),
        (
            {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "another"}},
            "the UID in the bound object reference \\(another\\) does not match the UID in record",
        ),
        (
            {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "o"}, "account": "other"},
            'cannot bind token for serviceaccount "other" to pod running with different serviceaccount name',
        ),
    ],
)
async def test_what_cannot_be_asked_for(issuer: Issuer, spec: dict[str, Any], message: str) -> None:
    await issuer.client.create(*OBJECTS["Pod"])
    with pytest.raises(errors.ApiError, match=message):
        await issuer.request(**spec)


async def test_no_token_lives_for_a_hundred_years(issuer: Issuer) -> None:
    made = await issuer.request(expirationSeconds=876_000 * 3600)
    assert made["spec"]["expirationSeconds"] == YEAR_S
    left = parse_time(made["status"]["expirationTimestamp"]) - issuer.clock.now()
    assert timedelta(days=364) < left <= timedelta(days=365)
    token = made["status"]["token"]
    await issuer.user(token)
    issuer.clock.ahead = timedelta(days=366)
    await issuer.refused(token)


async def test_older_tokens_end_too(issuer: Issuer) -> None:
    tokens = issuer.stack.servers[0].registry.authenticator.tokens
    account = await issuer.client.get("serviceaccounts", "default", "default")
    token = tokens.issue(account, audiences=(), seconds=876_000 * 3600).token
    await issuer.user(token)
    issuer.clock.ahead = timedelta(days=366)
    await issuer.refused(token)


async def test_an_account_made_again_is_another(issuer: Issuer) -> None:
    token = await issuer.token()
    await issuer.client.delete("serviceaccounts", "default", "default")
    await issuer.client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
    await issuer.client.list("serviceaccounts", "default")
    await issuer.refused(token)


async def test_a_signature_is_looked_at_once_and_all_else_each_time(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, looked, decode = await issuer.token(), [], jwt.decode

    def seen(token: str, *args: Any, **named: Any) -> Any:
        looked.append(token)
        return decode(token, *args, **named)

    monkeypatch.setattr(jwt, "decode", seen)
    for _ in range(3):
        assert (await issuer.user(token)).name == "system:serviceaccount:default:default"
    head, claims, signature = token.split(".")
    for _ in range(2):
        await issuer.refused(f"{head}.{claims}.{signature[::-1]}")
    assert looked.count(token) == 1 and len(looked) == 5
    issuer.clock.ahead = timedelta(seconds=2 * YEAR_S)
    await issuer.refused(token)


def token_secret(name: str, account: str, **notes: str) -> Object:
    annotations = {"kubernetes.io/service-account.name": account, **notes}
    own = {"name": name, "namespace": "default", "annotations": annotations}
    return {"metadata": own, "type": "kubernetes.io/service-account-token"}


async def test_a_secret_of_that_type_is_filled_with_a_token_that_dies_with_it(issuer: Issuer) -> None:
    made = await issuer.client.create("secrets", token_secret("s", "default"))
    token, namespace = (base64.b64decode(made["data"][key]).decode() for key in ("token", "namespace"))
    assert namespace == "default" and made["metadata"]["annotations"]["kubernetes.io/service-account.uid"]
    assert (await issuer.user(token)).name == "system:serviceaccount:default:default"
    another = {"kubernetes.io/service-account.uid": "another"}
    for other in (token_secret("t", "nobody"), token_secret("u", "default", **another)):
        assert "data" not in await issuer.client.create("secrets", other)
    await issuer.client.delete("secrets", "s", "default")
    await issuer.client.list("secrets", "default")
    await issuer.refused(token)


@pytest.mark.parametrize("verbs", [("create",), ("create", "get")])
async def test_who_may_not_read_secrets_makes_none_to_learn_a_token(issuer: Issuer, verbs: tuple[str, ...]) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": [*verbs]}
    await issuer.client.create(ROLES, role("writer", rule))
    await issuer.client.create(BINDINGS, binding("jane", "writer"))
    made = await issuer.stack.client_as("jane", "team").create("secrets", token_secret("s", "default"))
    assert ("token" in (made.get("data") or {})) is ("get" in verbs)


async def legacy_token(issuer: Issuer, *, listed: bool) -> str:
    made = await issuer.client.create("secrets", token_secret("s", "default"))
    if listed:
        await issuer.client.patch("serviceaccounts", "default", "default", {"secrets": [{"name": "s"}]})
    return base64.b64decode(made["data"]["token"]).decode()


async def labels(issuer: Issuer) -> dict[str, str]:
    found = await issuer.client.get("secrets", "s", "default")
    return dict(found["metadata"].get("labels") or {})


async def test_the_day_of_a_secret_tokens_last_use_is_noted(issuer: Issuer) -> None:
    token = await legacy_token(issuer, listed=False)
    assert await labels(issuer) == {}
    await issuer.user(token)
    first = await labels(issuer)
    assert first == {legacy_tokens.LAST_USED: legacy_tokens.day_of(issuer.clock.now())}
    version = (await issuer.client.get("secrets", "s", "default"))["metadata"]["resourceVersion"]
    await issuer.user(token)
    # Once a day is enough; and a clock that is behind takes nothing back.
    issuer.clock.ahead = -timedelta(days=1)
    await issuer.user(bound := await issuer.token(boundObjectRef={"apiVersion": "v1", "kind": "Secret", "name": "s"}))
    assert (await issuer.client.get("secrets", "s", "default"))["metadata"]["resourceVersion"] == version
    issuer.clock.ahead = timedelta(days=2)
    await issuer.user(token)
    second = (await labels(issuer))[legacy_tokens.LAST_USED]
    assert second == legacy_tokens.day_of(issuer.clock.now()) != first[legacy_tokens.LAST_USED] and bound != token


async def test_a_token_in_a_secret_marked_invalid_is_refused_until_the_mark_goes(issuer: Issuer) -> None:
    token = await legacy_token(issuer, listed=True)
    marked = {"metadata": {"labels": {legacy_tokens.INVALID_SINCE: "2026-01-01"}}}
    await issuer.client.patch("secrets", "s", "default", marked)
    await issuer.client.list("secrets", "default")
    await issuer.refused(token)
    # Its use is noted all the same: somebody still has it.
    assert legacy_tokens.LAST_USED in await labels(issuer)
    await issuer.client.patch("secrets", "s", "default", {"metadata": {"labels": {legacy_tokens.INVALID_SINCE: None}}})
    await issuer.client.list("secrets", "default")
    await issuer.user(token)


async def test_since_when_uses_are_noted_is_said_and_kept_as_it_is(issuer: Issuer) -> None:
    place = ("configmaps", legacy_tokens.TRACKING, legacy_tokens.TRACKING_NAMESPACE)
    registry = issuer.stack.servers[0].registry
    today = legacy_tokens.day_of(issuer.clock.now())
    assert (await issuer.client.get(*place))["data"] == {legacy_tokens.SINCE: today}
    issuer.clock.ahead = timedelta(days=40)
    later = legacy_tokens.day_of(issuer.clock.now())
    for data, expected in (({"since": "2020-02-29"}, "2020-02-29"), ({"since": "2020-02-30"}, later)):
        await issuer.client.patch(*place, {"data": data})
        await issuer.client.list("configmaps", legacy_tokens.TRACKING_NAMESPACE)
        await keep_tracking(registry)
        assert (await issuer.client.get(*place))["data"] == {legacy_tokens.SINCE: expected}


async def test_a_review_is_of_a_token(issuer: Issuer) -> None:
    with pytest.raises(errors.BadRequest, match="token is required for TokenReview in authentication"):
        await issuer.review("")
