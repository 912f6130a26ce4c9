"""The process of a component that runs another build than its host.

    python -m rayplane.control_plane.cluster.carried_process DATA_DIR outlives|with-its-host
    python -m rayplane.control_plane.cluster.carried_process --build

reads a line of JSON, the spec, from standard input; starts the component, and prints a line of JSON: its process and
build, or why it did not start. It ends by a signal (`carried`), by itself when its component fails, or, unless it
outlives its host, with its standard input. `--build` only prints which build this is.
"""

import asyncio
import json
import logging
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import uvloop

from rayplane.control_plane.cluster import processes, signs
from rayplane.control_plane.cluster.carried import END, LEAVE, LEAVE_FOR_GOOD, OUTLIVES, Note, write_note
from rayplane.control_plane.cluster.components import Component, Leaves, Spec, StopsItself, leave_s
from rayplane.control_plane.cluster.environments import ASK, Build
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.outside import keep_fresh, log_to, open_env, prepare
from rayplane.control_plane.cluster.process_host import ProcessHost
from rayplane.control_plane.cluster.renewal import newest
from rayplane.control_plane.cluster.spec_json import spec_from_json
from rayplane.control_plane.component_base.version import VERSION
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env import settle_heap
from rayplane.storage.env.troubled import Troubled
from rayplane.storage.process import UMASK, grow_heap

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 8.0


class _Ends:
    """The ways in which the process is told to end; the first counts."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.told: asyncio.Future[int] = self._loop.create_future()
        for number in (END, LEAVE, LEAVE_FOR_GOOD):
            self._loop.add_signal_handler(number, self.tell, number)

    def tell(self, how: int) -> None:
        if not self.told.done():
            self.told.set_result(how)

    def with_input(self) -> None:
        """End when the standard input does."""

        def read() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                self._loop.remove_reader(sys.stdin.fileno())
                self.tell(END)

        self._loop.add_reader(sys.stdin.fileno(), read)


async def run(spec: Spec, python: str, say: Callable[[dict[str, object]], None], *, outlives: bool) -> int:
    """Run the component until it is to end; the exit code."""
    ends = _Ends()
    spec = newest(spec)
    assert spec.credentials is not None
    network = GrpcNetwork(spec.credentials)
    env = open_env(spec, random.Random(), Troubled())
    try:
        component = await prepare(spec, env, network, ProcessHost())
    except Exception as e:
        say(asdict(Failure.of(e)))
        await network.close()
        return 1
    renewal = keep_fresh(spec, env, network)
    settle_heap()
    processes.write(Path(spec.data_dir))
    spans = leave_s(component, for_good=False), leave_s(component, for_good=True)
    write_note(Path(spec.data_dir), Note(VERSION, python, *spans))
    if not outlives:
        ends.with_input()
    say({"pid": os.getpid(), "version": VERSION})
    watch = asyncio.create_task(_failed(component, ends))
    try:
        how = await ends.told
        if how in (LEAVE, LEAVE_FOR_GOOD) and isinstance(component, Leaves):
            await component.leave(for_good=how == LEAVE_FOR_GOOD)
    finally:
        await cancel_and_wait(watch, renewal.task)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await component.stop()
        await network.close()
    return 0 if how else 1


async def _failed(component: Component, ends: _Ends) -> None:
    if isinstance(component, StopsItself):
        await component.wait_stopped()
        if component.failure is not None:
            log.critical("ending this process: its component failed: %s", component.failure)
            ends.tell(0)


def main() -> NoReturn:
    if sys.argv[1:] == [ASK]:
        print(json.dumps(Build.own().to_json()))
        sys.exit(0)
    os.umask(UMASK)
    outlives = sys.argv[2] == OUTLIVES
    spec = spec_from_json(json.loads(sys.stdin.buffer.readline()))
    python = spec.instance.python
    # Here it is no other build any more.
    spec = replace(spec, instance=replace(spec.instance, python=""))
    grow_heap()
    log_to(spec.log_file, spec.config.log_format, spec.instance)

    def say(told: dict[str, object]) -> None:
        print(json.dumps(told), flush=True)
        # Nobody reads more.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())

    with signs.hold(spec.plan.slot), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run(spec, python, say, outlives=outlives)))


if __name__ == "__main__":
    main()
