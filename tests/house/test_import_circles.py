"""No module reaches itself by imports, those for type checkers included."""

import graphlib
from functools import cache

import grimp


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


def test_no_module_reaches_itself() -> None:
    modules = set(imports().modules)
    graph = {m: imports().find_modules_directly_imported_by(m) for m in modules}
    assert circle_of(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circle_of({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
