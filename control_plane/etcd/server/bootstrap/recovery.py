"""Recovery of a member from its data directory: found, join, or restart.

The log (`wal/`) is the truth; the store (`mvcc/`) may lag behind it, never run ahead; snapshot files (`snap/`) let
the log be cut short and the store be rebuilt when the machine stopped uncleanly. A directory belongs to one identity.
A member that lost its directory is refused under its old id: the others know that it has been there.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import (
    PEER,
    decode_hard_state,
    encode_hard_state,
    encode_member,
    from_record,
    to_record,
)
from rayplane.control_plane.etcd.server.config import MemberConfig, cluster_id, member_id
from rayplane.control_plane.etcd.server.errors import DataLost, RefusedToStart
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL
from rayplane.control_plane.etcd.server.state_machine.membership import address_of
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.etcd.rpc_pb2 import Member
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import Disk, Env, LockHeld
from rayplane.storage.env.failpoints import hit
from rayplane.storage.env.marks import checked
from rayplane.storage.formats import MEMBER, Mark
from rayplane.storage.keyvalue import Backend, CorruptStore, LmdbBackend, MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store
from rayplane.storage.wal import Recovered, SnapshotFiles, SnapshotMark, Wal

log = logging.getLogger(__name__)

STORE_DIRECTORY = "mvcc"
LOCK_FILE = "member.lock"
#: How often a directory is tried whose lock a dying process may still hold, and the seconds between.
LOCK_ATTEMPTS = 20
LOCK_RETRY_S = 0.1
#: Says why, in the data directory of a member that lost what it acknowledged: it never starts again.
LOST_FILE = "data-lost"
PROBE_TIMEOUT_S = 1.0
#: How often a joining member asks the others before it gives up, and how long it waits between.
JOIN_ATTEMPTS = 20
JOIN_RETRY_S = 0.5
#: The log in memory is cut short beyond this many bytes, however few entries they are.
LOG_MEMORY_BYTES_MAX = 128 << 20
#: How often it looks for itself in the list of members that they answer with.
LISTED_ATTEMPTS = 5


def _open_backend(disk: Disk) -> Backend:
    """LMDB where the disk has real paths, memory where it has none (the log rebuilds it)."""
    path = disk.local_path(STORE_DIRECTORY)
    return LmdbBackend(path, BUCKETS) if path is not None else MemoryBackend(BUCKETS)


async def take_lock(context: contextlib.AsyncExitStack, disk: Disk) -> None:
    """Hold the data directory until the context ends. Raises LockHeld when it belongs to a process that lives."""
    for left in range(LOCK_ATTEMPTS - 1, -1, -1):
        try:
            context.enter_context(disk.lock(LOCK_FILE))
            return
        except LockHeld:
            if not left:
                raise
        await asyncio.sleep(LOCK_RETRY_S)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Everything a member begins with."""

    identity: wire.Identity
    wal: Wal
    snapshots: SnapshotFiles
    mark: SnapshotMark | None
    machine: StateMachine
    storage: raft.MemoryStorage
    log_bytes: int
    """Of entries since `mark`; `storage` may hold fewer."""
    format: Mark


async def recover(config: MemberConfig, env: Env, network: Network) -> Recovery:
    """Open or make the data directory (locked by the caller). Raises RefusedToStart and the storage's errors."""
    if env.disk.exists(LOST_FILE):
        raise DataLost(env.disk.read(LOST_FILE).decode(errors="replace"))
    format_ = checked(env.disk, MEMBER, config.build)
    identity, wal, recovered = await _open_log(config, env.disk, network)
    snapshots = SnapshotFiles(env.disk)
    try:
        # Nothing but what interrupted writes left.
        await snapshots.prune(keep=1 << 30)
        if not recovered.entries and recovered.snapshot is None:
            if identity.founder:
                await _found(config, wal, recovered, snapshots)
            else:
                hit("identity.before_claim")
                await _claim(config, network, identity.member_id)
                hit("identity.after_claim")
        machine = _open_machine(config, env.disk, snapshots, recovered.snapshot)
        try:
            storage = _raft_storage(recovered, machine)
            lost = await _lost(config, network, identity, storage, machine)
            if lost:
                await env.disk.write_atomic(LOST_FILE, lost.encode())
                raise DataLost(lost)
            log_bytes = storage.payload_bytes
            shorten(storage, machine, config)
        except BaseException:
            machine.store.backend.close()
            raise
    except BaseException:
        await wal.close()
        raise
    return Recovery(identity, wal, snapshots, recovered.snapshot, machine, storage, log_bytes, format_)


async def _open_log(config: MemberConfig, disk: Disk, network: Network) -> tuple[wire.Identity, Wal, Recovered]:
    """The member's identity stands in its log: one is made with the other."""
    if Wal.exists(disk):
        wal, recovered = await Wal.open(disk, segment_bytes=config.wal_segment_bytes)
        return wire.Identity.FromString(recovered.metadata), wal, recovered
    if disk.exists(STORE_DIRECTORY):
        raise DataLost("there is a store in this data directory but no log: it was lost")
    identity = await _new_identity(config, network)
    metadata = identity.SerializeToString()
    hit("identity.before_create")
    wal = await Wal.create(disk, metadata, segment_bytes=config.wal_segment_bytes)
    hit("identity.after_create")
    return identity, wal, Recovered(metadata=metadata)


