"""The loop that keeps a host's packet rules as network policies, pods and namespaces are.

Pods of other hosts are looked at only while there is a policy at all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.errors import SandboxError
from rayplane.node.events import Events
from rayplane.node.nftables.conntrack import Flow
from rayplane.node.nftables.expressions import PROTOCOLS, address, key, port
from rayplane.node.nftables.kernel import KernelTable
from rayplane.node.policy import packet_rules
from rayplane.node.policy.model import EGRESS, PodFacts, facts_of, left_out, read
from rayplane.node.policy.policies import Policies
from rayplane.node.runtime import PodPlace

log = logging.getLogger(__name__)

POLICIES = "networkpolicies.networking.k8s.io"
BATCH_S = 0.02
RETRY_S = 5.0
FLOWS_EVERY_S = 2.0
"""Between two looks at all connections that the kernel knows."""
START_S = 30.0
"""How long pods wait for policies where those need not be kept."""
AT_ONCE = 100
"""Changes taken before others have their turn."""
_LOOPBACK = "127."
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class EnforcerConfig:
    """Facts that an enforcer must know of its host. `dns`: the address of the cluster's DNS server, empty for none."""

    node: str
    """Who says so where policies cannot be kept."""
    dns: str
    required: bool
    """No pod starts where policies cannot be kept."""
    node_ips: Callable[[], Iterable[str]]
    """Addresses of this host's nodes, empty where not known yet."""
    opened: Callable[[], None]
    """Called when pods that waited for their rules may speak."""
    judges: bool = False
    """Whether policies count for what leads from one of the cluster's networks to another, without packet rules too."""


