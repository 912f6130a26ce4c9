"""The steps of the main job, in order; each is shown while it runs and checked when it ends."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from rich.console import Console
from rich.table import Table

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.access import Access, access, endpoints
from rayplane.control_plane.cluster.readiness import client_ssl
from rayplane.control_plane.cluster.status import status as cluster_status
from rayplane.control_plane.rpc import RpcError
from scripts.demo_job.commands import Cluster, find_client
from scripts.demo_job.comparison import differences, moved, objects
from scripts.demo_job.traffic import PASSING, Load, all_in_etcd

T = TypeVar("T")

APP = Path(__file__).parents[1] / "demo_app"
READY_TIMEOUT_S = 60.0
HEAL_TIMEOUT_S = 60.0
POLL_S = 0.2
# Each kind of request must have been answered this often after a kill before it counts as healed.
ANSWERS_MIN = 20
SETTLE_S = 2.0
READ_TIMEOUT_S = 10.0
DIFFERENCES_SHOWN = 10


class JobFailed(Exception):
    """Something was lost, or did not come back."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What one kill cost. Seconds without an answer, by stream."""

    victim: str
    healed_s: float
    gaps: dict[str, float]


class Job:
    """The job. `run` does everything but taking down. Raises JobFailed."""

    def __init__(self, console: Console, first: Cluster, second: Cluster) -> None:
        self._console = console
        self._first, self._second = first, second
        self._outages: list[Outage] = []

    async def run(self) -> None:
        with self._step("bringing a cluster up on Ray"):
            await self._first.rayplane("up", "--host", "ray", "--runtime", "process", "--isolation", "none")
        async with access(self._first.state) as admin:
            await self._deploy(admin)
            load = self._load(admin)
            async with load.running():
                with self._step("sending requests", load.progress):
                    await self._all_answered(load, _now())
                await self._kill(admin, load, "leader", "")
                await self._kill(admin, load, "apiserver", "")
                await self._kill(admin, load, "node", await self._node_of_db(admin))
            async with load.connected():
                with self._step("looking for everything that was acknowledged"):
                    await self._verify(admin, load)
            await self._back_up_and_restore(admin, load)
        self._summary(load)

    # --- the application --------------------------------------------------------------------------

    async def _deploy(self, admin: Access) -> None:
        client = find_client()
        with self._step(f"applying the application with {client[0] if client else 'rayplane apply'}"):
            await self._first.apply(client, _manifests())
        with self._step("waiting until every pod is ready"):
            await _until(lambda: _app_ready(admin), READY_TIMEOUT_S, "the application is not ready")

    def _load(self, admin: Access) -> Load:
        found = endpoints(self._first.state, admin.state)
        return Load(found["ingress"], found["apiserver"], client_ssl(admin.shown()), admin.etcd)

    async def _node_of_db(self, admin: Access) -> str:
        return str((await admin.api.get("pods", "db-0", "default"))["spec"]["nodeName"])

    # --- kills ------------------------------------------------------------------------------------

    async def _kill(self, admin: Access, load: Load, target: str, name: str) -> None:
        title = f"killing the {'etcd leader' if target == 'leader' else target} {name}".rstrip()
        with self._step(title, load.progress) as note:
            before = await self._db_pod(admin)
            since = _now()
            said = await self._first.rayplane("chaos", "kill", target, *([name] if name else []))
            # What just died may still look well for a moment: requests must be answered after that moment.
            await asyncio.sleep(SETTLE_S)
            await self._all_answered(load, _now())
            await _until(lambda: _healed(admin), HEAL_TIMEOUT_S, f"the cluster did not heal from `kill {target}`")
            until = _now()
            victim = said.partition(" (")[0].strip() + (" (leader)" if target == "leader" else "")
            moved_to = await self._db_pod(admin)
            text = f"{victim} killed; healed after {until - since:.1f} s"
            if target == "node":
                text += f"; the database went from {before[0]} ({before[1]}) to {moved_to[0]} ({moved_to[1]})"
            gaps = {s.name: s.longest_gap(since, until) for s in load.streams}
            await self._verify(admin, load)
            self._outages.append(Outage(victim, until - since, gaps))
            note(text)

    async def _db_pod(self, admin: Access) -> tuple[str, str]:
        """(node, address)"""
        pod = await admin.api.get("pods", "db-0", "default")
        return str(pod["spec"].get("nodeName")), str(meta.status(pod).get("podIP"))

    async def _all_answered(self, load: Load, since: float) -> None:
        async def answered() -> str:
            for stream in load.streams:
                if stream.answered_since(since) < ANSWERS_MIN:
                    return f"{stream.name} is not answered: {stream.last_failure}"
            return ""

        await _until(answered, HEAL_TIMEOUT_S, "the cluster did not heal")

    async def _verify(self, admin: Access, load: Load) -> None:
        """Everything acknowledged up to now must be there."""
        wanted_db, wanted_etcd = dict(load.db), dict(load.etcd)
        found_db = await _insist(load.all_in_db)
        found_etcd = await _insist(lambda: all_in_etcd(admin.etcd))
        await _insist(load.check_counter)
        lost = list(load.lost)
        lost += [f"database key {k}: {found_db.get(k)!r}" for k, v in wanted_db.items() if found_db.get(k) != v]
        lost += [f"etcd key {k!r}: {found_etcd.get(k)!r}" for k, v in wanted_etcd.items() if found_etcd.get(k) != v]
        if lost:
            raise JobFailed(f"{len(lost)} acknowledged writes are lost or wrong, such as {'; '.join(lost[:3])}")

    # --- backup -----------------------------------------------------------------------------------

    async def _back_up_and_restore(self, admin: Access, load: Load) -> None:
        file = self._first.state.path.parent / "backup"
        with self._step("backing up") as note:
            before = await objects(admin.api)
            said = (await self._first.rayplane("backup", str(file))).strip()
            note(said)
        with self._step("restoring into a second cluster, in one process"):
            await self._second.rayplane("up", "--host", "process", "--runtime", "simulated")
            await self._second.rayplane("restore", str(file))
        with self._step("comparing the clusters") as note:
            async with access(self._second.state) as copy:
                found = await objects(copy.api)
                keys = await all_in_etcd(copy.etcd)
                revision = (await copy.etcd.put(b"/after-restore", b"")).header.revision
            lines = differences(moved(before, admin.state.plan, copy.state.plan), found)
            lines += [f"etcd key {k!r} is {keys.get(k)!r}" for k, v in load.etcd.items() if keys.get(k) != v]
            if revision <= int(said.rpartition(" ")[2]):
                lines.append(f"the restored cluster is at revision {revision}, before the backup")
            if lines:
                shown = "\n  ".join(lines[:DIFFERENCES_SHOWN])
                raise JobFailed(f"the restored cluster differs in {len(lines)} places:\n  {shown}")
            note(f"{len(before)} objects and {len(load.etcd)} etcd keys are the same, and writes go on from there")

    # --- what is shown ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _step(self, title: str, detail: Callable[[], str] = str) -> Iterator[Callable[[str], None]]:
        """Shows `title` and what `detail` says while the step runs; yields a function that takes lines for its end."""
        began = time.monotonic()
        notes: list[str] = []
        with self._console.status(title) as status:

            async def show() -> None:
                while True:
                    status.update(f"{title} {detail()}")
                    await asyncio.sleep(POLL_S)

            ticker = asyncio.ensure_future(show())
            try:
                yield notes.append
            finally:
                ticker.cancel()
        self._console.print(f"[green]✓[/green] {title} [dim]{time.monotonic() - began:.1f} s[/dim]")
        for note in notes:
            self._console.print(f"  {note}", markup=False)

    def _summary(self, load: Load) -> None:
        table = Table(title="longest time without an answer, in seconds")
        table.add_column("killed", no_wrap=True)
        names = [s.name for s in load.streams]
        for name in names:
            table.add_column(name, justify="right")
        for outage in self._outages:
            table.add_row(outage.victim, *(f"{outage.gaps[n]:.2f}" for n in names))
        self._console.print(table)
        answered = ", ".join(f"{len(s.acks)} {s.name}" for s in load.streams)
        failed = sum(s.failures for s in load.streams)
        self._console.print(f"answered: {answered}; {failed} were refused or not answered, and made again")
        self._console.print(
            f"still there: all {len(load.db)} keys written to the database, all {len(load.etcd)} to etcd"
        )