async def _found(config: MemberConfig, wal: Wal, recovered: Recovered, snapshots: SnapshotFiles) -> None:
    """Begin the log of a founding member: the same entries on all of them."""
    if snapshots.marks():
        raise RefusedToStart("a restore into this data directory was interrupted: empty it and restore again")
    peers = [(i, encode_member(0, Member(ID=i, peerURLs=[url]))) for i, (_, url) in config.founders.items()]
    hard_state, entries = raft.bootstrap(peers)
    recovered.hard_state = encode_hard_state(hard_state)
    recovered.entries = [to_record(e) for e in entries]
    hit("identity.before_found")
    await wal.save(recovered.hard_state, recovered.entries)
    hit("identity.after_found")


def _open_machine(
    config: MemberConfig, disk: Disk, snapshots: SnapshotFiles, mark: SnapshotMark | None
) -> StateMachine:
    """The state machine over the store; a store that cannot be trusted is rebuilt from snapshot and log."""
    for anew in (False, True):
        if anew:
            log.warning("the store of %s is rebuilt from the last snapshot and the log", config.name)
            disk.remove(STORE_DIRECTORY)
        backend = _open_backend(disk)
        try:
            if backend.trusted:
                return StateMachine(
                    _fill_store(backend, snapshots, mark),
                    min_lease_ttl_s=config.min_lease_ttl_s,
                    auth_token_ttl_s=config.auth_token_ttl_s,
                    build=config.build,
                )
            log.warning("the machine stopped uncleanly, or the store is damaged")
            backend.close()
        except CorruptStore as e:
            log.warning("%s", e)
            backend.close()
        except BaseException:
            backend.close()
            raise
    raise RefusedToStart("a store that was made anew is damaged again: have the disk checked, or replace it")


def _fill_store(backend: Backend, snapshots: SnapshotFiles, mark: SnapshotMark | None) -> Store:
    """The store, begun anew from the snapshot file where it lags behind the log's beginning."""
    store = Store(backend)
    if mark is not None and store.applied.index < mark.index:
        store.restore(snapshots.read(mark))
    return store


def _raft_storage(recovered: Recovered, machine: StateMachine) -> raft.MemoryStorage:
    applied = machine.store.applied
    mark = recovered.snapshot or SnapshotMark(0, 0)
    entries = [from_record(r) for r in recovered.entries]
    last = entries[-1].index if entries else mark.index
    if applied.index > last:
        raise DataLost(
            f"the store holds the effect of entry {applied.index} but the log ends at {last}: the log was lost or "
            "replaced"
        )
    state = decode_hard_state(recovered.hard_state or b"")
    terms = max(state.term, mark.term, entries[-1].term if entries else 0)
    vote = state.vote if terms == state.term else raft.NONE
    conf_state = machine.conf_state
    snapshot = raft.Snapshot(mark.index, mark.term, conf_state) if mark.index else None
    return raft.MemoryStorage(
        entries=entries,
        snapshot=snapshot,
        # The commit index is not synced by itself; what is applied was committed.
        hard_state=raft.HardState(terms, vote, max(state.commit, applied.index, mark.index)),
        conf_state=conf_state,
    )


async def _lost(
    config: MemberConfig,
    network: Network,
    identity: wire.Identity,
    storage: raft.MemoryStorage,
    machine: StateMachine,
) -> str:
    """Before a member votes or serves: what it lost of that which the others saw it acknowledge; empty if nothing.

    Members whose processes all ended meanwhile know nothing of each other; what only they saw is not found out.
    """
    own, term, last = identity.member_id, storage.hard_state.term, storage.last_index()
    urls = {u for n, u in config.initial_cluster.items() if n != config.name}
    urls |= {u for m in machine.members.all() if own != m.ID for u in m.peerURLs}
    request = wire.MembersRequest(asker=own, term=term)
    answers = await _ask_all(network, sorted(map(address_of, urls)), request)
    if answers and all(answer.cluster_id != identity.cluster_id for answer in answers):
        raise RefusedToStart(
            f"this data directory is of cluster {identity.cluster_id:x}, the other members are of "
            f"{answers[0].cluster_id:x}: give it the right data directory, or the right initial_cluster"
        )
    for answer in answers:
        if answer.cluster_id == identity.cluster_id and (answer.asker_term > term or answer.asker_index > last):
            return (
                f"this member was in term {answer.asker_term} and had acknowledged entry {answer.asker_index}, but its "
                f"data is of term {term} and ends at entry {last}: it was put back to an older state"
            )
    return ""