class Enforcer:
    """An enforcer of one host. `kernel`: None where there are no packet rules; `why` says then why not."""

    def __init__(
        self, config: EnforcerConfig, client: ApiClient, kernel: KernelTable | None, events: Events, why: str = ""
    ) -> None:
        self._config = config
        self._client = client
        self._kernel = kernel
        self._events = events
        self._known = Policies()
        self._policies = Informer(client, POLICIES)
        self._namespaces = Informer(client, "namespaces")
        self._pods: Informer | None = None
        self._dirty: dict[tuple[str, str], None] = {}
        self._changed = False
        """Whether there may be connections that are not allowed any more."""
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self.trouble = why
        """Why policies are not kept; empty while they are."""
        self.turned: Callable[[], None] = lambda: None
        """Called when trouble came, went, or became another."""

    async def start(self) -> None:
        """Know all policies, and keep them from now on."""
        self._policies.start()
        self._namespaces.start()
        try:
            async with asyncio.timeout(None if self._config.required else START_S):
                await self._policies.synced()
                await self._namespaces.synced()
        except TimeoutError:
            log.warning("network policies could not be read within %g s; they are kept once they are", START_S)
        if self._config.dns:
            dns = dns_facts(self._config.dns)
            self._known.set_pod(dns.key, dns)
        if self._kernel is not None:
            self._kernel.table.put("policies", packet_rules.frame())
        self._namespaces.add_handler(lambda kind, old, new: self._mark("namespace", meta.name(new)))
        self._policies.add_handler(self._policy_event)
        await self._work()
        await self._apply()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="network policies")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        for informer in (self._policies, self._namespaces, *((self._pods,) if self._pods is not None else ())):
            await informer.stop()

    # --- what the runtime asks --------------------------------------------------------------------

    async def admit(self, place: PodPlace) -> None:
        """Have the rules of a pod of this host before it can speak with anybody. Raises SandboxError."""
        facts = facts_of(place.pod, place.ip)
        if facts is None or self._kernel is None:
            return
        self._known.set_own(facts.key, facts)
        if self._flush():
            await self._apply()
        if self.trouble and self._config.required:
            raise SandboxError(f"network policies cannot be kept: {self.trouble}")

    def forget(self, place: PodPlace) -> None:
        """A pod of this host is no more."""
        if self._kernel is not None and not place.host_network:
            self._known.set_own(meta.key(place.pod), None)
            self._wake.set()

    def wake(self) -> None:
        """Pods wait for their rules, or the network that those were in is gone."""
        self._wake.set()

    def may_leave(self, source: str, ip: str, number: int, protocol: str) -> bool:
        """Whether whoever has an address may speak with a place outside of the pods' network; no pods always may."""
        is_pod = source not in self._homes() and not source.startswith(_LOOPBACK)
        return not is_pod or self._known.may_leave(source, ip, number, protocol)

    def may_reach(self, source: str, ip: str, number: int, protocol: str) -> bool:
        """Whether whoever has an address may speak with a pod in another network; no pods always may."""
        is_pod = source not in self._homes() and not source.startswith(_LOOPBACK)
        return not is_pod or self._known.lets(source, ip, number, protocol)

    def _homes(self) -> frozenset[str]:
        return frozenset(filter(None, self._config.node_ips()))

    # --- changes ----------------------------------------------------------------------------------

    def _policy_event(self, kind: str, old: Object | None, new: Object) -> None:
        if old is None or meta.spec(old) != meta.spec(new) or kind == "DELETED":
            self._mark("policy", meta.key(new))
        wanted = self._kernel is not None or self._config.judges
        if kind != "DELETED" and self._pods is None and wanted:
            self._pods = Informer(self._client, "pods")
            self._pods.start()
            self._pods.add_handler(lambda kind, old, new: self._mark("pod", meta.key(new)))

    def _mark(self, kind: str, key: str) -> None:
        self._dirty[kind, key] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Changes come in groups: a roll-out makes many pods.
            await asyncio.sleep(BATCH_S)
            await self._work()
            self._flush()
            await self._apply()
            await self._end_forbidden()

    async def _work(self) -> None:
        taken = 0
        while self._dirty:
            kind, key = next(iter(self._dirty))
            del self._dirty[kind, key]
            try:
                await self._take(kind, key)
            except Exception:
                # One object of a form that is not its kind's must not end the watch over all others.
                log.exception("%s %s: its change was lost", kind, key)
            taken += 1
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _take(self, kind: str, key: str) -> None:
        if kind == "pod":
            assert self._pods is not None
            pod = self._pods.get_key(key)
            self._known.set_pod(key, facts_of(pod) if pod is not None else None)
            return
        self._changed = True
        if kind == "namespace":
            namespace = self._namespaces.get_key(key)
            steps = self._known.set_namespace(key, meta.labels(namespace) if namespace is not None else None)
        else:
            policy = self._policies.get_key(key)
            if policy is not None:
                self._tell(policy)
            steps = self._known.set_policy(key, read(policy) if policy is not None else None)
        for _ in steps:
            await asyncio.sleep(0)

    def _tell(self, policy: Object) -> None:
        words = left_out(policy)
        if words:
            self._events.record(policy, "Warning", "NotAllowed", f"not all of it counts: {words}")
        if self.trouble:
            self._events.record(
                policy, "Warning", "NotEnforced", f"node {self._config.node} does not keep it: {self.trouble}"
            )

    def _flush(self) -> bool:
        """Whether there is anything new to apply."""
        if self._kernel is None:
            self._known.take()
            return False
        changed = self._known.take()
        for owner, fragment in changed.items():
            self._kernel.table.put(owner, fragment)
        self._kernel.table.put("homes", packet_rules.homes(self._homes()))
        return bool(changed)

    async def _apply(self) -> None:
        if self._kernel is None:
            self._config.opened()
            return
        before = self.trouble
        try:
            await self._kernel.apply()
            self.trouble = ""
        except OSError as e:
            self.trouble = f"the kernel takes no packet rules: {e}"
            asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)
        if before != self.trouble:
            log.warning("network policies: %s", self.trouble or "kept")
            self.turned()
            if self.trouble:
                for policy in self._policies.list():
                    self._tell(policy)
        if not self.trouble or not self._config.required:
            self._config.opened()

    # --- connections of before --------------------------------------------------------------------

    async def _end_forbidden(self) -> None:
        """End connections that policies do not allow any more."""
        loop = asyncio.get_running_loop()
        if not self._changed or self._kernel is None or self.trouble:
            return
        if loop.time() < self._looked + FLOWS_EVERY_S:
            loop.call_later(FLOWS_EVERY_S, self._wake.set)
            return
        self._changed = False
        isolated = frozenset(address(ip) for ip in self._known.isolated())
        try:
            found = await self._kernel.flows(
                lambda flow: bool(flow.mark) or not isolated.isdisjoint((flow.source, flow.to))
            )
            for direction, bit in packet_rules.FORBIDDEN.items():
                wrong = [flow async for flow in self._marked_wrongly(found, direction, bit)]
                await self._kernel.mark_flows([flow for flow in wrong if not flow.mark & bit], bit, bit)
                await self._kernel.mark_flows([flow for flow in wrong if flow.mark & bit], 0, bit)
        except OSError as e:
            log.warning("connections of before go on: %s", e)
        finally:
            self._looked = loop.time()

    async def _marked_wrongly(self, flows: Sequence[Flow], direction: str, bit: int) -> AsyncIterator[Flow]:
        homes = self._homes()
        for number, flow in enumerate(flows):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            protocol = _PROTOCOL_NAMES.get(flow.protocol, "")
            source, to = (".".join(map(str, ip)) for ip in (flow.source, flow.to))
            # A node and its pods always reach each other; what leads out by a service, its proxy judges.
            free = (to if direction == EGRESS else source) in homes or self._is_relayed(flow)
            if not free and self._known.judges(direction, source, to):
                allowed = self._known.passes(direction, source, to, flow.to_port, protocol)
                if allowed == bool(flow.mark & bit):
                    yield flow

    def _is_relayed(self, flow: Flow) -> bool:
        assert self._kernel is not None
        socket = key(flow.destination, flow.protocol, port(flow.port))
        return self._kernel.table.has(("relayed", socket))


def dns_facts(ip: str) -> PodFacts:
    """The cluster's DNS server as a pod: whoever allows it names these labels, and here no pod has them."""
    ports = {("dns", "UDP"): 53, ("dns-tcp", "TCP"): 53}
    # No pod has such a name.
    return PodFacts("kube-system/(dns)", "kube-system", ip, {"k8s-app": "kube-dns"}, ports)
