"""The runtime of isolated containers: processes of this machine in namespaces of their own.

The node host stays outside of them. It tells its shim what to make, and reaches pods by sockets that the shim makes
for it. Namespaces of pods that went with a shim are made again with the next container.
"""

import asyncio
import logging
import os
import posixpath
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.node.config import PIDS_MAX
from rayplane.node.environment import expand
from rayplane.node.errors import ContainerConfigError, RuntimeFailed, SandboxError
from rayplane.node.images.containers import own_command, user_for
from rayplane.node.runtime import Features, Guard, Listener, Mount, PodPlace, StartOrder
from rayplane.node.runtime.command import CommandLine
from rayplane.node.runtime.isolation import memory
from rayplane.node.runtime.isolation.members import network_id
from rayplane.node.runtime.isolation.ownership import give_to_group
from rayplane.node.runtime.isolation.pods import memory_volumes, oom_score, processes_of_user, shares
from rayplane.node.runtime.isolation.rootfs import SKELETON, STAGE, Box, image_root, machine_of, plan, skeleton
from rayplane.node.runtime.isolation.seccomp import filter_of, library
from rayplane.node.runtime.isolation.shim_network import ShimNetwork
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST, give, identity
from rayplane.node.runtime.isolation.variables import PATH, sync_sockets, variables
from rayplane.node.runtime.process import ProcessRun, ProcessRuntime, check_line, check_words
from rayplane.node.runtime.shim_client import SOCKET, ShimClient
from rayplane.node.runtime.simulated import SimulatedRuntime
from rayplane.node.runtime.tree import TERMINATION_LOG
from rayplane.storage.beneath import Beneath

log = logging.getLogger(__name__)

ANSWER_S = 30.0
_SHIM = str(Path(__file__).with_name("entrance.py"))
_BOX, _GONE = _OLD = ("box-", "gone-")
"""How names of directories of a container begin: that of the run there is, and those that are on their way out."""
_ids = iter(range(1, 1 << 62))


