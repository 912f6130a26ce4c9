"""Certificates are renewed before they expire, without a restart.

An actor asks the supervisor, which holds the authority's key, wherever that is by then, for the next one when two
thirds of a certificate's life are over; its key never leaves it. The administrator's is renewed by any command that is
used in its last third. Both go on with what they have while that fails: there is time.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.pki import ACTOR_VALIDITY, Secrets, issue_for_admin, kubeconfig
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.control_plane.rpc.tls import VALIDITY, Credentials, Request, front_proxy_dir
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Clock
from rayplane.storage.env.private import write_private

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.components import Spec

log = logging.getLogger(__name__)

RENEW_AT = 2 / 3
CHECK_EVERY_S = 600.0
# An API server is reached through the load balancer, which may be on a machine that has just come.
CHECK_NAMES_EVERY_S = 10.0
CALL_TIMEOUT_S = 30.0
AGAIN_MIN_S = 1.0


class ShowsCertificate(Protocol):
    """A network that can change its certificate."""

    def renew(self, credentials: Credentials) -> None: ...


def due(credentials: Credentials, validity: timedelta) -> datetime:
    """When a certificate is to be renewed, by the cluster's time, in which it was to hold for `validity`.

    It holds for longer where that time has been led ahead, and for less where it was made to expire soon: what is left
    of it counts, not when it began.
    """
    begin, end = credentials.life
    return end - min(end - begin, validity) * (1 - RENEW_AT)


Ask = Callable[[bytes], Awaitable[bytes]]
"""Gives the certificate for a request; raises RpcError, OSError."""


def tls_dir(spec: "Spec") -> Path:
    """Where an actor's certificate stands."""
    return Path(spec.data_dir).parent / f"{spec.instance.name}-tls"


def own_dir(directory: Path) -> Path:
    """Where an actor's certificate is kept while it shows another one."""
    return directory.with_name(f"{directory.name}-own")


def newest(spec: "Spec") -> "Spec":
    """The spec with what its actor shows: certificates that it renewed in an earlier life, if they were issued later.

    That they last longer says nothing: those of an older version last ten years, for other groups.
    """
    own, front = spec.credentials, spec.front_proxy
    return replace(
        spec,
        credentials=_newest(own, tls_dir(spec)) if own is not None else None,
        front_proxy=_newest(front, front_proxy_dir(tls_dir(spec))) if front is not None else None,
    )


def _newest(given: Credentials, directory: Path) -> Credentials:
    aside = own_dir(directory)
    try:
        found = Credentials.read(aside if aside.exists() else directory)
    except OSError:
        return given
    usable = found.ca == given.ca and found.is_sound
    return found if usable and found.life[0] > given.life[0] else given


