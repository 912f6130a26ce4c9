"""Each pod of a Job counts once, whoever removes it and wherever the controller stops; indexes beside sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_active, pod_is_terminated
from rayplane.control_plane.controllers.core import Result
from rayplane.control_plane.controllers.job.controller import JobController
from rayplane.control_plane.controllers.job.indexes import Indexes
from rayplane.control_plane.controllers.job.orphans import OrphanedPodController
from rayplane.control_plane.controllers.job.spec import JOBS
from tests.controllers.cluster import Cluster
from tests.controllers.jobs import INDEXED, POD, counts, outcome, reap, status

COMPLETIONS = 5
WHAT = st.sampled_from(["succeed", "fail", "remove", "delete", "reap", "step", "stop", "wait"])


class Stopping(Cluster):
    """A cluster whose controllers can be stopped between two stages, and begin again with no memory."""

    stages_left: int | None = None

    def apply(self, done: Result) -> bool:
        if self.stages_left is None:
            return super().apply(done)
        super().apply(Result(done.stages[: self.stages_left]))
        self.stages_left = None
        self.controllers = (JobController(), OrphanedPodController())
        self.queue = {(0, "default/j"): None}
        return True


def act(cluster: Cluster, what: str, data: st.DataObject) -> None:
    running = [pod for pod in cluster.pods(active=False) if not pod_is_terminated(pod)]
    if what in ("succeed", "fail") and running:
        phase = "Succeeded" if what == "succeed" else "Failed"
        cluster.set_pod(data.draw(st.sampled_from(running)), ready=False, phase=phase)
    elif what == "remove" and (ended := [p for p in cluster.pods(active=False) if pod_is_terminated(p)]):
        cluster.delete_object("pods", data.draw(st.sampled_from(ended)), grace_s=0)
    elif what == "delete" and running:
        cluster.delete_object("pods", cluster.place(data.draw(st.sampled_from(running))))
    elif what == "reap":
        reap(cluster)
    elif what == "stop" and isinstance(cluster, Stopping):
        cluster.queue[0, "default/j"] = None
        cluster.stages_left = data.draw(st.integers(0, 3))
        cluster.step()
    elif what == "wait":
        cluster.advance(data.draw(st.sampled_from([1.0, 700.0])))
    else:
        cluster.step()


@given(st.data(), st.booleans(), st.sampled_from(["Failed", "TerminatingOrFailed"]))
def test_every_pod_counts_once(data: st.DataObject, indexed: bool, policy: str) -> None:
    cluster = Stopping(JobController(), OrphanedPodController())
    ends: dict[str, str] = {}
    made: set[str] = set()

    def watch(resource: str, kind: str, old: Object | None, pod: Object) -> None:
        if resource == "pods":
            made.add(meta.uid(pod))
            if pod_is_terminated(pod):
                ends.setdefault(meta.uid(pod), meta.status(pod)["phase"])

    cluster.listeners.append(watch)
    spec = {"completions": COMPLETIONS, "parallelism": 2, "backoffLimit": 1000, "podReplacementPolicy": policy}
    cluster.add(JOBS, "j", spec={"template": {"spec": POD}, **spec, **(INDEXED if indexed else {})})
    for what in data.draw(st.lists(WHAT, max_size=40)):
        act(cluster, what, data)
        assert len([p for p in cluster.pods() if pod_is_active(p)]) <= 2
    for _ in range(60):
        cluster.advance(700)
        reap(cluster)
        for pod in cluster.pods():
            cluster.set_pod(pod, ready=False, phase="Succeeded")
    assert ("Complete", "CompletionsReached") in outcome(cluster)
    assert counts(cluster)[:2] == (0, COMPLETIONS)
    succeeded = sum(phase == "Succeeded" for phase in ends.values())
    if policy == "Failed":
        # A pod that was being deleted may still succeed.
        assert succeeded == COMPLETIONS
    assert counts(cluster)[2] == len(made) - COMPLETIONS
    assert status(cluster)["uncountedTerminatedPods"] == {}


NUMBERS = st.frozensets(st.integers(0, 30))


@given(NUMBERS, NUMBERS)
def test_sets_of_indexes_are_sets(left: frozenset[int], right: frozenset[int]) -> None:
    one, other = Indexes.of(left), Indexes.of(right)
    assert one | other == Indexes.of(left | right)
    assert one.shared(other) == len(left & right)
    assert one.total == len(left)
    assert {n for n in range(32) if n in one} == left
    assert list(one.missing(25)) == [n for n in range(25) if n not in left]
    assert Indexes.read(str(one), 31) == one
    assert Indexes.read(str(one), 9) == Indexes.of(n for n in left if n < 9)


def test_indexes_are_written_as_kubernetes_does() -> None:
    assert str(Indexes.of([0, 1, 2, 5, 7, 8])) == "0-2,5,7,8"
