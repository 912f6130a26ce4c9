"""Backup of a running cluster's state, and a fresh cluster that goes on from it.

A backup is the etcd store as of one moment, history included. Bytes in volumes are not part of it. A restored cluster
continues its revisions. It is another cluster on the same machine maybe, so what belongs to a cluster's place and not
to its state is made anew: topology, API server endpoints, leader leases, the authority in ConfigMaps; and where its
part of 127/8 is another one, every address is moved there.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from rayplane.control_plane.api.meta import format_time
from rayplane.control_plane.apiserver.storage.encryption import (
    ENCRYPTED,
    BadEncryptionConfig,
    Transformer,
    Untransformable,
    all_keys,
    key_name_of,
)
from rayplane.control_plane.client.endpoints import PLACES_KEY
from rayplane.control_plane.cluster import launch
from rayplane.control_plane.cluster.access import Access, access
from rayplane.control_plane.cluster.components import member_config
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.ending import forget_elsewhere
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.history import HistoryForgotten, instant
from rayplane.control_plane.cluster.launch import Progress
from rayplane.control_plane.cluster.pki import ENCRYPTION_FILE, Secrets, read_encryption
from rayplane.control_plane.cluster.ports import is_local
from rayplane.control_plane.cluster.specs import SpecMaker, founders
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import TOPOLOGY_KEY, Phase, Role, Topology
from rayplane.control_plane.etcd.server import restore_member
from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.storage.backup import BackupHeader, NotABackup, read_backup, write_backup
from rayplane.storage.env import LocalDisk
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, CompactedError, Store, as_of

_OBJECTS = b"/registry/"
# What belongs to the place a cluster runs in.
_PLACE = (TOPOLOGY_KEY, PLACES_KEY, b"/registry/masterleases/", b"/registry/leases/kube-system/")
_ROOT_CA = b"/kube-root-ca.crt"
_ADDRESSED = (
    b"/registry/services/",
    b"/registry/endpointslices/",
    b"/registry/ingress/",
    b"/registry/minions/",
    b"/registry/pods/",
)
_ALLOCATED = b"/rayplane/allocations/clusterips/"
_ADDRESS = re.compile(rb"\b(?:127|10)\.\d{1,3}(?=\.\d{1,3}\.\d{1,3}\b)")
"""The part of an address that a plan decides."""


async def backup(directory: StateDir, file: Path, progress: Progress) -> BackupHeader:
    """Write the state of a running cluster to `file`, whole or not at all."""
    if not file.parent.is_dir():
        raise UsageError(f"there is no directory {file.parent}; make it first")
    async with access(directory) as admin:
        progress("reading the state")
        address, revision = await admin.etcd.caught_up()
        header = _header(directory, admin.state, revision)
        await write_backup(LocalDisk(file.parent), file.name, header, _content(admin, address))
    return header


def _header(directory: StateDir, state: ClusterState, revision: int) -> BackupHeader:
    return BackupHeader(
        cluster=state.config.name,
        revision=revision,
        created=format_time(directory.clock.now()),
        origin={
            "config": state.config.to_json(),
            **state.plan.to_json(),
            # Where the keys of what is encrypted in it are; never the keys themselves.
            "state_dir": str(directory.path.resolve()),
        },
    )


async def _content(admin: Access, address: str) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(admin.etcd.snapshot(address)) as parts:
        async for part in parts:
            if part.remaining_bytes:  # the last two parts are no content
                yield part.blob


def _read(file: Path) -> tuple[BackupHeader, Iterator[bytes]]:
    # A disk makes its directory.
    if not file.exists():
        raise NotABackup(f"there is no file {file}: check its name")
    return read_backup(LocalDisk(file.parent), file.name)


async def restore(
    directory: StateDir, name: str, file: Path, progress: Progress, *, force: bool, key: bytes = b""
) -> tuple[ClusterState, BackupHeader]:
    """Bring a cluster up from a backup. One that is up is taken down first; refused if it holds workloads.

    `key`: the EncryptionConfiguration that the backup's cluster had. Without it the keys are looked for in the state
    directories of this cluster and of that one. The cluster goes on with those that it needs.
    """
    header, chunks = _read(file)
    # Before anything is taken down or deleted: the file may be damaged.
    store = Store(MemoryBackend(BUCKETS))
    store.restore(chunks)
    progress(f"read a backup of {header.cluster!r} at revision {store.revision}")
    return await _go_on(directory, name, store, header, progress, force=force, key=key), header


async def fork(
    source: StateDir, directory: StateDir, name: str, at: str, progress: Progress
) -> tuple[ClusterState, BackupHeader]:
    """Bring another cluster up that goes on from what a running one was at an instant; that one is not touched.

    Raises UsageError, HistoryForgotten, and ClusterError where there is a cluster of the name already.
    """
    if directory.read() is not None:
        raise ClusterError(f"there is a cluster {name!r} in {directory.path} already: choose another --name")
    store = Store(MemoryBackend(BUCKETS))
    async with access(source) as admin:
        then = await instant(admin.etcd, at, source.clock.now())
        progress(f"reading the state of {admin.state.config.name!r} at {then}")
        header = _header(source, admin.state, then.revision)
        address, _ = await admin.etcd.caught_up()
        store.restore([chunk async for chunk in _content(admin, address)])
    try:
        store.restore(as_of(store, then.revision))
    except CompactedError as e:
        raise HistoryForgotten(f"{then} was forgotten meanwhile: choose a later one") from e
    _end_orphans(store)
    ahead_s = source.read_ahead_s()
    return await _go_on(directory, name, store, header, progress, force=False, key=b"", ahead_s=ahead_s), header


def _end_orphans(store: Store) -> None:
    """Delete the keys whose leases have run out since: nobody would ever."""
    alive = {int.from_bytes(lease, signed=True) for lease, _ in store.backend.scan("lease")}
    with store.write() as txn:
        for lease, names in sorted(store.attachments().items()):
            for name in names if lease not in alive else ():
                txn.delete_range(name)


async def _go_on(
    directory: StateDir,
    name: str,
    store: Store,
    header: BackupHeader,
    progress: Progress,
    *,
    force: bool,
    key: bytes,
    ahead_s: float = 0.0,
) -> ClusterState:
    """Bring a cluster up with the content of a store. `ahead_s`: of its time, at least."""
    encryption = find_keys(store, header, directory, key)
    state = directory.read()
    if state is None:
        config = replace(ClusterConfig.from_json(header.origin["config"]), name=name, address="")
    else:
        config = state.config
        if not force:
            await _check_fresh(directory, state)
        _check_here(state)
        await launch.down(directory, progress)
        # Only those that ran knew where its members had gone meanwhile.
        state = directory.read() or state
        _check_here(state)
        await forget_elsewhere(directory, state, progress)
        directory.forget_data()

    async def prepare(state: ClusterState, secrets: Secrets) -> ClusterState:
        progress("laying out the members' data")
        if ahead_s > directory.read_ahead_s():
            directory.write_ahead_s(ahead_s)
        adapt(store, AddressPlan.from_json(header.origin), state.plan, all_keys(encryption, os.urandom))
        seeded = replace(state, topology=seedable(state.topology, is_local))
        await _seed(directory, seeded, secrets, list(store.snapshot()))
        return seeded

    return await launch.up(config, directory, progress, prepare=prepare, encryption=encryption)


def find_keys(store: Store, header: BackupHeader, directory: StateDir, given: bytes) -> bytes:
    """The EncryptionConfiguration that reads all of a backup's objects. ClusterError when it is not to be found."""
    sealed = [kv for kv in store.range(_OBJECTS, _after(_OBJECTS)).kvs if kv.value.startswith(ENCRYPTED)]
    source = header.origin.get("state_dir")
    places = [directory.pki, *([Path(source) / "pki"] if source else [])]
    found = [given] if given else [read_encryption(p) for p in places]
    try:
        for text in found:
            if not sealed or (text and _reads(text, sealed)):
                return text
    except BadEncryptionConfig as e:
        raise ClusterError(f"the encryption configuration cannot be used: {e}") from e
    names = ", ".join(sorted({key_name_of(kv.value) or "another provider's" for kv in sealed}))
    raise ClusterError(
        f"{len(sealed)} objects of the backup are encrypted (key {names}), and what there is does not decrypt them "
        f"all: give pki/{ENCRYPTION_FILE} of cluster {header.cluster!r}, as it was then, with --encryption-key FILE"
    )


