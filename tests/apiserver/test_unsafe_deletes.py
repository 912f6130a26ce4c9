"""Deletes of what cannot be read any more, by who says so and has the right to."""

import aiohttp
import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object
from tests.apiserver.conftest import Stack
from tests.apiserver.test_encryption import KEY, aesgcm, config, door

OPTION = "ignoreStoreReadErrorWithClusterBreakingPotential"
DOOR = "/api/v1/namespaces/default/secrets/door"


async def allow(stack: Stack, *verbs: str) -> None:
    group, metadata = "rbac.authorization.k8s.io", {"name": "-".join(verbs)}
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": [*verbs]}]
    await stack.client().create(f"clusterroles.{group}", {"metadata": metadata, "rules": rules})
    reference = {"apiGroup": group, "kind": "ClusterRole", **metadata}
    subjects = [{"apiGroup": group, "kind": "User", "name": "bob"}]
    binding = {"metadata": metadata, "roleRef": reference, "subjects": subjects}
    await stack.client().create(f"clusterrolebindings.{group}", binding)


async def test_a_secret_whose_key_is_lost_is_deleted_by_who_may(stack: Stack) -> None:
    await stack.add_server(encryption=config(aesgcm("a")))
    await stack.client(1).create("secrets", door(finalizers=["x.io/y"]))
    tokens = {"bob": ("bob", ())}
    server = await stack.add_server(encryption=config(aesgcm("b")), https_address="127.0.0.1:0", static_tokens=tokens)
    await allow(stack, "delete", "deletecollection", "list")

    async def delete(body: Object, path: str = DOOR) -> tuple[int, str]:
        url, headers = f"http://{server.https_address}{path}", {"Authorization": "Bearer bob"}
        async with aiohttp.ClientSession() as session, session.delete(url, json=body, headers=headers) as answer:
            return answer.status, (await answer.json()).get("message", "")

    assert (await delete({}))[0] == 500
    code, message = await delete({OPTION: True})
    assert code == 403 and 'not permitted to do "unsafe-delete-ignore-read-errors", reason: ' in message
    await allow(stack, "unsafe-delete-ignore-read-errors")
    for field, value in (("dryRun", ["All"]), ("gracePeriodSeconds", 0), ("preconditions", {"uid": "u"})):
        code, message = await delete({OPTION: True, field: value})
        assert (code, f"cannot be set together with .{field}" in message) == (422, True)
    code, message = await delete({OPTION: True}, DOOR.removesuffix("/door"))
    assert (code, "is not allowed with DELETECOLLECTION" in message) == (422, True)
    assert KEY.encode() in stack.etcd.live
    assert (await delete({}, f"{DOOR}?{OPTION}=true"))[0] == 500  # as the body says nothing of it
    assert await delete({OPTION: True}) == (200, "")
    assert KEY.encode() not in stack.etcd.live
    with pytest.raises(errors.NotFound):
        await stack.client(2).get("secrets", "door", "default")
    assert (await stack.client(2).list("secrets", "default")).items == []
    # What can be read is deleted as ever.
    await stack.client(2).create("secrets", door())
    code, message = await delete({OPTION: True})
    assert (code, "is exclusively used to delete corrupt object(s)" in message) == (422, True)
    assert (await delete({}))[0] == 200
