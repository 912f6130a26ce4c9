"""Bootstrap tokens: whom they make of whoever shows one."""

import pytest

from rayplane.control_plane.api import errors
from rayplane.control_plane.client import ApiClient
from tests.apiserver.conftest import Stack

JOINING = "system:bootstrappers:kubeadm:default-node-token"
TOKEN = "abcdef.0123456789abcdef"


async def add_token(client: ApiClient, **data: str) -> None:
    plain = {"token-id": "abcdef", "token-secret": "0123456789abcdef", **data}
    own = {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}
    await client.create("secrets", {"metadata": own, "type": "bootstrap.kubernetes.io/token", "stringData": plain})


def bearer(stack: Stack, token: str = TOKEN) -> ApiClient:
    return ApiClient(stack.network, [stack.servers[0].grpc_address], token=token)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"usage-bootstrap-authentication": "false"},
        {"usage-bootstrap-authentication": "true", "expiration": "2001-01-01T00:00:00Z"},
        {"usage-bootstrap-authentication": "true", "auth-extra-groups": "system:masters"},
        {"usage-bootstrap-authentication": "true", "token-secret": "fedcba9876543210"},
        {"usage-bootstrap-authentication": "true", "token-id": "fedcba"},
    ],
    ids=str,
)
async def test_tokens_that_do_not_authenticate(stack: Stack, data: dict[str, str]) -> None:
    await add_token(stack.client(), **data)
    with pytest.raises(errors.Unauthorized):
        await bearer(stack).list("nodes")


async def test_a_token_is_a_user_with_its_groups(stack: Stack) -> None:
    await add_token(stack.client(), **{"usage-bootstrap-authentication": "true", "auth-extra-groups": JOINING})
    review = {"spec": {"token": "abcdef.0123456789abcdef"}}
    answer = await stack.client().create("tokenreviews.authentication.k8s.io", review)
    groups = ["system:bootstrappers", JOINING, "system:authenticated"]
    assert answer["status"]["user"] == {"username": "system:bootstrap:abcdef", "groups": groups}
    await stack.client().delete("secrets", "bootstrap-token-abcdef", "kube-system")
    with pytest.raises(errors.Unauthorized):
        await bearer(stack).list("nodes")
