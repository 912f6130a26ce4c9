"""Slots of 127/8: which of them a cluster has on a machine, so that no two have the same.

The supervisor listens at a slot's own address for as long as it runs, `up` beside it until then, and every process has
a sign (`signs`). To look, nobody listens: a look would be in the way of a supervisor that starts again just then.
"""

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import AsyncIterator, Collection, Sequence

from rayplane.control_plane.cluster import signs
from rayplane.control_plane.cluster.config import SLOTS, AddressPlan
from rayplane.control_plane.cluster.errors import ClusterError, SlotTaken
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.rpc.sockets import serving

#: In fair time: what was killed gives back what it had only when the kernel has ended its last thread.
FREE_S = 5.0
POLL_S = 0.1
ANSWER_S = 1.0


async def claim(plan: AddressPlan) -> asyncio.Server:
    """Listen, and hang up on whoever calls: that somebody listens is all that it says. Raises SlotTaken."""
    loop = asyncio.get_running_loop()
    patience = Patience(FREE_S, loop.time())
    while True:
        try:
            return await serving(asyncio.start_server(_hang_up, *plan.claim_address, start_serving=False))
        except OSError as e:
            patience.passed(loop.time(), slowdown())
            if e.errno != errno.EADDRINUSE or patience.over:
                raise _taken(plan) if e.errno == errno.EADDRINUSE else e from None
        await asyncio.sleep(POLL_S)


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def is_taken(plan: AddressPlan, own: str = "") -> bool:
    """Whether a cluster has the slot on this machine now, whatever of it is being restarted.

    `own`: who asks (`key_hash`): nodes that have joined it are in nobody's way while it is down.
    """
    if signs.is_held(plan.slot, own):
        return True
    # One of a build without signs.
    with socket.socket() as caller:
        caller.settimeout(ANSWER_S)
        return caller.connect_ex(plan.claim_address) in (0, errno.EAGAIN)


async def stays_taken(plan: AddressPlan) -> bool:
    """Whether a cluster has the slot, and not only processes that were killed a moment ago."""
    loop = asyncio.get_running_loop()
    patience = Patience(FREE_S, loop.time())
    while is_taken(plan):
        patience.passed(loop.time(), slowdown())
        if patience.over:
            return True
        await asyncio.sleep(POLL_S)
    return False


def in_order(rng: random.Random, kept: Collection[int] = ()) -> list[AddressPlan]:
    """All plans: two who try them at the same moment should not both begin with the first.

    `kept`: slots of clusters that are down, which are the last.
    """
    return sorted((AddressPlan(slot) for slot in rng.sample(range(SLOTS), SLOTS)), key=lambda plan: plan.slot in kept)


@contextlib.asynccontextmanager
async def reserved(plans: Sequence[AddressPlan], own: str = "") -> AsyncIterator[AddressPlan]:
    """The first plan that no cluster has. Nobody else gets it meanwhile; the cluster itself claims it when it is up.

    `own`: as for `is_taken`. Raises SlotTaken, ClusterError.
    """
    loop = asyncio.get_running_loop()
    patience = Patience(FREE_S, loop.time())
    while (found := _reserve(plans, own)) is None:
        patience.passed(loop.time(), slowdown())
        # Of several that are taken none is waited for.
        if len(plans) > 1:
            raise ClusterError(
                f"{len(plans)} clusters run on this machine already, and there are addresses for no more; take one down"
            )
        if patience.over:
            raise _taken(plans[0])
        await asyncio.sleep(POLL_S)
    plan, reservation = found
    with reservation:
        yield plan


def _reserve(plans: Sequence[AddressPlan], own: str) -> tuple[AddressPlan, socket.socket] | None:
    for plan in plans:
        reservation = socket.socket()
        try:
            reservation.bind(plan.reservation_address)
            reservation.listen(1)
        except OSError:
            reservation.close()
            continue
        if not is_taken(plan, own):
            return plan, reservation
        reservation.close()
    return None


def _taken(plan: AddressPlan) -> SlotTaken:
    if signs.is_of_joined(plan.slot):
        whose = f"a node of this machine, which joined another cluster, has the addresses {plan.pod_cidr} of this one"
        return SlotTaken(f"{whose} now; end its `rayplane join` first")
    return SlotTaken(f"another cluster has the addresses {plan.pod_cidr} of this one now; take it down first")
