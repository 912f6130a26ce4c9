"""A pod as it is in another runtime: its sandbox, and which containers there are its."""

import asyncio
from dataclasses import dataclass, field

from rayplane.node.runtime import PodPlace
from rayplane.proto.cri import cri_pb2 as pb


@dataclass(slots=True)
class CriPod:
    """A pod in the runtime. `lock`: held while its sandbox is made or removed."""

    place: PodPlace
    config: pb.PodSandboxConfig = field(default_factory=pb.PodSandboxConfig)
    sandbox_id: str = ""
    ip: str = ""
    handler: str = ""
    """By which the runtime knows how to run it; empty: as it runs all."""
    attempts: int = 0
    gone: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    dead: dict[str, str] = field(default_factory=dict)
    """By the container's name, the one that ended last: kept as long as the one after it runs."""
    running: dict[str, str] = field(default_factory=dict)
    """Ids of containers by name."""
    images: set[str] = field(default_factory=set)
    """Names and ids of images of containers that were started here."""
    left: set[str] = field(default_factory=set)
    """Ids of those that an earlier life of the host left, and that are yet to be taken over."""
