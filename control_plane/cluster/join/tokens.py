"""Bootstrap tokens of a running cluster, made, listed and deleted by its administrator."""

import asyncio
import contextlib
import secrets
import string
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

from rayplane.control_plane.api import bootstrap_tokens, meta
from rayplane.control_plane.api.authorization.bootstrap_policy import CLUSTER_INFO as INFO_ROLE
from rayplane.control_plane.api.authorization.bootstrap_policy import GROUP, JOINING
from rayplane.control_plane.api.bootstrap_tokens import NAMESPACE, BootstrapToken, secret_name
from rayplane.control_plane.api.errors import AlreadyExists, NotFound
from rayplane.control_plane.api.joining import CLUSTER_INFO, PUBLIC_NAMESPACE, SIGNATURE
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.join.discovery import checked_token
from rayplane.control_plane.cluster.join.options import HASH, TOKEN
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.identities import NODES
from rayplane.control_plane.rpc.tls import Credentials, key_hash
from rayplane.storage.env import Clock

ALPHABET = string.ascii_lowercase + string.digits
SIGNED_S, POLL_S = 60.0, 0.1
_NODES = ("Group", NODES)
_BINDINGS = (
    ("Role", PUBLIC_NAMESPACE, INFO_ROLE, INFO_ROLE, ("User", "system:anonymous")),
    ("ClusterRole", "", "rayplane:nodes-proxy", "system:node-proxier", _NODES),
    ("ClusterRole", "", "rayplane:nodes-dns", "system:coredns", _NODES),
)


def new_token() -> str:
    own, value = ("".join(secrets.choice(ALPHABET) for _ in range(n)) for n in (6, 16))
    return f"{own}.{value}"


async def create(admin: Access, token: str, clock: Clock, *, ttl_s: float, description: str) -> None:
    """Make a token, and return when machines can join with it. `ttl_s`: 0 for ever. Raises ApiError, ClusterError.

    From then on strangers may read `cluster-info`, as kubeadm lets them: where the API is, and its authority; and nodes
    what a service proxy and a DNS server read: those that join run both.
    """
    own = checked_token(token)
    expires = clock.now() + timedelta(seconds=ttl_s) if ttl_s else None
    made = bootstrap_tokens.secret_object(token, expires=expires, groups=(JOINING,), description=description)
    try:
        await admin.api.create("secrets", made)
    except AlreadyExists as e:
        raise ClusterError(f"there is a token {own.id} already: delete it, or choose another one") from e
    await _open(admin.api)
    try:
        async with asyncio.timeout(SIGNED_S):
            while not await _is_signed(admin.api, own.id):
                if expires is not None and clock.now() >= expires:
                    raise ClusterError(f"token {own.id} expired before machines could join with it: give a longer ttl")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise ClusterError(
            f"token {own.id} is made, and nobody has signed {CLUSTER_INFO} with it in {SIGNED_S:.0f} s: "
            "see `rayplane status` for the controllers"
        ) from None


async def _open(api: ApiClient) -> None:
    for kind, namespace, name, role, subject in _BINDINGS:
        binding = {
            "apiVersion": f"{GROUP}/v1",
            "kind": f"{kind}Binding",
            "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
            "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
            "subjects": [{"apiGroup": GROUP, "kind": subject[0], "name": subject[1]}],
        }
        # One that is there stays, also where somebody has changed it.
        with contextlib.suppress(AlreadyExists):
            await api.create(f"{kind.lower()}bindings.{GROUP}", binding)


async def _is_signed(api: ApiClient, own: str) -> bool:
    try:
        info = await api.get("configmaps", CLUSTER_INFO, PUBLIC_NAMESPACE)
    except NotFound:
        return False
    return SIGNATURE + own in (info.get("data") or {})


@dataclass(frozen=True, slots=True)
class Listed:
    """A token, and what its maker says of it."""

    token: BootstrapToken
    description: str


async def listed(api: ApiClient) -> list[Listed]:
    """Those that there are, by id."""
    found = await api.list("secrets", NAMESPACE, field_selector=f"type={bootstrap_tokens.TYPE}")
    tokens = [
        Listed(token, bootstrap_tokens.description(one))
        for one in found.items
        if (token := BootstrapToken.of(one)) is not None
    ]
    return sorted(tokens, key=lambda one: one.token.id)


async def delete(api: ApiClient, token: str) -> str:
    """Delete a token, told by its id or whole; its id. Raises ClusterError, ApiError."""
    own = token.partition(".")[0]
    try:
        found = await api.get("secrets", secret_name(own), NAMESPACE)
        if not bootstrap_tokens.is_token(found):
            raise ClusterError(f"the Secret {meta.key(found)} is no bootstrap token")
        await api.delete("secrets", secret_name(own), NAMESPACE)
    except NotFound as e:
        raise ClusterError(f"there is no token {own}; `rayplane token list` shows those there are") from e
    return own


def server_of(admin: Access) -> str:
    """URL of the API."""
    return f"https://{admin.state.topology.of(Role.LOAD_BALANCER)[0].endpoint('https')}"


def is_local(admin: Access) -> bool:
    """Whether the cluster is reached on its own machine alone."""
    return ip_address(admin.state.topology.of(Role.LOAD_BALANCER)[0].machine.address).is_loopback


def join_command(admin: Access, token: str) -> str:
    """What to run on a machine that is to join."""
    pin = key_hash(Credentials.read(admin.directory.admin).ca)
    return f"rayplane join {server_of(admin)} {TOKEN} {token} {HASH} {pin}"
