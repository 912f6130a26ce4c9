"""Who works while it storms: writers that remember what they were told, and observers that write down what they see."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
)
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.storm.oracle import Answer, Ledger, Value
from tests.storm.truth import Attempt, Report

CONFIG_MAPS, LEASES, NAMESPACE = "configmaps", "leases.coordination.k8s.io", "default"
ETCD_PREFIX, ETCD_END = b"/storm/", b"/storm0"
CALL_TIMEOUT_S = 6.0
PROBE_TIMEOUT_S = 3.0
PAUSE_S = 0.05
#: Updates between the creation of an object and its deletion.
LIFE = 5
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap"}


def probed(server: str) -> str:
    """The Lease that is written through one API server, again and again."""
    return f"storm-{server}"


class ConfigMaps:
    """A writer of objects with one value each, through any API server, who tells the ledger what came of it."""

    def __init__(self, api: ApiClient, ledger: Ledger) -> None:
        self._api, self._ledger = api, ledger
        self._numbers = itertools.count()
        self._versions: dict[str, str] = {}

    def fresh(self, name: str) -> str:
        """A name that was never used."""
        return f"{name}-{next(self._numbers)}"

    async def create(self, key: str) -> None:
        value = self.fresh("value")
        body = CONFIG_MAP | {"metadata": {"name": key, "namespace": NAMESPACE}, "data": {"v": value}}
        await self._write(key, value, lambda: self._api.create(CONFIG_MAPS, body))

    async def update(self, key: str) -> None:
        value = self.fresh("value")
        metadata = {"name": key, "namespace": NAMESPACE, "resourceVersion": self._versions[key]}
        body = CONFIG_MAP | {"metadata": metadata, "data": {"v": value}}
        await self._write(key, value, lambda: self._api.update(CONFIG_MAPS, body))

    async def delete(self, key: str) -> None:
        """Only what is known to be there."""
        if version := self._versions.get(key):
            await self._write(
                key, None, lambda: self._api.delete(CONFIG_MAPS, key, NAMESPACE, resource_version=version)
            )

    async def read(self, key: str) -> bool:
        """Whether it is there; the same question until it is answered."""
        while True:
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    try:
                        found = await self._api.get(CONFIG_MAPS, key, NAMESPACE)
                    except NotFound:
                        self._versions.pop(key, None)
                        self._ledger.read(key, None)
                        return False
                self._versions[key] = meta.resource_version(found)
                self._ledger.read(key, found["data"]["v"])
                return True
            await asyncio.sleep(PAUSE_S)

    async def live(self, name: str) -> None:
        """Objects of this name, one after the other: made, changed, deleted. Until cancelled."""
        while True:
            key = self.fresh(name)
            await self.create(key)
            for _ in range(LIFE):
                if not await self.read(key):
                    break
                await self.update(key)
                await asyncio.sleep(PAUSE_S)
            else:
                if await self.read(key) and int(key.rpartition("-")[2]) % 2:
                    await self.delete(key)

    async def there(self) -> dict[str, str]:
        """All of them, as they are now."""
        found = await self._api.list(CONFIG_MAPS, NAMESPACE)
        return {meta.name(o): o["data"]["v"] for o in found.items if "v" in (o.get("data") or {})}

    async def _write(self, key: str, value: Value, call: Callable[[], Any]) -> None:
        answer = Answer.UNKNOWN
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                made = await call()
            answer = Answer.DONE
            if value is None:
                self._versions.pop(key, None)
            else:
                self._versions[key] = meta.resource_version(made)
        except (ServiceUnavailable, TooManyRequests, AlreadyExists, Conflict, NotFound):
            answer = Answer.REFUSED
        except (ApiError, TimeoutError):
            answer = Answer.UNKNOWN
        finally:
            # Cancelled ones may be done all the same.
            self._ledger.wrote(key, value, answer)


class EtcdKeys:
    """The same with etcd's own keys, by transactions that compare."""

    def __init__(self, etcd: EtcdClient, ledger: Ledger) -> None:
        self._etcd, self._ledger = etcd, ledger

    async def live(self, name: str) -> None:
        """One value after the other under a key, until cancelled."""
        key, revision = ETCD_PREFIX + name.encode(), 0
        for number in itertools.count():
            value = f"{name}-{number}"
            revision = await self._write(key, value, revision) or await self._read(key)
            await asyncio.sleep(PAUSE_S)

    async def _write(self, key: bytes, value: str, revision: int) -> int:
        """Its revision; 0 when that is not known."""
        answer, made = Answer.UNKNOWN, 0
        same = pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value.encode()))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                response = await self._etcd.txn([same], [put])
            answer = Answer.DONE if response.succeeded else Answer.REFUSED
            made = response.header.revision if response.succeeded else 0
        except (RpcError, TimeoutError):
            answer = Answer.UNKNOWN
        finally:
            self._ledger.wrote(key.decode(), value, answer)
        return made

    async def _read(self, key: bytes) -> int:
        while True:
            with contextlib.suppress(RpcError, TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    found = (await self._etcd.range(key)).kvs
                self._ledger.read(key.decode(), found[0].value.decode() if found else None)
                return found[0].mod_revision if found else 0
            await asyncio.sleep(PAUSE_S)

    async def there(self) -> dict[str, str]:
        found = await self._etcd.range(ETCD_PREFIX, ETCD_END)
        return {kv.key.decode(): kv.value.decode() for kv in found.kvs}


class Observers:
    """What was seen: `reports` of status, `attempts` by API server, pods and their nodes. Until cancelled."""

    def __init__(self, admin: Access, now: Callable[[], float], reports: list[Report]) -> None:
        self._admin, self._now = admin, now
        self.reports = reports
        self.attempts: dict[str, list[Attempt]] = {}
        self.problems: list[str] = []
        self._nodes: dict[str, str] = {}

    def work(self) -> Iterable[Any]:
        servers = self._admin.state.topology.of(Role.APISERVER)
        return [self._ask(), self._watch_pods(), *(self._probe(s.name, s.endpoint("grpc")) for s in servers)]

    async def report(self) -> Report:
        asked = self._now()
        found = await status(self._admin)
        report = Report(asked=asked, answered=self._now(), healthy=found["healthy"], faults=tuple(found["faults"]))
        self.reports.append(report)
        return report

    async def _ask(self) -> None:
        while True:
            await self.report()
            await asyncio.sleep(PAUSE_S * 5)

    async def _probe(self, name: str, endpoint: str) -> None:
        """A Lease of our own through one server, again and again."""
        api = ApiClient(self._admin.network, [endpoint], follow=False)
        attempts = self.attempts[name] = []
        lease = probed(name)
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        body = kind | {"metadata": {"name": lease, "namespace": NAMESPACE}, "spec": {"leaseDurationSeconds": 1}}
        for number in itertools.count():
            began, done = self._now(), False
            with contextlib.suppress(ApiError, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    try:
                        change = {"spec": {"holderIdentity": str(number)}}
                        await api.patch(LEASES, lease, NAMESPACE, change)
                    except NotFound:
                        with contextlib.suppress(AlreadyExists):
                            await api.create(LEASES, body)
                    done = True
            attempts.append(Attempt(began, self._now(), done))
            await asyncio.sleep(PAUSE_S * 5)

    async def _watch_pods(self) -> None:
        """A pod never goes to another node, and no two pods of one name live at once."""
        version = ""
        while True:
            with contextlib.suppress(ApiError, TimeoutError):
                try:
                    if not version:
                        found = await self._admin.api.list("pods")
                        version = found.resource_version
                        for pod in found.items:
                            self._pod(pod)
                    async for events in self._admin.api.watch("pods", resource_version=version):
                        for event in events:
                            version = meta.resource_version(event.object)
                            if event.type != "BOOKMARK":
                                self._pod(event.object)
                except Expired:
                    version = ""
            await asyncio.sleep(PAUSE_S)

    def _pod(self, pod: Any) -> None:
        node = meta.node_name(pod)
        before = self._nodes.setdefault(meta.uid(pod), node) or node
        if before and node != before:
            self.problems.append(f"pod {meta.key(pod)} ({meta.uid(pod)}) was on {before} and is on {node}")
        self._nodes[meta.uid(pod)] = before
