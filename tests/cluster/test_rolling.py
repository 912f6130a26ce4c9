"""The order of a rolling upgrade, from any state of it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.cluster.rolling import ORDER, HandOver, Move, Part, ReplaceHost, Step, plan
from rayplane.control_plane.cluster.topology import Role

# An environment changed in place has another version under the same path.
OLD, NEW = ("/a/bin/python", "1"), ("/b/bin/python", "2")
STATES = [OLD, NEW, (OLD[0], NEW[1]), (NEW[0], OLD[1])]


def supervisor(runs: tuple[str, str]) -> Part:
    return Part("supervisor", Role.SUPERVISOR, *runs)


def runs(part: Part) -> tuple[str, str]:
    return part.python, part.version


@st.composite
def clusters(draw: st.DrawFn) -> list[Part]:
    """Parts of all roles, some upgraded; one member leads, one scheduler and one controller manager may."""
    parts = []
    for role in ORDER:
        names = [f"{role.value}-{k}" for k in range(draw(st.integers(1, 1 if role is Role.LOAD_BALANCER else 5)))]
        leader = draw(st.sampled_from(names)) if role in (Role.MEMBER, Role.SCHEDULER, Role.CONTROLLERS) else ""
        away = {n for n in names if n != leader and draw(st.booleans()) and draw(st.booleans())}
        parts += [Part(n, role, *draw(st.sampled_from(STATES)), n == leader, n in away) for n in names]
    return draw(st.permutations(parts))


class Cluster:
    """A cluster to which steps are done, and what was away at each of them."""

    def __init__(self, parts: list[Part], host: Part | None) -> None:
        self.parts = {part.name: part for part in parts}
        self.host = host
        self.moved: list[Part] = []

    def do(self, step: Step) -> None:
        match step:
            case ReplaceHost():
                assert {runs(p) for p in self.parts.values()} == {NEW}
                self.host = supervisor(NEW)
            case HandOver(source, target):
                assert self.parts[source].leads and runs(self.parts[target]) == NEW
                self.parts[source] = replace(self.parts[source], leads=False)
                self.parts[target] = replace(self.parts[target], leads=True)
            case Move(name):
                part = self.parts[name]
                members = [p for p in self.parts.values() if p.role is Role.MEMBER]
                # One that leads goes only where nobody else could.
                assert part.role is not Role.MEMBER or not part.leads or len(members) == 1
                assert runs(part) != NEW or part.away
                # Nothing is taken away while something else is.
                assert part.away or not any(p.away for p in self.parts.values())
                self.moved.append(part)
                self.parts[name] = replace(part, python=NEW[0], version=NEW[1], away=False)


@given(clusters(), st.sampled_from([*map(supervisor, STATES), None]), st.integers(0, 60))
def test_from_any_state_each_part_is_moved_once_in_order_and_an_upgrade_goes_on_after_any_step(
    parts: list[Part], host: Part | None, interrupted: int
) -> None:
    cluster = Cluster(parts, host)
    to_move = {p.name for p in parts if runs(p) != NEW or p.away}
    for step in plan(parts, *NEW, host=host)[:interrupted]:
        cluster.do(step)
    for step in plan(list(cluster.parts.values()), *NEW, host=cluster.host):
        cluster.do(step)
    assert sorted(p.name for p in cluster.moved) == sorted(to_move)
    order = [ORDER.index(p.role) for p in cluster.moved if not p.away]
    assert order == sorted(order)
    assert cluster.host == (supervisor(NEW) if host is not None else None)
    assert plan(list(cluster.parts.values()), *NEW, host=cluster.host) == []


@given(clusters())
def test_who_leads_is_moved_after_all_others_of_its_role(parts: list[Part]) -> None:
    names = [step.name for step in plan(parts, *NEW, host=None) if isinstance(step, Move)]
    for leader in (p for p in parts if p.leads and p.name in names):
        last = [n for n in names if n in {p.name for p in parts if p.role is leader.role}][-1]
        assert last == leader.name


def test_the_plan_of_a_cluster_as_people_read_it() -> None:
    parts = [Part(f"member-{k}", Role.MEMBER, *OLD, k == 1) for k in range(3)]
    parts += [Part("apiserver-0", Role.APISERVER, *OLD), Part("lb", Role.LOAD_BALANCER, *OLD)]
    assert [str(step) for step in plan(parts, *NEW, host=supervisor(OLD))] == [
        "member-0 starts anew",
        "member-2 starts anew",
        "member-1 hands the lead over to member-0",
        "member-1 starts anew",
        "apiserver-0 starts anew",
        "lb starts anew",
        "the supervisor's process starts anew",
    ]
