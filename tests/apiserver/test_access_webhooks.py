"""Webhooks by kubeconfig file: whose a token is, and who may do what; and who may be nobody, where."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.authentication.webhooks import ReviewFailed
from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.outgoing.documents import Patience, ReviewWebhook
from rayplane.control_plane.apiserver.outgoing.kubeconfig import BadKubeconfig, read_kubeconfig
from rayplane.control_plane.client import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.https_server import BREAK, HttpsServer, https_server
from tests.apiserver.test_configuration_files import WEBHOOK, authentication, authorization
from tests.apiserver.test_rights import BINDINGS, ROLES, binding, role

SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
SOON = Timing(webhook_retry_s=0.001)
RBAC = {"type": "RBAC", "name": "rbac"}


@asynccontextmanager
async def server(directory: Path, *after: Any, **settings: Any) -> AsyncIterator[tuple[Stack, HttpsServer]]:
    """One whose requests are first looked at by a webhook; jane may list secrets by RBAC."""
    async with https_server() as https:
        connection = {"type": "KubeConfigFile", "kubeConfigFile": https.kubeconfig(directory, token="open")}
        asked = {"type": "Webhook", "name": "w", "webhook": {**WEBHOOK, "connectionInfo": connection, **settings}}
        stack = Stack()
        await stack.add_server(authorization=authorization(asked, *(after or (RBAC,))), timing=SOON)
        await stack.client().create(ROLES, role("reader", SECRETS))
        await stack.client().create(BINDINGS, binding("jane", "reader"))
        try:
            yield stack, https
        finally:
            await stack.stop()


def says(**status: Any) -> Any:
    return lambda path, document: {**document, "status": status}


async def may(client: ApiClient, resource: str = "secrets", **options: Any) -> bool:
    try:
        await client.list(resource, **options)
    except errors.Forbidden:
        return False
    return True


async def test_a_webhook_allows_denies_or_leaves_it_to_others(tmp_path: Path) -> None:
    async with server(tmp_path, authorizedTTL="1ns", unauthorizedTTL="1ns") as (stack, https):
        jane, bob = stack.client_as("jane"), stack.client_as("bob")
        https.answer = says(allowed=False)
        assert await may(jane) and not await may(bob)
        https.answer = says(allowed=True)
        assert await may(bob, "nodes")
        https.answer = says(allowed=False, denied=True, reason="not today")
        with pytest.raises(errors.Forbidden, match="not today"):
            await jane.list("secrets")
        assert https.headers["Authorization"] == "Bearer open"
        # Administrators are never asked about.
        asked = len(https.seen)
        assert await may(stack.client()) and len(https.seen) == asked


async def test_a_webhook_is_told_all_of_a_request_and_asked_once(tmp_path: Path) -> None:
    async with server(tmp_path) as (stack, https):
        https.answer = says(allowed=True)
        bob = stack.client_as("bob", "dev")
        for _ in range(3):
            await bob.list("pods", "default", label_selector="a=b,c notin (d)", field_selector="spec.nodeName=n1")
        [(path, review)] = https.seen
        assert (path, review["kind"], review["apiVersion"]) == (
            "/review",
            "SubjectAccessReview",
            "authorization.k8s.io/v1",
        )
        assert review["spec"] == {
            "user": "bob",
            "groups": ["dev", "system:authenticated"],
            "resourceAttributes": {
                "namespace": "default",
                "verb": "list",
                "version": "v1",
                "resource": "pods",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
                "labelSelector": {
                    "requirements": [
                        {"key": "a", "operator": "In", "values": ["b"]},
                        {"key": "c", "operator": "NotIn", "values": ["d"]},
                    ]
                },
            },
        }
        await bob.list("pods", "default")
        assert len(https.seen) == 2  # what is limited otherwise is another question


@pytest.mark.parametrize("policy", ["NoOpinion", "Deny"])
@pytest.mark.parametrize("answer", [500, b"", b"[]", b"x" * (1 << 21)], ids=["500", "nothing", "a list", "too much"])
async def test_a_webhook_that_fails_denies_only_where_it_shall(tmp_path: Path, policy: str, answer: Any) -> None:
    async with server(tmp_path, failurePolicy=policy) as (stack, https):
        https.answer = lambda path, document: answer
        assert await may(stack.client_as("jane")) is (policy == "NoOpinion")
        https.answer = says(allowed=True)
        assert await may(stack.client_as("jane"))


@pytest.mark.parametrize(("answer", "tries"), [(500, 5), (503, 5), (429, 5), (400, 1), (404, 1), (b"[]", 1)])
async def test_a_webhook_is_asked_again_where_that_may_help(tmp_path: Path, answer: Any, tries: int) -> None:
    async with server(tmp_path, failurePolicy="Deny") as (stack, https):
        https.answer = lambda path, document: answer
        assert not await may(stack.client_as("bob"))
        assert len(https.seen) == tries
        https.seen.clear()
        https.answer = lambda path, document: answer if len(https.seen) < tries else says(allowed=True)(path, document)
        assert await may(stack.client_as("bob"))


async def test_a_connection_that_breaks_is_made_again(tmp_path: Path) -> None:
    async with server(tmp_path, failurePolicy="Deny") as (stack, https):
        https.answer = lambda path, document: BREAK if len(https.seen) < 3 else says(allowed=True)(path, document)
        assert await may(stack.client_as("bob")) and len(https.seen) == 3


async def test_a_webhook_is_asked_no_longer_than_the_request_has_time(tmp_path: Path) -> None:
    async with https_server() as https:
        destination = read_kubeconfig(https.kubeconfig(tmp_path))
        patience = Patience(timeout_s=5, total_s=0.05, retry_s=3600)
        webhook = ReviewWebhook(destination, patience, random.Random(1))
        https.answer = lambda path, document: 500
        with pytest.raises(ReviewFailed, match=r"did not answer within 0\.05 s"):
            await webhook.post({})
        await webhook.close()


async def test_conditions_say_what_is_a_webhooks_business(tmp_path: Path) -> None:
    listed = [{"expression": "request.resourceAttributes.resource == 'nodes'"}, {"expression": "request.user != 'eve'"}]
    async with server(
        tmp_path, matchConditionSubjectAccessReviewVersion="v1", matchConditions=listed, failurePolicy="Deny"
    ) as (stack, https):
        https.answer = says(allowed=True)
        assert await may(stack.client_as("bob"), "nodes") and not await may(stack.client_as("bob"))
        assert not await may(stack.client_as("eve"), "nodes")
        assert len(https.seen) == 1
        # A path is no resource: the first condition has no value, which here denies.
        review = {"spec": {"user": "bob", "nonResourceAttributes": {"path": "/metrics", "verb": "get"}}}
        answer = await stack.client().create("subjectaccessreviews.authorization.k8s.io", review)
        assert answer["status"]["denied"] is True


async def test_reviews_ask_in_the_same_order(tmp_path: Path) -> None:
    async with server(tmp_path) as (stack, https):
        https.answer = says(allowed=False, denied=True, reason="no")
        asked = {"verb": "list", "resource": "secrets", "fieldSelector": {"rawSelector": "a=b,c=d"}}
        review = {"spec": {"user": "jane", "extra": {"k": ["v"]}, "resourceAttributes": asked}}
        answer = await stack.client().create("subjectaccessreviews.authorization.k8s.io", review)
        assert answer["status"] == {"allowed": False, "denied": True, "reason": "no"}
        spec = https.seen[0][1]["spec"]
        assert spec["extra"] == {"k": ["v"]} and len(spec["resourceAttributes"]["fieldSelector"]["requirements"]) == 2
        asked["labelSelector"] = {"rawSelector": "!!"}
        answer = await stack.client().create("subjectaccessreviews.authorization.k8s.io", review)
        assert answer["status"]["evaluationError"].startswith("labelSelector: ")
        https.answer = says(allowed=True)
        rules = await stack.client_as("jane").create(
            "selfsubjectrulesreviews.authorization.k8s.io", {"spec": {"namespace": "default"}}
        )
        assert rules["status"]["evaluationError"] == "webhook authorizer does not support user rule resolution"


async def test_a_webhook_tells_whose_an_unknown_token_is(tmp_path: Path) -> None:
    async with https_server() as https:
        stack = Stack()
        added = await stack.add_server(authentication_webhook=https.kubeconfig(tmp_path))
        identify = added.registry.authenticator.of_token
        user = {"username": "jane", "uid": "7", "groups": ["dev"], "extra": {"k": ["v"]}}
        https.answer = says(authenticated=True, user=user)
        for _ in range(2):
            found = await identify("sesame")
        assert (found.name, found.uid, found.groups) == ("jane", "7", ("dev", "system:authenticated"))
        assert found.extra == {"k": ("v",)}
        assert [document["spec"] for _, document in https.seen] == [
            {"token": "sesame", "audiences": [added.config.issuer]}
        ]
        for answer in (
            says(authenticated=False, user=user),
            says(authenticated=True, user={}),
            says(authenticated=True, user=user, audiences=["other"]),
            lambda path, document: 500,
            lambda path, document: {"status": 7},
        ):
            https.answer = answer
            with pytest.raises(errors.Unauthorized):
                await identify("other")
        await stack.stop()


async def test_nobody_is_somebody_only_at_some_paths() -> None:
    stack = Stack()
    conditions = [{"path": "/livez"}, {"path": "/readyz"}]
    text = authentication(anonymous={"enabled": True, "conditions": conditions})
    tokens = {"bob": ("bob", ())}
    added = await stack.add_server(https_address="127.0.0.1:0", authentication=text, static_tokens=tokens)
    find = added.registry.authenticator.of_request
    assert (await find(None, "", "/livez")).name == "system:anonymous"
    for path in ("/livez/ping", "/api/v1/pods", "", "/LIVEZ"):
        with pytest.raises(errors.Unauthorized):
            await find(None, "", path)
    assert (await find(None, "Bearer bob", "/api/v1/pods")).name == "bob"
    async with aiohttp.ClientSession() as session, session.get(f"http://{added.https_address}/livez") as response:
        assert response.status == 200
    await stack.stop()


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "No such file"),
        ([], "must be the webhook's URL"),
        ({"clusters": 7}, "must be the webhook's URL"),
        ({"clusters": [{"name": "a", "cluster": {"server": "ftp://x"}}]}, "must be the webhook's URL"),
        ({"current-context": "x"}, "no context is called 'x'"),
        ({"clusters": [{"cluster": {"server": "https://x", "certificate-authority-data": "%"}}]}, "."),
        ({"clusters": [{"cluster": {"server": "https://x", "certificate-authority": "none"}}]}, "No such file"),
        ({"users": [{"user": {"exec": {"command": "rm"}}}]}, "programs that make credentials are not run"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere(tmp_path: Path, document: Any, problem: str) -> None:
    path = tmp_path / "webhook.yaml"
    if document is not None:
        path.write_text(json.dumps(document))
    with pytest.raises(BadKubeconfig, match=problem):
        read_kubeconfig(str(path))
