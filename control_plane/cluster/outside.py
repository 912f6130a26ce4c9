"""The outside world of an actor on a real machine: its disk, clock, randomness, files of its certificate, log."""

import asyncio
import logging
import logging.handlers
import random
from pathlib import Path

from rayplane.control_plane.cluster.components import Component, Spec, build
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.cluster.ports import claim
from rayplane.control_plane.cluster.renewal import CHECK_EVERY_S, Renewal, ask_supervisor, tls_dir
from rayplane.control_plane.cluster.supervisor.component import Supervisor
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.shared import SharedNetwork
from rayplane.storage.env import Env, LocalDisk, SystemClock
from rayplane.storage.env.private import make_private_dir

LOG_BYTES_MAX = 8 * 1024 * 1024
LOG_FILES = 2
# Control characters, among them those that move a terminal's cursor, and what Unicode takes for the end of a line.
_ESCAPED = {c: f"\\u{c:04x}" for c in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


def open_env(spec: Spec, rng: random.Random) -> Env:
    return Env(clock=SystemClock(), rng=rng, disk=LocalDisk(spec.data_dir))


async def prepare(spec: Spec, env: Env, network: Network, host: Host) -> Component:
    """Build and start the component of a spec; raises what its start raises, with nothing left running.

    `host` is for the supervisor to act on.
    """
    directory = None
    if spec.credentials is not None:
        directory = str(tls_dir(spec))
        spec.credentials.write(tls_dir(spec))
    if spec.instance.role is Role.SUPERVISOR:
        component: Component = Supervisor(
            spec, network, host, disk=env.disk, clock=env.clock, claim=lambda: claim(*spec.plan.claim_address)
        )
    else:
        component = build(spec, env, network, tls_dir=directory)
    try:
        await component.start()
    except BaseException:
        await component.stop()
        raise
    return component


def keep_fresh(spec: Spec, env: Env, network: GrpcNetwork | SharedNetwork) -> asyncio.Task[None]:
    """Renew the certificate of a running component in time, until the task is cancelled."""
    assert spec.credentials is not None
    renewal = Renewal(spec.credentials, tls_dir(spec), env.clock, network)
    work = renewal.run(ask_supervisor(spec, network), every_s=CHECK_EVERY_S)
    return asyncio.create_task(work, name=f"certificate of {spec.instance.name}")


class OneLine(logging.Formatter):
    """A message is one line whatever clients wrote into what it tells; only a traceback has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_ESCAPED)


def log_to(path: str) -> None:
    """Send this process's log to a bounded file."""
    make_private_dir(Path(path).parent)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
