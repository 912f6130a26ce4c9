"""Programs that have the terminal while the screen has not: a shell in a pod, an editor."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rayplane.control_plane.cli.top.rows import Key
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir

_EDITORS = ("KUBE_EDITOR", "VISUAL", "EDITOR")
_USUAL = "vi"


class Programs:
    """The programs of a user with such an environment."""

    def __init__(self, directory: StateDir, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def shell(self, pod: Key) -> None:
        place = ["-n", pod[0], "--state-dir", str(self._directory.path), pod[1]]
        words = ["exec", "-i", "-t", *place, "--", "sh"]
        subprocess.run([sys.executable, "-m", "rayplane.control_plane.cli.main", *words], check=False)

    def edited(self, text: str) -> str:
        """Raises ClusterError where the editor fails."""
        said = next((found for name in _EDITORS if (found := self._environment.get(name))), _USUAL)
        with tempfile.TemporaryDirectory(prefix="rayplane-edit-") as place:
            file = Path(place) / "object.yaml"
            file.write_text(text)
            try:
                code = subprocess.run([*shlex.split(said), str(file)], check=False).returncode
                if code == 0:
                    return file.read_text()
            except (OSError, ValueError) as e:
                raise ClusterError(f"the editor {said!r} did not do it ({e}): set EDITOR to one that is here") from e
        raise ClusterError(f"the editor {said!r} ended with {code}: nothing was changed; set EDITOR to choose another")
