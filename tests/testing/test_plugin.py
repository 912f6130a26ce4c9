"""pytest's plug-in: it costs and changes nothing where it is not used, and is a cluster to tests where it is."""

import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from scripts.demo_job.commands import leftovers
from tests.house.documents import ROOT, blocks

pytestmark = pytest.mark.processes

GUIDE = ROOT / "control_plane" / "testing" / "README.md"
PLUGIN = "rayplane.testing.plugin"
ALIKE = """
    import pytest

    @pytest.fixture
    def ha_cluster(cluster):  # as good for this guide, and there already
        return cluster

    @pytest.fixture
    def simulation():  # whose scenarios have tests of their own, of many seconds
        from pathlib import Path
        from types import SimpleNamespace
        from rayplane.control_plane.simulation import load_scenario

        return lambda scenario, seed: SimpleNamespace(acknowledged=load_scenario(Path(scenario)) and seed)
"""
MORE = """
    import rayplane

    namespaces = set()

    def test_one(cluster):
        namespaces.add(cluster.namespace)
        assert cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}") == cluster.namespace

    def test_other(cluster, kubeconfig):
        namespaces.add(cluster.namespace)
        assert len(namespaces) == 2 and kubeconfig == cluster.kubeconfig

    def test_lightkube(lightkube_api, cluster):
        from lightkube.resources.core_v1 import Namespace
        assert cluster.namespace in {one.metadata.name for one in lightkube_api.list(Namespace)}

    def test_kr8s(kr8s_api, cluster):
        assert kr8s_api.namespace == cluster.namespace
        assert [node.name for node in kr8s_api.get("nodes")] == ["node-0"]

    def test_kubernetes_asyncio(kubernetes_asyncio_api, cluster):
        import asyncio
        from kubernetes_asyncio import client

        async def names():
            async with kubernetes_asyncio_api() as api:
                return {one.metadata.name for one in (await client.CoreV1Api(api).list_namespace()).items}

        assert cluster.namespace in asyncio.run(names())

    def test_that_fails(cluster):
        cluster.kubectl("create", "deployment", "stuck", "--image=nginx")
        cluster.kubectl("set", "resources", "deployment/stuck", "--requests=cpu=1k")
        stuck = lambda one: one["reason"] == "FailedScheduling"
        rayplane.testing.until("it is stuck", lambda: [*filter(stuck, cluster.api.list("events", cluster.namespace))])
        assert False, "as it should"

    def test_that_leaves_something(api):
        api.create("clusterroles.rbac.authorization.k8s.io", {"metadata": {"name": "forgotten"}, "rules": []})
"""

LEFT = """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    import pytest

    class Left:
        def __init__(self, name):
            self.name = name

        def stop(self):
            if self.name == "stuck":
                raise OSError("it does not end")
            Path(f"{self.name}.stopped").touch()
            up.remove(self)

    up = []
    sys.modules["rayplane.control_plane.testing.cluster"] = SimpleNamespace(left=lambda: [*up])

    @pytest.fixture
    def leave():
        return lambda: up.extend([Left("stuck"), Left("forgotten")])
"""
ENDED = """
    from pathlib import Path
    import pytest
    from _pytest.runner import runtestprotocol
    from rayplane import ClusterError, errors
    from rayplane.control_plane.testing import cluster as clusters

    class Api:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def create(self, *_):
            pass

        def list(self, *_):
            return ["default"]

        def get(self, *_):
            return {"metadata": {"resourceVersion": "1"}}

        def delete(self, *_):
            raise errors.NotFound("it is gone")

    class Ending:
        kubeconfig = Path("kubeconfig")
        client = Api

        @property
        def directory(self):
            raise ClusterError("it is not up")

    @pytest.fixture(scope="session")
    def rayplane_cluster():
        made = clusters._up["ending"] = Ending()
        made.kubeconfig.write_text("contexts: []")
        yield made
        del clusters._up["ending"]

    def pytest_runtest_protocol(item, nextitem):  # as plug-ins do that run again what failed
        for _ in range(2):
            runtestprotocol(item, nextitem=nextitem)
        return True
"""


