"""Which processes of this machine are those of a cluster's own Ray, and how they are looked for."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.cluster import own_ray, processes, ray_cluster
from rayplane.control_plane.cluster.errors import ClusterError


@pytest.mark.processes
def test_a_process_of_somebody_else_is_none_of_ray_though_its_session_has_the_number_of_rays() -> None:
    words = ["gcs_server", "-c", "import os, sys; os.close(1); sys.stdin.read()", "/tmp/rayplane-other"]
    with subprocess.Popen(
        words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.read()
        host = {"owned": True, "pid": other.pid, "dir": "/tmp/rayplane-x"}
        with pytest.raises(ClusterError, match="no gcs of a Ray"):
            ray_cluster.process(host, "gcs")
        assert ray_cluster.process({**host, "dir": "/tmp/rayplane-other"}, "gcs") == other.pid
        other.stdin.close()


def test_the_event_loop_runs_while_processes_of_ray_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    askers: list[threading.Thread] = []
    admin: Any = SimpleNamespace(state=SimpleNamespace(host={"owned": True}, config=None), directory=None)

    def asked(result: Any) -> Callable[..., Any]:
        def ask(*_: Any) -> Any:
            askers.append(threading.current_thread())
            return result

        return ask

    for name, result in (("process", 1), ("processes_of", []), ("stop", None)):
        monkeypatch.setattr(ray_cluster, name, asked(result))
    monkeypatch.setattr(processes, "send", lambda *_: None)

    async def bring_up(config: Any, directory: Any) -> Any:
        return admin.state

    assert asyncio.run(own_ray.OwnRay(admin, bring_up).signal("gcs", "KILL")) == 1
    assert len(askers) == 3 and threading.main_thread() not in askers
