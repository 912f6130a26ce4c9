"""A record of past decisions, so that what happened to a pod can be told afterwards.

Pure. Kept as the bytes they are told in, at most so many of them; the oldest go first. Equal decisions on a pod in a
row are one with a count. To look at every node costs time, so it is done for as many decisions as a budget allows:
of a few pods all is known, of thousands in a row the outcome.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from rayplane.control_plane.scheduler.cycle import Explanation, Failure, Placement
from rayplane.proto.rayplane.v1 import scheduler_pb2 as pb

BYTES_MAX = 8 << 20
PER_POD_MAX = 4
#: What a record costs besides its bytes: keys, objects, the dictionary's entry.
_OVERHEAD_BYTES = 400
_SHARE = 0.02  # of the time that passes
_SAVED_S = 0.1  # at most


def told(found: Explanation) -> pb.Decision:
    """An explanation as it is sent."""
    return pb.Decision(
        node=found.node,
        message=found.message,
        nodes=[
            pb.NodeVerdict(node=one.node, scores=one.scores, total=one.total)
            if one.refusal is None
            else pb.NodeVerdict(
                node=one.node,
                plugin=one.refusal.plugin,
                reasons=one.refusal.told,
                resolvable=one.refusal.resolvable,
            )
            for one in found.nodes
        ],
    )


class Budget:
    """Time to spend on records: a small share of the time that passes, of which some may be saved up."""

    def __init__(self, now: float) -> None:
        self._saved_s = _SAVED_S
        self._since = now

    def allows(self, now: float) -> bool:
        self._saved_s = min(_SAVED_S, self._saved_s + _SHARE * (now - self._since))
        self._since = now
        return self._saved_s > 0

    def spend(self, seconds: float) -> None:
        self._saved_s -= seconds


@dataclass(slots=True)
class _Record:
    """The decisions on one pod, each as bytes, the oldest first. `outcome` is the last one's, to tell equal ones."""

    uid: str
    decisions: list[bytes] = field(default_factory=list)
    outcome: tuple[str, str] = ("", "")
    times: int = 0

    @property
    def size(self) -> int:
        return _OVERHEAD_BYTES + sum(len(one) for one in self.decisions)


class DecisionLog:
    """The newest decisions, by pod."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self.size = 0

    def add(self, decision: Placement | Failure, stamp: str, detail: Explanation | None) -> None:
        """Remember a decision; `detail` is what was known of each node before it."""
        pod, found = decision.pod, told(detail) if detail is not None else pb.Decision(summary=True)
        if isinstance(decision, Placement):
            found.node, found.message = decision.node, ""
        else:
            found.node, found.message = "", decision.message
            found.nominated = decision.preemption.node if decision.preemption else ""
        record = self._records.pop(pod.key, None)
        if record is not None:
            self.size -= record.size
        if record is None or record.uid != pod.uid:
            record = _Record(pod.uid)
        outcome = (found.node, found.message)
        if record.decisions and record.outcome == outcome:
            record.times += 1
            if found.summary:  # the earlier one may know more
                found = pb.Decision.FromString(record.decisions[-1])
            record.decisions.pop()
        else:
            record.times, record.outcome = 1, outcome
        found.time, found.times = stamp, record.times
        record.decisions.append(found.SerializeToString())
        del record.decisions[:-PER_POD_MAX]
        self._records[pod.key] = record
        self.size += record.size
        while self.size > self._bytes_max:
            _, oldest = self._records.popitem(last=False)
            self.size -= oldest.size

    def of(self, key: str, uid: str) -> list[pb.Decision]:
        """What is still known of a pod's decisions, the oldest first."""
        record = self._records.get(key)
        if record is None or record.uid != uid:
            return []
        return [pb.Decision.FromString(one) for one in record.decisions]
