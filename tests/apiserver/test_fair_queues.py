"""The pure parts of priority and fairness, in virtual time: queues, hands of cards, seats that are lent, schemas."""

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.bootstrap_flow import flow_schemas, priority_levels
from rayplane.control_plane.apiserver.flowcontrol import estimates
from rayplane.control_plane.apiserver.flowcontrol.levels import Level, Spec, allocate, lend, share_out
from rayplane.control_plane.apiserver.flowcontrol.matching import Asked, Schema, deal, in_order
from rayplane.control_plane.apiserver.flowcontrol.queues import CONCURRENCY_LIMIT, QUEUE_FULL, QueueSet, Ticket
from rayplane.control_plane.identities import MASTERS, NODES


def queue_set(limit: int, *, queues: int = 64, length: int = 50) -> QueueSet:
    found = QueueSet(limit=limit, now=0.0)
    found.queues, found.length_max = queues, length
    return found


class World:
    """Requests that take known times, at a level of which each flow has its hand."""

    def __init__(self, queues: QueueSet, hand: int = 6) -> None:
        self.queues = queues
        self.hand = hand
        self.now = 0.0
        self.numbers = itertools.count()
        self.events: list = []
        self.served: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self.refused: Counter[str] = Counter()

    def ask(self, at: float, flow: str, service_s: float, **wide: float) -> None:
        heapq.heappush(self.events, (at, next(self.numbers), "arrive", flow, service_s, wide))

    def run(self, until: float = math.inf) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, what, one, service_s, wide = heapq.heappop(self.events)
            if what == "arrive":
                ticket = Ticket.wide(one, **{"seats": 1, **wide})
                ticket.flow = (one, service_s)
                hand = deal("schema", one, self.queues.queues, min(self.hand, self.queues.queues)) or (0,)
                refusal = self.queues.arrive(ticket, hand, self.now)
                if refusal:
                    self.refused[one] += 1
                elif ticket.has_begun:
                    self._begin(ticket)
            elif what == "finish":
                if one.linger_s:
                    released_at = self.now + one.linger_s
                    heapq.heappush(self.events, (released_at, next(self.numbers), "release", one, 0.0, {}))
                self._all_begin(self.queues.finish(one, self.now))
            else:
                self._all_begin(self.queues.release(one, self.now))

    def _all_begin(self, begun: Sequence[Ticket]) -> None:
        for ticket in begun:
            self._begin(ticket)

    def _begin(self, ticket: Ticket) -> None:
        flow, service_s = ticket.flow
        self.served[flow] += 1
        self.seconds[flow] += service_s * ticket.seats
        self.waits.setdefault(flow, []).append(self.now - ticket.arrived_at)
        heapq.heappush(self.events, (self.now + service_s, next(self.numbers), "finish", ticket, 0.0, {}))


def test_a_greedy_flow_does_not_keep_others_waiting() -> None:
    world = World(queue_set(4))
    for n in range(1000):
        world.ask(n * 1e-6, "greedy", 0.01)
    for user in ("alice", "bob", "carol"):
        for n in range(20):
            world.ask(0.1 + n * 0.04, user, 0.01)
    world.run()
    assert world.refused.keys() == {"greedy"}, "its own hand was full"
    for user in ("alice", "bob", "carol"):
        # One that is under way, and perhaps one of each of the others.
        assert max(world.waits[user]) < 0.025 and world.served[user] == 20
    assert world.queues.idle and not world.queues.seats and not world.queues.live


def test_flows_that_want_all_get_equal_parts_whatever_their_requests_take() -> None:
    world = World(queue_set(4))
    for n in range(2000):
        world.ask(n * 0.001, "short", 0.004)
        world.ask(n * 0.001, "long", 0.016)
    world.run(until=2.0)
    assert 0.8 < world.seconds["short"] / world.seconds["long"] < 1.25


