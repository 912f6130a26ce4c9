"""No module of these packages reaches itself by imports, those for type checkers included: what they say of each other
is true whether it runs or not."""

import graphlib
from functools import cache

import grimp
import pytest

#: Packages without circles; the others follow.
PACKAGES = ["rayplane.node", "rayplane.storage"]


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("rayplane", exclude_type_checking_imports=False, cache_dir=None)


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, in its order; empty when there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        return list(e.args[1])
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reaches_itself(package: str) -> None:
    modules = {package, *imports().find_descendants(package)}
    graph = {m: modules & imports().find_modules_directly_imported_by(m) for m in modules}
    assert circle_of(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circle_of({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
