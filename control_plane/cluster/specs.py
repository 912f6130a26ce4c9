"""Specs that actors start with: with their certificates, and of the cluster's secrets what they need."""

from dataclasses import dataclass, replace
from pathlib import Path

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.pki import Secrets, issue, issue_front_proxy
from rayplane.control_plane.cluster.state import ClusterState
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology
from rayplane.control_plane.rpc.tls import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecMaker:
    """A maker of the specs of one cluster's actors. `secrets` is None where the network itself knows who calls."""

    config: ClusterConfig
    plan: AddressPlan
    secrets: Secrets | None
    state_dir: str

    def make(self, instance: Instance, topology: Topology, *, restarted: bool) -> Spec:
        """The spec of one actor. `restarted`: whether it has run before, so that empty data would be lost data."""
        return Spec(
            instance=instance,
            config=self.config,
            plan=self.plan,
            topology=topology,
            credentials=self._credentials(instance, topology),
            secrets=_needed(self.secrets, instance.role),
            data_dir=str(Path(self.state_dir) / "data" / instance.name),
            front_proxy=self._front_proxy(instance),
            log_file=str(Path(self.state_dir) / "logs" / f"{instance.name}.log"),
            restarted=restarted,
        )

    def _credentials(self, instance: Instance, topology: Topology) -> Credentials | None:
        if self.secrets is None:
            return None
        return issue(self.secrets.authority, instance, self.plan.first_service, topology.addresses)

    def _front_proxy(self, instance: Instance) -> Credentials | None:
        if self.secrets is None or instance.role is not Role.APISERVER:
            return None
        return issue_front_proxy(self.secrets.authority)


def brought_back(spec: Spec, machine: Machine, port: int) -> Spec:
    """The spec of a supervisor that its host has started again on another machine, which nobody has planned."""
    instance = replace(spec.instance, machine=machine, ports={**spec.instance.ports, "grpc": port})
    topology = spec.topology.replaced(instance)
    credentials = issue(spec.secrets.authority, instance, spec.plan.first_service) if spec.secrets else None
    return replace(spec, instance=instance, topology=topology, credentials=credentials)


def founding_specs(state: ClusterState, secrets: Secrets, directory: Path) -> list[Spec]:
    """The specs of all actors when a cluster is brought up; those that have data go on from it.

    A member whose directory went away while the cluster was down is no founder again: it would have its old id, and
    could vote for a leader that lacks what it had acknowledged.
    """
    maker = SpecMaker(config=state.config, plan=state.plan, secrets=secrets, state_dir=str(directory.resolve()))
    return [
        maker.make(instance, state.topology, restarted=state.founded or (directory / "data" / instance.name).exists())
        for instance in founders(state.topology)
    ]


def founders(topology: Topology) -> list[Instance]:
    """Who is started when a cluster is brought up: who has yet to join, or is to go, is the supervisor's matter."""
    return [i for i in topology.instances if i.phase is Phase.ACTIVE]


def restarted_spec(instance: Instance, state: ClusterState, secrets: Secrets, directory: Path) -> Spec:
    """The spec of an actor of a running cluster, for whoever starts it again."""
    maker = SpecMaker(config=state.config, plan=state.plan, secrets=secrets, state_dir=str(directory.resolve()))
    return maker.make(instance, state.topology, restarted=True)


def _needed(secrets: Secrets | None, role: Role) -> Secrets | None:
    """Only who needs a secret gets it."""
    if secrets is None or role not in (Role.SUPERVISOR, Role.APISERVER):
        return None
    return secrets if role is Role.SUPERVISOR else replace(secrets, ca_key=b"")
