"""The runtime's end of a shim."""

import os
import sys

import pytest

from rayplane.node.runtime.shim_client import ShimClient


@pytest.mark.processes
async def test_a_shim_that_cannot_be_started_keeps_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = os.listdir("/proc/self/fd")
    # Held, so that what the failed call had is still there.
    with pytest.raises(FileNotFoundError) as failed:
        ShimClient().start()
    assert os.listdir("/proc/self/fd") == before, failed.traceback
