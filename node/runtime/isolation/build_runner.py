"""Commands of image builds, each in a container of its own: without root, and without a network unless it is asked for.

Run as a program, `build_runner.py ANSWER STORE NETWORK`, because whoever enters a user namespace does not come back:
the descriptor that it answers on; the directory of images, which appears in `STAGE`; whether the command has the
machine's network. It reads an order from its standard input. As with shims, who is no root goes through one more exec
(see `entrance`), and what runs ends with whoever asked for it.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[4]))

from rayplane.node.config import PIDS_MAX
from rayplane.node.images.building import Step
from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.room import room_at
from rayplane.node.runtime.isolation import memory
from rayplane.node.runtime.isolation.rootfs import STAGE, Box, ImageRoot, machine_of, plan
from rayplane.node.runtime.isolation.seccomp import filter_of
from rayplane.node.runtime.isolation.users import RANGE_FIRST, USUAL, Identity
from rayplane.node.runtime.isolation.variables import PATH
from rayplane.node.runtime.resolv import RESOLV_CONF
from rayplane.node.shim.hogs import NEAR_S, Most, families, over
from rayplane.node.shim.processes import read, share
from rayplane.storage.beneath import Beneath

HOST_NAME = "build"
LOOK_S = 0.5
"""Between two looks at the room that is left, and at the memory that a command has."""
_ANSWER_MAX = 64 * 1024
_PROC = "/proc"
_STAGED = f"{STAGE}/0"
_FIRST_TO_GO = 1000
_MACHINES = (RESOLV_CONF, "/etc/hosts")
_KEPT_ENV = ("PATH", "LANG", "LD_LIBRARY_PATH")


class IsolatedRunner:
    """A runner of the commands of a build in the store at `store`; see `Runner`.

    `network`: whether they have the machine's; `output`: descriptor that they write to; `memory`: bytes that one may
    have, 0 for any number.
    """

    def __init__(self, store: Path, *, network: bool, output: int, epoch: int, memory: int = 0) -> None:
        self._store = os.path.realpath(store)
        self._network, self._output, self._epoch, self._memory = network, output, epoch, memory
        self._stopped = False
        self.mounted = frozenset(_MACHINES if network else ())

    def stop(self) -> None:
        """End what runs, from another thread, and run nothing more."""
        self._stopped = True

    def run(self, step: Step) -> None:
        """Raises BadImage, TooLarge, OSError."""
        self._hand_on(step)
        data = json.dumps(self._order(step)).encode()
        answer, tell = os.pipe2(os.O_CLOEXEC)
        command = [sys.executable, "-I", os.path.abspath(__file__), str(tell), self._store, str(int(self._network))]
        try:
            process = subprocess.Popen(
                command,
                pass_fds=(tell,),
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT_ENV if name in os.environ},
            )
        finally:
            os.close(tell)
        with process, open(answer, "rb") as told:
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has said why already
                    process.stdin.write(data)
                    process.stdin.close()
                self._watch(told.fileno(), process.pid)
                said = told.read(_ANSWER_MAX)
            finally:
                process.kill()
        _judge(json.loads(said) if said else {"why": "it was ended from outside"})

    def _watch(self, answer: int, pid: int) -> None:
        """Return when there is an answer, or none can come any more."""
        pause = NEAR_S
        while not select.select([answer], [], [], pause)[0]:
            if self._stopped:
                raise BadImage("the build was ended")
            if not room_at(self._store).bytes:
                raise TooLarge("the command fills the disk: there is no room for what it writes")
            pause = min(LOOK_S, self._check_memory(pid))

    def _check_memory(self, pid: int) -> float:
        """How long to wait before the next look at what a process and those below it have. Raises TooLarge."""
        if not self._memory:
            return LOOK_S
        seen = read(_PROC)
        greedy, _, pause = over(seen, families(seen, {"": [pid]}), {"": Most(self._memory)}, partial(share, _PROC))
        if greedy:
            raise TooLarge(f"the command has more memory than the {self._memory} bytes that it may have")
        return pause

    def _hand_on(self, step: Step) -> None:
        """Let the command have what is made for it."""
        if os.geteuid() != 0:
            return
        for place in (self._store, os.path.dirname(step.directory)):
            os.chmod(place, 0o711)
        os.chown(step.directory, RANGE_FIRST, RANGE_FIRST)

    def _order(self, step: Step) -> dict[str, Any]:
        user = step.user
        # A layer would say of files given in vain that they are root's, wherever it is used.
        made = filter_of({}, {}, USUAL, Beneath(self._store), one_user=False)
        identity = Identity(user.uid, user.gid, user.groups, filter=made)
        env = {
            "PATH": PATH,
            "HOME": user.home or ("/root" if user.uid == 0 else "/"),
            "HOSTNAME": HOST_NAME,
            "SOURCE_DATE_EPOCH": str(self._epoch),
            **step.env,
        }
        box = Box(
            self._staged(step.directory),
            self._files(step.directory) if self._network else {},
            shm=memory.place(memory.MACHINE, memory.SHM),
            image=ImageRoot([self._staged(layer) for layer in step.layers]),
        )
        return {
            "argv": [*step.words],
            "env": env,
            "cwd": step.working_dir,
            "tty": False,
            "identity": identity.to_json(),
            "host_pid": False,
            "oom_score": _FIRST_TO_GO,
            "processes": PIDS_MAX,
            "mounts": plan(machine_of([]), box),
        }

    def _files(self, directory: str) -> dict[str, str]:
        """Copies of what a program needs of the machine to find others by name."""
        found = {}
        for number, path in enumerate(_MACHINES):
            copy = Path(directory, f"file-{number}")
            copy.write_bytes(Path(path).read_bytes() if os.path.exists(path) else b"")
            copy.chmod(0o644)
            found[path] = self._staged(str(copy))
        return found

    def _staged(self, path: str) -> str:
        return f"{_STAGED}{os.path.realpath(path).removeprefix(self._store)}"


def _judge(said: dict[str, Any]) -> None:
    if why := said.get("why"):
        raise BadImage(f"the command could not be run: {why}")
    if code := said["code"]:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise BadImage(f"the command {how}")


# --- the program --------------------------------------------------------------------------------


def _run(order: dict[str, Any], *, network: bool) -> int:
    """The exit code of a command in a container of its own. Raises whatever stands in the way."""
    from rayplane.node.runtime.isolation import launch, namespaces, syscalls
    from rayplane.node.runtime.isolation.network import prepare_pod

    def furnish() -> None:
        syscalls.set_host_name(HOST_NAME)
        if not network:
            prepare_pod()

    pod = namespaces.make(("user", "ipc", "uts") if network else ("user", "net", "ipc", "uts"), furnish)
    with open(os.devnull, "rb") as nothing:
        started = launch.start(order, pod, [nothing.fileno(), 1, 2])
    failure = started.failure()
    _, status = os.waitpid(started.pid, 0)
    if failure is not None:
        raise failure
    return os.waitstatus_to_exitcode(status)


def _answer(number: int, **said: Any) -> None:
    os.write(number, json.dumps(said).encode())


def _enter(number: int, store: str, network: str) -> None:
    is_root = os.geteuid() == 0
    # Root's files may be closed to who root is in the namespace: what is needed later is loaded before.
    from rayplane.node.runtime.isolation import apart, launch, namespaces, network as _  # noqa: F401, I001
    from rayplane.node.runtime.isolation.entrance import go_on, isolate

    try:
        isolate(0, [store], network=network == "0")
    except Exception as e:  # whatever it is: that is the answer
        _answer(number, why=f"this machine does not let it be isolated: {e}")
        return
    if is_root:
        _obey(number, network)
    os.set_inheritable(number, True)
    go_on(os.path.abspath(__file__), str(number), network)


def _obey(number: int, network: str) -> None:
    from rayplane.node.runtime.isolation.apart import go_apart

    try:
        order = json.load(sys.stdin)
        go_apart()
        _answer(number, code=_run(order, network=network == "1"))
    except Exception as e:  # whatever it is: that is the answer
        _answer(number, why=str(e) or type(e).__name__)
    os._exit(0)


def _main() -> None:
    number = int(sys.argv[1])
    if len(sys.argv) == 4:
        _enter(number, *sys.argv[2:])
    else:
        _obey(number, sys.argv[2])


if __name__ == "__main__":
    _main()
