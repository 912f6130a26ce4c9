"""Sandboxes and containers that a runtime has from an earlier life of the host."""

from datetime import UTC, datetime

from rayplane.control_plane.api import meta
from rayplane.node.lifecycle.model import Survivor
from rayplane.node.runtime.cri.client import CriClient
from rayplane.node.runtime.cri.configs import OWNER
from rayplane.node.runtime.cri.labels import CONTAINER_NAME
from rayplane.node.runtime.survivors import Left
from rayplane.proto.cri import cri_pb2 as pb

_BEGAN = (pb.ContainerState.CONTAINER_RUNNING, pb.ContainerState.CONTAINER_EXITED)


async def left_behind(client: CriClient, owner: str) -> dict[str, Left]:
    """By the uid of the pod. Raises NodeError."""
    mine = {OWNER: owner}
    sandboxes = await client.call(
        "ListPodSandbox", pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=mine))
    )
    if not any(item.labels.get(OWNER) == owner for item in sandboxes.items):
        return {}
    containers = await client.call(
        "ListContainers", pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=mine))
    )
    name = (await client.check())[0].runtime_name
    found: dict[str, Left] = {}
    for item in sorted(sandboxes.items, key=lambda item: item.metadata.attempt):
        if item.state == pb.PodSandboxState.SANDBOX_READY and item.labels.get(OWNER) == owner:
            inside = [c for c in containers.containers if c.pod_sandbox_id == item.id]
            found[item.metadata.uid] = _left(item, inside, name)
    return found


def _left(sandbox: pb.PodSandbox, containers: list[pb.Container], runtime: str) -> Left:
    runs: dict[str, Survivor] = {}
    for c in sorted(containers, key=lambda c: c.metadata.attempt):
        stamp = meta.format_time(datetime.fromtimestamp(c.created_at / 1e9, UTC))
        began = c.state in _BEGAN
        runs[c.labels.get(CONTAINER_NAME) or c.metadata.name] = Survivor(
            f"{runtime}://{c.id}" if began else "", c.metadata.attempt, stamp
        )
    unfinished = [c.id for c in containers if c.state != pb.ContainerState.CONTAINER_EXITED]
    return Left(sandbox.id, sandbox.metadata.attempt, runs, unfinished, sandbox.runtime_handler)