def test_wide_requests_come_to_their_turn_among_narrow_ones() -> None:
    world = World(queue_set(4))
    for n in range(400):
        world.ask(n * 0.001, "narrow", 0.01)
    for n in range(10):
        world.ask(0.02 + n * 0.03, "wide", 0.01, seats=3)
    world.ask(0.1, "wider than the level", 0.01, seats=9)
    world.run()
    assert world.served["wide"] == 10 and world.served["wider than the level"] == 1
    assert max(world.waits["wide"]) < 0.1
    assert world.queues.blocked


def test_what_goes_on_after_an_answer_keeps_its_seats() -> None:
    queues = queue_set(2)
    first, second = Ticket.wide("a", 1, final=2, linger_s=0.5), Ticket()
    queues.arrive(first, (0,), 0.0)
    queues.arrive(second, (1,), 0.0)
    assert queues.finish(first, 1.0) == [] and not second.has_begun
    assert queues.release(first, 1.5) == [second]


def test_a_full_queue_and_a_level_without_queues_refuse() -> None:
    queues = queue_set(1, queues=1, length=2)
    outcomes = [queues.arrive(Ticket(), (0,), 0.0) for _ in range(4)]
    assert outcomes == ["", "", "", QUEUE_FULL]
    queues = queue_set(1, queues=0)
    assert [queues.arrive(Ticket(), (0,), 0.0) for _ in range(2)] == ["", CONCURRENCY_LIMIT]