def run(place: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    """pytest on these files, with the plug-in and no others that happen to be installed."""
    for name, text in files.items():
        (place / f"{name}.py").write_text(textwrap.dedent(text))
    (place / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", *arguments],
        cwd=place,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": str(place)},
        capture_output=True,
        text=True,
    )


def test_only_who_names_it_has_it() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "entry-points" not in found  # by which pytest would load it in every project
    assert "pytest" in found["optional-dependencies"]
    assert f'pytest_plugins = ["{PLUGIN}"]' in GUIDE.read_text()


def test_it_imports_nothing_heavy() -> None:
    program = f"""
        import pytest, sys
        before = set(sys.modules)
        pytest.PytestPluginManager().import_plugin("{PLUGIN}")
        print(*(name for name in sys.modules.keys() - before if name.startswith("rayplane")))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    inner = ["rayplane.control_plane", "rayplane.control_plane.testing", "rayplane.control_plane.testing.plugin"]
    assert sorted(done.stdout.split()) == ["rayplane", *inner, "rayplane.testing", PLUGIN]


def test_fixtures_of_the_testers_own_come_first_and_nothing_of_clusters_is_loaded(tmp_path: Path) -> None:
    own = """
        import sys
        import pytest

        @pytest.fixture
        def cluster():
            return "mine"

        def test_own(cluster):
            assert cluster == "mine"
            assert "rayplane.control_plane.cluster" not in sys.modules
    """
    assert run(tmp_path, test_own=own).returncode == 0


def test_without_a_cluster_there_are_fakes_and_the_missing_is_named(tmp_path: Path) -> None:
    files = """
        import pytest

        def test_fake(fake_api):
            assert fake_api.list("namespaces")

        def test_etcd(etcd):
            etcd.do(lambda client: client.put(b"a", b"1"))

        @pytest.fixture
        def kubeconfig():
            return "/nowhere"

        def test_client(kr8s_api):
            pass
    """
    hidden = """
        import sys
        sys.modules["kr8s"] = None
    """
    done = run(tmp_path, test_fakes=files, conftest=hidden)
    assert "2 passed" in done.stdout and "pip install kr8s" in done.stdout


def test_errors_of_rayplane_are_told_by_the_lines_of_the_test(tmp_path: Path) -> None:
    fails = """
        import rayplane
        from rayplane.testing import until

        def looked(api):
            return api.get("pods", "nope", "default")

        def test_fails(fake_api):
            until("it is there", lambda: looked(fake_api))

        def test_mistaken(fake_api):
            fake_api.list(7)
    """
    short, whole = (run(tmp_path, *options, test_fails=fails).stdout for options in ((), ("--full-trace",)))
    assert 'return api.get("pods", "nope", "default")' in short and 'NotFound: pods "nope" not found' in short
    inner = "await call_any("
    [of_fails, of_mistaken] = short.split(" test_mistaken ")
    assert inner not in of_fails and inner in whole
    assert "control_plane/client" in of_mistaken  # what nobody foresaw is told whole


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "in a worker"])
def test_clusters_that_are_left_up_fail_the_session_and_end(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run(tmp_path, *workers, conftest=LEFT, test_left="def test_passes(leave): leave()")
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert "left clusters up: stuck (not ended yet: it does not end), forgotten;" in done.stdout
    assert (tmp_path / "forgotten.stopped").exists()


def test_they_end_with_an_interrupted_session_which_stays_one(tmp_path: Path) -> None:
    interrupted = """
        def test_interrupted(leave):
            leave()
            raise KeyboardInterrupt
    """
    done = run(tmp_path, conftest=LEFT, test_left=interrupted)
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "left clusters up: stuck" in done.stderr and (tmp_path / "forgotten.stopped").exists()


@pytest.mark.parametrize(("ends", "code"), [("pass", 0), ("raise KeyboardInterrupt", 2)])
def test_what_was_up_before_the_tests_is_of_whoever_brought_it_up(tmp_path: Path, ends: str, code: int) -> None:
    earlier = """
    def pytest_configure(config):
        up.append(Left("earlier"))
"""
    done = run(tmp_path, conftest=LEFT + earlier, test_ends=f"def test_ends(): {ends}")
    assert (done.returncode, "left clusters up" in done.stderr) == (code, False)
    assert not (tmp_path / "earlier.stopped").exists()


def test_a_failed_test_of_a_cluster_that_has_ended_is_reported_each_time_it_runs(tmp_path: Path) -> None:
    done = run(tmp_path, conftest=ENDED, test_fails="def test_fails(cluster): assert False")
    assert done.returncode == 1
    assert "2 failed in" in done.stdout, done.stdout  # no errors: neither the session's nor of their ends
    assert done.stdout.count("not to be had: it is not up") == 2


@pytest.mark.turn(0, of=2)
@pytest.mark.e2e
def test_the_guide_runs_and_failures_tell_their_story(tmp_path: Path) -> None:
    guide = "\n\n".join(block.text for block in blocks(GUIDE) if block.language == "python")
    conftest = "".join(block.text for block in blocks(GUIDE) if block.language == "py") + textwrap.dedent(ALIKE)
    done = run(tmp_path, "-W", "ignore", conftest=conftest, test_guide=guide, test_more=MORE)
    said = done.stdout
    counted = guide.count("\ndef test_") + guide.startswith("def test_") + MORE.count("def test_") - 1
    assert f"1 failed, {counted} passed, 1 error" in said, said + done.stderr
    events, history, controllers = (
        said.index("rayplane events"),
        said.index("rayplane history"),
        said.index("rayplane controllers"),
    )
    assert "FailedScheduling" in said[events:history]
    assert "deployments.apps stuck" in said[history:controllers] and " ADDED " in said[history:controllers]
    assert "created replicasets" in said[controllers:]
    assert "tests left behind: clusterroles forgotten" in said
    assert leftovers([str(tmp_path)]) == []
