"""Faults of members that are real processes."""

from collections.abc import Sequence

from rayplane.control_plane.faults.injector import refusal
from rayplane.control_plane.faults.vocabulary import Failpoint, Fault, Kill
from rayplane.storage.env.failpoints import ENVIRONMENT
from scripts.benchmarks.members import MemberProcess


class MemberInjector:
    """One that a failpoint is set for is started again with it, and dies when it comes there."""

    def __init__(self, members: Sequence[MemberProcess]) -> None:
        self._members = {m.name: m for m in members}

    def refusal(self, fault: Fault) -> str:
        return refusal(fault, (Kill, Failpoint))

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        assert isinstance(fault, Kill | Failpoint), "all others are refused"
        member = self._members[fault.target.name]
        member.kill()
        if isinstance(fault, Failpoint):
            if member.process is not None:
                await member.wait()
            await member.launch({ENVIRONMENT: fault.rule})
        return (member.name,)

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        """Nothing lasts: whoever died is started by the run."""
