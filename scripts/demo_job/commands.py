"""The commands that a user would type: rayplane's, and kubectl's where there is one."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayplane.control_plane.cluster.state import StateDir


class CommandFailed(Exception):
    """An error that says which command, its exit code and what it printed."""


async def run(*command: str, stdin: bytes = b"", env: dict[str, str] | None = None, timeout_s: float = 120) -> str:
    """Standard output of a command. Raises CommandFailed. An interrupted command is interrupted too."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (env or {}),
        # Ctrl-C goes to this process alone, which then decides what to end, and how.
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin)
    except BaseException as e:
        process.terminate()
        await process.wait()
        if isinstance(e, TimeoutError):
            raise CommandFailed(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from e
        raise
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip()
        raise CommandFailed(f"{' '.join(command)} (exit code {process.returncode}): {said}")
    return out.decode()


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster by name, with its state in a directory of its own."""

    name: str
    state: StateDir

    async def rayplane(self, *arguments: str, timeout_s: float = 120) -> str:
        where = ("--name", self.name, "--state-dir", str(self.state.path))
        return await run(
            sys.executable, "-m", "rayplane.control_plane.cli.main", *arguments, *where, timeout_s=timeout_s
        )

    async def apply(self, client: Sequence[str], manifests: bytes) -> str:
        """`client` as `find_client` found it."""
        if not client:
            return await run(
                sys.executable,
                *("-m", "rayplane.control_plane.cli.main", "apply", "-f", "-"),
                *("--name", self.name, "--state-dir", str(self.state.path)),
                stdin=manifests,
            )
        env = {"KUBECONFIG": str(self.state.kubeconfig)}
        cache = str(self.state.path / "kubectl-cache")
        return await run(*client, "--cache-dir", cache, "apply", "-f", "-", stdin=manifests, env=env)


def find_client() -> tuple[str, ...]:
    """A stock kubectl, from PATH or from the environment we run in; nothing where there is none."""
    found = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
    return (found,) if found else ()


def leftovers(places: Sequence[str]) -> list[str]:
    """Processes that work in one of these directories, or have one in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            text = f"{command} {os.readlink(entry / 'cwd')} {(entry / 'environ').read_bytes()!r}"
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if any(place in text for place in places):
            found.append(f"{entry.name}: {command.strip()[:120]}")
    return found
