"""The stock client for JavaScript, where the machine has it: `npm install --global @kubernetes/client-node`."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.harness import Cluster, Kubectl
from tests.e2e.test_python_clients import POD

PROGRAM = Path(__file__).parent / "node_client.mjs"
NODE, NPM = shutil.which("node"), shutil.which("npm")


def _modules() -> str:
    """The directory of packages that has the client; empty when there is none."""
    places = os.environ.get("NODE_PATH", "").split(os.pathsep)
    if NPM is not None:
        done = subprocess.run([NPM, "root", "--global"], capture_output=True, text=True, check=False)
        places.append(done.stdout.strip())
    return next((place for place in places if place and (Path(place) / "@kubernetes/client-node").is_dir()), "")


@pytest.fixture(scope="module")
def modules() -> str:
    if NODE is None:
        pytest.skip("node is not on PATH")
    found = _modules()
    if not found:
        pytest.skip("@kubernetes/client-node is not installed (npm install --global @kubernetes/client-node)")
    loading = [NODE, "--eval", "require('@kubernetes/client-node')"]
    loaded = subprocess.run(loading, env=os.environ | {"NODE_PATH": found}, capture_output=True, check=False)
    if loaded.returncode:
        pytest.skip("@kubernetes/client-node does not load: it wants another version of node")
    return found


@pytest.fixture(scope="module")
def cluster(modules: str, bring_up: Callable[..., Cluster]) -> Cluster:
    small = ("--members", "1", "--apiservers", "1", "--nodes", "1")
    return bring_up("--host", "process", "--runtime", "process", *small)


def test_every_part_of_the_client(
    modules: str, cluster: Cluster, fresh_namespace: Callable[..., Kubectl], tmp_path: Path
) -> None:
    kubectl = fresh_namespace(cluster, "", "javascript")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(POD))
    kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    # Modules are looked for beside the program that imports them.
    (tmp_path / "node_modules").symlink_to(modules)
    program = shutil.copy(PROGRAM, tmp_path)
    done = subprocess.run(
        [str(NODE), str(program), kubectl.namespace],
        env=os.environ | cluster.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all done"]), done.stdout + done.stderr
