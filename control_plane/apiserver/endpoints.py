"""Endpoints of the API servers: an entry each in etcd under a lease; all keep the `kubernetes` service true.

A server that dies is gone from the list when its lease runs out; one that stops revokes its lease.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
from dataclasses import dataclass

import orjson

from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.joining import GRPC_ADDRESSES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import SYSTEM, Target, WriteOptions
from rayplane.control_plane.client.endpoints import PLACES_KEY
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.key_ranges import prefix_end

log = logging.getLogger(__name__)

_PREFIX = "/registry/masterleases/"
_JSON = "application/json"
# How often a server looks who leads; with leisure more seldom, but so soon after a change it takes over which servers
# came and went: clients are told no later.
_FOLLOW_S = 1.0
# Of these rounds, every how many it asks for the members too, beside whenever one is lost. They may be replaced one
# after the other (`SERVER_CHANGES`): it learns of the new ones while an old one is left to ask.
_MEMBERS_EVERY = 2
_GOODBYE_S = 1.0
SERVICE = "kubernetes"


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One server: host:port of its gRPC and HTTPS ports (HTTPS may be empty)."""

    name: str
    grpc: str
    https: str


def first_address(config: ApiServerConfig) -> str:
    """The cluster address of the `kubernetes` service: the first of the range."""
    return str(ipaddress.ip_network(config.service_cidr)[1])


class EndpointKeeper:
    """A task that keeps this server's entry and the endpoints of the `kubernetes` service."""

    def __init__(self, config: ApiServerConfig, registry: ObjectRegistry, etcd: EtcdClient) -> None:
        self._config = config
        self._registry = registry
        self._etcd = etcd
        self.places: dict[str, list[str]] = {}
        """`supervisors` and `machines`, as they were in etcd when this server announced itself last."""
        self._own: ServerEntry | None = None
        self._lease = 0
        self._task: asyncio.Task[None] | None = None
        self._servers: list[ServerEntry] = []
        self._changed = asyncio.Event()  # the entries, since they were read last
        self._changed.set()
        self._published: list[ServerEntry] | None = None
        self._members_known = False

    async def start(self, own: ServerEntry) -> None:
        """Announce this server and go on doing so."""
        self._own = own
        self._registry.hub.listen(_PREFIX, self._note_change)
        await self._once()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None
        if self._lease:
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    await self._etcd.lease_revoke(self._lease)
            except (RpcError, TimeoutError) as e:
                log.info("the entry of this server ends with its lease: %s", e)
            self._lease = 0

    def servers(self) -> list[ServerEntry]:
        """All announced servers by name, as this one saw them last."""
        return self._servers

    def _note_change(self) -> None:
        self._changed.set()

    async def _follow_servers(self) -> None:
        self._changed.clear()
        try:
            response = await self._etcd.range(_PREFIX.encode(), prefix_end(_PREFIX.encode()), serializable=True)
        except BaseException:
            self._changed.set()
            raise
        found = []
        for kv in response.kvs:
            try:
                value = orjson.loads(kv.value)
                entry = ServerEntry(kv.key.decode().removeprefix(_PREFIX), value["grpc"], value["https"])
                if not (isinstance(entry.grpc, str) and ":" in entry.grpc and isinstance(entry.https, str)):
                    raise ValueError("no addresses")
            except (ValueError, KeyError, TypeError) as e:
                # Written by somebody else, as kube-apiserver's own entries: not of ours.
                log.debug("%s names no server: %s", kv.key, e)
                continue
            found.append(entry)
        self._servers = found

    @property
    def supervisors(self) -> list[str]:
        """host:port of each, as far as is known."""
        return self.places.get("supervisors", [])

    async def _follow_places(self) -> None:
        response = await self._etcd.range(PLACES_KEY, serializable=True)
        for kv in response.kvs:
            try:
                found = orjson.loads(kv.value)
                self.places = {name: [str(a) for a in found[name]] for name in ("supervisors", "machines")}
            except (ValueError, TypeError, KeyError) as e:
                log.info("%s names no places: %s", kv.key, e)

    async def _run(self) -> None:
        timing = self._config.timing
        interval_s = timing.endpoint_lease_s / 3
        rounds = max(1, round(interval_s / (_FOLLOW_S * timing.leisure)))
        for number in itertools.count(1):
            leisure_s = interval_s / rounds - _FOLLOW_S
            if timing.leisure > 1 and leisure_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(leisure_s):
                        await self._changed.wait()
                await asyncio.sleep(_FOLLOW_S)
            else:
                await asyncio.sleep(interval_s / rounds)
            await self._once(announce=number % rounds == 0, members=number % _MEMBERS_EVERY == 0)

    async def _once(self, *, announce: bool = True, members: bool = True) -> None:
        try:
            if members or not self._etcd.endpoints.preferred:
                await self._follow_members()
            await self._etcd.prefer_leader(again=announce)
            self._registry.hub.follow_leader()
            if announce:
                await self._announce()
                await self._follow_places()
            if announce or self._changed.is_set():
                await self._follow_servers()
            if announce:
                await self._publish(self._servers)
        except (RpcError, ApiError) as e:
            log.info("the endpoints of the servers are not up to date: %s", e)
        except Exception:
            # Whatever stands there: this server must not go from the list for it.
            log.exception("the endpoints of the servers are not up to date")

    async def _follow_members(self) -> None:
        """Take over etcd's own list of members: they may be replaced while this server runs."""
        found = []
        for member in (await self._etcd.member_list(linearizable=False)).members:
            if not member.isLearner:
                found += [url.partition("://")[2] for url in member.clientURLs]
        configured = self._config.etcd_endpoints
        # Members that are not called as they are reached from here never are; all that were configured may be gone.
        self._members_known = self._members_known or bool(set(found) & set(configured))
        self._etcd.endpoints.replace(found if self._members_known else list(configured))

    async def _announce(self) -> None:
        assert self._own is not None
        if self._lease and await self._etcd.lease_keep_alive(self._lease) > 0:
            return
        granted = await self._etcd.lease_grant(self._config.timing.endpoint_lease_s)
        self._lease = granted.ID
        value = orjson.dumps({"grpc": self._own.grpc, "https": self._own.https})
        await self._etcd.put(f"{_PREFIX}{self._own.name}".encode(), value, lease=self._lease)

    async def _publish(self, servers: list[ServerEntry]) -> None:
        if servers == self._published:
            return
        addresses = sorted({a for s in servers if _has_ip(a := s.https or s.grpc)})
        if not addresses:
            return
        subsets, endpoints, ports = _described(addresses)
        await self._write("endpoints", _endpoints_object(subsets, ",".join(sorted(s.grpc for s in servers))))
        await self._write("endpointslices.discovery.k8s.io", _slice_object(endpoints, ports))
        self._published = servers

    async def _write(self, resource: str, o: Object) -> None:
        info = self._registry.kinds.named(resource)
        target = Target(info, "default", SERVICE)
        writer, body = self._registry.writer, orjson.dumps(o)
        try:
            await writer.update(SYSTEM, target, body, _JSON, WriteOptions(), may_create=_nobody_asks)
        except NotFound:
            place = Target(info, "default")
            await writer.create(SYSTEM, place, body, _JSON, WriteOptions())


