"""Logs of a cluster through kills: each actor has its own, and what is expected is one line without a trace."""

import logging
from pathlib import Path

import pytest

from rayplane.control_plane.cli.logs_of import change_level
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.component_base import logs
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.harness import Cluster, cluster

KILLED = (Role.MEMBER, Role.APISERVER, Role.SCHEDULER, Role.CONTROLLERS, Role.NODE_HOST, Role.LOAD_BALANCER)
TRACE = "Traceback"


def written_to(directory: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in directory.glob("*.log")}


async def kill_each(running: Cluster) -> None:
    for role in KILLED:
        name = running.topology.of(role)[0].name
        await running.supervisor.Kill(pb.KillRequest(name=name), timeout=30)

        async def is_back(name: str = name) -> bool:
            answer = await running.supervisor.Topology(pb.TopologyRequest(), timeout=10)
            await running.api.list("nodes")
            return any(i.name == name and i.running and i.starts for i in answer.instances)

        await running.until(is_back, f"{name} is back")


async def set_levels(running: Cluster) -> None:
    """Each actor takes a level and gives it back; the others keep theirs."""
    for instance in running.topology.instances:
        assert await change_level(running.access, instance, "debug") == "the level is debug now"
        assert logging.getLogger().level == logging.DEBUG
        with pytest.raises(ClusterError, match="'loud' is no level"):
            await change_level(running.access, instance, "loud")
        assert await change_level(running.access, instance, "2") == "the level is info now"
        assert logging.getLogger().level == logging.INFO


async def test_no_log_of_a_cluster_with_kills_and_restarts_has_a_trace(tmp_path: Path) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.to_files(tmp_path / "process.log", shared=True)
    try:
        async with cluster(members=3, apiservers=2, nodes=1) as running:
            names = {i.name for i in running.topology.instances}
            await set_levels(running)
            await kill_each(running)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
    written = written_to(tmp_path)
    assert names <= set(written) <= names | {"process"}
    traced = {name: text[max(0, text.index(TRACE) - 300) :][:1500] for name, text in written.items() if TRACE in text}
    assert traced == {}
