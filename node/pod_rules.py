"""The rules that packets of isolated pods meet on one host: of services, of network policies, of the way out.

Composes what keeps them; what is not there is left out: other hosts' pods share the machine's network.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import NO_RULES
from rayplane.control_plane.api.pods.marks import Netem
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.node.config import NAMESPACES, NONE, OFF, ON, NodeHostConfig
from rayplane.node.egress.networks import Outside
from rayplane.node.egress.relay import EgressRelay, RelayConfig
from rayplane.node.events import Events
from rayplane.node.kubelet.kubelet import Kubelet
from rayplane.node.nftables.kernel import KernelTable
from rayplane.node.nftables.ruleset import NOTHING, Fragment, Table
from rayplane.node.policy import disturbance
from rayplane.node.policy.disturbance import Way
from rayplane.node.policy.enforcer import Enforcer, EnforcerConfig
from rayplane.node.policy.holding import NOT_YET, Holding
from rayplane.node.proxy.proxy import ProxyConfig
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.node.tasks import Tasks

if TYPE_CHECKING:
    from rayplane.node.runtime.isolation.runtime import IsolatedRuntime

OFF_HERE = "network policy is off on its host"
BEYOND = f"more than {disturbance.TOGETHER_MAX} pairs of addresses on its host"


class Wanted(NamedTuple):
    """A pod's disturbance: rules of the kernel, and what its host holds."""

    rules: Fragment
    held: Mapping[Way, Sequence[Netem]]


CALM = Wanted(NOTHING, {})


