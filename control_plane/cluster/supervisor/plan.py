"""The plan of a supervisor: from desired and observed state to what is to be done next. Pure.

A member's replacement, each step taken from what is stored and seen, by whichever supervisor sees it:

    member is lost, or its machine is gone,     StoreTopology: an heir, JOINING, that replaces it
    or does not start and the rest are well,
    or all are well and its machine is drained,
    or has two more of them than another
    heir is not in etcd's list                  AddLearner
    heir is a learner, does not run             Start
    heir is a learner, runs                     Promote, until etcd finds that it has caught up
    heir votes                                  StoreTopology: heir ACTIVE, the member LEAVING
    leaving member is in etcd's list            RemoveMember
    leaving member is not in the list, runs     Stop
    nothing of it is left                       StoreTopology: without it, its name retired

Invariants: one change of members at a time; what is removed leaves a majority of healthy voters; no healthy voter is
removed while another voter is not healthy; a member that is known to have lost its data is not started. While etcd
does not answer any other member is: all may be needed for a majority.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rayplane.control_plane.cluster.supervisor.actions import (
    Action,
    AddLearner,
    DeleteNode,
    Promote,
    RemoveMember,
    Start,
    Stop,
    StoreTopology,
    WaitUntil,
)
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus, Observed
from rayplane.control_plane.cluster.supervisor.starts import STARTS_MAX
from rayplane.control_plane.cluster.topology import TIED, Instance, Machine, Phase, Role, Topology

#: The roles whose actors are not ended only to be elsewhere: their data is where they are, or nobody else could do it.
STAYS = (*TIED, Role.SUPERVISOR)
SHARES = "it shares {} with more of its like than there are elsewhere"
#: The roles without data whose actors are several to survive each other's machines.
SPREAD = (Role.APISERVER, Role.SCHEDULER, Role.CONTROLLERS)


def plan(desired: Topology, observed: Observed, now: float) -> list[Action]:
    """What to do now, in this order. Empty when all is as desired, or what is missing is under way."""
    view = _View(desired, observed, now)
    actions: list[Action] = [*view.starts()]
    if not observed.current:
        return actions
    actions = [*view.stops(), *actions]
    wanted, why = view.next_topology()
    if why:
        return [*actions, StoreTopology(wanted, "; ".join(why))]
    return [*actions, *view.member_change(), *view.deletions(), *view.waits()]


def is_settled(desired: Topology, observed: Observed) -> bool:
    """Whether nothing is to be changed about members, as far as can be told without asking etcd."""
    view = _View(desired, observed, 0.0)
    members = desired.of(Role.MEMBER)
    in_doubt = any(view.is_condemned(m) or view.has_failed(m) or view.may_leave(m) for m in members)
    return all(m.phase is Phase.ACTIVE for m in members) and not in_doubt and view.heaped(Role.MEMBER) is None


@dataclass(frozen=True, slots=True)
class _View:
    """The rules, each over the whole of what is wanted and seen."""

    desired: Topology
    seen: Observed
    now: float

    # Facts

    def is_homeless(self, instance: Instance) -> bool:
        return bool(self.seen.machines) and instance.machine.id not in {m.id for m in self.seen.machines}

    @property
    def usable(self) -> list[Machine]:
        """The machines that something may be placed on: those that are not drained, where there are such, and of those
        no machine that is there for nodes alone."""
        found = self.desired.open(self.seen.machines) or [*self.seen.machines]
        stay = {i.machine.id for i in self.desired.instances if i.role is not Role.NODE_HOST}
        return [m for m in found if m.id in stay] or found if self.seen.elastic else found

    def fit(self, role: Role) -> list[Machine]:
        """Those of the usable machines that can run an actor of a role, as far as is known."""
        return [m for m in self.usable if (role, m.id) not in self.seen.unfit]

    def should_leave(self, instance: Instance) -> bool:
        """Whether its machine is drained, and there is another."""
        is_there = instance.phase is Phase.ACTIVE and instance.machine.address in self.desired.drained
        return is_there and bool(self.desired.open(self.seen.machines))

    def may_leave(self, member: Instance) -> bool:
        """Whether a member should leave its machine for one that can run it."""
        return self.should_leave(member) and bool(self.fit(Role.MEMBER))

    def heaped(self, role: Role) -> Instance | None:
        """The last of a role on a machine that has two more of it than another fit one; None: they are spread."""
        alike = [i for i in self.desired.of(role) if i.stays]
        there = Counter(i.machine.id for i in alike)
        least = min((there[m.id] for m in self.fit(role)), default=len(alike))
        return next((i for i in reversed(alike) if there[i.machine.id] > least + 1), None)

    def should_part(self, instance: Instance) -> bool:
        """Whether an actor without data should leave its like for another machine, when all has been the same for long
        and the members, which keep the data, are spread."""
        may_be_stored = self.seen.current and self.seen.members != ()
        if instance.role not in SPREAD or not may_be_stored or self.now < self.seen.steady_at:
            return False
        return self.heaped(instance.role) == instance and self.heaped(Role.MEMBER) is None

    def is_condemned(self, member: Instance) -> bool:
        """Whether a member can never come back. (One that another takes the place of may: it refuses to by itself.)"""
        lost = member.name in self.seen.lost and len(self.desired.of(Role.MEMBER)) > 2
        return lost or self.is_homeless(member)

    def has_failed(self, instance: Instance) -> bool:
        """Whether it does not start where it is planned, however often it is tried."""
        return self.seen.failures.get(instance.name, 0) >= STARTS_MAX

    def is_stuck(self, member: Instance) -> bool:
        """Whether a member does not start while all others are well. (It may yet, and until its heir votes it is tried;
        what keeps several from starting, such as a full disk, would keep their heirs too.)"""
        listed = self.listed(member)
        if listed is None or listed.learner or listed.healthy or not self.has_failed(member):
            return False
        others = self.voters_besides(listed)
        return len(others) > 1 and all(m.healthy for m in others)

    def joining(self) -> list[Instance]:
        return [i for i in self.desired.of(Role.MEMBER) if i.phase is Phase.JOINING]

    @property
    def members(self) -> tuple[MemberStatus, ...]:
        """As etcd lists them; empty when that is not known."""
        return self.seen.members or ()

    def listed(self, instance: Instance) -> MemberStatus | None:
        return next((m for m in self.members if m.is_of(instance)), None)

    def is_voter(self, instance: Instance) -> bool:
        member = self.listed(instance)
        return member is not None and not member.learner

    def exists(self, name: str) -> bool:
        return name in self.seen.running or name in self.seen.starting or name in self.seen.stopping

    def runs(self, name: str) -> bool:
        return name in self.seen.running and name not in self.seen.starting and name not in self.seen.stopping

    def all_know_the_newest(self) -> bool:
        return self.now >= self.seen.learnt_at

    # Actors

    def starts(self) -> Iterator[Action]:
        for instance in self.desired.instances:
            if (
                not self.exists(instance.name)
                and self.may_run(instance)
                and self.seen.not_before.get(instance.name, self.now) <= self.now
            ):
                yield Start(instance)

    def may_run(self, instance: Instance) -> bool:
        if instance.role is Role.MEMBER:
            return self.member_may_run(instance)
        if instance.role is Role.SUPERVISOR or instance.phase is not Phase.ACTIVE or self.is_homeless(instance):
            return False
        return instance.role is Role.NODE_HOST or not (self.should_leave(instance) or self.should_part(instance))

    def member_may_run(self, member: Instance) -> bool:
        if self.is_condemned(member):
            return False
        if self.seen.members == () or member.phase is Phase.ACTIVE:
            return True
        # What etcd does not list would not be let in.
        return member.phase is Phase.JOINING and self.listed(member) is not None

    def stops(self) -> Iterator[Action]:
        seen = self.seen
        for name in sorted((seen.running | seen.starting) - seen.stopping):
            if not self.desired.has(name):
                yield Stop(name, "it is not wanted")
                continue
            instance = self.desired.get(name)
            if instance.phase is Phase.LEAVING and self.may_be_stopped(instance):
                yield Stop(name, "it leaves")
            elif self.is_homeless(instance) and instance.role not in (Role.MEMBER, Role.SUPERVISOR):
                # Its host may have brought it back elsewhere by itself, at an address that is wrong there.
                yield Stop(name, f"its machine {instance.machine.address} is gone")
        if (moving := self.next_to_move()) is not None:
            yield Stop(moving.name, self.why_elsewhere(moving))

    def next_to_move(self) -> Instance | None:
        """The first actor without data that should be elsewhere, once its like are well and known to all; to be apart
        from them, once everybody is."""
        if self.seen.starting or self.seen.stopping or not self.all_know_the_newest():
            return None
        active = [i for i in self.desired.instances if i.phase is Phase.ACTIVE and i.role is not Role.SUPERVISOR]
        for instance in active:
            if not self.why_elsewhere(instance) or self.is_homeless(instance):
                continue
            needed = active if self.should_part(instance) else [i for i in active if i.role is instance.role]
            if all(self.runs(i.name) for i in needed):
                return instance
        return None

    def why_elsewhere(self, instance: Instance) -> str:
        """Why an actor without data should leave a machine that is there; empty when it may stay."""
        if instance.role not in STAYS and self.should_leave(instance):
            return f"its machine {instance.machine.address} is drained"
        return SHARES.format(instance.machine.address) if self.should_part(instance) else ""

    def may_be_stopped(self, leaving: Instance) -> bool:
        if leaving.role is Role.MEMBER:
            return bool(self.members) and self.listed(leaving) is None
        return leaving.role is not Role.APISERVER or self.all_know_the_newest()

    def deletions(self) -> Iterator[Action]:
        """The nodes of hosts that have gone."""
        for instance in self.desired.instances:
            if instance.phase is Phase.LEAVING and not self.exists(instance.name):
                yield from (DeleteNode(n) for n in instance.nodes if n not in self.seen.deregistered)

    # The desired state

    def next_topology(self) -> tuple[Topology, list[str]]:
        """The topology that should be stored, and what in it is new; nothing is when it is the same."""
        topology, why = self.desired, list[str]()
        for instance in self.desired.instances:
            for changed, reason in self.changes_of(instance):
                topology = topology.replaced(changed) if changed is not None else topology.without(instance.name)
                why.append(f"{instance.name} {reason}")
                if changed is not None and changed.replaces and changed.phase is Phase.ACTIVE:
                    topology = _leaving(topology.replaced(replace(changed, replaces="")), changed.replaces)
        for instance in topology.instances:
            if reason := self.why_moved(instance):
                target = self.place_for(instance, topology)
                topology = topology.replaced(replace(instance, machine=target, ports={}))
                why.append(f"{instance.name} moves: {reason}")
        if self.members and not why:
            return self.with_heir()
        return topology, why

    def changes_of(self, instance: Instance) -> Iterator[tuple[Instance | None, str]]:
        """How an instance goes on, at most one change; None when nothing more of it is wanted."""
        if instance.role is Role.MEMBER:
            if self.members:
                yield from self.changes_of_member(instance)
        elif instance.phase is Phase.LEAVING and self.is_gone(instance):
            yield None, "has left"

    def changes_of_member(self, member: Instance) -> Iterator[tuple[Instance | None, str]]:
        listed = self.listed(member)
        if member.phase is Phase.JOINING and self.is_voter(member):
            yield replace(member, phase=Phase.ACTIVE), "votes"
        elif member.phase is Phase.JOINING and (why := self.why_given_up(member)):
            yield replace(member, phase=Phase.LEAVING), f"does not join: {why}"
        elif member.phase is Phase.ACTIVE and listed is None and self.knows_any():
            yield None, "is a member no more"
        elif member.phase is Phase.LEAVING and listed is None and self.is_gone(member):
            yield None, "has left"
        elif member.phase is Phase.LEAVING and member.name in self.seen.overdue and self.is_well(member):
            yield replace(member, phase=Phase.ACTIVE), "stays: not all other members are healthy"

    def why_given_up(self, joining: Instance) -> str:
        """Why a member will not join; empty when it still may. Whoever asked for it waits no longer than so."""
        failures = self.seen.failures.get(joining.name, 0)
        if joining.name in self.seen.lost:
            return "it lost its data"
        if self.is_homeless(joining):
            return f"its machine {joining.machine.address} is gone"
        if failures >= (1 if joining.name in self.seen.awaited else STARTS_MAX) and self.listed(joining) is not None:
            return "it does not start"
        if joining.name in self.seen.overdue and not joining.replaces:
            return "it does not catch up"
        return ""

    def is_well(self, member: Instance) -> bool:
        listed = self.listed(member)
        return listed is not None and listed.healthy and not listed.learner and not self.is_condemned(member)

    def knows_any(self) -> bool:
        """Whether etcd's list is of this topology at all."""
        return any(self.listed(m) is not None for m in self.desired.of(Role.MEMBER))

    def is_gone(self, leaving: Instance) -> bool:
        return not self.exists(leaving.name) and self.seen.deregistered.issuperset(leaving.nodes)

    def why_moved(self, instance: Instance) -> str:
        """Why an actor gets other ports, and another machine where there is one; empty when it stays where it is."""
        stays = instance.role in (Role.MEMBER, Role.SUPERVISOR) or instance.phase is Phase.LEAVING
        if stays or self.exists(instance.name):
            return ""
        if self.is_homeless(instance):
            return f"its machine {instance.machine.address} is gone"
        # Without etcd nothing starts anywhere, whatever its ports.
        if self.has_failed(instance) and self.seen.members != ():
            return f"it has failed {STARTS_MAX} times in a row at {instance.machine.address}"
        return self.why_elsewhere(instance)

    def place_for(self, instance: Instance, topology: Topology) -> Machine:
        needs_ports = instance.name in self.seen.crowded and not self.should_leave(instance)
        if not self.is_homeless(instance) and (instance.role is Role.NODE_HOST or needs_ports):
            # A node host's volumes lie there; and where a port is taken, others will do.
            return instance.machine
        others = [m for m in self.usable if m.id != instance.machine.id]
        if instance.role is Role.LOAD_BALANCER:
            # API servers are taken for themselves at the machines that they knew of when they started.
            known = {i.machine for i in self.desired.instances}
            others = [m for m in others if m in known] or others
        else:
            fit = self.fit(instance.role)
            others = [m for m in others if m in fit] or others
        return topology.least_used(others, instance.role, instance.name) if others else instance.machine

    def with_heir(self) -> tuple[Topology, list[str]]:
        """The topology with another member for the first that cannot come back or should not stay, one at a time."""
        active = [m for m in self.desired.of(Role.MEMBER) if m.phase is Phase.ACTIVE]
        member = (
            next(filter(self.is_condemned, active), None)
            or next(filter(self.is_stuck, active), None)
            or next(filter(self.may_leave, active if self.all_are_well() else ()), None)
            or (self.heaped(Role.MEMBER) if self.all_are_well() and self.now >= self.seen.steady_at else None)
        )
        if self.joining() or member is None or not self.seen.machines:
            return self.desired, []
        # What keeps a member from starting may be the matter of its machine.
        everywhere = self.is_condemned(member)
        heir = Instance(
            name=self.desired.next_member(self.seen.retired),
            role=Role.MEMBER,
            machine=self.desired.least_used(self.usable, Role.MEMBER, member.name)
            if everywhere
            else self.place_for(member, self.desired),
            joins=True,
            phase=Phase.JOINING,
            replaces=member.name,
        )
        why = f"{heir.name} takes the place of {member.name}: {self.why_replaced(member)}"
        return self.desired.with_instance(heir), [why]

    def all_are_well(self) -> bool:
        """Whether a member may move though nothing ails it."""
        members = self.desired.of(Role.MEMBER)
        return len(self.members) == len(members) and all(m.phase is Phase.ACTIVE and self.is_well(m) for m in members)

    def why_replaced(self, member: Instance) -> str:
        if member.name in self.seen.lost:
            return "it lost its data"
        if self.is_homeless(member):
            return f"its machine {member.machine.address} is gone"
        if self.should_leave(member):
            return f"its machine {member.machine.address} is drained"
        if not self.is_stuck(member):
            return SHARES.format(member.machine.address)
        return f"it has failed {STARTS_MAX} times in a row at {member.machine.address}"

    # Members

    def member_change(self) -> Iterator[Action]:
        """The next step about etcd's members, at most one."""
        if not self.members:
            return
        for step in (self.clean_up, self.remove_unhealthy, self.advance, self.remove_healthy):
            action = step()
            if action is not None:
                yield action
                return

    def clean_up(self) -> Action | None:
        """Take out a learner that nobody wants."""
        wanted = [i for i in self.desired.of(Role.MEMBER) if i.phase is not Phase.LEAVING]
        for member in self.members:
            if member.learner and not any(member.is_of(i) for i in wanted):
                return RemoveMember(self.name_of(member), member.id)
        return None

    def remove_unhealthy(self) -> Action | None:
        """Take out a voter that leaves and is of no use to the others."""
        for member in self.leaving_voters():
            if not member.healthy and self.may_do_without(member):
                return RemoveMember(self.name_of(member), member.id)
        return None

    def advance(self) -> Action | None:
        """Bring the first learner a step nearer to its vote."""
        for instance in self.desired.of(Role.MEMBER):
            if instance.phase is Phase.LEAVING:
                continue
            member = self.listed(instance)
            if member is None and instance.phase is Phase.JOINING and not any(m.learner for m in self.members):
                return AddLearner(instance.name, instance.endpoint("peer"))
            if member is not None and member.learner and self.runs(instance.name):
                return Promote(instance.name, member.id)
        return None

    def remove_healthy(self) -> Action | None:
        """Take out a voter that leaves while all others are well and known to all."""
        if self.joining() or not self.all_know_the_newest():
            return None
        for member in self.leaving_voters():
            others = self.voters_besides(member)
            if member.healthy and all(m.healthy for m in others) and self.may_do_without(member):
                return RemoveMember(self.name_of(member), member.id)
        return None

    def leaving_voters(self) -> list[MemberStatus]:
        leaving = [i for i in self.desired.of(Role.MEMBER) if i.phase is Phase.LEAVING]
        return [m for m in self.members if not m.learner and any(m.is_of(i) for i in leaving)]

    def voters_besides(self, member: MemberStatus) -> list[MemberStatus]:
        return [m for m in self.members if not m.learner and m.id != member.id]

    def may_do_without(self, member: MemberStatus) -> bool:
        """Whether a majority of the voters that are left is healthy."""
        others = self.voters_besides(member)
        return sum(m.healthy for m in others) > len(others) // 2

    def name_of(self, member: MemberStatus) -> str:
        names = (i.name for i in self.desired.of(Role.MEMBER) if member.is_of(i))
        return next(names, f"member {member.id:x}")

    def waits(self) -> Iterator[Action]:
        leaving = any(i.phase is Phase.LEAVING for i in self.desired.instances)
        if leaving and not self.all_know_the_newest():
            yield WaitUntil(self.seen.learnt_at, "all clients know of the actors that came last")


def _leaving(topology: Topology, name: str) -> Topology:
    if not topology.has(name):
        return topology
    return topology.replaced(replace(topology.get(name), phase=Phase.LEAVING))
