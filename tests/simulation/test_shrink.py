"""Smaller plans with the same failure, found with few runs."""

from rayplane.control_plane.faults.vocabulary import Kill, Stop, Target
from rayplane.control_plane.simulation import Plan, Strike
from rayplane.control_plane.simulation.shrink import Shrinker, same_failure, signature


def plan(count: int) -> Plan:
    kills = [Strike(n % 5, float(n), Kill(Target(name=f"member-{n}"))) for n in range(count)]
    return Plan(scenario="x", seed=1, strikes=(*kills, Strike(4, 9.0, Stop(Target(name="lb"), 8.0))))


def needs(*names: str, steps: int = 3, span_s: float = 0.0) -> Shrinker:
    def fails(tried: Plan) -> bool:
        struck = {str(s.what.target): s for s in tried.strikes}  # type: ignore[union-attr]
        enough = all(name in struck and struck[name].for_s >= span_s for name in names)
        return enough and (tried.steps is None or tried.steps >= steps)

    return Shrinker(fails)


def test_only_the_faults_that_are_needed_stay() -> None:
    shrinker = needs("member-3", "member-17")
    smallest = shrinker.shrink(plan(40), last_step=3)
    assert [str(s.what.target) for s in smallest.strikes] == ["member-3", "member-17"]  # type: ignore[union-attr]
    assert smallest.steps == 4
    assert shrinker.runs < 60


def test_no_fault_at_all_is_tried_first() -> None:
    shrinker = needs()
    assert shrinker.shrink(plan(40), last_step=3).strikes == ()
    assert shrinker.runs == 2


def test_what_lasts_is_made_shorter_as_long_as_it_fails() -> None:
    [left] = needs("lb", span_s=1.5).shrink(plan(4), last_step=4).strikes
    assert left.for_s == 2.0


def test_a_run_is_not_made_shorter_than_its_failure() -> None:
    assert needs("lb", steps=5).shrink(plan(2), last_step=2).steps is None


def test_a_search_ends_when_its_runs_are_used_up() -> None:
    shrinker = Shrinker(lambda tried: len(tried.strikes) > 20, runs_max=7)
    assert len(shrinker.shrink(plan(40), last_step=9).strikes) > 20
    assert shrinker.runs == 7


def test_failures_are_the_same_whenever_and_to_whom_they_happen() -> None:
    first = "12.345 s: pod default/web-7 was bound to node-0 and to node-1"
    assert same_failure(first, ["1 s: else", "99.000 s: pod default/web-12 was bound to node-1 and to node-2"])
    assert not same_failure(first, ["12.345 s: etcd does not answer at the end"])
    assert signature(first) == "pod default/web-# was bound to node-# and to node-#"
