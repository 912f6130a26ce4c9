"""Files of the configuration that change while a server runs: what can be read holds, what cannot changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.config import AuditConfig, Files, Timing
from rayplane.control_plane.apiserver.server import ApiServer
from tests.apiserver.conftest import Stack
from tests.apiserver.https_server import HttpsServer, https_server
from tests.apiserver.test_access_webhooks import RBAC, WEBHOOK, may, says
from tests.apiserver.test_audit import EVERYTHING, HEAD, environment
from tests.apiserver.test_configuration_files import authentication, authorization

SELDOM = Timing(file_pause_s=3600)
NODE = {"type": "Node", "name": "node"}
NOBODY = authentication(anonymous={"enabled": False})
LIVEZ = authentication(anonymous={"enabled": True, "conditions": [{"path": "/livez"}]})


def asks(https: HttpsServer, directory: Path) -> dict[str, Any]:
    connection = {"type": "KubeConfigFile", "kubeConfigFile": https.kubeconfig(directory, token="open")}
    return {"type": "Webhook", "name": "w", "webhook": {**WEBHOOK, "connectionInfo": connection}}


@asynccontextmanager
async def server(**changes: Any) -> AsyncIterator[tuple[Stack, ApiServer]]:
    stack = Stack()
    try:
        yield stack, await stack.add_server(**{"timing": SELDOM, **changes})
    finally:
        await stack.stop()


def reloads(made: ApiServer, kind: str = "authentication") -> dict[str, float]:
    """How many by their status; and what is in force, by its hash."""
    families = {family.name: family for family in made.registry.files.collect()}
    prefix = f"apiserver_{kind}_config_controller"
    found = families[f"{prefix}_automatic_reloads_total"].samples
    times = families[f"{prefix}_automatic_reload_last_timestamp_seconds"].samples
    assert found.keys() == times.keys()
    [(_, in_force)] = families[f"{prefix}_last_config_info"].samples
    assert in_force.startswith("sha256:")
    return {status: count for (_, status), count in found.items()}


async def anonymous_at(made: ApiServer, path: str) -> bool:
    try:
        return (await made.registry.authenticator.of_request(None, "", path)).name == "system:anonymous"
    except errors.Unauthorized:
        return False


async def test_who_may_be_anonymous_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "authentication.yaml"
    file.write_text(NOBODY)
    async with server(authentication=NOBODY, files=Files(authentication=str(file))) as (_, made):
        assert not await anonymous_at(made, "/livez")
        await made.registry.files.look()
        assert reloads(made) == {}
        file.write_text(LIVEZ)
        await made.registry.files.look()
        assert await anonymous_at(made, "/livez") and not await anonymous_at(made, "/healthz")
        assert reloads(made) == {"success": 1}


@pytest.mark.parametrize(
    "broken", ["{", "", "x" * (1 << 21), authentication(jwtt=[])], ids=["yaml", "empty", "long", "field"]
)
async def test_a_broken_file_changes_nothing_and_is_told_once(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "authentication.yaml"
    file.write_text(LIVEZ)
    async with server(authentication=LIVEZ, files=Files(authentication=str(file))) as (_, made):
        file.write_text(broken)
        for _ in range(3):
            await made.registry.files.look()
        assert await anonymous_at(made, "/livez")
        assert reloads(made) == {"failure": 1}
        assert sum("authentication configuration stays as it is" in text for text in caplog.messages) == 1
        # What it said before is nothing new; what it says then is.
        file.write_text(LIVEZ)
        await made.registry.files.look()
        assert reloads(made) == {"failure": 1}
        file.write_text(NOBODY)
        await made.registry.files.look()
        assert reloads(made) == {"failure": 1, "success": 1} and not await anonymous_at(made, "/livez")


async def test_a_file_that_goes_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "authentication.yaml"
    file.write_text(LIVEZ)
    async with server(authentication=LIVEZ, files=Files(authentication=str(file))) as (_, made):
        file.unlink()
        await made.registry.files.look()
        os.mkfifo(file)  # which nobody writes to
        await made.registry.files.look()
        await made.registry.files.look()
        assert await anonymous_at(made, "/livez") and reloads(made) == {"failure": 2}


async def test_a_server_starts_with_what_its_file_says_now(tmp_path: Path) -> None:
    file = tmp_path / "authentication.yaml"
    for now, livez in ((LIVEZ, True), ("{", False), (None, False)):
        file.unlink(missing_ok=True)
        if now is not None:
            file.write_text(now)
        async with server(authentication=NOBODY, files=Files(authentication=str(file))) as (_, made):
            assert await anonymous_at(made, "/livez") is livez
            assert reloads(made) == ({"failure": 1} if now == "{" else {})


async def test_a_server_looks_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "authentication.yaml"
    file.write_text(NOBODY)
    often = Timing(file_pause_s=0.001)
    async with server(authentication=NOBODY, files=Files(authentication=str(file)), timing=often) as (_, made):
        file.write_text(LIVEZ)
        while not reloads(made):
            await asyncio.sleep(0.001)
        assert await anonymous_at(made, "/livez")


async def test_who_decides_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "authorization.yaml"
    before = authorization(NODE, RBAC)
    file.write_text(before)
    async with https_server() as https, server(authorization=before, files=Files(authorization=str(file))) as found:
        stack, made = found
        https.answer = says(allowed=True)
        bob = stack.client_as("bob")
        assert not await may(bob)
        file.write_text(authorization(asks(https, tmp_path), NODE, RBAC))
        await made.registry.files.look()
        assert await may(bob) and https.seen
        file.write_text(before)
        await made.registry.files.look()
        assert not await may(bob)
        assert reloads(made, "authorization") == {"success": 2}


async def test_a_webhook_that_is_asked_answers_although_it_is_taken_out_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "authorization.yaml"
    asked, goes = asyncio.Event(), asyncio.Event()
    async with https_server() as https:
        before = authorization(asks(https, tmp_path), NODE, RBAC)
        file.write_text(before)
        async with server(authorization=before, files=Files(authorization=str(file))) as (stack, made):

            async def waits(path: str, document: Any) -> Any:
                asked.set()
                await goes.wait()
                return {**document, "status": {"allowed": True}}

            https.answer = waits
            decision = asyncio.create_task(may(stack.client_as("bob")))
            await asked.wait()
            file.write_text(authorization(NODE, RBAC))
            await made.registry.files.look()
            goes.set()
            assert await decision
            assert not await may(stack.client_as("bob"))


@pytest.mark.parametrize(
    ("later", "problem"),
    [
        (authorization(RBAC), "missing required types: Node"),
        (authorization(NODE, RBAC, {"type": "Webhook", "name": "w"}), "required when type=Webhook"),
    ],
)
async def test_who_decides_stays_where_the_file_leaves_somebody_out(
    tmp_path: Path, later: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "authorization.yaml"
    before = authorization(NODE, RBAC)
    file.write_text(before)
    async with server(authorization=before, files=Files(authorization=str(file))) as (_, made):
        file.write_text(later)
        await made.registry.files.look()
        assert reloads(made, "authorization") == {"failure": 1} and problem in caplog.text


async def test_a_type_that_was_not_there_at_start_is_refused_and_a_webhook_that_leads_nowhere_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "authorization.yaml"
    file.write_text(authorization(RBAC))
    async with server(authorization=authorization(RBAC), files=Files(authorization=str(file))) as (stack, made):
        file.write_text(authorization(NODE, RBAC))
        await made.registry.files.look()
        assert "authorizer type Node is not allowed if it was not enabled at initial server startup" in caplog.text
        connection = {"type": "KubeConfigFile", "kubeConfigFile": str(tmp_path / "no such file")}
        leads_nowhere = {"type": "Webhook", "name": "w", "webhook": {**WEBHOOK, "connectionInfo": connection}}
        file.write_text(authorization(leads_nowhere, RBAC))
        await made.registry.files.look()
        assert reloads(made, "authorization") == {"failure": 2}
        assert not await may(stack.client_as("bob")) and await may(stack.client())


async def test_what_is_recorded_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    nothing = HEAD + "rules: [{level: None}]"
    file.write_text(nothing)
    log = tmp_path / "data"
    log.mkdir()
    async with server(env=environment(log), audit=AuditConfig(nothing), files=Files(audit=str(file))) as (stack, made):
        await stack.client().create("configmaps", {"metadata": {"name": "before", "namespace": "default"}})
        file.write_text(EVERYTHING)
        await made.registry.files.look()
        await stack.client().create("configmaps", {"metadata": {"name": "after", "namespace": "default"}})
        assert reloads(made, "audit") == {"success": 1}
    events = [json.loads(line) for line in (log / "audit.log").read_bytes().splitlines()]
    assert {e["objectRef"].get("name", "after") for e in events} == {"after"}