class IsolatedRuntime(ShimNetwork, ProcessRuntime):
    """A runtime that isolates.

    `directories`: those of the machine that hold files of pods and volumes; `programs`: those of installations that
    containers may use; `members`: path of the file that all node hosts of the cluster on this machine share;
    `services`: the network of the services' addresses, on each machine; `profiles`: directory of the filters of system
    calls that pods may name; `node_memory`: bytes that a node has; `pod_processes`: processes of a pod, 0 for any
    number; `kept`: directories that no pod sees.
    """

    makes_consoles = True
    features = Features({"": True}, groups_policy=True)

    def __init__(
        self,
        simulated: SimulatedRuntime,
        directories: Sequence[str],
        programs: Sequence[str],
        *,
        members: str,
        services: str,
        profiles: str = "",
        kept: Sequence[str] = (),
        node_memory: int = 0,
        pod_processes: int = PIDS_MAX,
    ) -> None:
        self._own = [os.path.realpath(d) for d in directories]
        self._directories = [*self._own, *programs]
        command = [sys.executable, "-I", _SHIM, SOCKET, members, *self._directories]
        name = f"{members} {next(iter(directories), '')}"
        super().__init__(simulated, ShimClient(command, lost=self._shim_lost), group=name, pod_processes=pod_processes)
        self.machine = machine_of(programs, self.staged)
        self.path = ":".join([PATH, *(f"{p}/bin" for p in self.machine.programs)])
        self.network = self
        self.network_id = network_id(members)
        self.header = b""
        self.watchers: list[Callable[[], None]] = []
        """Told when sockets and devices of the pods' network are worth nothing any more."""
        self.profiles = Beneath(profiles)
        self.node_memory = node_memory
        self.hidden = [STAGE, *map(os.path.realpath, kept)]
        self.guard: Guard | None = None
        self._closed: set[str] = set()  # uids of pods that were made again before what they may do was in force
        self._services = services
        self.outer: Sequence[str] = ()
        """Networks of 127/8 that are the cluster's, also to pods."""
        self._places: dict[str, PodPlace] = {}
        self._nodes: dict[str, str] = {}
        self._mains: dict[str, dict[str, str]] = {}  # by pod, the last run of each container
        self._made: set[str] = set()  # uids of pods and addresses of nodes that the shim has

    async def open(self) -> None:
        """Start the shim. Where the machine does not let it isolate there is `trouble`, and it is not tried again."""
        for directory in self._own:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        await self.groups.open()
        self.isolation = self._told()
        answer = await self._ask("", op="alive", seconds=ANSWER_S)
        if answer["ev"] == "failed":
            self.trouble = self.shim.broken = f"this machine does not let pods be isolated: {answer['error']}"

    def _told(self) -> str:
        """What this machine lets pods have."""
        limits = f"cgroup v{self.groups.top.version}" if self.groups.top is not None else "sampled memory"
        users = f"{RANGE_COUNT} users" if os.geteuid() == 0 else "one user"
        return f"namespaces, {users}, {limits}, {'seccomp' if library() is not None else 'no seccomp'}"

    def keep_alive(self, seconds: float) -> None:
        if not self.trouble:
            super().keep_alive(seconds)

    async def _ask(self, ident: str, **order: Any) -> dict[str, Any]:
        """Send an order and return its answer. Raises SandboxError, RuntimeFailed."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def answered(message: dict[str, Any]) -> None:
            if not answer.done():
                answer.set_result(message)
            else:
                for fd in message.get("fds") or ():
                    os.close(fd)

        self.shim.order(ident, answered, **order)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise SandboxError(f"the shim did not answer within {ANSWER_S:g} s") from None

    def _shim_lost(self) -> None:
        self._made.clear()
        self._closed.clear()
        for watcher in self.watchers:
            watcher()

    # --- pods -------------------------------------------------------------------------------------

    def add_node(self, address: str, cidr: str) -> None:
        self._nodes[address] = cidr
        if not self.trouble:
            self._make_shared()

    async def add_pod(self, place: PodPlace) -> str:
        self._places[place.uid] = place
        self._write_files(place)
        await self._own_volumes(place)
        self.groups.add(place.uid, place.pod)
        if place.uid in self._made:
            return place.ip
        try:
            if self.guard is not None and not place.host_network:
                await self.guard.admit(place)
            self._make_shared()
            self._made.add(place.uid)
            answer = await self._ask(f"pod-{next(_ids)}", **_pod_order(place, self.node_memory))
        except (RuntimeFailed, SandboxError) as e:
            self._made.discard(place.uid)
            raise SandboxError(str(e)) from e
        if answer["ev"] == "failed":
            self._made.discard(place.uid)
            raise SandboxError(answer["error"])
        return place.ip

    def _write_files(self, place: PodPlace) -> None:
        etc = Path(place.directory, "etc")
        etc.mkdir(exist_ok=True)
        for number, content in enumerate(place.files.values()):
            file = etc / str(number)
            file.write_bytes(content)
            self.give(str(file), 0o644)

    async def _own_volumes(self, place: PodPlace) -> None:
        """Let the pod, and the group of its files, have those of its volumes that are of this cluster."""
        if os.geteuid() != 0:
            return  # all files are one user's
        context = meta.spec(place.pod).get("securityContext") or {}
        group, on_mismatch = context.get("fsGroup"), context.get("fsGroupChangePolicy") == "OnRootMismatch"
        for path in [path for path in place.volumes.values() if self.staged(path) != path]:
            self.give(path, 0o777)
            if group is not None:
                change = partial(give_to_group, path, RANGE_FIRST + int(group), on_mismatch=on_mismatch)
                await asyncio.get_running_loop().run_in_executor(None, change)

    def ensure(self, uid: str) -> None:
        """Have the pod's namespaces made again if they went with a shim, before what is ordered next.

        Raises RuntimeFailed.
        """
        place = self._places[uid]
        if uid not in self._made:
            self._make_shared()
            self._made.add(uid)

            def answered(message: dict[str, Any]) -> None:
                if message["ev"] == "failed":
                    self._made.discard(uid)

            closed = self.guard is not None and not place.host_network
            self.shim.order(f"pod-{next(_ids)}", answered, **_pod_order(place, self.node_memory, closed=closed))
            if self.guard is not None and closed:
                self._closed.add(uid)
                self.guard.wake()

    def open_pods(self) -> None:
        """What pods may do is in force: those that wait for that may speak."""
        closed, self._closed = self._closed, set()
        for uid in closed & self._made:
            place = self._places[uid]
            self.shim.order("", op="open", of=uid, address=place.ip, gateway=place.gateway)

    def _make_shared(self) -> None:
        """Have the shim make what all pods of the machine share, unless it has."""
        if SKELETON not in self._made:
            self.shim.order("", op="skeleton", steps=skeleton(self.machine))
            self._made.add(SKELETON)
        if self._services and self._services not in self._made:
            self.shim.order("", op="services", cidr=self._services, outer=[*self.outer])
            self._made.add(self._services)
        for address, cidr in self._nodes.items():
            if address not in self._made:
                self.shim.order("", op="node", address=address, cidr=cidr)
                self._made.add(address)

    def remove_pod(self, uid: str) -> None:
        self._mains.pop(uid, None)
        self.groups.remove(uid)
        place = self._places.pop(uid, None)
        if place is not None and self.guard is not None:
            self.guard.forget(place)
        if place is not None and uid in self._made:
            self._made.discard(uid)
            self.shim.order("", op="unpod", of=uid)

    def started(self, uid: str, container: str, run: str) -> None:
        self._mains.setdefault(uid, {})[container] = run

    def main_of(self, uid: str, container: str) -> str:
        """The last run of a container of the same pod. Raises ContainerConfigError."""
        try:
            return self._mains[uid][container]
        except KeyError:
            raise ContainerConfigError(f"target container {container} is not running") from None

    def place(self, uid: str) -> PodPlace:
        return self._places[uid]

    def run_of(self, order: StartOrder, listener: Listener) -> "IsolatedRun":
        return IsolatedRun(self, order, listener)

    # --- paths ------------------------------------------------------------------------------------

    def staged(self, path: str) -> str:
        """A path of the machine as the shim has it."""
        for number, directory in enumerate(self._directories):
            if path == directory or path.startswith(f"{directory}/"):
                return f"{STAGE}/{number}{path.removeprefix(directory)}"
        return path

    def give(self, path: str, mode: int) -> None:
        """Give what this host made to pods, and let them come to it."""
        give(path, mode)
        above = os.path.dirname(path)
        while any(above == own or above.startswith(f"{own}/") for own in self._own):
            if not os.stat(above).st_mode & stat.S_IXOTH:
                os.chmod(above, os.stat(above).st_mode | stat.S_IXGRP | stat.S_IXOTH)
            above = os.path.dirname(above)

    # --- connections ------------------------------------------------------------------------------

    async def of_network(self, op: str, **order: Any) -> dict[str, Any]:
        """The shim's answer with something of the pods' network. Raises OSError."""
        try:
            self._make_shared()
            answer = await self._ask(f"{op}-{next(_ids)}", op=op, **order)
        except (RuntimeFailed, SandboxError) as e:
            raise OSError(str(e)) from e
        if answer["ev"] != op:
            raise OSError(answer["error"])
        return answer


class IsolatedRun(ProcessRun):
    """One run of a container in a root of its own."""

    _runtime: IsolatedRuntime

    def _prepare(self) -> CommandLine:
        tree, order, runtime = self._tree, self._order, self._runtime
        tree.prepare((), log=self._log_name)
        tree.check_sub_paths(order.mounts)
        runtime.ensure(meta.uid(order.pod))
        spec = meta.spec(order.pod)
        self._box = self._make_box()
        who, image = identity(spec, order.container), order.image
        home, own = "/root" if who.uid == 0 else "/", self._box.image is not None
        if image is not None and own:
            user = user_for(image, spec, order.container)
            who, home = replace(who, uid=user.uid, gid=user.gid, groups=user.groups), user.home
        one_user = who.uid == 0 and os.geteuid() != 0
        made = filter_of(spec, order.container, who.capabilities, runtime.profiles, one_user=one_user)
        env = variables(order, home=home, path=PATH if own else runtime.path)
        argv = own_command(order.container, image, lambda word: expand(word, env))
        if not argv:
            raise ContainerConfigError("no command specified: neither the pod nor its image has one")
        cwd = order.container.get("workingDir") or (image.working_dir if image is not None else "")
        cwd = posixpath.normpath(posixpath.join("/", cwd))
        score = oom_score(order.pod, order.container, runtime.node_memory)
        more = {"pod": meta.uid(order.pod), "identity": replace(who, filter=made).to_json(), "oom_score": score}
        more["processes"] = processes_of_user(runtime.pod_processes)
        line = CommandLine(argv, env, cwd, more)
        check_line(line)
        return line

    def _make_box(self) -> Box:
        """Fresh directories: what a container wrote goes with it, except to its volumes."""
        order, runtime, tree = self._order, self._runtime, self._tree
        name = f"{_BOX}{order.attempt}"
        before = [old for old in tree.files.names() if old.startswith(_OLD)]
        for old in before:
            if not old.startswith(_GONE):
                tree.files.rename(old, f"{_GONE}{old}-{next(_ids)}")
        if before:  # removed in a thread: it may be much
            asyncio.get_running_loop().run_in_executor(None, _remove_gone, tree.files)
        directory = f"{tree.files.root}/{name}"
        os.mkdir(directory)
        runtime.give(directory, 0o755)
        place = runtime.place(meta.uid(order.pod))
        files = {path: f"{place.directory}/etc/{number}" for number, path in enumerate(place.files)}
        log = f"{tree.files.root}/{TERMINATION_LOG}"
        Path(log).touch()
        runtime.give(log, 0o666)
        runtime.give(tree.files.root, 0o755)
        files[order.container.get("terminationMessagePath") or "/dev/termination-log"] = log
        for path, socket_file in sync_sockets(order.mounts).items():
            files[path] = socket_file
            if os.geteuid() == 0:
                runtime.give(socket_file, 0o666)
        context, spec = order.container.get("securityContext") or {}, meta.spec(order.pod)
        return Box(
            runtime.staged(directory),
            {path: runtime.staged(source) for path, source in files.items()},
            [self._mount(m) for m in order.mounts],
            read_only=bool(context.get("readOnlyRootFilesystem")),
            shm=memory.place(memory.MACHINE if spec.get("hostIPC") else place.uid, memory.SHM),
            host_pid=bool(spec.get("hostPID")),
            hidden=runtime.hidden,
            unmasked=bool(context.get("privileged")) or context.get("procMount") == "Unmasked",
            image=image_root(order.image, runtime.staged),
        )

    def _mount(self, mount: Mount) -> Mount:
        if mount.layers:
            return replace(mount, layers=[self._runtime.staged(layer) for layer in mount.layers])
        runtime, place = self._runtime, self._runtime.place(meta.uid(self._order.pod))
        if mount.volume in memory_volumes(place.pod, runtime.node_memory):
            return replace(mount, source=memory.place(place.uid, f"{memory.VOLUME}{mount.volume}"))
        staged = runtime.staged(mount.source)
        if staged != mount.source and os.geteuid() == 0 and os.path.isdir(mount.source):
            runtime.give(mount.source, 0o777)
        return replace(mount, source=staged)

    def _place(self) -> dict[str, Any]:
        order, runtime = self._order, self._runtime
        uid, spec, target = meta.uid(order.pod), meta.spec(order.pod), order.container.get("targetContainerName")
        beside = runtime.main_of(uid, target) if target else ""
        runtime.started(uid, order.container["name"], order.container_id)
        where = {"host_pid": bool(spec.get("hostPID")), "beside": beside}
        where["console"] = [0, 0] if order.container.get("tty") else None
        return {**super()._place(), **where, "mounts": plan(runtime.machine, self._box)}

    def _exec_command(self, command: list[str]) -> list[str]:
        check_words(command)
        return command


def _pod_order(place: PodPlace, node_memory: int, *, closed: bool = False) -> dict[str, Any]:
    """What the shim is told of a pod."""
    own = {"address": place.ip, "gateway": place.gateway, "closed": closed, "host_name": place.host_name}
    return {"op": "pod", "of": place.uid, **own, **shares(place.pod, node_memory)}


def _remove_gone(files: Beneath) -> None:
    for name in files.names():
        if name.startswith(_GONE):
            try:
                files.remove(name)
            except OSError as e:
                log.warning("%s/%s stays until the container starts again: %s", files.root, name, e)
