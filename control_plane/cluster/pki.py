"""The cluster's keys: its authority, its token key, who gets which certificate, and the kubeconfig."""

import os
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rayplane.control_plane.api.authorization.node_identity import host_identity
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.identities import (
    ADMINISTRATOR,
    API_SERVER,
    API_SERVERS,
    CONTROLLER_MANAGER,
    FRONT_PROXY,
    MASTERS,
    MEMBERS,
    SCHEDULER,
)
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.tls import CA_VALIDITY, VALIDITY, Authority, Credentials
from rayplane.storage.env.private import make_private_dir, write_private

# Renewed at two thirds of it.
ACTOR_VALIDITY = timedelta(days=90)
NOT_AHEAD = timedelta(0)
ENCRYPTION_FILE = "encryption.yaml"


@dataclass(frozen=True, slots=True)
class Secrets:
    """PEM of what must stay secret; the supervisor holds it to make new actors."""

    ca_cert: bytes
    ca_key: bytes = field(repr=False)
    token_key: bytes = field(repr=False)
    encryption: bytes = field(default=b"", repr=False)
    """How API servers encrypt in etcd: YAML of an EncryptionConfiguration; empty: they do not."""

    @staticmethod
    def create(cluster: str) -> "Secrets":
        # Whoever only holds secrets needs none of what encrypts.
        from rayplane.control_plane.apiserver.storage import encryption

        authority = Authority.create(f"rayplane {cluster}")
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Secrets(authority.cert, authority.key, key, encryption.generate(os.urandom))

    def write(self, directory: Path) -> None:
        make_private_dir(directory)
        files = {"ca.crt": self.ca_cert, "ca.key": self.ca_key, "token.key": self.token_key}
        for name, data in (files | {ENCRYPTION_FILE: self.encryption}).items():
            write_private(directory / name, data)

    @staticmethod
    def read(directory: Path) -> "Secrets | None":
        """None when there are none yet."""
        try:
            ca_cert, ca_key, token_key = ((directory / n).read_bytes() for n in ("ca.crt", "ca.key", "token.key"))
        except FileNotFoundError:
            return None
        return Secrets(ca_cert, ca_key, token_key, read_encryption(directory))

    @property
    def authority(self) -> Authority:
        return Authority(self.ca_cert, self.ca_key)


def read_encryption(directory: Path) -> bytes:
    """The EncryptionConfiguration in a `pki` directory; empty when there is none."""
    try:
        return (directory / ENCRYPTION_FILE).read_bytes()
    except FileNotFoundError:
        return b""


def identity_of_actor(instance: Instance) -> Identity:
    """As whom an actor calls."""
    match instance.role:
        case Role.MEMBER:
            return Identity(f"system:etcd:{instance.name}", (MEMBERS,))
        case Role.APISERVER:
            return Identity(API_SERVER, (API_SERVERS,))
        case Role.SCHEDULER:
            return Identity(SCHEDULER)
        case Role.CONTROLLERS:
            return Identity(CONTROLLER_MANAGER)
        case Role.NODE_HOST:
            return Identity(*host_identity(instance.nodes, fallback=instance.name))
        case Role.LOAD_BALANCER:
            return Identity(f"system:rayplane:{instance.name}")
        case Role.SUPERVISOR:
            return Identity(f"system:rayplane:{instance.name}", (MASTERS,))


def issue(
    authority: Authority,
    instance: Instance,
    service_address: str,
    machines: Iterable[str] = (),
    *,
    life: tuple[datetime, datetime] | None = None,
) -> Credentials:
    """The certificate of an actor: as whom it calls, and by which names it is called.

    `machines`: addresses of all machines; a load balancer on any of them leads to every API server. `life`: from when
    to when it holds, where that is not from now on and for as long as usual.
    """
    identity = identity_of_actor(instance)
    hosts = _hosts(instance, service_address, machines)
    return authority.issue(identity.user, identity.groups, hosts=hosts, validity=ACTOR_VALIDITY, life=life)


def renewed(
    authority: Authority,
    instance: Instance,
    service_address: str,
    machines: Iterable[str] = (),
    *,
    request: bytes,
    now: datetime,
    ahead: timedelta = NOT_AHEAD,
) -> bytes:
    """The next certificate of an actor, PEM, for the key of its request. Raises ValueError.

    `now`: by the clocks of those that it is shown to; `ahead`: by how much the cluster's is ahead of them.
    """
    identity, hosts = identity_of_actor(instance), _hosts(instance, service_address, machines)
    return authority.sign(request, identity, hosts=hosts, now=now, validity=ACTOR_VALIDITY + ahead)


def issue_front_proxy(authority: Authority) -> Credentials:
    """The certificate that an API server shows to servers of aggregated APIs: no policy and no role knows its user."""
    return authority.issue(FRONT_PROXY, validity=ACTOR_VALIDITY)


def renewed_front_proxy(authority: Authority, *, request: bytes, now: datetime, ahead: timedelta = NOT_AHEAD) -> bytes:
    """The next one, PEM, for the key of a request. Raises ValueError."""
    return authority.sign(request, Identity(FRONT_PROXY), hosts=(), now=now, validity=ACTOR_VALIDITY + ahead)


def _hosts(instance: Instance, service_address: str, machines: Iterable[str]) -> list[str]:
    hosts = [instance.machine.address, "127.0.0.1", "localhost"]
    if instance.role is Role.APISERVER:
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        hosts += [*names, "kubernetes.default.svc.cluster.local", service_address, *machines]
    return [*dict.fromkeys(hosts)]


def issue_for_admin(authority: Authority, now: datetime, ahead: timedelta = NOT_AHEAD) -> Credentials:
    return authority.issue(ADMINISTRATOR, [MASTERS], now=now, validity=VALIDITY + ahead)


def issue_for_ray(authority: Authority) -> Credentials:
    """What Ray's processes show each other. They are nobody to ours: no policy and no role names this user."""
    hosts = ("127.0.0.1", "localhost")
    # Ray reads it once, so it must last as long as the cluster may be up.
    return authority.issue("system:rayplane:ray", hosts=hosts, validity=CA_VALIDITY)


def kubeconfig(cluster: str, server: str, admin: Credentials) -> str:
    """A kubeconfig that holds all it needs (Kubernetes API reference, client configuration v1)."""

    def encoded(data: bytes) -> str:
        return b64encode(data).decode()

    name = f"rayplane-{cluster}"
    import yaml

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": server, "certificate-authority-data": encoded(admin.ca)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": encoded(admin.cert),
                        "client-key-data": encoded(admin.key),
                    },
                }
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        },
        sort_keys=False,
    )