def _manifests() -> bytes:
    """The application, with its programs in a ConfigMap, as a stream of YAML documents."""
    programs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "programs", "labels": {"app": "demo"}},
        "data": {p.name: p.read_text() for p in sorted((APP / "programs").glob("*.py"))},
    }
    files = [p.read_text() for p in sorted((APP / "manifests").glob("*.yaml"))]
    return "\n---\n".join([yaml.safe_dump(programs), *files]).encode()


async def _app_ready(admin: Access) -> str:
    """Empty when all pods of the application serve, else what does not."""
    for resource, name in (("statefulsets.apps", "db"), ("deployments.apps", "web")):
        obj = await admin.api.get(resource, name, "default")
        wanted, ready = obj["spec"]["replicas"], meta.status(obj).get("readyReplicas") or 0
        if ready < wanted:
            return f"{ready} of {wanted} pods of {name} are ready"
    return ""


async def _healed(admin: Access) -> str:
    found = await cluster_status(admin)
    if not found["healthy"]:
        parts = [p["name"] for p in found["members"] if not p["healthy"]]
        parts += [p["name"] for p in found["actors"] if not p["running"]]
        parts += [p["name"] for p in found["nodes"] if not p["ready"]]
        return f"not healthy: {', '.join(parts) or 'no leader'}"
    return await _app_ready(admin)


async def _until(check: Callable[[], Awaitable[str]], timeout_s: float, otherwise: str) -> None:
    """Return when `check` finds nothing missing. Raises JobFailed with what it said last."""
    deadline, missing = _now() + timeout_s, ""
    while _now() < deadline:
        try:
            missing = await check()
        except (ApiError, RpcError) as e:
            missing = str(e)
        if not missing:
            return
        await asyncio.sleep(POLL_S)
    raise JobFailed(f"{otherwise} after {timeout_s:.0f} s: {missing}")


async def _insist(question: Callable[[], Awaitable[T]]) -> T:
    """The answer, asked for again while nobody gives one."""
    deadline = _now() + HEAL_TIMEOUT_S
    while True:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await question()
        except PASSING as e:
            if _now() > deadline:
                raise JobFailed(f"what was written cannot be read: {e}") from e
            await asyncio.sleep(POLL_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
