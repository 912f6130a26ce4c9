"""Programs in JavaScript, where the machine has their packages: `npm install --global @kubernetes/client-node` for the
stock client, `npm install --global @grpc/grpc-js @grpc/proto-loader` for stubs made of our own .proto files.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import ROOT, Cluster, Kubectl
from tests.e2e.test_python_clients import POD

HERE = Path(__file__).parent
NODE, NPM = shutil.which("node"), shutil.which("npm")


def _places() -> list[str]:
    """Directories of packages."""
    places = os.environ.get("NODE_PATH", "").split(os.pathsep)
    if NPM is not None:
        done = subprocess.run([NPM, "root", "--global"], capture_output=True, text=True, check=False)
        places.append(done.stdout.strip())
    return [place for place in places if place]


def modules_with(*packages: str) -> str:
    """A directory that has these packages. Skips the test where there is none, or they do not load."""
    if NODE is None:
        pytest.skip("node is not on PATH")
    found = next((place for place in _places() if all((Path(place) / p).is_dir() for p in packages)), "")
    if not found:
        pytest.skip(f"not installed: npm install --global {' '.join(packages)}")
    loading = [NODE, "--eval", "".join(f"require('{package}');" for package in packages)]
    loaded = subprocess.run(loading, env=os.environ | {"NODE_PATH": found}, capture_output=True, check=False)
    if loaded.returncode:
        pytest.skip(f"{' '.join(packages)} does not load: it wants another version of node")
    return found


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    small = ("--members", "1", "--apiservers", "1", "--nodes", "1")
    return bring_up("--host", "process", "--runtime", "process", *small)


@pytest.fixture
def run(request: pytest.FixtureRequest, fresh_namespace: Callable[..., Kubectl], tmp_path: Path) -> Callable[..., None]:
    """Runs a program with the packages beside it, in a namespace that has a pod."""

    def run(program: str, modules: str, *arguments: str) -> None:
        cluster: Cluster = request.getfixturevalue("cluster")  # only where the packages are there
        kubectl = fresh_namespace(cluster, "", Path(program).stem.replace("_", "-"))
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(POD))
        kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=180s")
        # Modules are looked for beside the program that imports them.
        (tmp_path / "node_modules").symlink_to(modules)
        (tmp_path / "endpoints.json").write_text(json.dumps(cluster.endpoints()))
        done = subprocess.run(
            [str(NODE), shutil.copy(HERE / program, tmp_path), kubectl.namespace, *arguments],
            cwd=tmp_path,
            env=os.environ | cluster.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all done"]), done.stdout + done.stderr

    return run


def test_every_part_of_the_client(run: Callable[..., None]) -> None:
    run("node_client.mjs", modules_with("@kubernetes/client-node"))


def test_an_operator(run: Callable[..., None]) -> None:
    run("node_operator.mjs", modules_with("@kubernetes/client-node"))


def test_stubs_that_are_made_of_our_own_sources(run: Callable[..., None]) -> None:
    modules = modules_with("@grpc/grpc-js", "@grpc/proto-loader")
    run("grpc_client.mjs", modules, str(ROOT / ".src"), "endpoints.json")
