"""The data directory of a member that was killed, spoiled: it serves what it had, or refuses in one typed line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.etcd.test_disk_faults import files_of, one_life, serves_or_refuses
from tests.fuzz import mutate

CASES = 8
CASES_PER_WORLD = 500
_PAGE = 4096

Case = list[tuple[int, int]]
"""Which file is spoiled, and the rng of how."""


def make(rng: random.Random) -> Case:
    return [(rng.randrange(1000), rng.randrange(1 << 32)) for _ in range(mutate.some(rng))]


class Directory:
    def __init__(self, root: Path, state: dict[bytes, bytes]) -> None:
        self._root, self._state = root, state
        self._files = [p.relative_to(root) for p in files_of(root)]

    async def run(self, case: Case) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-member-") as copy:
            shutil.copytree(self._root, copy, dirs_exist_ok=True)
            for which, seed in case:
                _spoil(Path(copy) / self._files[which % len(self._files)], random.Random(seed))
            refusal = await serves_or_refuses(Path(copy), self._state)
            assert "\n" not in refusal, refusal
            again = await serves_or_refuses(Path(copy), self._state | ({} if refusal else {b"another": b"write"}))
            assert bool(again) == bool(refusal), (refusal, again)

    async def good(self) -> None:
        await asyncio.sleep(0)

    def sizes(self) -> dict[str, int]:
        return {}


def _spoil(path: Path, rng: random.Random) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    if rng.random() < 0.6 and len(data) > _PAGE:
        # Where the structure is: the beginning of a page.
        page = rng.randrange(len(data) // _PAGE) * _PAGE
        head = mutate.of_bytes(rng, data[page : page + 160])
        data = data[:page] + head[:160].ljust(160, b"\0") + data[page + 160 :]
    else:
        data = mutate.of_bytes(rng, data)
    path.write_bytes(data)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Directory]:
    with tempfile.TemporaryDirectory(prefix="fuzz-life-") as root:
        state = await one_life(Path(root), clean=False)
        yield Directory(Path(root), state)
