"""Workers share the files of tests from both ends: clusters in a row at one, what computes at the other."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import workers


def row(**files: tuple[int, str]) -> list[str]:
    """The files in their order, made of as many tests as said with that mark."""
    items = [
        SimpleNamespace(path=path, iter_markers=lambda mark=mark: iter([SimpleNamespace(name=mark)]))
        for path, (tests, mark) in files.items()
        for _ in range(tests)
    ]
    workers.in_a_row(cast(list[pytest.Item], items))
    return [item.path for item in items]


def test_clusters_are_at_one_end_and_what_computes_at_the_other() -> None:
    found = row(fast=(2, ""), long=(1, "slow"), many=(3, "e2e"), few=(2, "e2e"), other=(1, "processes"))
    assert found == ["few"] * 2 + ["many"] * 3 + ["fast"] * 2 + ["other", "long"]


class Node:
    """A worker; `files`: which it was given."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.files: list[str] = []
        self.shutting_down = False

    def shutdown(self) -> None:
        self.shutting_down = True


def test_the_first_worker_begins_with_the_clusters_and_the_others_at_the_other_end() -> None:
    options = SimpleNamespace(tx=["popen"] * 3, maxprocesses=None, numprocesses=3, loadscopereorder=True)
    config: Any = SimpleNamespace(option=options, getvalue=lambda name: getattr(options, name))
    scheduler = workers.from_both_ends(config, None)
    tests = [f"{letter}.py::test_{number}" for letter in "abcdefgh" for number in range(3)]
    nodes = [Node(number) for number in range(3)]
    for node in nodes:
        cast(Any, node).send_runtest_some = lambda at, node=node: node.files.append(tests[at[0]][0])
        scheduler.add_node(cast(Any, node))
        scheduler.add_node_collection(cast(Any, node), tests)
    scheduler.schedule()
    assert [node.files for node in nodes] == [["a"], ["h"], ["g"]]
    for done, node in ((1, nodes[0]), (2, nodes[2]), (2, nodes[0])):
        for _ in range(done):
            pending = next(
                t for work in scheduler.assigned_work[cast(Any, node)].values() for t, over in work.items() if not over
            )
            scheduler.mark_test_complete(cast(Any, node), tests.index(pending))
    assert [node.files for node in nodes] == [["a", "b"], ["h"], ["g", "f"]]
