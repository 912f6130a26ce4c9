"""The process that talks to Ray for the command line.

    python -m rayplane.control_plane.cluster.ray_driver STATE_DIR start|leave|move|stop|forget

Ray takes over a driver's signals and may end the whole process, so a command that must clean up after itself keeps
it out: it starts this process, and ends it when it is interrupted.

`start` connects, prints as a line of JSON the machines, which of them have whose data, whether Ray brings and ends
machines for nodes, and the topology to go on from; waits for a line on standard input (by then cluster.json holds the
topology), starts all actors and prints the name of each that has started. The others connect and print a line: then
`leave` lets node hosts end their pods in order, those that were told to; `move` waits for a line too, then has the
supervisor go on on a machine that is not drained, as cluster.json says which are; `stop` ends all actors of the
cluster; `forget` deletes what those of one that is down left on other machines. Errors are one line on standard error
and exit code 1.
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from rayplane.control_plane.cluster import ray_cluster
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.ending import AFTER, left_behind, memory, of_same_run
from rayplane.control_plane.cluster.errors import ClusterError, StartFailed
from rayplane.control_plane.cluster.host import start_all
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import is_local
from rayplane.control_plane.cluster.specs import founding_specs, restarted_spec
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.storage.process import UMASK

# In fair time, until a Ray that is not ours is said to be out of reach: it has been there for long, or is gone.
STOP_TIMEOUT_S = 15.0
MOVE_TRIES = 5
MOVE_PAUSE_S = 1.0


def main() -> int:
    os.umask(UMASK)
    directory = StateDir(Path(sys.argv[1]))
    try:
        state = directory.read_running() if sys.argv[2] != "forget" else directory.read()
        if state is None:
            raise ClusterError(f"there is no cluster in {directory.path}")
        starts = sys.argv[2] == "start"
        timeout = ray_cluster.START_TIMEOUT_S if starts else STOP_TIMEOUT_S
        ray_cluster.connect(state.host, state.config.name, timeout=timeout)
        if starts:
            asyncio.run(_start(directory, state.config))
        elif sys.argv[2] == "leave":
            asyncio.run(_leave(state))
        elif sys.argv[2] == "move":
            asyncio.run(_move(directory, state))
        elif sys.argv[2] == "forget":
            asyncio.run(_forget(directory, state))
        else:
            asyncio.run(_stop(state.config))
    except ClusterError as e:
        print(" ".join(str(e).split()), file=sys.stderr)
        return 1
    return 0


async def _start(directory: StateDir, config: ClusterConfig) -> None:
    from rayplane.control_plane.cluster.actor import ComponentActor
    from rayplane.control_plane.cluster.ray_host import RayHost

    host = RayHost(config, ComponentActor)
    machines = await host.machines()
    state = directory.read_running()
    topology = state.topology
    if after := state.host.get(AFTER):
        before = of_same_run(replace(topology, run=after), await host.contents(memory(directory)))
        topology = replace(before, run=topology.run)
    # Of a Ray cluster of our own, which is on this machine, there is nothing to ask.
    holders = await host.holders(directory.path / "data") if topology.instances and config.address else {}
    held = {name: [asdict(m) for m in places] for name, places in holders.items()}
    # Where nobody gives machines back, one that is not there is late, and so is what lies on it.
    elastic = config.autoscales and await host.cpus() is not None
    told = [asdict(m) for m in machines], held, elastic, topology.to_json()
    print(json.dumps(told), flush=True)
    if not sys.stdin.readline():
        raise ClusterError("interrupted")
    state = directory.read_running()
    specs = founding_specs(state, _secrets(directory), directory.path)
    await start_all(host, specs, lambda name: print(name, flush=True))


def _secrets(directory: StateDir) -> Secrets:
    secrets = Secrets.read(directory.pki)
    if secrets is None:
        raise ClusterError(f"no keys in {directory.pki}; run `{directory.command('up')}`")
    return secrets


async def _leave(state: ClusterState) -> None:
    print("connected", flush=True)
    from rayplane.control_plane.cluster.actor import ComponentActor
    from rayplane.control_plane.cluster.ray_host import RayHost

    host = RayHost(state.config, ComponentActor)
    await asyncio.gather(*(host.leave(instance.name) for instance in state.topology.of(Role.NODE_HOST)))


async def _move(directory: StateDir, state: ClusterState) -> None:
    print("connected", flush=True)
    from rayplane.control_plane.cluster.actor import ComponentActor
    from rayplane.control_plane.cluster.ray_host import RayHost

    if not sys.stdin.readline():
        raise ClusterError("interrupted")
    host, topology = RayHost(state.config, ComponentActor), state.topology
    (supervisor,) = topology.of(Role.SUPERVISOR)
    others = [m for m in topology.open(await host.machines()) if m.id != supervisor.machine.id]
    if not others:
        raise ClusterError("there is no other machine that is not drained")
    spec = restarted_spec(supervisor, state, _secrets(directory), directory.path)
    await host.end(supervisor.name)
    # Ray may know the one that was ended for a moment; wherever it ends up, there must be one.
    for machine in (*[topology.least_used(others)] * MOVE_TRIES, supervisor.machine):
        try:
            await host.start(spec, at=machine)
            return
        except StartFailed as e:
            why = e
            await asyncio.sleep(MOVE_PAUSE_S)
    raise why


async def _forget(directory: StateDir, state: ClusterState) -> None:
    print("connected", flush=True)
    from rayplane.control_plane.cluster.actor import ComponentActor
    from rayplane.control_plane.cluster.ray_host import RayHost

    host = RayHost(state.config, ComponentActor)
    forgotten = await host.forget(directory.path.resolve(), _secrets(directory).ca_cert)
    if left := left_behind(state.topology, forgotten, is_local):
        raise ClusterError(left)


async def _stop(config: ClusterConfig) -> None:
    print("connected", flush=True)
    from rayplane.control_plane.cluster.actor import ComponentActor
    from rayplane.control_plane.cluster.ray_host import RayHost

    host = RayHost(config, ComponentActor)
    if config.address and config.autoscales:
        # Nobody else would give the machines back.
        await host.request(())
    names = await host.running()
    # The supervisor first, or it would start the others again.
    for group in ({Role.SUPERVISOR.value} & names, names - {Role.SUPERVISOR.value}):
        await asyncio.gather(*(host.end(n) for n in sorted(group)))


if __name__ == "__main__":
    sys.exit(main())
