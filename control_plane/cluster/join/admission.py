"""The way of a machine into a cluster: from a URL and a token to certificates, and to what the cluster's nodes know.

With nothing but a token: whom to trust (`discovery`), then a certificate as the node. With a certificate of an earlier
life neither is needed. As the node: the certificate that it shows, and the cluster's configuration.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden, NotFound, Unauthorized
from rayplane.control_plane.api.joining import (
    CLUSTER_INFO,
    CONFIG,
    GRPC_ADDRESSES,
    NAMESPACE,
    NODE_HOSTS,
    PUBLIC_NAMESPACE,
)
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.ending import Progress
from rayplane.control_plane.cluster.errors import ClusterError, NotAdmitted, NotTrusted, UsageError
from rayplane.control_plane.cluster.join.certificates import Kind, certify
from rayplane.control_plane.cluster.join.config import JoinConfig
from rayplane.control_plane.cluster.join.discovery import Discovered, check_pins, checked_token, discovered
from rayplane.control_plane.cluster.join.options import TOKEN
from rayplane.control_plane.cluster.join.rest import RestApi, authority_known, checked_url, nobody_known
from rayplane.control_plane.cluster.join.settings import read_told
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc.tls import Credentials, key_hash
from rayplane.storage.env import Clock


@dataclass(frozen=True, slots=True)
class Admitted:
    """A machine that may be a node."""

    credentials: Credentials
    serving: Credentials
    config: ClusterConfig
    plan: AddressPlan
    apiservers: tuple[str, ...]
    """gRPC endpoints, host:port."""


async def admitted(config: JoinConfig, clock: Clock, say: Progress) -> Admitted:
    """Raises ClusterError, ApiError, OSError."""
    url, kept = checked_url(config.url), _kept(config.tls, clock)
    if kept is not None and config.pins and key_hash(kept.ca) not in {pin.lower() for pin in config.pins}:
        kept = None  # of a cluster that is another, or was made anew since
    own = kept or await _bootstrapped(config, url, say)
    api = RestApi(url, authority_known(own.ca, own))
    if kept is None:
        await _check_free(config.node, api)
        own.write(config.tls)
    else:
        say(f"going on with the certificate in {config.tls}")
    try:
        found, plan, apiservers = await _told(api)
    except Unauthorized as e:
        raise NotAdmitted(f"the certificate in {config.tls} is not good any more: delete it, and give {TOKEN}") from e
    except NotTrusted as e:
        raise NotTrusted(f"{e}; if the cluster was made anew, delete {config.tls}, and give {TOKEN}") from e
    serving = _kept(config.serving, clock)
    if serving is None or serving.ca != own.ca:
        serving = await _certified(api, Kind.serving(config.node), own.ca)
        serving.write(config.serving)
    found = replace(
        found,
        runtime=config.runtime or found.runtime,
        node_cpu=config.cpu or str(os.cpu_count() or 1),
        node_memory=config.memory or str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
    )
    found.validate()
    return Admitted(own, serving, found, plan, apiservers)


def _kept(directory: Path, clock: Clock) -> Credentials | None:
    """The certificate of an earlier life, if it can be used."""
    try:
        found = Credentials.read(directory)
    except OSError:
        return None
    return found if found.is_sound and found.spent(clock.now()) < 1 else None


async def _bootstrapped(config: JoinConfig, url: str, say: Progress) -> Credentials:
    """The node's first certificate. Raises ClusterError, ApiError."""
    if not config.token:
        raise UsageError(f"give {TOKEN}: there is no certificate in {config.directory} that is good")
    found = await _discovered(config, url)
    say(f"the cluster at {url} is the one of the token; asking it for a certificate")
    api = RestApi(url, authority_known(found.ca), token=config.token)
    try:
        return await _certified(api, Kind.client(config.node), found.ca)
    except (Unauthorized, Forbidden) as e:
        raise NotAdmitted(f"the cluster lets nobody in with this token ({e.message}): make a new one") from e


async def _discovered(config: JoinConfig, url: str) -> Discovered:
    token = checked_token(config.token)
    check_pins(config.pins, unsafe=config.unsafe)
    stranger = RestApi(url, nobody_known())
    try:
        info = await stranger.get("configmaps", CLUSTER_INFO, PUBLIC_NAMESPACE)
    except (Unauthorized, Forbidden, NotFound) as e:
        raise NotAdmitted(
            f"the server at {url} does not tell strangers where the cluster is: `rayplane token create` there lets it"
        ) from e
    return discovered(info.get("data") or {}, token, config.pins)


async def _certified(api: RestApi, kind: Kind, ca: bytes) -> Credentials:
    request = kind.new()
    return request.answered(ca, await certify(api, kind, request.pem))


async def _check_free(node: str, api: RestApi) -> None:
    """Raises NotAdmitted where another machine is this node: two would take each other's pods away."""
    try:
        found = await api.get("nodes", node)
    except NotFound:
        return
    if meta.condition_is(found, "Ready"):
        raise NotAdmitted(
            f"the cluster has a node {node} that is ready: choose another --node-name, or delete that one"
        )


async def _told(api: RestApi) -> tuple[ClusterConfig, AddressPlan, tuple[str, ...]]:
    """What the cluster tells its nodes, and where its API servers are. Raises ClusterError, ApiError."""
    try:
        told = await api.get("configmaps", NODE_HOSTS, NAMESPACE)
        config, plan = read_told((told.get("data") or {}).get(CONFIG, ""))
        endpoints = meta.annotations(await api.get("endpoints", "kubernetes", "default"))[GRPC_ADDRESSES]
    except (NotFound, ValueError, KeyError) as e:
        raise ClusterError(f"the cluster has no part for nodes that join with this build, {VERSION}: {e}") from e
    return config, plan, tuple(endpoints.split(","))
