"""The outside world of an actor on a real machine: its disk, clock, randomness, files of its certificate, log."""

import asyncio
import logging
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from rayplane.control_plane.cluster.carried import Carried
from rayplane.control_plane.cluster.components import Component, Spec, build
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.cluster.renewal import (
    CHECK_EVERY_S,
    CHECK_NAMES_EVERY_S,
    Renewal,
    SupervisorKnown,
    own_dir,
    tls_dir,
)
from rayplane.control_plane.cluster.slots import claim
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.component_base import logs
from rayplane.control_plane.component_base.log_settings import TEXT
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.shared import SharedNetwork
from rayplane.control_plane.rpc.tls import front_proxy_dir
from rayplane.storage.env import Env
from rayplane.storage.env.leaps import clock_of
from rayplane.storage.env.marks import checked, raise_mark
from rayplane.storage.env.private import make_private_dir
from rayplane.storage.env.troubled import Troubled, TroubledClock, TroubledDisk
from rayplane.storage.formats import NODE_HOST, SUPERVISOR

log = logging.getLogger(__name__)

#: What actors keep that is one actor's alone; members agree on the format of theirs.
_KEPT = {Role.NODE_HOST: NODE_HOST, Role.SUPERVISOR: SUPERVISOR}


def open_env(spec: Spec, rng: random.Random, troubled: Troubled) -> Env:
    """The clock that goes with the running loop, and the machine's disk, with their trouble of the moment."""
    clock = TroubledClock(troubled, clock_of(asyncio.get_running_loop()))
    return Env(clock=clock, rng=rng, disk=TroubledDisk(spec.data_dir, troubled))


async def prepare(spec: Spec, env: Env, network: Network, host: Host, *, outlives: bool = False) -> Component:
    """Build and start the component of a spec; raises what its start raises, with nothing left running.

    `host` is for the supervisor to act on. `outlives`: whether what has a process of its own lives on without this one.
    """
    with logs.speaking(spec.instance.role.value, spec.instance.name):
        log.info("starting")
        carried = bool(spec.instance.python)
        component = Carried(spec, outlives=outlives) if carried else await _component(spec, env, network, host)
        try:
            await component.start()
        except BaseException:
            await component.stop()
            raise
        return component


async def _component(spec: Spec, env: Env, network: Network, host: Host) -> Component:
    directory = None
    if kept := _KEPT.get(spec.instance.role):
        await raise_mark(env.disk, checked(env.disk, kept, VERSION), kept.newest, VERSION)
    if spec.credentials is not None:
        directory = str(tls_dir(spec))
        spec.credentials.write(tls_dir(spec))
        shutil.rmtree(own_dir(tls_dir(spec)), ignore_errors=True)
    if spec.front_proxy is not None:
        spec.front_proxy.write(front_proxy_dir(tls_dir(spec)))
    if spec.instance.role is Role.SUPERVISOR:
        # Others start sooner without it, and are smaller.
        from rayplane.control_plane.cluster.supervisor.component import Supervisor

        return Supervisor(spec, network, host, disk=env.disk, clock=env.clock, claim=lambda: claim(spec.plan))
    return build(spec, env, network, tls_dir=directory)


@dataclass(frozen=True, slots=True)
class Fresh:
    """The upkeep of a component's certificates, until the task is cancelled."""

    task: asyncio.Task[None]
    own: Renewal | None
    """Of what it shows to other components; None where its process is another."""


def keep_fresh(spec: Spec, env: Env, network: GrpcNetwork | SharedNetwork) -> Fresh:
    """Renew the certificates of a running component in time. One that has a process of its own does so there."""
    if spec.instance.python:
        return Fresh(asyncio.create_task(asyncio.sleep(0)), None)
    assert spec.credentials is not None
    supervisor, every_s = SupervisorKnown(spec, network), CHECK_EVERY_S
    renewal = Renewal(spec.credentials, tls_dir(spec), env.clock, network)
    if spec.instance.role is Role.APISERVER:
        every_s = min(every_s, CHECK_NAMES_EVERY_S)
        renewal = Renewal(spec.credentials, tls_dir(spec), env.clock, network, named=lambda: supervisor.machines)
    works = [supervisor.follow(every_s=every_s), renewal.run(supervisor.ask(), every_s=every_s)]
    if spec.front_proxy is not None:
        other = Renewal(spec.front_proxy, front_proxy_dir(tls_dir(spec)), env.clock, None)
        works.append(other.run(supervisor.ask(front_proxy=True), every_s=CHECK_EVERY_S))

    async def all_of_them() -> None:
        await asyncio.gather(*works)

    return Fresh(asyncio.create_task(all_of_them(), name=f"certificate of {spec.instance.name}"), renewal)


def log_to(path: str, form: str = TEXT, instance: Instance | None = None) -> None:
    """Send this process's log to bounded files: `instance` is the one that it carries, None where it carries many."""
    make_private_dir(Path(path).parent)
    speaker = logs.Speaker(instance.role.value, instance.name) if instance is not None else logs.NOBODY
    logs.to_files(Path(path), form, speaker, shared=instance is None)