class Chance:
    """Anything that may happen to a level, in any order."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.queues = queue_set(rng.randint(0, 6), queues=rng.choice((1, 3, 8)), length=rng.randint(1, 4))
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.lingering: list[Ticket] = []

    def begin(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self.waiting.remove(ticket)
            self.running.append(ticket)

    def one_of(self, tickets: list[Ticket]) -> Ticket:
        return tickets.pop(self.rng.randrange(len(tickets)))

    def arrive(self) -> None:
        rng, queues = self.rng, self.queues
        linger_s = rng.choice((0.0, 0.0, 0.01))
        ticket = Ticket.wide("x", rng.randint(1, 3), final=rng.randint(0, 8) if linger_s else 0, linger_s=linger_s)
        hand = rng.sample(range(queues.queues), min(queues.queues, 3)) or [0]
        before = queues.seats
        if not queues.arrive(ticket, hand, self.now):
            (self.running if ticket.has_begun else self.waiting).append(ticket)
        elif queues.queues:
            assert before >= queues.limit, "who is refused finds no seat"

    def finish(self) -> None:
        if self.running:
            ticket = self.one_of(self.running)
            if ticket.linger_s:
                self.lingering.append(ticket)
            self.begin(self.queues.finish(ticket, self.now))

    def release(self) -> None:
        if self.lingering:
            self.begin(self.queues.release(self.one_of(self.lingering), self.now))

    def abandon(self) -> None:
        if self.waiting:
            self.begin(self.queues.abandon(self.one_of(self.waiting), self.now))

    def limit(self) -> None:
        self.begin(self.queues.set_limit(self.rng.randint(0, 6), self.now))

    def configure(self) -> None:
        self.queues.queues = self.rng.choice((0, 1, 3, 8))

    def check(self, most: int) -> None:
        queues, busy = self.queues, [*self.running, *self.lingering]
        assert all(t.has_begun for t in busy) and not any(t.has_begun for t in self.waiting)
        assert queues.seats == sum(t.seats for t in busy)
        assert queues.waiting == len(self.waiting) and queues.seats_waiting == sum(t.seats for t in self.waiting)
        assert queues.seats <= max(queues.limit, most) or len(busy) == 1
        assert not self.waiting or queues.seats or not queues.limit, "somebody waits for nobody"


@given(st.integers(0, 1 << 32))
def test_no_seat_is_lost_and_none_is_made(seed: int) -> None:
    world = Chance(seed)
    do = (world.arrive, world.arrive, world.finish, world.finish, world.release, world.abandon, world.limit)
    for _ in range(200):
        world.now += world.rng.choice((0.0, 0.001, 0.1))
        most = max(world.queues.seats, world.queues.limit)
        world.rng.choice((*do, world.configure))()
        world.check(most)
    world.begin(world.queues.set_limit(3, world.now))
    while world.running or world.lingering:
        world.finish()
        world.release()
    queues = world.queues
    assert not world.waiting and queues.idle and not queues.seats and not queues.live


# --- hands ----------------------------------------------------------------------------------------


@given(st.text(), st.integers(1, 500), st.integers(1, 8))
def test_a_hand_is_dealt_as_from_a_deck(flow: str, queues: int, size: int) -> None:
    hand = deal("schema", flow, queues, min(size, queues))
    assert len(set(hand)) == min(size, queues) and all(0 <= card < queues for card in hand)
    assert hand == deal("schema", flow, queues, min(size, queues))


def test_hands_overlap_little() -> None:
    hands = [set(deal("s", f"user-{n}", 64, 6)) for n in range(400)]
    assert max(len(hands[0] & hand) for hand in hands[1:]) < 5
    dealt = Counter(card for hand in hands for card in hand)
    assert len(dealt) == 64 and max(dealt.values()) < 3 * min(dealt.values())


# --- seats ----------------------------------------------------------------------------------------

BOUNDS = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(st.tuples(st.floats(0, 100), BOUNDS), min_size=1, max_size=8), st.integers(0, 200))
def test_each_gets_the_same_part_of_its_wish_or_its_bound(wants: list, total: int) -> None:
    wishes, bounds = [w for w, _ in wants], [b for _, b in wants]
    parts, fair = allocate(total, wishes, bounds)
    for part, wish, (low, high) in zip(parts, wishes, bounds, strict=True):
        assert low <= part <= high
        assert part in (low, high) or math.isclose(part, fair * max(wish, 0.001), rel_tol=1e-6)
    reachable = min(max(total, sum(low for low, _ in bounds)), sum(high for _, high in bounds))
    assert math.isclose(sum(parts), reachable, abs_tol=1e-3)


def built_in() -> dict[str, Level]:
    levels = {o["metadata"]["name"]: Level(Spec.of(o), 0.0) for o in priority_levels()}
    share_out(list(levels.values()), 600)
    return levels


def test_nominal_seats_are_those_of_kubernetes() -> None:
    levels = built_in()
    nominal = {name: (level.nominal, level.lower) for name, level in levels.items()}
    assert nominal == {
        "exempt": (0, 0), "catch-all": (13, 13), "system": (74, 50), "node-high": (98, 73),
        "leader-election": (25, 25), "workload-high": (98, 49), "workload-low": (245, 24), "global-default": (49, 24),
    }  # fmt: skip


def wanted(level: Level, seats: int) -> None:
    queues = level.queues
    queues.queues, queues.length_max = 1, seats
    for _ in range(seats - queues.waiting):
        queues.arrive(Ticket(), (0,), queues._at)
    level.observe(queues._at + 10.0)


def test_a_busy_level_borrows_what_others_do_not_use() -> None:
    levels = built_in()
    for level in levels.values():
        wanted(level, 300 if level.spec.name == "workload-low" else 0)
    limits = dict(zip(levels, lend(list(levels.values()))[0], strict=True))
    assert limits["workload-low"] > 300 > levels["workload-low"].nominal
    assert all(limits[name] >= level.lower for name, level in levels.items())
    assert abs(sum(limits.values()) - sum(level.nominal for level in levels.values())) <= len(levels)
    # And gives it back when the others are busy, at once as far as it was theirs.
    for level in levels.values():
        wanted(level, 300)
    limits = dict(zip(levels, lend(list(levels.values()))[0], strict=True))
    assert limits["system"] >= levels["system"].nominal


def test_a_level_borrows_no_more_than_it_may() -> None:
    levels = built_in()
    busy = levels["workload-low"]
    o = next(o for o in priority_levels() if o["metadata"]["name"] == "workload-low")
    o["spec"]["limited"]["borrowingLimitPercent"] = 10
    busy.spec = Spec.of(o)
    share_out(list(levels.values()), 600)
    for level in levels.values():
        wanted(level, 600 if level is busy else 0)
    limits = dict(zip(levels, lend(list(levels.values()))[0], strict=True))
    assert limits["workload-low"] == busy.upper == 245 + 25


def test_lists_and_writes_that_many_watch_are_wide() -> None:
    assert [estimates.of_list(n, 3000, 10) for n in (0, 1, 40, 100, 5000)] == [1, 1, 2, 3, 10]
    assert estimates.of_list(5000, 3000, 2) == 2
    assert estimates.of_write(9, 10) == (0, 0.0)
    seats, linger_s = estimates.of_write(1000, 10)
    assert seats == 10 and seats * linger_s == pytest.approx(0.02)


# --- schemas --------------------------------------------------------------------------------------

ACCOUNT = "system:serviceaccount:kube-system:job-controller"
ALL = "system:authenticated"


@pytest.mark.parametrize(
    ("asked", "schema", "flow"),
    [
        (Asked("root", (MASTERS, ALL), "delete", "", "nodes"), "exempt", ""),
        (Asked("x", ("system:unauthenticated",), "get", path="/healthz"), "probes", ""),
        (Asked("x", (ALL,), "get", path="/version"), "global-default", "x"),
        (Asked("n", (NODES, ALL), "update", "", "nodes/status"), "system-node-high", "n"),
        (Asked("n", (NODES, ALL), "list", "", "pods"), "system-nodes", "n"),
        (Asked("system:kube-scheduler", (ALL,), "create", "", "pods/binding", "shop"), "kube-scheduler", "shop"),
        (
            Asked("system:kube-controller-manager", (ALL,), "update", "coordination.k8s.io", "leases", "kube-system"),
            "system-leader-election",
            "system:kube-controller-manager",
        ),
        (Asked(ACCOUNT, (ALL,), "get", "", "configmaps", "shop"), "kube-system-service-accounts", "shop"),
        (Asked(ACCOUNT, (ALL,), "get", "", "configmaps", "kube-system"), "workload-leader-election", ACCOUNT),
        (Asked("system:serviceaccount:a:b", ("system:serviceaccounts",), "get"), "service-accounts",
         "system:serviceaccount:a:b"),
    ],
)  # fmt: skip
def test_requests_go_where_kubernetes_sends_them(asked: Asked, schema: str, flow: str) -> None:
    found = next(s for s in in_order(Schema.of(o) for o in flow_schemas()) if s.matches(asked))
    assert (found.name, found.flow(asked)) == (schema, flow)


def test_rules_name_verbs_groups_resources_namespaces_and_paths() -> None:
    def schema(**rules: list) -> Schema:
        subject = {"kind": "Group", "group": {"name": "*"}}
        return Schema("s", "", "level", 1, "", [{"subjects": [subject], **rules}])

    rule = {"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "namespaces": ["a"]}
    one = schema(resourceRules=[rule])
    assert one.matches(Asked("x", (), "get", "apps", "deployments", "a"))
    for other in (
        Asked("x", (), "list", "apps", "deployments", "a"),
        Asked("x", (), "get", "", "deployments", "a"),
        Asked("x", (), "get", "apps", "deployments/scale", "a"),
        Asked("x", (), "get", "apps", "deployments", "b"),
        Asked("x", (), "get", "apps", "deployments"),
        Asked("x", (), "get", path="/version"),
    ):
        assert not one.matches(other)
    assert schema(resourceRules=[{**rule, "clusterScope": True}]).matches(Asked("x", (), "get", "apps", "deployments"))
    paths = schema(nonResourceRules=[{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/apis/*"]}])
    assert paths.matches(Asked("x", (), "get", path="/apis/apps")) and paths.matches(
        Asked("x", (), "x", path="/healthz")
    )
    assert not paths.matches(Asked("x", (), "get", path="/healthz/etcd"))
