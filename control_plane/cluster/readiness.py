"""Readiness of a cluster: everything that `up` waits for."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.cluster.access import Access, followed
from rayplane.control_plane.cluster.errors import StartFailed
from rayplane.control_plane.cluster.patience import Patience, slowdown, stretched
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.tls import Credentials

POLL_S = 0.05
# On an idle machine; on a busy one a call gets as many times more as the machine is slower, up to a limit.
CALL_TIMEOUT_S = 2.0
SLOWDOWN_MAX = 10.0
#: The Lease of each component that has one leader.
LEADERS = {Role.SCHEDULER: "kube-scheduler", Role.CONTROLLERS: "kube-controller-manager"}


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: met, or why not yet."""

    what: str
    missing: str = ""
    done: int = 0
    """How much of it is there; more than before is progress."""

    @property
    def ok(self) -> bool:
        return not self.missing


async def await_ready(
    admin: Access,
    directory: StateDir,
    *,
    timeout: float,
    ended: Callable[[], str],
    progress: Callable[[str], None],
) -> None:
    """Return when every check passes. Raises StartFailed with what is missing when no further check has passed for
    `timeout` seconds of fair time (`patience`).

    Meanwhile the supervisor may make up for a member or a machine: what it plans instead is waited for then.

    `ended` says how whatever runs the cluster has ended, and nothing while it runs.
    """
    loop = asyncio.get_running_loop()
    patience = Patience(timeout, loop.time())
    while True:
        made = await checks(admin, directory)
        failing = [c for c in made if not c.ok]
        if not failing:
            return
        progress(f"waiting for {failing[0].what}: {failing[0].missing}")
        if said := ended():
            raise StartFailed(f"{said}; see {directory.logs}")
        patience.passed(loop.time(), slowdown())
        patience.reached(sum(c.done for c in made))
        if patience.over:
            missing = "; ".join(f"{c.what}: {c.missing}" for c in failing)
            raise StartFailed(f"no progress for {timeout:.0f} s: {missing}; see {directory.logs}")
        if any(c.ok for c in made):  # some member has a leader, so that etcd can tell
            admin = await followed(admin)
        await asyncio.sleep(POLL_S)


async def checks(admin: Access, directory: StateDir) -> list[Check]:
    """Members first, then what needs them; a later check is not made while an earlier one fails."""
    limit = stretched(CALL_TIMEOUT_S, times_max=SLOWDOWN_MAX)
    staying = [m for m in admin.state.topology.of(Role.MEMBER) if m.stays]
    members = await asyncio.gather(*(_member(admin, m.endpoint("client"), limit) for m in staying))
    if not all(c.ok for c in members):
        return members
    try:
        async with asyncio.timeout(limit):
            found = await asyncio.gather(
                *(_leader(admin, name) for name in LEADERS.values()), _nodes(admin), _default_account(admin)
            )
    except (ApiError, TimeoutError) as e:
        return [*members, Check("API servers", str(e) or "no answer")]
    front = await _front_door(admin, directory, limit)
    return [*members, *found, *front]


async def _member(admin: Access, endpoint: str, limit: float) -> Check:
    what = f"etcd member at {endpoint}"
    try:
        status = await admin.etcd.status(endpoint, timeout=limit)
    except RpcError as e:
        return Check(what, e.message)
    return Check(what, "" if status.leader else "has no leader", done=2 if status.leader else 1)


async def _leader(admin: Access, name: str) -> Check:
    try:
        lease = await admin.api.get(LEASES, name, "kube-system")
    except NotFound:
        return Check(name, "none leads")
    held = bool(lease["spec"].get("holderIdentity"))
    return Check(name, "" if held else "none leads", done=held)


async def _nodes(admin: Access) -> Check:
    wanted = {n for i in admin.state.topology.of(Role.NODE_HOST) for n in i.nodes}
    nodes = (await admin.api.list("nodes")).items
    ready = {meta.name(n) for n in nodes if meta.condition_is(n, "Ready")}
    missing = sorted(wanted - ready)
    return Check("nodes", f"{len(missing)} of {len(wanted)} not Ready" if missing else "", done=len(ready))


async def _default_account(admin: Access) -> Check:
    try:
        await admin.api.get("serviceaccounts", "default", "default")
    except NotFound:
        return Check("namespace default", "has no service account yet")
    return Check("namespace default", done=1)


async def _front_door(admin: Access, directory: StateDir, limit: float) -> list[Check]:
    """Every API server's HTTPS port, and the load balancer's."""
    context, topology = client_ssl(admin.shown()), admin.state.topology
    found = [*topology.endpoints(Role.APISERVER, "https"), *topology.endpoints(Role.LOAD_BALANCER, "https")]
    answers = await asyncio.gather(*(ask_ready(context, e, limit) for e in found))
    return [Check(f"https://{e}", missing, done=not missing) for e, missing in zip(found, answers, strict=True)]


async def ask_ready(context: ssl.SSLContext, endpoint: str, limit: float) -> str:
    """Why the HTTPS port of a server does not say that it is ready; empty when it does."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                request = f"GET /readyz HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                line = await reader.readuntil(b"\r\n")
            finally:
                writer.transport.abort()
    except (OSError, EOFError, asyncio.LimitOverrunError, TimeoutError) as e:
        return str(e) or "no answer in time"
    code = line.split(b" ")[1:2]
    return "" if code == [b"200"] else f"answers {b''.join(code).decode(errors='replace')}"


def client_ssl(shown: Credentials) -> ssl.SSLContext:
    """A context that trusts the cluster and shows a certificate."""
    context = ssl.create_default_context(cadata=shown.ca.decode())
    shown.load(context)
    return context
