"""What the wheel holds, and that it lives beside other packages and the user's own."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import PIP_TIMEOUT_S, pip

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(PIP_TIMEOUT_S)]

PARTS = ("control_plane", "node", "proto", "storage")
SMALL = ("--members", "1", "--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")
PROGRAM = """
import rayplane

with rayplane.Cluster(host="process", nodes=2) as cluster:
    healthy: bool = cluster.status()["healthy"]
    reveal_type(cluster.kubeconfig)
rayplane.Cluster(nodes="two")
"""


def sources(source: Path) -> set[str]:
    """What must be installed: all of the four folders but documents and pictures for who reads the repository."""
    files = {p for part in PARTS for p in (source / part).rglob("*") if p.is_file() and p.suffix not in {".md", ".png"}}
    own = {"__init__.py", "py.typed", "testing/__init__.py", "testing/plugin.py"}
    return {f"rayplane/{name}" for name in own | {str(p.relative_to(source)) for p in files}}


def test_the_wheel_holds_the_package_and_nothing_beside_it(source: Path, wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in held if ".dist-info/" not in n} == sources(source)
    assert {"rayplane/node/runtime/preload/sitecustomize.py", "rayplane/proto/etcd/rpc.proto"} <= held
    assert {
        f"rayplane/control_plane/dashboard/page/lib/{name}" for name in ("lit-html/lit-html.js", "xterm/xterm.js")
    } <= held


@pytest.mark.turn(1, of=2)
def test_the_source_distribution_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    pip(sys.executable, "install", "--target", tmp_path / "tools", "setuptools>=77")
    build(source, tmp_path / "tools", f"build_sdist({str(tmp_path)!r})")
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        tar.extractall(tmp_path)
    extracted = tmp_path / archive.name.removesuffix(".tar.gz")
    for file in extracted.rglob("*"):
        os.utime(file, (2_000_000_000, 2_000_000_000))
    build(extracted, tmp_path / "tools", f"build_wheel({str(tmp_path)!r})")
    [rebuilt] = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(rebuilt).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
    assert rebuilt.read_bytes() == wheel.read_bytes(), "another day, another folder, other modes: the same bytes"


def build(directory: Path, tools: Path, what: str) -> None:
    program = f"import sys; sys.path.insert(0, 'scripts'); import page as backend; backend.{what}"
    environment = os.environ | {"PYTHONPATH": str(tools)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with packages of the same names as ours, which must not be imported."""
    for part in PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    return tmp_path


def run(python: Path, project: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(project)}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.turn(0, of=2)
def test_a_cluster_runs_from_a_project_with_packages_of_the_same_names(beside_ray: Path, project: Path) -> None:
    # -I leaves out the current directory, whose `proto` would be the user's.
    assert "proto.message.Message" in run(beside_ray, project, "-I", "-c", "import proto; print(proto.Message)")
    run(beside_ray, project, "-m", "pip", "check")
    # As a module, so that the current directory comes first in sys.path.
    rayplane = ("-m", "rayplane.control_plane.cli.main")
    try:
        run(beside_ray, project, *rayplane, "up", "--host", "process", *SMALL)
        assert "healthy" in run(beside_ray, project, *rayplane, "status")
    finally:
        run(beside_ray, project, *rayplane, "down", "--purge")
    run(beside_ray.with_name("rayplane"), project, "--help")


@pytest.mark.turn(0, of=2)
def test_a_users_type_checker_sees_types(beside_ray: Path, project: Path) -> None:
    (project / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--python-executable", str(beside_ray), "--strict", "program.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert 'Revealed type is "pathlib.Path"' in done.stdout, done.stdout + done.stderr
    assert 'program.py:7: error: Argument "nodes" to "Cluster" has incompatible type "str"' in done.stdout
    assert "Found 1 error" in done.stdout, done.stdout
