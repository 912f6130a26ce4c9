"""Leader election by a Lease object (coordination.k8s.io/v1; the rules of client-go's `leaderelection`).

A candidate takes the Lease when its holder has not renewed it for the lease's duration, measured on the candidate's
own clock since it last saw the Lease change. The leader gives up when it could not renew for `renew_deadline_s`,
which is shorter than the duration: two never lead at once while clocks tick at about the same rate. Its writes do not
depend on clocks: they say by which holding of the Lease they are made, and API servers do them only while it stands.

A process may stand still at any time (SIGSTOP, a busy machine). Its leader's writes go through `fenced`, which looks
at the clock before each: one that stood still too long writes nothing until it has renewed. When it goes on it tries
that once, by the version of the Lease that it wrote last: where nobody took the Lease nothing is lost, and the term
goes on. What was on its way before the stop is refused by the API server.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, InternalError, NotFound
from rayplane.control_plane.api.leadership import claim_of
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object, copy_for_write
from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.component_base.metrics import Family, gauge
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.control_plane.timings import ElectionTiming
from rayplane.storage.env import Env

log = logging.getLogger(__name__)

#: Where the Leases are by which components lead.
NAMESPACE = "kube-system"
RELEASE_TIMEOUT_S = 1.0
#: A candidate that got no answer asks again no later than this, however long it lets those be who lead.
UNANSWERED_S = 2.0
#: A term that has not ended so long after its Lease ran out is one that hangs (kube-scheduler's watchdog).
OVERDUE_S = 20.0
_UNREADABLE = ("", "unreadable")


class LeaderElector:
    """One candidate. `run` goes on until cancelled; it runs `lead` while this candidate leads."""

    def __init__(
        self,
        client: ApiClient,
        env: Env,
        *,
        name: str,
        identity: str,
        timing: ElectionTiming,
    ) -> None:
        self._leading = False
        self._task: asyncio.Task[None] | None = None
        # What is done in this term, or was in the last.
        self._work: asyncio.Future[None] | None = None
        self._client = client
        self._env = env
        self._name = name
        self._identity = identity
        self._timing = timing
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        # When this candidate removed a Lease that could not be read: it lets all others go first then.
        self._cleared_at: float | None = None
        # The Lease as the leader wrote it last: renewed without reading it again, as long as nobody else writes it.
        self._held: Object | None = None
        # How it is held in this term.
        self._claim = ""
        # What happened after sending a renewal that got no answer is unknown: the term ends counting from the sending.
        self._renewed_at = 0.0
        self._answered = True

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads, by its own clock: not when it stood still and has not renewed since."""
        if not self._leading:
            return False
        return asyncio.get_running_loop().time() < self._renewed_at + self._timing.renew_deadline_s

    def problem(self) -> str:
        """What is wrong where a term neither renewed its Lease for long nor ended; empty when nothing is."""
        overdue = self._renewed_at + self._timing.duration_s + OVERDUE_S
        if self._work is None or self._work.done() or asyncio.get_running_loop().time() <= overdue:
            return ""
        return f"failed election to renew leadership on lease {self._name}"

    def collect(self) -> Iterable[Family]:
        leads = {(self._name,): self.is_leader}
        yield gauge("leader_election_master_status", "Whether this replica leads.", leads, "name")

    def fenced(self, client: ApiClient) -> ApiClient:
        """A client whose writes are refused while this candidate does not lead.

        With ServiceUnavailable, unsent, where it knows that itself, else with Conflict by the API server.
        """
        return client.fenced(lambda: self.is_leader, lambda: self._claim)

    def start(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run for the lead again and again: a fault in one term must not keep this replica out of the next."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._campaign(lead), name=self._name)

    async def stop(self) -> None:
        """End `lead`, then give the Lease back."""
        if self._task is None:
            return
        led = self._leading
        await cancel_and_wait(self._task)
        self._task = None
        if led:
            await self.release()

    async def _campaign(self, lead: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await self.run(lead)
            except Exception:
                log.exception("%s: the term ended by a fault", self._identity)
                await asyncio.sleep(self._timing.retry_s)

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                while not await self._try():
                    retry_s = self._timing.retry_s if self._answered else min(self._timing.retry_s, UNANSWERED_S)
                    await asyncio.sleep(self._jittered(retry_s))
                log.info("%s leads %s", self._identity, self._name)
                self._leading = True
                await self._hold(lead)
                self._leading = False
                log.warning("%s lost the lead of %s", self._identity, self._name)
        finally:
            self._leading = False

    async def release(self) -> None:
        """Give the Lease back, so that another need not wait for it to run out.

        A courtesy: given up after `RELEASE_TIMEOUT_S`, as it runs out anyway.
        """
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                lease = await self._client.get(LEASES, self._name, NAMESPACE)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._client.update(LEASES, lease)
        except (ApiError, TimeoutError) as e:
            log.debug("could not release %s: %s", self._name, e)

    async def _hold(self, lead: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        self._work = work = asyncio.ensure_future(lead())
        try:
            while True:
                done, _ = await asyncio.wait([work], timeout=self._timing.retry_s)
                if done:
                    await work
                    raise RuntimeError(f"the work of {self._name} ended by itself")
                # One that stood still has one try: who took the Lease meanwhile has changed it.
                deadline = max(self._renewed_at + self._timing.renew_deadline_s, loop.time() + self._timing.retry_s)
                try:
                    async with asyncio.timeout_at(deadline):
                        if not await self._try():
                            return
                except TimeoutError:
                    return
                if loop.time() >= self._renewed_at + self._timing.renew_deadline_s:
                    return
        finally:
            self._leading = False
            if not work.done():
                await cancel_and_wait(work)

    async def _try(self) -> bool:
        """Take or renew the Lease; whether this candidate holds it (or may still, when no server answered)."""
        started = asyncio.get_running_loop().time()
        self._answered = True
        try:
            # A server that says nothing gets its share of the time: there are others to ask in the rest.
            async with asyncio.timeout(self._timing.renew_deadline_s / 2):
                held = await self._take_or_renew(started)
        except (Conflict, AlreadyExists):
            self._held = None
            return False
        except TimeoutError:
            self._answered = False
            return self._leading
        except ApiError as e:
            self._answered = False
            log.debug("%s: %s", self._name, e.message)
            if isinstance(e, InternalError) and not self._leading:
                await self._clear(started)
            return self._leading
        if held:
            self._renewed_at = started
            if not self._leading and self._held is not None:
                self._claim = claim_of(self._held)
        return held

    async def _take_or_renew(self, now: float) -> bool:
        if self._leading and self._held is not None and await self._renew(self._held):
            return True
        try:
            lease = await self._client.get(LEASES, self._name, NAMESPACE)
        except NotFound:
            if self._cleared_at is not None and now < self._cleared_at + self._timing.duration_s:
                return False
            self._held = await self._client.create(LEASES, self._fresh())
            return True
        spec = lease.setdefault("spec", {})
        holder = str(spec.get("holderIdentity") or "")
        self._see((holder, str(spec.get("renewTime") or "")), now)
        duration = _number(spec.get("leaseDurationSeconds"), self._timing.duration_s)
        if holder not in ("", self._identity) and now < self._seen_at + duration:
            return False
        if self._leading and holder != self._identity:
            return False
        stamp = self._env.timestamp_micro()
        if holder != self._identity:
            spec["acquireTime"] = stamp
            spec["leaseTransitions"] = int(_number(spec.get("leaseTransitions"), 0)) + 1
        spec["holderIdentity"] = self._identity
        spec["renewTime"] = stamp
        spec["leaseDurationSeconds"] = max(1, round(self._timing.duration_s))
        self._held = await self._client.update(LEASES, lease)
        return True

    def _see(self, mark: tuple[str, str], now: float) -> None:
        if mark != self._seen:
            self._seen, self._seen_at = mark, now

    async def _clear(self, now: float) -> None:
        """Remove a Lease that no server can read, once it would have run out: nobody could ever lead otherwise."""
        self._see(_UNREADABLE, now)
        if now < self._seen_at + self._timing.duration_s:
            return
        log.error("the lease %s/%s cannot be read and is removed", NAMESPACE, self._name)
        self._cleared_at = now
        try:
            await self._client.delete(LEASES, self._name, NAMESPACE)
        except ApiError as e:
            log.debug("%s: %s", self._name, e.message)

    async def _renew(self, held: Object) -> bool:
        """Renew by what was written last; False when the Lease was changed meanwhile and must be looked at."""
        lease = copy_for_write(held)
        lease["spec"]["renewTime"] = self._env.timestamp_micro()
        try:
            self._held = await self._client.update(LEASES, lease)
        except (Conflict, NotFound):
            self._held = None
            return False
        return True

    def _fresh(self) -> Object:
        stamp = self._env.timestamp_micro()
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._timing.duration_s)),
                "acquireTime": stamp,
                "renewTime": stamp,
                "leaseTransitions": 0,
            },
        }

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + 0.2 * self._env.rng.random())


def _number(value: Any, otherwise: float) -> float:
    """A field of a Lease; `otherwise` where there is none, or nothing to reckon with."""
    return float(value) if isinstance(value, int | float) and 0 < value < 1e9 else otherwise
