"""Store of one node's replicas.

Everything is in one ordered store: a state per volume, an entry per file, and blocks named by their hash with a count
of the entries that use them. A commit is one durable transaction; blocks that arrived for a commit that never came
have a count of zero and go when the next writer prepares or the node starts.
"""

import json
from dataclasses import asdict, dataclass, field

from rayplane.node.volumes.backend import check_volume
from rayplane.node.volumes.drivers.replicated.manifest import BATCH_BYTES, EMPTY, Entry, Version, check_path, hash_block
from rayplane.node.volumes.errors import (
    CorruptVolume,
    Fenced,
    InvalidVolume,
    StaleReplica,
    VolumeFull,
    VolumeNotFound,
)
from rayplane.node.volumes.reservations import Reservations
from rayplane.proto.rayplane.v1 import volumes_pb2 as pb
from rayplane.storage.env import Disk
from rayplane.storage.keyvalue import Backend, LmdbBackend, MemoryBackend

_KIND = "replicated"
DIRECTORY = "volumes/replicas"
_BUCKETS = ("volume", "file", "block", "count")
_PREFIX_BYTES = 16


@dataclass(slots=True)
class _State:
    """Promises and contents of a replica."""

    volume: str
    capacity_bytes: int
    promised: int = 0
    writer: str = ""
    epoch: int = 0
    generation: int = 0
    used_bytes: int = 0
    filling: bool = False
    """It is there again after it was lost: what it held, and had promised, nobody knows until a commit fills it."""

    @property
    def committed(self) -> Version:
        return Version(self.epoch, self.generation)


@dataclass(slots=True)
class _Staged:
    """A change set on its way in."""

    version: Version
    files: dict[bytes, Entry] = field(default_factory=dict)
    removed: set[bytes] = field(default_factory=set)
    blocks: set[bytes] = field(default_factory=set)
    """Keys of the blocks that came with it."""