def _reads(text: bytes, sealed: Iterable[KeyValue]) -> bool:
    keys = all_keys(text, os.urandom)
    try:
        for kv in sealed:
            keys.from_storage(kv.key.decode(), kv.value)
    except Untransformable:
        return False
    return True


def adapt(store: Store, old: AddressPlan, new: AddressPlan, keys: Transformer | None = None) -> None:
    """Make a cluster's state fit another place, in one revision. `keys`: for what of it is encrypted."""
    keys = keys or Transformer([[]], os.urandom)
    with store.write() as txn:
        for prefix in _PLACE:
            txn.delete_range(prefix, _after(prefix))
        for kv in txn.range(b"/registry/configmaps/", b"/registry/configmaps0").kvs:
            if kv.key.endswith(_ROOT_CA):
                txn.delete_range(kv.key)
        if old == new:
            return
        for prefix in _ADDRESSED:
            for kv in txn.range(prefix, _after(prefix)).kvs:
                moved = keys.change(kv.key.decode(), kv.value, lambda text: move_addresses(text, old, new))
                if moved != kv.value:
                    txn.put(kv.key, moved, lease=kv.lease)
        for kv in txn.range(_ALLOCATED, _after(_ALLOCATED)).kvs:
            txn.delete_range(kv.key)
            txn.put(move_addresses(kv.key, old, new), kv.value, lease=kv.lease)


