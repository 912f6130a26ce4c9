"""What a command loads is most of what it costs, and on a busy machine the time until it does anything."""

import subprocess
import sys

HEAVY = ("aiohttp", "ray", "lmdb", "numpy", "control_plane.etcd.server", "control_plane.apiserver.registry")


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, control_plane.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
