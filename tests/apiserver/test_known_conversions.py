"""What webhooks have converted is remembered, within bounds."""

from rayplane.control_plane.apiserver.conversions import Known, Task, Webhook


def test_answers_that_are_remembered_have_a_bound_however_small_they_are() -> None:
    known, one = Known(100_000), {"apiVersion": "a/v1", "kind": "K"}
    objects = [{**one, "metadata": {"name": f"{n}"}} for n in range(3000)]
    tasks = [Task.of(Webhook("things", {}, "v1"), o, "a/v2") for o in objects]
    for task in tasks:
        known.learn(task, task.object)
    assert 100 < sum(task in known for task in tasks) < 400 and tasks[-1] in known
