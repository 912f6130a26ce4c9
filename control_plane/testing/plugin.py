"""pytest's plug-in: fixtures of clusters for tests of operators, clients and charts. README.md tells how to use them.

Whoever wants it names it, as `rayplane.testing.plugin`: no project gets fixtures because rayplane is installed. It
imports nothing itself but pytest, and does nothing to tests that ask for none of its fixtures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rayplane.control_plane.client.blocking import Client
    from rayplane.control_plane.simulation import SimulationResult
    from rayplane.control_plane.testing.chaos import Chaos
    from rayplane.control_plane.testing.cluster import Cluster
    from rayplane.control_plane.testing.etcd import Etcd
    from rayplane.control_plane.testing.fake import Fake
    from rayplane.control_plane.testing.shared import ClusterInTest

_CLUSTERS = "rayplane.control_plane.testing.cluster"
#: Fixtures of a test's own cluster: the first that a test asks for is the one that `chaos`, `api` and others are of.
_OWN = ("cluster_per_test", "ha_cluster", "ray_cluster")
_SMALL = {"members": 1, "apiservers": 1, "schedulers": 1, "controllers": 1, "nodes": 1}
_seen = pytest.StashKey["list[ClusterInTest]"]()
_before = pytest.StashKey["list[Cluster]"]()


# --- clusters ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster_options() -> dict[str, Any]:
    """Options of `rayplane.Cluster` for the clusters of these fixtures: a fixture of yours by this name sets them."""
    return {}


@pytest.fixture(scope="session")
def rayplane_cluster(cluster_options: dict[str, Any]) -> Iterator[Cluster]:
    """The cluster behind `cluster`, for all tests of a session, or of a worker of pytest-xdist."""
    yield from _shared(_SMALL | cluster_options)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, rayplane_cluster: Cluster) -> Iterator[ClusterInTest]:
    """A cluster in one process, up in a second or two for all tests together; a namespace of this test's own."""
    yield from _of_test(request, rayplane_cluster)


@pytest.fixture
def cluster_per_test(request: pytest.FixtureRequest, cluster_options: dict[str, Any]) -> Iterator[ClusterInTest]:
    """The same of this test alone: it may break it, and change what has no namespace."""
    with _cluster(_SMALL | cluster_options) as made:
        yield from _of_test(request, made, shared=False)


@pytest.fixture(scope="session")
def rayplane_ha_cluster(cluster_options: dict[str, Any]) -> Iterator[Cluster]:
    """The cluster behind `ha_cluster`."""
    yield from _shared({"nodes": 3} | cluster_options)


@pytest.fixture
def ha_cluster(request: pytest.FixtureRequest, rayplane_ha_cluster: Cluster) -> Iterator[ClusterInTest]:
    """A cluster of three members, and two of all else, that survives the loss of any: with a namespace of this test."""
    yield from _of_test(request, rayplane_ha_cluster)


@pytest.fixture(scope="session")
def rayplane_ray_cluster(cluster_options: dict[str, Any]) -> Iterator[Cluster]:
    """The cluster behind `ray_cluster`."""
    yield from _shared({"nodes": 3, "host": "ray"} | cluster_options)


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest, rayplane_ray_cluster: Cluster) -> Iterator[ClusterInTest]:
    """A cluster of Ray actors, each a process that can be killed and stopped: with a namespace of this test."""
    yield from _of_test(request, rayplane_ray_cluster)


def _cluster(options: dict[str, Any]) -> Cluster:
    made: Cluster = import_module(_CLUSTERS).Cluster(**options)
    return made


def _shared(options: dict[str, Any]) -> Iterator[Cluster]:
    from rayplane.control_plane.testing.shared import leak_checked

    with leak_checked(_cluster(options)) as made:
        yield made


def _of_test(request: pytest.FixtureRequest, cluster: Cluster, *, shared: bool = True) -> Iterator[ClusterInTest]:
    from rayplane.control_plane.testing.shared import own_namespace

    with own_namespace(cluster, request.node.name, shared=shared) as made:
        seen = request.node.stash.setdefault(_seen, [])
        seen.append(made)
        try:
            yield made
        finally:
            seen.remove(made)  # the test may run again


# --- of the test's cluster --------------------------------------------------------------------------


@pytest.fixture
def kubernetes_cluster(request: pytest.FixtureRequest) -> ClusterInTest:
    """The cluster that the test asks for by another fixture, or `cluster`."""
    name = next((one for one in _OWN if one in request.fixturenames), "cluster")
    found: ClusterInTest = request.getfixturevalue(name)
    return found


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Iterator[Chaos]:
    """What breaks the test's cluster, `ha_cluster` where it asks for none; all is healed behind it."""
    from rayplane.control_plane.testing.shared import healed

    name = next((one for one in (*_OWN, "cluster") if one in request.fixturenames), "ha_cluster")
    found: ClusterInTest = request.getfixturevalue(name)
    yield found.chaos
    healed(found.cluster)


@pytest.fixture
def kubeconfig(kubernetes_cluster: ClusterInTest) -> Path:
    """An administrator's kubeconfig, whose context is in the test's namespace."""
    return kubernetes_cluster.kubeconfig


