"""Watch over volumes of which a trial has killed replicas: each is rebuilt, and holds what had been acknowledged."""

from collections.abc import Callable, Mapping, Sequence

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.replicas import Content, Replicas, acknowledged

Say = Callable[[str], None]


class ReplicaWatch:
    """The watch of one trial. `lost`: told of bytes that are gone; `say`: of what is rebuilt."""

    def __init__(self, replicas: Replicas, lost: Say, say: Say) -> None:
        self._replicas = replicas
        self._lost = lost
        self._say = say
        self._before: dict[str, Content] = {}
        """What was acknowledged, by claim, of those that are not whole again yet."""
        self.judged = 0

    async def acknowledged(self, names: Sequence[str]) -> dict[str, Content]:
        """What volumes hold of which these are replicas, by claim. Raises ClusterError."""
        volumes = await self._replicas.volumes()
        claims = {name.partition("@")[0] for name in names} & volumes.keys()
        found = {claim: acknowledged(volumes[claim], await self._replicas.contents(volumes[claim])) for claim in claims}
        return {claim: one for claim, one in found.items() if one is not None}

    def watch(self, held: Mapping[str, Content]) -> None:
        """Until each holds that again on all its nodes."""
        self._before = {**held, **self._before}

    async def missing(self) -> str:
        """Which volume has not all its replicas yet; empty when all are as they should be, and judged."""
        if not self._before:
            return ""
        try:
            wrong = [why for claim in [*self._before] if (why := await self._look(claim))]
        except ClusterError as e:
            return str(e)
        return "; ".join(wrong)

    async def _look(self, claim: str) -> str:
        record = (await self._replicas.volumes()).get(claim)
        if record is None:
            return f"no pod uses the volume of {claim}"
        before, contents = self._before[claim], await self._replicas.contents(record)
        behind = [node for node in record.replicas if node not in contents or contents[node].version < before.version]
        if behind:
            return f"the volume of {claim} has no whole replica on {', '.join(behind)}"
        if self._before.pop(claim, None) is None:
            return ""  # seen meanwhile
        self.judged += 1
        self._say(f"{claim}: rebuilt on {', '.join(record.replicas)}; had {before}, has {contents[record.replicas[0]]}")
        for found in differences(before, contents):
            self._lost(f"{claim}: {found}")
        return ""


def differences(before: Content, contents: Mapping[str, Content]) -> list[str]:
    """Nodes whose replicas hold something else than others say of the same moment. Pure."""
    said, found = {before.version: before.files}, []
    for node, one in contents.items():
        files = said.setdefault(one.version, one.files)
        if wrong := sorted(path for path in files.keys() | one.files.keys() if files.get(path) != one.files.get(path)):
            named = wrong[0].decode(errors="replace")
            found.append(f"{node} holds other bytes than were acknowledged: {len(wrong)} files, first {named}")
    return found
