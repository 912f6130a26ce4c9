"""Scores of nodes by how full the storage would be that a pod's waiting claims get there.

Where claims find volumes that exist, these count: what is asked of each storage class, as a share of its volumes' size.
Elsewhere what is to be made counts, as a share of what a CSIStorageCapacity says is there.

Source: KEP-1845, KEP-4049 (storage capacity scoring); API reference VolumeBindingArgs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rayplane.control_plane.api.claims import class_of, requested_bytes
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.plugins.broken_line import Points, along
from rayplane.control_plane.scheduler.pods import AMOUNT_MAX
from rayplane.control_plane.scheduler.rows import rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Snapshot
from rayplane.control_plane.scheduler.volumes import Volume, VolumeIndex, VolumeNeeds

_NONE = -1


def storage_scores(
    volumes: VolumeIndex, needs: VolumeNeeds, snapshot: Snapshot, among: Bools, points: Points
) -> Ints | None:
    """Scores of the rows `among`; None where none of the claims says anything of any node."""
    if not needs.waiting:
        return None
    found = _to_be_made(volumes, needs, snapshot, points)
    there = [_first_volumes(volumes.free_for(claim), snapshot, among, len(needs.waiting)) for claim in needs.waiting]
    if not any(len(known) for known, _ in there):
        return found
    if found is None:
        found = np.zeros(snapshot.rows, dtype=np.int64)
    matched = np.flatnonzero(among & np.any([first[0] != _NONE for _, first in there], axis=0))
    found[matched] = _of_volumes(needs.waiting, there, matched, points)
    return found


def _percent(asked: Ints, capacity: Ints) -> Ints:
    """The percentage of use; what is not there is full."""
    return np.where((capacity <= 0) | (asked > capacity), 100, asked * 100 // np.maximum(capacity, 1))


def _mean(scores: Sequence[Ints]) -> Ints:
    """Every class counts the same; rounded half up."""
    found: Ints = np.floor(np.sum(scores, axis=0) / len(scores) + 0.5).astype(np.int64)
    return found


def _to_be_made(volumes: VolumeIndex, needs: VolumeNeeds, snapshot: Snapshot, points: Points) -> Ints | None:
    """As if all claims had volumes made for them; None where nobody says how much there is."""
    asked: dict[str, int] = {}
    capacity: dict[str, Ints] = {}
    for claim in needs.waiting:
        room = volumes.room_for(claim, needs, snapshot)
        if room is not None:
            name = class_of(claim)
            asked[name] = asked.get(name, 0) + requested_bytes(claim)
            capacity[name] = room
    if not asked:
        return None
    scores = [along(points, _percent(_number(asked[name]), capacity[name])) for name in asked]
    return _mean(scores)


# -- volumes that exist ------------------------------------------------------------------------------------------


def _first_volumes(
    free: Iterable[Volume], snapshot: Snapshot, among: Bools, count: int
) -> tuple[Sequence[Volume], Ints]:
    """The volumes that a claim may get, in the order in which it would take them, and of each row the first `count`."""
    known = sorted(free, key=lambda volume: (volume.size, volume.name))
    first = np.full((count, snapshot.rows), _NONE, dtype=np.int64)
    filled = np.zeros(snapshot.rows, dtype=np.int64)
    wanted = among.copy()
    for number, volume in enumerate(known):
        if not wanted.any():
            break
        here = wanted if volume.terms is None else wanted & rows_of_terms(snapshot, volume.terms)
        rows = np.flatnonzero(here)
        first[filled[rows], rows] = number
        filled[rows] += 1
        wanted[rows] = filled[rows] < count
    return known, first


def _of_volumes(
    claims: Sequence[Object], there: Sequence[tuple[Sequence[Volume], Ints]], rows: Ints, points: Points
) -> Ints:
    if len(claims) == 1:
        known, first = there[0]
        sizes = np.array([min(volume.size, AMOUNT_MAX) for volume in known], dtype=np.int64)
        return along(points, _percent(_number(requested_bytes(claims[0])), sizes[first[0, rows]]))
    return np.array([_of_node(claims, there, row, points) for row in rows.tolist()], dtype=np.int64)


def _of_node(claims: Sequence[Object], there: Sequence[tuple[Sequence[Volume], Ints]], row: int, points: Points) -> int:
    """One node: a claim takes no volume that another has taken before it."""
    taken: set[str] = set()
    shares: dict[str, tuple[int, int]] = {}
    for claim, (known, first) in zip(claims, there, strict=True):
        volumes = (known[number] for number in first[:, row].tolist() if number != _NONE)
        volume = next((one for one in volumes if one.name not in taken), None)
        if volume is not None:
            taken.add(volume.name)
            asked, capacity = shares.get(class_of(claim), (0, 0))
            shares[class_of(claim)] = asked + requested_bytes(claim), capacity + volume.size
    scores = [along(points, _percent(_number(asked), _number(capacity))) for asked, capacity in shares.values()]
    return int(_mean(scores))


def _number(size: int) -> Ints:
    return np.asarray(min(size, AMOUNT_MAX), dtype=np.int64)
