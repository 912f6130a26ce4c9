"""Diagnosis of a cluster: its faults, judged by what was measured. Pure: facts in, faults out.

A fact that could not be got in time is a fault of whoever did not answer. Spans are seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A lease is renewed every third or so of its duration; clocks of machines may differ by as much again.
LEASE_AGES_MAX = 2.0
# Entries that some member has in its log and another has not applied.
APPLY_LAG_MAX = 5000
DISK_FREE_MIN = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorFacts:
    """Facts about an actor, as the supervisor tells them, or as it shows by answering."""

    name: str
    role: str
    machine: str = ""
    running: bool | None = True
    """None when nobody can tell."""
    starts: int = 0
    failures: int = 0
    """Starts in a row that failed, or whose actor ended soon after."""
    reason: str = ""
    """Why the last one did."""
    version: str = ""
    """The build that it runs; empty where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """Facts about an etcd member, as it tells them itself."""

    name: str
    endpoint: str
    error: str = ""
    """Why it did not answer; the rest is of no use then."""
    id: int = 0
    leader: int = 0
    term: int = 0
    revision: int = 0
    raft_index: int = 0
    raft_applied: int = 0
    db_bytes: int = 0
    errors: tuple[str, ...] = ()
    """What it says is wrong, alarms among it."""

    @property
    def healthy(self) -> bool:
        return not self.error and bool(self.leader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Results of writing and reading a Lease through one API server, and of asking its HTTPS port."""

    name: str
    error: str = ""
    https_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadFacts:
    """The Lease of a component that has one leader, as it was `age_s` after its last renewal."""

    name: str
    holder: str = ""
    age_s: float = 0.0
    duration_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    name: str
    registered: bool = True
    ready: bool = False
    reason: str = ""
    lease_age_s: float | None = None
    """None: it has no Lease."""
    lease_duration_s: float = 0.0
    runtime: str = ""
    """What its containers are run by, and that one's version."""
    isolation: str = ""
    no_services: str = ""
    """What it says of its pods when they find no services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    actors: Sequence[ActorFacts] = ()
    members: Sequence[MemberFacts] = ()
    servers: Sequence[ServerFacts] = ()
    leads: Sequence[LeadFacts] = ()
    nodes: Sequence[NodeFacts] = ()
    supervisor_error: str = ""
    nodes_error: str = ""
    front_error: str = ""
    """Why the load balancer's port does not lead to an API server."""
    disk_free: int | None = None
    """Bytes left where the state directory is; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One line for people: who, and what is wrong."""

    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.who}: {self.what}"


def judge(facts: Facts) -> list[Fault]:
    """Everything that is wrong, the deepest causes first; empty when the cluster is healthy."""
    found = [
        *_machine(facts),
        *_actors(facts),
        *_members(facts.members),
        *_servers(facts.servers),
        *_front(facts),
        *_leads(facts),
        *_nodes(facts),
    ]
    return list(dict.fromkeys(found))


def _machine(facts: Facts) -> Iterator[Fault]:
    if facts.disk_free is not None and facts.disk_free < DISK_FREE_MIN:
        yield Fault("disk", f"only {facts.disk_free >> 20} MiB are free where the cluster's state is")


def _actors(facts: Facts) -> Iterator[Fault]:
    if facts.supervisor_error:
        yield Fault("supervisor", f"does not answer: {facts.supervisor_error}")
    for actor in facts.actors:
        if actor.failures > 1:
            yield Fault(actor.name, f"has failed {actor.failures} times in a row: {actor.reason}")
        elif actor.running is False:
            yield Fault(actor.name, f"does not run{f': {actor.reason}' if actor.reason else ''}")


def _members(members: Sequence[MemberFacts]) -> Iterator[Fault]:
    answered = [m for m in members if not m.error]
    for member in members:
        if member.error:
            yield Fault(member.name, f"does not answer: {member.error}")
        elif not member.leader:
            yield Fault(member.name, "has no leader")
    term = max((m.term for m in answered), default=0)
    leaders = {m.leader for m in answered if m.term == term and m.leader}
    if len(leaders) > 1:
        yield Fault("etcd", f"members of term {term} name {len(leaders)} different leaders")
    commit = max((m.raft_index for m in answered), default=0)
    for member in answered:
        behind = commit - member.raft_applied
        if behind > APPLY_LAG_MAX:
            yield Fault(member.name, f"is {behind} entries behind")
        for error in member.errors:
            if member.leader:
                yield Fault(member.name, error.strip())


def _servers(servers: Sequence[ServerFacts]) -> Iterator[Fault]:
    for server in servers:
        if server.error:
            yield Fault(server.name, f"does not write and read: {server.error}")
        if server.https_error:
            yield Fault(server.name, f"its HTTPS port does not answer: {server.https_error}")


def _front(facts: Facts) -> Iterator[Fault]:
    if facts.front_error:
        yield Fault("lb", f"does not lead to an API server: {facts.front_error}")


def _leads(facts: Facts) -> Iterator[Fault]:
    known = {a.name for a in facts.actors}
    for lead in facts.leads:
        holder = lead.holder.partition("_")[0]
        if lead.error:
            yield Fault(lead.name, f"who leads cannot be read: {lead.error}")
        elif not lead.holder:
            yield Fault(lead.name, "nobody leads")
        elif lead.age_s > LEASE_AGES_MAX * lead.duration_s:
            yield Fault(lead.name, f"its leader {holder} has not renewed its Lease for {lead.age_s:.0f} s")
        elif known and holder not in known:
            yield Fault(lead.name, f"its leader {holder} is no actor of this cluster")


def _nodes(facts: Facts) -> Iterator[Fault]:
    if facts.nodes_error:
        yield Fault("nodes", f"cannot be listed: {facts.nodes_error}")
    for node in facts.nodes:
        age, limit = node.lease_age_s, LEASE_AGES_MAX * node.lease_duration_s
        if not node.registered:
            yield Fault(node.name, "is not registered")
        elif not node.ready:
            yield Fault(node.name, f"is not Ready{f': {node.reason}' if node.reason else ''}")
        elif age is None:
            yield Fault(node.name, "has no Lease")
        elif age > limit:
            yield Fault(node.name, f"has not renewed its Lease for {age:.0f} s")
        if node.no_services:
            yield Fault(node.name, node.no_services)
