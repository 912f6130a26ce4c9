"""The DNS of a cluster on one host, put together: its names, the machine's servers, and where it listens."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.node.dns.feed import Feed
from rayplane.node.dns.server import OTHER_PORT, PORT, DnsServer, Place
from rayplane.node.dns.upstream import PORT as THEIR_PORT
from rayplane.node.dns.upstream import ResolvConf, Upstream
from rayplane.node.dns.zone import Zone
from rayplane.node.proxy.rules import outside_ip
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.runtime.resolv import RESOLV_CONF


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """Facts that the DNS must know of its host and its cluster."""

    address: str
    """Of the service `kube-dns`."""
    networks: tuple[str, ...]
    """See NodeHostConfig.loopback_networks."""
    network: PodNetwork
    """Where pods and services have their addresses."""
    foreign: str = ""
    """An address of this machine where pods of another project's runtime ask, and nobody else; empty for none."""
    resolv_conf: str = RESOLV_CONF
    """Which file names the servers of all other names."""
    their_port: int = THEIR_PORT


class ClusterDns:
    """The DNS server with all it needs.

    `services` and `slices` (with the index `SLICES_BY_SERVICE`): informers that have been started and synced; `nodes`:
    one whose changes may tell of new addresses. `node_ips`: those of this host's nodes, empty where not known yet;
    `foreign`: those of pods of another project's runtime.
    """

    def __init__(
        self,
        config: DnsConfig,
        client: ApiClient,
        *,
        services: Informer,
        slices: Informer,
        nodes: Informer,
        node_ips: Callable[[], Sequence[str]],
        foreign: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._config = config
        self._foreign = foreign
        self._namespaces = Informer(client, "namespaces")
        self._nodes = nodes
        self._node_ips = node_ips
        self._known = node_ips()
        zone = Zone(config.address, config.networks)
        feed = Feed(zone, services=services, slices=slices, namespaces=self._namespaces)
        upstream = Upstream(ResolvConf(config.resolv_conf, config.networks), config.their_port)
        self.server = DnsServer(feed, upstream, self._places)

    async def start(self) -> None:
        """Listen wherever that is possible; a place that cannot be had is no error."""
        self._namespaces.start()
        await self._namespaces.synced()
        await self.server.start()
        self._nodes.add_handler(self._node_event)

    async def stop(self) -> None:
        await self.server.stop()
        await self._namespaces.stop()

    def _node_event(self, kind: str, old: Object | None, new: Object) -> None:
        known = self._node_ips()
        if known != self._known:
            self._known = known
            self.server.check()

    def _places(self) -> Iterator[Place]:
        """The service's address in the pods' network, and for people at the machine its own; there, where that is
        where pods meet nodes, each node's too.
        """
        config, ports = self._config, (PORT, OTHER_PORT)
        if config.network is not DIRECT:
            yield Place(config.network, config.address)
        yield Place(DIRECT, outside_ip(config.address), ports)
        if not config.network.spans_machines:
            yield from (Place(DIRECT, outside_ip(ip), ports) for ip in self._node_ips() if ip)
        if config.foreign:
            yield Place(DIRECT, config.foreign, admits=self._is_foreign)

    def _is_foreign(self, client: str) -> bool:
        return client in self._foreign()
