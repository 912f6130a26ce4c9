"""The wheel of this checkout, and an environment that has it beside Ray and Google's libraries.

Environments are lent the packages of this one, and get by pip what those lack.
"""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import ray

from tests.e2e.harness import ROOT

#: Ray and its extras alone are about 70 packages.
PIP_TIMEOUT_S = 1800


def pip(python: Path | str, *arguments: object) -> None:
    """Run a pip command. AssertionError with what it says when it fails."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of this checkout would hold, changes included and nothing that git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("no git checkout")
    target = tmp_path_factory.mktemp("clone")
    for name in filter(None, done.stdout.split("\0")):
        if os.path.lexists(ROOT / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", out, source)
    [found] = out.iterdir()
    return found


def environment_without_rayplane(directory: Path) -> Path:
    """The interpreter of an environment with all that this one has, but for rayplane, which is only linked here."""
    venv.create(directory, symlinks=True)
    # Python looks into folders that stand here, and does not read their own `.pth` files.
    (packages_of(directory) / "lent.pth").write_text("\n".join(site.getsitepackages()))
    return directory / "bin" / "python"


def packages_of(environment: Path) -> Path:
    [packages] = environment.glob("lib/python*/site-packages")
    return packages


@pytest.fixture(scope="session")
def beside_ray(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which `ray[default]` and proto-plus were first, and the wheel came after."""
    python = environment_without_rayplane(tmp_path_factory.mktemp("beside"))
    pip(python, "install", "--no-compile", f"ray[default]=={ray.__version__}", "proto-plus")
    # pip knows of the rayplane that is linked beside the packages that are lent.
    pip(python, "install", "--no-compile", "--no-deps", "--force-reinstall", wheel)
    return python
