"""Clusters for the tests of a file, ended when its last test has run."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e import releases
from tests.e2e.harness import Cluster, Kubectl, Traces
from tests.tiers import todays_part

E2E_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(E2E_TIMEOUT_S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take a `release` are run for each that was asked for."""
    if "release" in metafunc.fixturenames:
        usual = todays_part(2, getattr(metafunc.module, "RELEASES", releases.USUAL))
        asked = metafunc.config.getoption("release") or usual
        metafunc.parametrize("release", releases.KNOWN if "all" in asked else asked, scope="module")


@pytest.fixture(scope="session")
def binaries_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """binaries_of("1.28") gives the directory with that release's kubectl and helm."""
    place = tmp_path_factory.mktemp("releases")
    return lambda release: releases.binaries(release, place)


@contextmanager
def running(cluster: Cluster, *arguments: str) -> Iterator[Cluster]:
    """`up` with these arguments; `down` whatever happens, and nothing may be left."""
    try:
        cluster.rayplane("up", *arguments)
        traces = Traces.of(cluster)
        yield cluster
    finally:
        cluster.rayplane("down", "--purge")
    assert traces.left() == []
    # Whatever is kept there has a name that `down --purge` knows.
    assert not cluster.directory.exists()


@pytest.fixture(scope="module")
def bring_up(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Cluster]]:
    """bring_up("--host", "process") gives a running cluster that lives as long as the test file."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Cluster:
            name = "e2e-" + re.sub("[^a-z0-9]+", "-", Path(request.path).stem.removeprefix("test_"))
            home = tmp_path_factory.mktemp("home")
            return stack.enter_context(running(Cluster(name, home), *arguments))

        yield start


@pytest.fixture
def lone_cluster(tmp_path: Path) -> Cluster:
    """A name and a home of their own; nothing is started."""
    return Cluster("e2e-lone", tmp_path)


@pytest.fixture
def fresh_namespace() -> Callable[[Cluster, str, str], Kubectl]:
    """A kubectl in a new namespace."""

    def make(cluster: Cluster, binary: str, name: str) -> Kubectl:
        cluster.kubectl(binary)("create", "namespace", name)
        return cluster.kubectl(binary, namespace=name)

    return make