class ReplicaStore:
    """All replicas on one node."""

    def __init__(self, node: str, disk: Disk, reservations: Reservations) -> None:
        self.node = node
        self._reservations = reservations
        path = disk.local_path(DIRECTORY)
        self._backend: Backend
        if path is None:
            self._backend = MemoryBackend(_BUCKETS, disk, f"{DIRECTORY}.image")
        else:
            self._backend = LmdbBackend(path, _BUCKETS, durable=True)
        self._staged: dict[str, _Staged] = {}
        self._states: dict[str, _State] = {}
        for _, value in self._backend.scan("volume"):
            state = _State(**json.loads(value))
            self._states[state.volume] = state
        for key in [key for key, count in self._backend.scan("count") if not any(count)]:
            self._drop_block(key)

    def close(self) -> None:
        self._backend.close()

    def volumes(self) -> list[str]:
        """Volumes with a replica here, sorted."""
        return sorted(self._states)

    def _state(self, volume: str) -> _State:
        try:
            return self._states[volume]
        except KeyError:
            raise VolumeNotFound(f"node {self.node} has no replica of volume {volume}") from None

    def _save(self, state: _State) -> None:
        self._backend.put("volume", _prefix(state.volume), json.dumps(asdict(state)).encode())

    # Life cycle

    async def create(self, volume: str, capacity_bytes: int, *, again: bool = False) -> None:
        """`again`: in place of one that was lost."""
        check_volume(volume, capacity_bytes)
        await self._reservations.reserve(_KIND, volume, capacity_bytes)
        if volume not in self._states:
            self._states[volume] = _State(volume, capacity_bytes, filling=again)
            self._save(self._states[volume])
            await self._backend.flush()

    async def resize(self, volume: str, capacity_bytes: int) -> None:
        """Reserve another size for a replica. Raises VolumeNotFound, NoCapacity, VolumeFull when it holds more."""
        check_volume(volume, capacity_bytes)
        state = self._state(volume)
        if capacity_bytes < state.used_bytes:
            raise VolumeFull(f"volume {volume} holds {state.used_bytes} bytes, more than {capacity_bytes}")
        await self._reservations.resize(_KIND, volume, capacity_bytes)
        if capacity_bytes != state.capacity_bytes:
            state.capacity_bytes = capacity_bytes
            self._save(state)
            await self._backend.flush()

    async def delete(self, volume: str, epoch: int = 0) -> None:
        """`epoch`: of a writer that gives it up. Raises Fenced when a newer one was promised to."""
        state = self._states.get(volume)
        if epoch and state is not None and epoch < state.promised:
            raise self._fenced(state, epoch)
        if self._states.pop(volume, None) is not None:
            self._staged.pop(volume, None)
            prefix = _prefix(volume)
            for bucket in ("file", "block", "count"):
                for key in [key for key, _ in self._backend.scan(bucket, prefix, _after(prefix))]:
                    self._backend.delete(bucket, key)
            self._backend.delete("volume", prefix)
            await self._backend.flush()
        await self._reservations.release(_KIND, volume)

    # Writing

    def writer(self, volume: str, epoch: int) -> str:
        """The node that writes with this epoch. Raises Fenced when it is not the promised one."""
        state = self._state(volume)
        if epoch != state.promised:
            raise self._fenced(state, epoch)
        return state.writer

    async def prepare(self, volume: str, epoch: int, writer: str) -> Version:
        state = self._state(volume)
        if epoch < state.promised or (epoch == state.promised and writer != state.writer):
            raise self._fenced(state, epoch)
        if epoch > state.promised:
            state.promised, state.writer = epoch, writer
            self._save(state)
        self._unstage(volume)
        await self._backend.flush()
        return state.committed

    def _fenced(self, state: _State, epoch: int) -> Fenced:
        return Fenced(
            f"volume {state.volume}: epoch {epoch} is over, node {state.writer} writes with epoch {state.promised}"
        )

    def _unstage(self, volume: str) -> None:
        """Forget a change set, and the blocks that nothing uses."""
        staged = self._staged.pop(volume, None)
        for key in sorted(staged.blocks) if staged is not None else ():
            if not int.from_bytes(self._backend.get("count", key) or b""):
                self._drop_block(key)

    async def apply(self, request: pb.ApplyRequest) -> None:
        volume = request.ref.volume
        self.writer(volume, request.epoch)
        version = Version.of(request.version)
        staged = self._staged.get(volume)
        if staged is None or staged.version != version:
            self._unstage(volume)
            staged = self._staged[volume] = _Staged(version)
        for file in request.files:
            if not check_path(file.path):
                raise InvalidVolume(f"volume {volume}: path {file.path!r} leads out of the volume")
            staged.files[file.path] = Entry.of(file)
            staged.removed.discard(file.path)
        for path in request.removed:
            staged.removed.add(path)
            staged.files.pop(path, None)
        prefix = _prefix(volume)
        for block in request.blocks:
            key = prefix + hash_block(block)
            if self._backend.get("count", key) is None:
                self._backend.put("block", key, block)
                self._backend.put("count", key, bytes(8))
                staged.blocks.add(key)
        # Bounds the work of the commit; nothing counts yet.
        if request.blocks:
            await self._backend.flush()

    async def commit(self, volume: str, epoch: int, *, base: Version, version: Version) -> None:
        self.writer(volume, epoch)
        state = self._state(volume)
        if state.committed == version:
            return
        staged = self._staged.get(volume)
        if state.committed != base or staged is None or staged.version != version:
            raise StaleReplica(f"volume {volume}: node {self.node} has {state.committed}, not {base} with all changes")
        changed = {path: self._entry(volume, path) for path in sorted(staged.removed | staged.files.keys())}
        used = state.used_bytes - sum(entry.size for entry in changed.values() if entry is not None)
        used += sum(entry.size for entry in staged.files.values())
        if used > state.capacity_bytes:
            raise VolumeFull(
                f"volume {volume} holds {used} bytes but may hold {state.capacity_bytes}: remove files or claim more"
            )
        counts = self._new_counts(volume, staged, changed)
        for path in changed:
            key = _file_key(volume, path)
            if path in staged.files:
                self._backend.put("file", key, staged.files[path].message(path).SerializeToString())
            else:
                self._backend.delete("file", key)
        for key, count in sorted(counts.items()):
            if count:
                self._backend.put("count", key, count.to_bytes(8))
            else:
                self._drop_block(key)
        self._unstage(volume)
        state.epoch, state.generation, state.used_bytes, state.filling = *version, used, False
        self._save(state)
        await self._backend.flush()

    def _new_counts(self, volume: str, staged: _Staged, changed: dict[bytes, Entry | None]) -> dict[bytes, int]:
        """How often each touched block will be used. Raises StaleReplica if one is not here."""
        prefix = _prefix(volume)
        change: dict[bytes, int] = {}
        for path, old in changed.items():
            for block in old.blocks if old is not None else ():
                change[block] = change.get(block, 0) - 1
            for block in staged.files[path].blocks if path in staged.files else ():
                change[block] = change.get(block, 0) + 1
        counts = {}
        for block, by in change.items():
            present = self._backend.get("count", prefix + block)
            if present is None:
                raise StaleReplica(
                    f"volume {volume}: node {self.node} lacks block {block.hex()}: send everything again"
                )
            counts[prefix + block] = int.from_bytes(present) + by
        return counts

    # Reading

    def inventory(self, volume: str, *, files: bool, after: bytes) -> pb.InventoryResponse:
        state = self._state(volume)
        response = pb.InventoryResponse(
            committed=state.committed.message(),
            promised=state.promised,
            writer=state.writer,
            capacity_bytes=state.capacity_bytes,
            used_bytes=state.used_bytes,
            filling=state.filling,
        )
        if files:
            prefix = _prefix(volume)
            start = _file_key(volume, after) + b"\0" if after else prefix
            total = 0
            # In the order of keys, which page by hash; a page is cut at about BATCH_BYTES.
            for _, value in self._backend.scan("file", start, _after(prefix)):
                if response.files and total + len(value) > BATCH_BYTES:
                    response.more = True
                    break
                total += len(value)
                response.files.append(pb.VolumeFile.FromString(value))
        return response

    def fetch(self, volume: str, hashes: list[bytes]) -> list[bytes]:
        self._state(volume)
        found = []
        for wanted in hashes:
            block = self._backend.get("block", _prefix(volume) + wanted)
            if block is None:
                raise StaleReplica(f"volume {volume}: node {self.node} lacks block {wanted.hex()}")
            if hash_block(block) != wanted:
                raise CorruptVolume(
                    f"volume {volume}: block {wanted.hex()} on node {self.node} is damaged; delete this replica"
                )
            found.append(block)
        return found

    def _entry(self, volume: str, path: bytes) -> Entry | None:
        value = self._backend.get("file", _file_key(volume, path))
        return None if value is None else Entry.of(pb.VolumeFile.FromString(value))

    def _drop_block(self, key: bytes) -> None:
        self._backend.delete("block", key)
        self._backend.delete("count", key)

    @property
    def committed(self) -> dict[str, Version]:
        """Versions that the replicas hold, for tests and status."""
        return {volume: state.committed for volume, state in sorted(self._states.items())}

    def is_filling(self, volume: str) -> bool:
        """Tell whether a replica was lost and is not filled yet."""
        return self._state(volume).filling

    def is_empty(self, volume: str) -> bool:
        """Tell whether nothing was ever committed to a replica."""
        return self._state(volume).committed == EMPTY

    def capacity(self) -> tuple[int, int]:
        """Total and free bytes of the node."""
        return self._reservations.total_bytes, self._reservations.free_bytes


def _prefix(volume: str) -> bytes:
    return hash_block(volume.encode())[:_PREFIX_BYTES]


def _after(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with a prefix."""
    number = int.from_bytes(prefix) + 1
    return number.to_bytes(len(prefix)) if number >> (8 * len(prefix)) == 0 else None


def _file_key(volume: str, path: bytes) -> bytes:
    """Paths may be longer than a key of the store."""
    return _prefix(volume) + hash_block(path)