async def _nobody_asks() -> None:
    """The server's own right to make what it publishes."""


def _has_ip(address: str) -> bool:
    """Endpoints are addresses; servers that are known by a name only cannot stand there."""
    try:
        ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def _described(addresses: list[str]) -> tuple[list[Object], list[Object], list[Object]]:
    """Subsets of Endpoints; endpoints and ports of an EndpointSlice (with the commonest port)."""
    by_port: dict[int, list[str]] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        by_port.setdefault(int(port), []).append(host)
    subsets = [
        {
            "addresses": [{"ip": ip} for ip in sorted(hosts)],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
        for port, hosts in sorted(by_port.items())
    ]
    hosts = sorted({h for hosts in by_port.values() for h in hosts})
    endpoints: list[Object] = [{"addresses": [h], "conditions": {"ready": True}} for h in hosts]
    ports: list[Object] = [
        {"name": "https" if i == 0 else f"https-{i}", "port": port, "protocol": "TCP"}
        for i, port in enumerate(sorted(by_port))
    ]
    return subsets, endpoints, ports


def _endpoints_object(subsets: list[Object], grpc: str) -> Object:
    labels, annotations = {"endpointslice.kubernetes.io/skip-mirror": "true"}, {GRPC_ADDRESSES: grpc}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": SERVICE, "namespace": "default", "labels": labels, "annotations": annotations},
        "subsets": subsets,
    }


def _slice_object(endpoints: list[Object], ports: list[Object]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": SERVICE,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }
