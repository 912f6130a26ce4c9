"""Tokens of other issuers, whose keys are fetched over HTTPS: who their owners are, and which are refused."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.outgoing import documents
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.server import ApiServer
from tests.apiserver.conftest import Stack
from tests.apiserver.https_server import AUTHORITY, HttpsServer, https_server

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
BY_CLAIM = {"username": {"claim": "sub", "prefix": "x:"}, "groups": {"claim": "groups", "prefix": "x:"}}


def jwk(key: Any, own: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": own, "use": "sig"}


@dataclass
class Issuer:
    """An issuer of tokens."""

    https: HttpsServer
    keys: dict[str, Any] = field(default_factory=lambda: {"r": RSA, "e": EC})

    def __post_init__(self) -> None:
        self.https.answer = self.answer

    def answer(self, path: str, _: Any) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.https.url, "jwks_uri": f"{self.https.url}/keys"}
        return {"keys": [jwk(key, own) for own, key in self.keys.items()]} if path == "/keys" else 404

    def token(self, key: Any = EC, own: str | None = "e", algorithm: str = "ES256", **claims: Any) -> str:
        usual = {"iss": self.https.url, "aud": "shop", "sub": "jane", "exp": int(time.time()) + 600}
        kept = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(kept, key, algorithm=algorithm, headers={"kid": own} if own else None)

    def config(self, **parts: Any) -> str:
        issuer = {"url": self.https.url, "audiences": ["shop"], "certificateAuthority": AUTHORITY.cert.decode()}
        jwt_authenticator = {"issuer": issuer, "claimMappings": BY_CLAIM, **parts}
        head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"}
        return yaml.safe_dump({**head, "jwt": [jwt_authenticator]})


@asynccontextmanager
async def served(lies: Mapping[str, Any] | None = None, **parts: Any) -> AsyncIterator[tuple[Issuer, ApiServer]]:
    async with https_server() as https:
        issuer, stack = Issuer(https), Stack()
        if lies:
            https.answer = lambda path, document: lies.get(path, issuer.answer(path, document))
        server = await stack.add_server(authentication=issuer.config(**parts))
        try:
            yield issuer, server
        finally:
            await stack.stop()


async def owner(server: ApiServer, token: str) -> User:
    return await server.registry.authenticator.of_token(token)


async def test_the_owner_of_a_token_is_who_its_claims_say() -> None:
    async with served() as (issuer, server):
        user = await owner(server, issuer.token(groups=["dev", "ops"]))
        assert user == User("x:jane", ("x:dev", "x:ops", "system:authenticated"))
        assert (await owner(server, issuer.token(RSA, "r", "RS256", groups="dev"))).groups[0] == "x:dev"
        assert (await owner(server, issuer.token(RSA, None, "PS384"))).name == "x:jane"
        assert (await owner(server, issuer.token(aud=["other", "shop"]))).name == "x:jane"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 10**10},
        {"sub": None},
        {"sub": ["jane"]},
        {"groups": {"a": "b"}},
        {"groups": [1]},
        {"key": OTHER},
        {"key": b"x" * 64, "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
        {"own": "unknown"},
    ],
    ids=lambda claims: "-".join(f"{name}-{type(value).__name__}" for name, value in claims.items()),
)
async def test_what_is_wrong_with_a_token(claims: dict[str, Any]) -> None:
    async with served() as (issuer, server):
        await owner(server, issuer.token())
        with pytest.raises(errors.Unauthorized):
            await owner(server, issuer.token(**claims))


async def test_expressions_make_a_user_and_judge_it() -> None:
    mappings: dict[str, Any] = {
        "username": {"expression": "'corp:' + claims.name"},
        "groups": {"expression": "claims.roles.split(',').map(r, 'corp:' + r)"},
        "uid": {"expression": "claims.sub"},
        "extra": [
            {"key": "example.org/team", "valueExpression": "claims.?team.orValue('none')"},
            {"key": "example.org/none", "valueExpression": "''"},
        ],
    }
    rules = [{"claim": "hd", "requiredValue": "example.org"}, {"expression": "claims.admin == false", "message": "no"}]
    judged = [{"expression": "!user.groups.exists(g, g.startsWith('corp:system'))"}]
    parts: dict[str, Any] = {"claimMappings": mappings, "claimValidationRules": rules, "userValidationRules": judged}
    async with served(**parts) as (issuer, server):
        good: dict[str, Any] = {"name": "jane", "roles": "dev,ops", "hd": "example.org", "admin": False}
        user = await owner(server, issuer.token(**good))
        assert user == User("corp:jane", ("corp:dev", "corp:ops", "system:authenticated"), uid="jane")
        assert user.extra == {"example.org/team": ("none",)}
        for bad in (
            {"hd": "other.org"},
            {"hd": None},
            {"admin": True},
            {"roles": "system:x"},
            {"name": 7},
            {"name": None},
        ):
            with pytest.raises(errors.Unauthorized):
                await owner(server, issuer.token(**{**good, **bad}))


async def test_an_expression_costs_no_more_than_it_may() -> None:
    long = "claims.all.map(a, claims.all.map(b, claims.all.map(c, a + b + c))).size() >= 0"
    async with served(claimValidationRules=[{"expression": long}]) as (issuer, server):
        assert (await owner(server, issuer.token(all=[1] * 3))).name == "x:jane"
        # Beside the loop, and then no more.
        assert (await owner(server, issuer.token(all=[1] * 15))).name == "x:jane"
        with pytest.raises(errors.Unauthorized):
            await owner(server, issuer.token(all=[1] * 150))


async def test_keys_are_fetched_anew_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (issuer, server):
        await owner(server, issuer.token())
        issuer.keys = {"new": OTHER}
        fresh = issuer.token(OTHER, "new")
        with pytest.raises(errors.Unauthorized):
            await owner(server, fresh)  # it was asked just before
        asked = len(issuer.https.seen)
        monkeypatch.setattr(documents, "ASK_AGAIN_S", 0.0)
        assert (await owner(server, fresh)).name == "x:jane"
        assert len(issuer.https.seen) == asked + 2
        with pytest.raises(errors.Unauthorized):
            await owner(server, issuer.token())  # what was taken back


@pytest.mark.parametrize(
    "answer", [500, b"", b"[]", b"{}", b'{"keys": 7}', {"issuer": "https://other"}, b"x" * (1 << 21)]
)
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys"])
async def test_an_issuer_that_lies_or_fails_makes_nobody(path: str, answer: Any) -> None:
    async with served(lies={path: answer}) as (issuer, server):
        with pytest.raises(errors.Unauthorized):
            await owner(server, issuer.token())


async def test_a_review_tells_whose_token_it_is() -> None:
    async with served() as (issuer, server):
        reviews = server.registry.kinds.named("tokenreviews.authentication.k8s.io")
        review: dict[str, Any] = {"spec": {"token": issuer.token()}}
        answer = await server.registry.subresources._reviews.answer(User("a"), reviews, "", review)
        assert answer["status"]["user"]["username"] == "x:jane"
        assert answer["status"]["audiences"] == [server.config.issuer]
        review = {"spec": {"token": issuer.token(), "audiences": ["shop"]}}
        answer = await server.registry.subresources._reviews.answer(User("a"), reviews, "", review)
        assert answer["status"]["error"] == "token audiences do not match the requested audiences"
