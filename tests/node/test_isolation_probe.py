"""The trial of isolation itself: a wrong one would only make every test of isolated pods be skipped."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.node.isolated import FOUND

# The first whose overlay file systems a user namespace may mount.
KERNEL = (5, 11)
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


def plainly_possible() -> bool:
    """Whether root of a new enough kernel makes namespaces with the usual program."""
    version = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if os.geteuid() != 0 or version < KERNEL or shutil.which("unshare") is None:
        return False
    if not (USER_NAMESPACES.exists() and int(USER_NAMESPACES.read_text())):
        return False
    return subprocess.run(["unshare", "-Urnmpf", "--mount-proc", "true"], check=False).returncode == 0


@pytest.mark.processes
def test_where_a_kernel_plainly_lets_pods_be_isolated_the_trial_says_so() -> None:
    if not plainly_possible():
        pytest.skip("this machine may well isolate nothing")
    assert FOUND.works, FOUND.why
