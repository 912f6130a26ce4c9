"""What pyproject.toml says of other packages."""

import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from scripts.oldest import pins
from tests.e2e.harness import ROOT

DEPENDENCIES = [
    Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]


def test_every_dependency_has_a_lower_bound_and_no_upper_one() -> None:
    """Without the one nobody knows what was tried; with the other users of a newer release are kept out untried."""
    assert {str(d) for d in DEPENDENCIES if [s.operator for s in d.specifier] != [">="]} == set()


def test_the_newest_releases_are_allowed() -> None:
    """The environment of the tests has what pip chose freely."""
    assert {d.name for d in DEPENDENCIES if not d.specifier.contains(metadata.version(d.name))} == set()


def test_the_oldest_releases_are_pinned_by_the_bounds() -> None:
    pinned = {line.split("==")[0] for line in pins(ROOT / "pyproject.toml")}
    assert pinned == {d.name for d in DEPENDENCIES}
