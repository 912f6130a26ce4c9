"""Storage version migrations on a real server: objects are written again, and only those that need it."""

import pytest
from aiohttp import web

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Migrate, UpdateStatus
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.migrator import Migrator
from rayplane.control_plane.controllers.storageversionmigrator import MIGRATIONS
from tests.apiserver.conftest import Stack
from tests.apiserver.test_conversion import V1, Converter, converted, converter, of, spec_of, stored  # noqa: F401
from tests.apiserver.test_definitions import CRDS, redefine, thing

STAMP = "2026-01-01T00:00:00Z"


async def migrate(stack: Stack, form: str, name: str = "m") -> Object:
    """How a migration ends, as it is stored."""
    client = stack.client()
    resource = {"group": "example.com", "resource": "things"}
    migration = await client.create(MIGRATIONS, {"metadata": {"name": name}, "spec": {"resource": resource}})
    [write] = await Migrator(client).migrate(Migrate(migration, form, STAMP))
    assert isinstance(write, UpdateStatus)
    found: Object = await client.update_status(MIGRATIONS, write.obj)
    return found["status"]


async def test_what_is_stored_in_an_old_version_is_written_again(
    stack: Stack,
    converter: Converter,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayplane.control_plane.controllers.manager.migrator.PAGE", 2)
    client = stack.client()
    await client.create(CRDS, converted(converter, of("v1", storage=True)))
    for name in ("a", "b", "c"):
        await client.create(V1, thing({"n": 1}, name))
    await redefine(client, converted(converter, of("v1"), of("v2", storage=True)))
    await client.create(V1, thing({"n": 2}, "d"))
    versions = {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in (await client.list(V1)).items}
    status = await migrate(stack, "things.v2.example.com")
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [("Running", "False"), ("Succeeded", "True")]
    assert int(status["resourceVersion"]) >= int(versions["d"])
    assert [spec_of(await stored(stack, name)) for name in ("a", "b", "c", "d")] == [{"v2": {"count": 1}}] * 3 + [
        {"v2": {"count": 2}}
    ]
    after = {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in (await client.list(V1)).items}
    assert [name for name in after if after[name] == versions[name]] == ["d"]


async def test_a_webhook_that_fails_is_asked_again_and_what_is_not_there_fails(
    stack: Stack,
    converter: Converter,  # noqa: F811
) -> None:
    client = stack.client()
    await client.create(CRDS, converted(converter, of("v1", storage=True)))
    await client.create(V1, thing({"n": 1}))
    await redefine(client, converted(converter, of("v1"), of("v2", storage=True)))
    converter.answer = lambda review: web.Response(status=503)
    with pytest.raises(ActionFailed, match=r"conversion webhook for example.com/v1, Kind=Thing failed"):
        await migrate(stack, "things.v2.example.com")
    status = await migrate(stack, "nothings.example.com", "n")
    failed = next(c for c in status["conditions"] if c["type"] == "Failed")
    assert failed["message"] == "the server could not find the requested resource"
