"""Containers as real processes of this machine, below the host's shim.

`command` says how a container's spec becomes a process. A container without a command is simulated, so that manifests
which rely on an image's entry point still make pods that run.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any

from node.errors import NodeError, NotRunning, RuntimeFailed
from node.runtime import ContainerRun, ExecSession, Listener, LogOptions, StartOrder, Usage
from node.runtime.command import CommandLine, Layout, command_line, has_command, localizer
from node.runtime.exec_session import ProcessExec
from node.runtime.hooks import run_hook
from node.runtime.logfile import LOG_BYTES_MAX, LogFile
from node.runtime.shim_client import ShimClient
from node.runtime.simulated import SimulatedRuntime
from node.runtime.usage import ProcessTable, UsageMeter

log = logging.getLogger(__name__)

TERMINATION_MESSAGE_MAX = 4096
FALLBACK_MESSAGE_MAX = 2048
EXEC_MAX = 256
# After a preStop hook the container has at least this long to end, as in Kubernetes.
GRACE_AFTER_HOOK_S = 2.0


class ProcessRuntime:
    """Starts containers as processes; `simulated` takes those without a command."""

    def __init__(self, simulated: SimulatedRuntime) -> None:
        self._simulated = simulated
        self.shim = ShimClient()
        self.table = ProcessTable()
        self.execs = 0
        own = os.path.dirname(sys.executable)
        self.path = f"{os.environ.get('PATH', os.defpath)}:{own}"

    async def open(self) -> None:
        self.shim.start()

    async def close(self) -> None:
        await self.shim.stop()

    def keep_alive(self, seconds: float) -> None:
        self.shim.order("", op="alive", seconds=seconds)

    def start(self, order: StartOrder, listener: Listener) -> ContainerRun:
        if not has_command(order.container):
            return self._simulated.start(order, listener)
        run = ProcessRun(self, order, listener)
        run.begin()
        return run


class ProcessRun:
    """One run of a container."""

    real = True

    def __init__(self, runtime: ProcessRuntime, order: StartOrder, listener: Listener) -> None:
        self._runtime = runtime
        self._order = order
        self._listener = listener
        name = order.container["name"]
        directory = f"{order.directory}/containers/{name}"
        short_id = order.container_id.rpartition("/")[2][:12]
        log_path = f"{directory}/{order.attempt}-{short_id}.log"
        self._layout = Layout(f"{directory}/root", f"{directory}/termination-log")
        self._log_path = log_path
        self._log = LogFile(log_path, lambda: self._over)
        self._line: CommandLine | None = None
        self._pid = 0
        self._over = False
        self._meter = UsageMeter()
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    # --- start ------------------------------------------------------------------------------------

    def begin(self) -> None:
        try:
            self._line = command_line(self._order, self._layout, path=self._runtime.path)
            self._make_root(self._line.cwd)
            self._runtime.shim.order(
                self._order.container_id,
                self._report,
                op="start",
                argv=self._line.argv,
                env=self._line.env,
                cwd=self._line.cwd,
                log=self._log_path,
                log_bytes=LOG_BYTES_MAX,
            )
        except OSError as e:
            self._failed(f"cannot make the container's root: {e}")
        except RuntimeFailed as e:
            self._failed(str(e))

    def _make_root(self, cwd: str) -> None:
        root = self._layout.root
        os.makedirs(root, exist_ok=True)
        for mount in self._order.mounts:
            link = f"{root}/{mount.mount_path.strip('/')}"
            if not os.path.exists(mount.source):
                os.makedirs(mount.source)  # a subPath that is not there yet
            if link.rstrip("/") == root:
                continue
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if os.path.islink(link):
                os.unlink(link)
            elif os.path.isdir(link):
                shutil.rmtree(link)
            os.symlink(mount.source, link)
        os.makedirs(cwd, exist_ok=True)
        self._drop_old_logs()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._layout.termination_log)

    def _drop_old_logs(self) -> None:
        """Keep the log of the run before this one, for `logs --previous`."""
        directory = os.path.dirname(self._log_path)
        logs = [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith((".log", ".log.1"))]
        newest = max(logs, key=os.path.getmtime, default="").removesuffix(".1")
        for path in logs:
            if path.removesuffix(".1") != newest:
                os.unlink(path)

    def _failed(self, message: str) -> None:
        self._over = True
        self._listener.failed(RuntimeFailed.reason, message)

    def _report(self, message: dict[str, Any]) -> None:
        event = message["ev"]
        if event == "started":
            self._pid = message["pid"]
            self._listener.started()
            hook = self._hook("postStart")
            if hook:
                self._starting = asyncio.get_running_loop().create_task(self._after_start(hook), name="postStart")
        elif event == "failed":
            self._failed(message["error"])
        else:
            self._over = True
            for task in (self._starting, self._stopping):
                if task is not None:
                    task.cancel()
            code = int(message["code"])
            self._listener.exited(code, int(message["signal"]), self._termination_message(code))

    # --- end --------------------------------------------------------------------------------------

    def stop(self, grace_s: float) -> None:
        if self._over:
            return
        hook = self._hook("preStop")
        if grace_s > 0 and self._stopping is None and hook:
            self._stopping = asyncio.get_running_loop().create_task(self._stop_with_hook(hook, grace_s), name="preStop")
            return
        if self._stopping is not None:
            self._stopping.cancel()
        self._kill(grace_s)

    async def _stop_with_hook(self, hook: dict[str, Any], grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(grace_s):
                await run_hook(hook, self, self._order.container, ip=self._order.pod_ip)
        except (TimeoutError, NodeError, OSError) as e:
            log.info("preStop hook of %s failed: %s", self._order.container_id, e)
        self._kill(max(GRACE_AFTER_HOOK_S, grace_s - (loop.time() - began)))

    def _hook(self, name: str) -> dict[str, Any]:
        hook: dict[str, Any] = (self._order.container.get("lifecycle") or {}).get(name) or {}
        return hook

    async def _after_start(self, hook: dict[str, Any]) -> None:
        try:
            await run_hook(hook, self, self._order.container, ip=self._order.pod_ip)
        except (NodeError, OSError) as e:
            # As in Kubernetes, a container whose postStart hook fails is killed and its restart policy decides.
            log.info("postStart hook of %s failed: %s", self._order.container_id, e)
            self._kill(GRACE_AFTER_HOOK_S)

    def _kill(self, grace_s: float) -> None:
        self._runtime.shim.order(self._order.container_id, op="kill", grace=grace_s)

    def _termination_message(self, code: int) -> str:
        try:
            with open(self._layout.termination_log, "rb") as f:
                message = f.read(TERMINATION_MESSAGE_MAX)
        except FileNotFoundError:
            message = b""
        policy = self._order.container.get("terminationMessagePolicy")
        if not message and code != 0 and policy == "FallbackToLogsOnError":
            message = self._log.tail(FALLBACK_MESSAGE_MAX)
        return message.decode(errors="replace")

    # --- while it runs ----------------------------------------------------------------------------

    def logs(self, options: LogOptions) -> AsyncIterator[bytes]:
        return self._log.read(options)

    async def exec(self, command: list[str], *, tty: bool, stdin: bool) -> ExecSession:
        if self._over or self._line is None or not self._pid:
            raise NotRunning(f"container {self._order.container['name']} does not run")
        if self._runtime.execs >= EXEC_MAX:
            raise NotRunning(f"{EXEC_MAX} commands run in containers of this host: end some first")
        self._runtime.execs += 1
        session = ProcessExec(self._runtime.shim, self._order.container_id, tty=tty)

        def ended() -> None:
            self._runtime.execs -= 1

        localize = localizer(self._order, self._layout)
        await session.begin([localize(part) for part in command], self._line, stdin=stdin, on_end=ended)
        return session

    def usage(self) -> Usage:
        if self._over or not self._pid:
            return Usage()
        now = asyncio.get_running_loop().time()
        return self._meter.measure(self._runtime.table.sessions(now).get(self._pid), now)

    def probe_delay(self, probe: str) -> tuple[float, bool] | None:
        return None