class PodRules:
    """The rules of one host. `isolated`: the runtime whose pods have networks of their own; None for none.

    `kubelets`: by node; `nodes`: a started informer.
    """

    def __init__(
        self,
        config: NodeHostConfig,
        isolated: "IsolatedRuntime | None",
        kubelets: Mapping[str, Kubelet],
        nodes: Informer,
    ) -> None:
        self._config = config
        self._isolated = isolated
        self._kubelets = kubelets
        self._nodes = nodes
        self.kernel = KernelTable(isolated.open_netfilter) if isolated is not None else None
        self.holding: Holding | None = None
        self.enforcer: Enforcer | None = None
        self.relay: EgressRelay | None = None
        self._events: Events | None = None
        self._budget = disturbance.Budget()
        self._disturbed: dict[str, Object] = {}
        """Pods that experiments have lose packets, by uid."""
        self._beyond: dict[str, int] = {}
        """How many elements those of them would take that had to go without."""
        self._stack = AsyncExitStack()
        if isolated is not None and self.kernel is not None:
            self.holding = Holding(isolated.open_netfilter, self.kernel.try_out, self._hold)
            self._stack.push_async_callback(self.kernel.close)
            self._stack.push_async_callback(self.holding.close)

    async def start(self, client: ApiClient, events: Events) -> None:
        """Keep network policies. Before any pod starts: one that a policy isolates speaks with nobody unasked."""
        config, isolated = self._config, self._working()
        self._events = events
        if config.network_policy == OFF:
            if isolated is not None:
                isolated.isolation += NO_RULES
            return
        facts = EnforcerConfig(
            config.nodes[0].name,
            config.dns,
            config.network_policy == ON,
            lambda: [kubelet.node_ip for kubelet in self._kubelets.values()],
            isolated.open_pods if isolated is not None else lambda: None,
            judges=config.isolation == NAMESPACES,
        )
        why = "" if isolated is not None else _why_not(config)
        self.enforcer = Enforcer(facts, client, self.kernel if isolated is not None else None, events, why)
        self._stack.push_async_callback(self.enforcer.stop)
        self.enforcer.turned = self._retell
        await self.enforcer.start()
        if isolated is not None:
            isolated.guard = self.enforcer
            if self.enforcer.trouble and config.network_policy == ON:
                isolated.trouble = f"network policies cannot be kept: {self.enforcer.trouble}"

    def open_way_out(self, tasks: Tasks) -> None:
        """Let pods reach what is outside of the cluster, where that is asked for."""
        isolated = self._working()
        if self._config.egress == NONE or isolated is None or self.kernel is None:
            return
        outside = Outside(self._config.loopback_networks, self._config.egress_allow)
        nodes = lambda: [ip for kubelet in self._kubelets.values() if (ip := kubelet.node_ip)]  # noqa: E731
        relay = self.relay = EgressRelay(RelayConfig(outside, isolated, self._pods, nodes), self.kernel, tasks)
        self._stack.push_async_callback(relay.stop)
        relay.start()
        self._nodes.add_handler(lambda kind, old, new: relay.check())

    def _pods(self) -> list[str]:
        """The networks of this host's pods, as far as they are known."""
        nodes = (self._nodes.get("", name) for name in self._kubelets)
        return [cidr for node in nodes if node is not None and (cidr := meta.spec(node).get("podCIDR"))]

    async def stop(self) -> None:
        await self._stack.aclose()

    def pod_event(self, kind: str, old: Object | None, pod: Object) -> None:
        """A pod of this host is told of: experiments may have it lose packets."""
        if kind == "MODIFIED" and old is not None and disturbance.told(old) == disturbance.told(pod):
            return
        if old is not None and meta.uid(old) != meta.uid(pod):
            self._disturb(old, there=False)
        self._disturb(pod, there=kind != "DELETED")

    def undisturbed(self, uid: str) -> str:
        """Why the packets of a pod that should be disturbed are not; empty for others."""
        if uid not in self._disturbed:
            return ""
        enforcer, holding = self.enforcer, self.holding
        why = (enforcer.trouble if enforcer is not None else OFF_HERE) or (BEYOND if uid in self._beyond else "")
        return why or (holding.trouble if holding is not None and holding.needs(uid) else "")

    def _disturb(self, pod: Object, *, there: bool = True) -> None:
        uid, wanted = meta.uid(pod), self._wanted(pod) if there else CALM
        if wanted == CALM and uid not in self._disturbed:
            return
        self._disturbed[uid] = pod
        served = self._apply({uid: wanted})
        if wanted == CALM:
            del self._disturbed[uid]
        for one in (pod, *served):
            self._tell(one)

    def _wanted(self, pod: Object) -> Wanted:
        number = self.holding.number if self.holding is not None else 0
        return Wanted(disturbance.of_pod(pod, number), disturbance.held(pod))

    def _apply(self, wanted: Mapping[str, Wanted]) -> list[Object]:
        """Have pods disturbed so, by uid; returns others that have their rules by that."""
        if self.enforcer is None or self.kernel is None:
            return []
        for uid, one in wanted.items():
            self._put(self.kernel.table, uid, one)
        served = self._offer(self.kernel.table)
        self.enforcer.wake()
        return served

    def _hold(self) -> None:
        """There is a queue for packets, or why there is none is another reason than before."""
        holding = self.holding
        pods = {uid: pod for uid, pod in self._disturbed.items() if holding is not None and holding.needs(uid)}
        served = self._apply({uid: self._wanted(pod) for uid, pod in pods.items()})
        for one in (*pods.values(), *served):
            self._tell(one)

    def _put(self, table: Table, uid: str, wanted: Wanted) -> None:
        """The rules of a pod and what is held for it, or nothing where all rules together would be too many."""
        self._beyond.pop(uid, None)
        if not self._budget.take(uid, wanted.rules):
            wanted, self._beyond[uid] = CALM, len(wanted.rules.elements)
        if self.holding is not None:
            self.holding.put(uid, wanted.held)
        table.put(f"disturbance of {uid}", wanted.rules)

    def _offer(self, table: Table) -> list[Object]:
        """Pods that had to go without and, as others may have given elements back, have their rules now."""
        served: list[Object] = []
        for uid, size in [*self._beyond.items()]:
            if size <= self._budget.left:
                served.append(self._disturbed[uid])
                self._put(table, uid, self._wanted(served[-1]))
        return served

    def _tell(self, pod: Object) -> None:
        """Say on the pod, and as an event, whether it could be done."""
        if kubelet := self._kubelets.get(meta.node_name(pod)):
            kubelet.restate(meta.uid(pod))
        why = self.undisturbed(meta.uid(pod))
        if why not in ("", NOT_YET) and self._events is not None:
            told = f"its packets are not disturbed as experiments want it: {why}"
            self._events.record(pod, "Warning", "NotDisturbed", told)

    def _retell(self) -> None:
        for pod in [*self._disturbed.values()]:
            self._tell(pod)

    def may_leave(self, client: str, ip: str, port: int, protocol: str) -> bool:
        """Whether whoever has an address may speak with a place outside of the pods' network."""
        return self.enforcer is None or self.enforcer.may_leave(client, ip, port, protocol)

    def may_reach(self, client: str, ip: str, port: int, protocol: str) -> bool:
        """Whether whoever has an address may speak with a pod that is in another network than this host's."""
        return self.enforcer is None or self.enforcer.may_reach(client, ip, port, protocol)

    def reopen(self) -> None:
        """The network that the rules were in is gone."""
        if self.kernel is not None:
            self.kernel.reopen()
        if self.holding is not None:
            self.holding.reopen()
        if self.enforcer is not None:
            self.enforcer.wake()
        if self.relay is not None:
            self.relay.reopen()

    def _working(self) -> "IsolatedRuntime | None":
        return self._isolated if self._isolated is not None and not self._isolated.trouble else None


def _why_not(config: NodeHostConfig) -> str:
    """Why pods of a host without isolated ones are not held to policies."""
    if not any(node.cri_path for node in config.nodes):
        return "its pods share the machine's network"
    but = " (it counts for what services lead between them and isolated ones)" if config.isolation == NAMESPACES else ""
    return f"its pods are in the network of another runtime{but}"


def proxy_config(config: NodeHostConfig, address: str, network: PodNetwork, rules: PodRules | None) -> ProxyConfig:
    """What the service proxy must know of a host; `address`: host:port of its services."""
    more = (rules.kernel, rules.may_leave, rules.may_reach) if rules is not None else ()
    facts = address, config.loopback_networks, network, config.batch_window_s, config.services, config.dns
    return ProxyConfig(*facts, *more)