def shorten(storage: raft.MemoryStorage, machine: StateMachine, config: MemberConfig) -> None:
    """Keep in memory of the applied log what members that lag a little may need."""
    applied, first = machine.store.applied.index, storage.first_index()
    keep = config.catch_up_entries
    if applied - first < config.snapshot_count + keep and storage.payload_bytes <= LOG_MEMORY_BYTES_MAX:
        return
    point = storage.compaction_point(applied, keep_entries=keep, keep_bytes=LOG_MEMORY_BYTES_MAX // 2)
    if point >= first:
        storage.create_snapshot(applied, machine.conf_state)
        storage.compact(point)


# Identity


async def _new_identity(config: MemberConfig, network: Network) -> wire.Identity:
    others = [address_of(u) for n, u in sorted(config.initial_cluster.items()) if n != config.name]
    own = member_id([config.peer_url], config.initial_cluster_token)  # as a founder
    if config.cluster_state == "new":
        founders = config.founders
        for answer in await _ask_all(network, others):
            _check_may_found(config, own, answer)
        return wire.Identity(member_id=own, cluster_id=cluster_id(list(founders)), founder=True)
    if not others:
        raise RefusedToStart(
            'the data directory is empty, cluster_state is "existing" and initial_cluster names no other member to '
            "join: put the data back, or restore a backup"
        )
    for attempt in range(LISTED_ATTEMPTS):
        if attempt:
            # Whoever answered may not have applied yet what another one has confirmed.
            await asyncio.sleep(JOIN_RETRY_S)
        answer = await _ask_until(network, others)
        for member in answer.members:
            if config.peer_url in member.peerURLs:
                if member.name:
                    raise _lost_directory(config, member.ID)
                return wire.Identity(member_id=member.ID, cluster_id=answer.cluster_id, founder=False)
        if own in answer.removed:
            raise _lost_directory(config, own)
    raise RefusedToStart(
        f"no member of the cluster has the peer URL {config.peer_url}: add it first (member add), then start it"
    )


def _check_may_found(config: MemberConfig, own: int, answer: wire.MembersResponse) -> None:
    """Another founder that runs already knows whether this one has been there before."""
    held = next((m for m in answer.members if own == m.ID), None)
    if own in answer.removed or (held is not None and held.name):
        raise _lost_directory(config, own)
    if answer.members and held is None:
        raise RefusedToStart(
            f"the cluster exists already without the peer URL {config.peer_url}: add this member, then start it "
            'with cluster_state "existing"'
        )


def _lost_directory(config: MemberConfig, own: int) -> DataLost:
    return DataLost(
        f"member {own:x} ({config.name}) has taken part already but its data directory is empty: it could forget "
        "what it acknowledged"
    )


async def _ask(network: Network, address: str, request: wire.MembersRequest) -> wire.MembersResponse | None:
    stub = Stub(network.channel(address), PEER)
    try:
        answer: wire.MembersResponse = await stub.Members(request, timeout=PROBE_TIMEOUT_S)
    except RpcError as e:
        log.debug("no answer from %s: %s", address, e)
        return None
    return answer


async def _ask_all(
    network: Network, addresses: list[str], request: wire.MembersRequest | None = None
) -> list[wire.MembersResponse]:
    request = request or wire.MembersRequest()
    answers = await asyncio.gather(*(_ask(network, a, request) for a in addresses))
    return [a for a in answers if a is not None]


async def _ask_until(network: Network, addresses: list[str]) -> wire.MembersResponse:
    for _ in range(JOIN_ATTEMPTS):
        answers = [a for a in await _ask_all(network, addresses) if a.members]
        if answers:
            # The longest list and the one that knows of most removals is the newest.
            return max(answers, key=lambda a: (len(a.removed), len(a.members)))
        await asyncio.sleep(JOIN_RETRY_S)
    raise RefusedToStart(f"no member of the cluster answers at {', '.join(addresses)}: check initial_cluster")


async def _claim(config: MemberConfig, network: Network, own: int) -> None:
    """Tell the cluster that this id exists now; only then may it take part."""
    others = [address_of(u) for n, u in sorted(config.initial_cluster.items()) if n != config.name]
    request = wire.Attributes(id=own, name=config.name, peer_urls=[config.peer_url], level=LEVEL)
    for _ in range(JOIN_ATTEMPTS):
        for address in others:
            stub = Stub(network.channel(address), PEER)
            try:
                await stub.Claim(request, timeout=config.request_timeout_s)
                return
            except RpcError as e:
                log.debug("%s did not take the claim: %s", address, e)
        await asyncio.sleep(JOIN_RETRY_S)
    raise RefusedToStart(f"no member of the cluster answers at {', '.join(others)}: check initial_cluster")


async def initial_addresses(config: MemberConfig, network: Network, own: int) -> dict[int, str]:
    """Where the others are, for a joining member whose log does not say it yet."""
    others = [address_of(u) for n, u in sorted(config.initial_cluster.items()) if n != config.name]
    answer = await _ask_until(network, others)
    return {m.ID: address_of(m.peerURLs[0]) for m in answer.members if own != m.ID and m.peerURLs}
