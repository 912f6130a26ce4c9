"""The content of a majority of a volume's replicas, asked for to fence older writers or only to know it."""

import asyncio
from collections.abc import Callable

from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from rayplane.node.volumes.drivers.replicated.manifest import EMPTY, Version, majority
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.errors import Fenced, NoQuorum, PeerError
from rayplane.storage.errors import Code


async def prepare(
    record: VolumeRecord, writer: str, replica: Callable[[str], Replica]
) -> tuple[Version, Replica | None]:
    """Fence older writers on a majority; the newest content among it and who has it (None: it is empty)."""
    replicas = [replica(node) for node in record.replicas]
    answers = await asyncio.gather(*(one.prepare(record.epoch, writer) for one in replicas), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, PeerError) and answer.code is Code.ABORTED:
            raise Fenced(str(answer)) from answer
    return _newest(record, answers, replicas, writer)


async def newest(record: VolumeRecord, replica: Callable[[str], Replica]) -> Replica | None:
    """The replica with the newest content of a majority; None for a volume that is empty. Raises NoQuorum."""
    replicas = [replica(node) for node in record.replicas]
    answers = await asyncio.gather(*(_committed(one) for one in replicas), return_exceptions=True)
    return _newest(record, answers, replicas)[1]


async def _committed(replica: Replica) -> Version | None:
    state = await replica.state()
    return None if state.filling else Version.of(state.committed)


def _newest(
    record: VolumeRecord, answers: list[Version | BaseException | None], replicas: list[Replica], near: str = ""
) -> tuple[Version, Replica | None]:
    versions: list[tuple[Version, bool, Replica]] = []
    errors = []
    for replica, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, Version):
            versions.append((answer, replica.node == near, replica))
        elif answer is None:
            errors.append(f"{replica.node}: it lost what it held and is not filled again")
        elif isinstance(answer, PeerError):
            errors.append(f"{replica.node}: {answer}")
        else:
            raise answer
    if len(versions) < majority(record.replicas):
        raise NoQuorum(
            f"volume {record.volume_id}: {len(versions)} of {len(replicas)} replicas answer, "
            f"{majority(record.replicas)} must ({'; '.join(errors)}): bring their nodes back"
        )
    version, _, source = max(versions, key=lambda found: found[:2])
    return version, None if version == EMPTY else source
