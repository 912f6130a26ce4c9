"""Proposals: requests on their way through the log, until the apply step knows their outcome.

No timers of their own: all have the same time limit, so the oldest come first and the member's tick ends them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import Kind, encode_request
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.state_machine.auth.store import INTERNAL, AuthStore, as_caller


@dataclass(slots=True)
class Proposal:
    """One request on its way through the log. `term` is that in which it was handed over; 0 while it is parked."""

    data: bytes
    request: Message | None
    future: "asyncio.Future[Any]"
    deadline: float
    term: int = 0
    forwarded_to: int = 0


class Proposals:
    """Requests by id, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[int, Proposal] = {}
        self.failed = 0  # ended without a known outcome

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request_id: int, proposal: Proposal) -> None:
        self._waiting[request_id] = proposal

    def take(self, request_id: int) -> Proposal | None:
        """The proposal whose outcome is known now, if it is of this member and still waited for."""
        return self._waiting.pop(request_id, None)

    def parked(self) -> list[Proposal]:
        """Proposals that no leader was there for, oldest first."""
        return [p for p in self._waiting.values() if not p.term]

    def fail_before(self, term: int) -> None:
        """An entry of `term` was applied: what was handed over in an earlier one and is not applied yet is lost."""
        self._fail(lambda p: 0 < p.term < term, errors.LeaderChanged)

    def refused(self, peer: int, request_ids: Iterable[int]) -> None:
        """The member to which these were forwarded did not take them: parked again, as before."""
        for request_id in request_ids:
            proposal = self._waiting.get(request_id)
            if proposal is not None and proposal.forwarded_to == peer:
                proposal.term = proposal.forwarded_to = 0

    def fail_forwarded(self, peer: int) -> None:
        """The connection to the leader broke: the outcome is unknown."""
        self._fail(lambda p: p.forwarded_to == peer, errors.TimeoutConnectionLost)

    def fail_handed_over(self) -> None:
        """The log jumped over entries of which some may be these: the outcome is unknown."""
        self._fail(lambda p: p.term > 0, errors.Timeout)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        self._fail(lambda p: True, error)

    def expire(self, now: float) -> None:
        while self._waiting:
            request_id, proposal = next(iter(self._waiting.items()))
            if proposal.deadline > now and not proposal.future.done():
                return
            del self._waiting[request_id]
            if not proposal.future.done():
                self.failed += 1
                proposal.future.set_exception(errors.Timeout())

    def _fail(self, chosen: Callable[[Proposal], bool], error: Callable[[], Exception]) -> None:
        for request_id, proposal in list(self._waiting.items()):
            if chosen(proposal):
                del self._waiting[request_id]
                if not proposal.future.done():
                    self.failed += 1
                    proposal.future.set_exception(error())


class Log(Protocol):
    """The driver, to which proposals go."""

    proposals: Proposals

    @property
    def term(self) -> int: ...

    @property
    def leader_id(self) -> int: ...

    def append(self, data: bytes) -> None:
        """Raises ProposalDropped unless this member leads and takes it."""


class Forwarding(Protocol):
    """The transport, by which proposals get to a leader that is another member."""

    def propose(self, peer: int, data: bytes) -> bool: ...


class Proposer:
    """A proposer that puts requests through the log, here or at the leader, and waits for what comes of them."""

    def __init__(
        self, config: MemberConfig, driver: Log, peers: Forwarding, auth: AuthStore, *, first_request: int
    ) -> None:
        """`first_request` begins the request ids: random, lest those of an earlier life of this member fit."""
        self._config = config
        self._driver = driver
        self._peers = peers
        self._auth = auth
        self._proposals = driver.proposals
        self._request_id = first_request
        self._draining = False
        self._loop = asyncio.get_running_loop()

    async def propose(self, kind: Kind, request: Message) -> Any:
        """Put a request through the log and return its response, with the header's revision set.

        Waits for a leader if there is none. Raises EtcdError: the request's own refusal, or that its outcome is
        unknown (UNAVAILABLE).
        """
        if self._draining:
            raise errors.Stopped
        proposals = self._proposals
        if len(proposals) >= self._config.max_pending_proposals:
            raise errors.TooManyRequests
        data = encode_request(request_id := self.next_request_id(), kind, request)
        if len(data) > self._config.max_message_bytes:
            raise errors.RequestTooLarge
        deadline = self._loop.time() + self._config.request_timeout_s
        answer: asyncio.Future[Any] = self._loop.create_future()
        proposal = Proposal(data, request, answer, deadline)
        proposals.add(request_id, proposal)
        self._submit(proposal)
        try:
            return await answer
        except asyncio.CancelledError:
            proposals.take(request_id)
            raise

    def propose_unwatched(self, kind: Kind, request: Message) -> None:
        """Propose, in the member's own name, what is repeated anyway when it is lost."""
        if self._auth.enabled:
            kind, request = as_caller(kind, request, INTERNAL)
        with contextlib.suppress(raft.ProposalDropped):
            self._driver.append(encode_request(0, kind, request))

    def next_request_id(self) -> int:
        self._request_id = (self._request_id + 1) & ((1 << 63) - 1) or 1
        return self._request_id

    def _submit(self, proposal: Proposal) -> None:
        driver = self._driver
        try:
            driver.append(proposal.data)
        except raft.ProposalDropped as dropped:
            if not dropped.leader or not self._peers.propose(dropped.leader, proposal.data):
                return
            proposal.forwarded_to = dropped.leader
        proposal.term = driver.term

    def tick(self, now: float) -> None:
        """End what waited too long; hand over what waited for a leader, should there be one."""
        self._proposals.expire(now)
        if self._driver.leader_id != raft.NONE:
            self._submit_parked()

    def leader_seen(self, state: raft.SoftState) -> None:
        if state.lead != raft.NONE:
            self._submit_parked()

    def _submit_parked(self) -> None:
        for proposal in self._proposals.parked():
            self._submit(proposal)

    def drain(self) -> None:
        """Take nothing more; what waits may still come to its end."""
        self._draining = True