class Renewal:
    """A task that keeps one actor's certificate fresh."""

    def __init__(
        self,
        credentials: Credentials,
        directory: Path,
        clock: Clock,
        network: ShowsCertificate | None,
        *,
        named: Callable[[], Collection[str]] = tuple,
        request: Callable[[], Request] = Request,
    ) -> None:
        """`network`: who shows it; None where it is read from the directory. `named`: addresses that it should name
        by now: one that does not is renewed at once. `request`: makes the next request."""
        self._request = request
        self.credentials = credentials
        self._named = named
        self._asked_for: frozenset[str] = frozenset()  # once, whatever came of it
        self._directory = directory
        self._clock = clock
        self._network = network
        self._changed = asyncio.Event()

    async def run(self, ask: Ask, *, every_s: float) -> None:
        while True:
            try:
                await self.check(ask)
            except (RpcError, OSError) as e:
                log.warning("the certificate is not renewed yet, and lasts until %s: %s", self.credentials.life[1], e)
            except Exception:
                log.exception("renewing the certificate failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._pause_s(every_s))
            self._changed.clear()

    def _pause_s(self, every_s: float) -> float:
        """Until it is time, or time to try again: the less there is left, the sooner."""
        now, end = self._clock.now(), self.credentials.life[1]
        wait_s = (due(self.credentials, ACTOR_VALIDITY) - now).total_seconds()
        return min(every_s, max(AGAIN_MIN_S, wait_s if wait_s > 0 else (end - now).total_seconds() / 10))

    def show(self, credentials: Credentials) -> None:
        """A fault: others see this one until it is renewed, `show_own` is called, or the actor starts again."""
        aside = own_dir(self._directory)
        if not aside.exists():
            self.credentials.write(aside)
        self._use(credentials)
        self._changed.set()

    def show_own(self) -> None:
        """The fault is over; nothing where the other one was renewed."""
        aside = own_dir(self._directory)
        if aside.exists():
            self._use(Credentials.read(aside))
            shutil.rmtree(aside)
            self._changed.set()

    def _use(self, credentials: Credentials) -> None:
        # First to disk: what was shown once must be there after a restart.
        credentials.write(self._directory)
        if self._network is not None:
            self._network.renew(credentials)
        self.credentials = credentials

    async def check(self, ask: Ask) -> bool:
        """Renew if it is time; whether it was."""
        missing = frozenset(self._named()) - self.credentials.addresses - self._asked_for
        if self._clock.now() < due(self.credentials, ACTOR_VALIDITY) and not missing:
            return False
        request = self._request()
        fresh = request.answered(self.credentials.ca, await ask(request.pem))
        if not fresh.is_sound:
            raise OSError("what came back is no certificate of this cluster for the key that was sent")
        self._use(fresh)
        shutil.rmtree(own_dir(self._directory), ignore_errors=True)
        self._asked_for |= missing
        log.info("the certificate is renewed and lasts until %s", fresh.life[1])
        return True


class SupervisorKnown:
    """The supervisor as an actor knows it: it comes back elsewhere when its machine is lost.

    API servers tell where it is, and it tells where they are. All may move before a certificate is to be renewed, so
    they are asked now and then (`follow`).
    """

    def __init__(self, spec: "Spec", network: Network) -> None:
        self.machines: tuple[str, ...] = ()
        """Addresses of all machines, as told last."""
        first = spec.topology.endpoints(Role.SUPERVISOR, "grpc")
        self._name = spec.instance.name
        self._network = network
        self._client = ApiClient(network, spec.topology.endpoints(Role.APISERVER, "grpc"), discovery=first)

    async def follow(self, *, every_s: float) -> None:
        """Ask where they are, until cancelled."""
        while True:
            with contextlib.suppress(ApiError):
                self.machines = tuple((await self._client.discover()).machines)
            await asyncio.sleep(every_s)

    def ask(self, *, front_proxy: bool = False) -> Ask:
        """`front_proxy`: which of an API server's two certificates is asked for."""

        async def ask(request: bytes) -> bytes:
            with contextlib.suppress(ApiError):
                await self._client.discover()
            endpoint, *_ = self._client.supervisors
            stub = Stub(self._network.channel(endpoint), pb.DESCRIPTOR.services_by_name["Supervisor"])
            asked = pb.RenewRequest(name=self._name, csr=request, front_proxy=front_proxy)
            return bytes((await stub.Renew(asked, timeout=CALL_TIMEOUT_S)).certificate)

        return ask


def write_admin(directory: StateDir, state: ClusterState, secrets: Secrets, now: datetime) -> None:
    """A certificate for the administrator, and the kubeconfig with it. `now`: by the machine's clock."""
    admin = issue_for_admin(secrets.authority, now, timedelta(seconds=directory.read_ahead_s()))
    admin.write(directory.admin)
    _write_kubeconfig(directory, state, admin)


def repoint(directory: StateDir, state: ClusterState) -> None:
    """Have the kubeconfig lead to where the load balancer is."""
    _write_kubeconfig(directory, state, Credentials.read(directory.admin))


def _write_kubeconfig(directory: StateDir, state: ClusterState, admin: Credentials) -> None:
    server = f"https://{state.topology.of(Role.LOAD_BALANCER)[0].endpoint('https')}"
    text = kubeconfig(state.config.name, server, admin).encode()
    if not directory.kubeconfig.exists() or directory.kubeconfig.read_bytes() != text:
        write_private(directory.kubeconfig, text)


def renew_admin(directory: StateDir, state: ClusterState, now: datetime) -> bool:
    """Renew the administrator's certificate if it is time and the authority's key is here; whether it was.

    `now`: by the machine's clock.
    """
    try:
        if now + timedelta(seconds=directory.read_ahead_s()) < due(Credentials.read(directory.admin), VALIDITY):
            return False
        secrets = Secrets.read(directory.pki)
    except OSError:
        return False
    if secrets is None:
        return False
    write_admin(directory, state, secrets, now)
    return True