@pytest.fixture
def api(kubernetes_cluster: ClusterInTest) -> Client:
    """rayplane's own client."""
    return kubernetes_cluster.api


@pytest.fixture
def kubernetes_api(kubeconfig: Path) -> Iterator[Any]:
    """An ApiClient of `kubernetes`: `kubernetes.client.CoreV1Api(kubernetes_api)`."""
    config = _installed("kubernetes.config", "kubernetes")
    with config.new_client_from_config(config_file=str(kubeconfig)) as client:
        yield client


@pytest.fixture
def kubernetes_asyncio_api(kubeconfig: Path) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """A maker of ApiClients of `kubernetes_asyncio`: `async with kubernetes_asyncio_api() as client`."""
    from contextlib import asynccontextmanager

    config = _installed("kubernetes_asyncio.config", "kubernetes_asyncio")

    @asynccontextmanager
    async def opened() -> Any:
        async with await config.new_client_from_config(config_file=str(kubeconfig)) as client:
            yield client

    return opened


@pytest.fixture
def lightkube_api(kubeconfig: Path) -> Any:
    """A Client of `lightkube`."""
    config = _installed("lightkube", "lightkube").KubeConfig.from_file(str(kubeconfig))
    return import_module("lightkube").Client(config=config)


@pytest.fixture
def kr8s_api(kubeconfig: Path) -> Any:
    """An Api of `kr8s`, in the test's namespace: `kr8s.get("pods", api=kr8s_api)`."""
    return _installed("kr8s", "kr8s").api(kubeconfig=str(kubeconfig))


def _installed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        pytest.fail(f"this test asks for a client that is not installed: pip install {package}", pytrace=False)


# --- without a cluster of its own process ---------------------------------------------------------


@pytest.fixture
def fake_api() -> Iterator[Fake]:
    """A client of an API server in memory, which nothing acts on. Other sizes: `rayplane.testing.fake`."""
    from rayplane.control_plane.testing.fake import fake

    with fake() as made:
        yield made


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    """An etcd in this process, with a port on loopback for clients of any kind. Others: `rayplane.testing.etcd`."""
    from rayplane.control_plane.testing import etcd as etcds

    with etcds.etcd(listen=True) as made:
        yield made


@pytest.fixture
def simulation() -> Callable[..., SimulationResult]:
    """A runner of whole clusters in virtual time: `simulation("failures", seed=7, load="my_operator.py")`."""
    from rayplane.control_plane.testing.simulated import simulation as run

    return run


# --- reports, and what is left ----------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What happened in a failed test's namespace goes into its report; errors are told by the test's own lines."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        _without_ours(call.excinfo.value)
    report = yield
    if report.failed and report.when != "teardown":
        for seen in item.stash.get(_seen, ()):
            report.sections.extend(_story(seen))
    return report


def _without_ours(error: BaseException | None) -> None:
    """An error that rayplane raises on purpose, as NotFound or NotInTime, loses the way that it went inside."""
    while error is not None and type(error).__module__.startswith("rayplane."):
        shown = [one for one in _entries(error.__traceback__) if not _is_inside(one)]
        for entry, after in zip(shown, [*shown[1:], None], strict=False):
            entry.tb_next = after
        error.__traceback__ = shown[0] if shown else None
        error = error.__cause__


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        after = traceback.tb_next
        yield traceback
        traceback = after


def _is_inside(entry: TracebackType) -> bool:
    """Not so of this module: where a fixture cannot be set up, it is all that there is to show."""
    name = entry.tb_frame.f_globals.get("__name__", "")
    return name != __name__ and name.startswith(("rayplane.", "asyncio.", "concurrent.futures."))


def _story(seen: ClusterInTest) -> list[tuple[str, str]]:
    try:
        return seen.story()
    except Exception as e:  # whatever it is, it must not end the session
        return [("rayplane", f"not to be had: {e or type(e).__name__}")]


@pytest.hookimpl
def pytest_collection_finish(session: pytest.Session) -> None:
    """Clusters that are up before the first test are not left by tests."""
    session.stash[_before] = _up()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Clusters that tests brought up themselves and left are an error of the last one: workers of xdist report it."""
    if nextitem is None and (told := _taken_down(_left(item.session))):
        pytest.fail(told, pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What tests left ends: a session that was interrupted has no last test."""
    if told := _taken_down(_left(session)):
        print(f"\nrayplane: {told}", file=sys.stderr)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left(session: pytest.Session) -> list[Cluster]:
    """None where it ended before its tests were collected: what is up then is of whoever brought it up."""
    before = session.stash.get(_before, None)
    return [one for one in _up() if one not in before] if before is not None else []


def _up() -> list[Cluster]:
    clusters = sys.modules.get(_CLUSTERS)
    return clusters.left() if clusters is not None else []


def _taken_down(left: Iterable[Cluster]) -> str:
    """What is to be said of them; empty where there are none."""
    names = []
    for one in left:
        names.append(one.name)
        try:
            one.stop()
        except Exception as e:  # the others end all the same, and this one with its program
            names[-1] += f" (not ended yet: {e or type(e).__name__})"
    return f"tests left clusters up: {', '.join(names)}; use `with`, or call down()" if names else ""