def move_addresses(text: bytes, old: AddressPlan, new: AddressPlan) -> bytes:
    """Every address of the plan `old` as the same one of the plan `new`."""
    networks = [tuple(map(ipaddress.ip_network, pair)) for pair in zip(old.networks, new.networks, strict=True)]

    def moved(match: re.Match[bytes]) -> bytes:
        first = bytes(match.group())
        try:
            here = ipaddress.ip_address(f"{first.decode()}.0.0")
        except ValueError:
            return first
        for before, after in networks:
            if here in before:
                there = int(after.network_address) + int(here) - int(before.network_address)
                return ".".join(str(ipaddress.ip_address(there)).split(".")[:2]).encode()
        return first

    return _ADDRESS.sub(moved, text)


def _after(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


async def _check_fresh(directory: StateDir, state: ClusterState) -> None:
    if not state.running:
        raise ClusterError(
            f"{directory.path} holds the data of a cluster that is down; use --force to overwrite it, or another --name"
        )
    async with access(directory) as admin:
        for resource in ("pods", "deployments.apps", "statefulsets.apps", "persistentvolumeclaims"):
            if (await admin.api.list(resource, limit=1)).items:
                raise ClusterError(
                    f"cluster {state.config.name!r} holds {resource.partition('.')[0]}; use --force to lose them"
                )


def _check_here(state: ClusterState) -> None:
    """Raise ClusterError, before anything is deleted, when a cluster cannot be restored on this machine."""
    if state.topology.of(Role.MEMBER):
        seedable(state.topology, is_local)


async def _seed(directory: StateDir, state: ClusterState, secrets: Secrets, chunks: Iterable[bytes]) -> None:
    maker = SpecMaker(config=state.config, plan=state.plan, secrets=secrets, state_dir=str(directory.path))
    together = replace(state.topology, instances=tuple(founders(state.topology)))
    for instance in together.of(Role.MEMBER):
        spec = maker.make(instance, together, restarted=False)
        await restore_member(member_config(spec), LocalDisk(spec.data_dir), chunks)


def seedable(topology: Topology, is_local: Callable[[str], bool]) -> Topology:
    """The topology of a cluster whose members find their data where they are, as far as that is this machine.

    Those on other machines join them and are sent it, one after the other, as any member that is added. `is_local` is
    told an address. ClusterError when no member is here.
    """
    members = topology.of(Role.MEMBER)
    if not any(is_local(m.machine.address) for m in members):
        places = ", ".join(dict.fromkeys(m.machine.address for m in members))
        raise ClusterError(f"no member would run on this machine: restore on one of {places}")
    for member in members:
        joins = not is_local(member.machine.address)
        phase = Phase.JOINING if joins else Phase.ACTIVE
        topology = topology.replaced(replace(member, joins=joins, phase=phase))
    return topology
