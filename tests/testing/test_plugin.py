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
PLUGIN = "rayplane.control_plane.testing.plugin"
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


def test_pytest_finds_it_by_its_entry_point() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert found["entry-points"]["pytest11"] == {"rayplane": PLUGIN}
    assert "pytest" in found["optional-dependencies"]


def test_it_imports_nothing_heavy() -> None:
    program = f"import pytest, sys; before = set(sys.modules); import {PLUGIN}; print(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages = ["rayplane", "rayplane.control_plane", "rayplane.control_plane.testing", PLUGIN]
    assert sorted(done.stdout.split()) == packages


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


def test_clusters_that_are_left_up_fail_the_session_and_end(tmp_path: Path) -> None:
    left = """
        from rayplane.control_plane.testing import cluster

        class Left:
            name = "forgotten"
            def stop(self):
                print("stopped")

        def test_passes():
            cluster._up["forgotten"] = Left()
    """
    done = run(tmp_path, "-s", test_left=left)
    assert done.returncode == 1
    assert "stopped" in done.stdout and "left clusters up: forgotten" in done.stderr


@pytest.mark.e2e
def test_the_guide_runs_and_failures_tell_their_story(tmp_path: Path) -> None:
    guide = "\n\n".join(block.text for block in blocks(GUIDE) if block.language == "python")
    done = run(tmp_path, "-W", "ignore", conftest=ALIKE, test_guide=guide, test_more=MORE)
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
