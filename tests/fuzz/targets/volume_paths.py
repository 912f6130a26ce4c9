"""Mount paths, sub paths, working directories and planted links of a pod: whatever they say, nothing beside the pod and
its volumes is touched, and what cannot be is refused."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from rayplane.node.errors import NodeError
from rayplane.node.runtime import Mount
from rayplane.node.runtime.tree import ContainerTree
from rayplane.node.volumes.pod_files import PodFiles
from rayplane.storage.beneath import LeavesRoot
from tests.fuzz import mutate
from tests.storage.test_beneath import picture

CASES = 60
CASES_PER_WORLD = 1000
_PARTS = (
    "a",
    "b",
    "..",
    ".",
    "",
    "data",
    "cache",
    "link",
    "up",
    "abs",
    "file",
    "outside",
    "\0",
    "é",
    "x" * 300,
    " ",
    "~",
)

Step = tuple[str, str, str, bool]
"""`mount` (path, sub path, scratch), `plant` (where, what the link says), `place` (path, "", whether to make it)."""
Case = list[Step]


def make(rng: random.Random) -> Case:
    steps = []
    for _ in range(rng.randrange(1, 8)):
        what = rng.choice(("mount", "mount", "plant", "plant", "place"))
        second = (
            rng.choice(("OUTSIDE", "OUTSIDE/file", "/etc", "..", _path(rng), _path(rng))) if what == "plant" else ""
        )
        if what == "mount" and rng.random() < 0.5:
            second = _path(rng)
        steps.append((what, _path(rng), second, rng.random() < 0.5))
    return steps


def _path(rng: random.Random) -> str:
    path = "/".join(rng.choice(_PARTS) for _ in range(rng.randrange(1, 5)))
    path = "/" + path if rng.random() < 0.5 else path
    return mutate.of_text(rng, path) if rng.random() < 0.1 else path


class Machine:
    def __init__(self, root: Path) -> None:
        self._root = root = root.resolve()
        (root / "outside/dir").mkdir(parents=True)
        (root / "outside/file").write_bytes(b"precious")
        self._outside = picture(root / "outside")
        self._turn = 0

    async def run(self, case: Case) -> None:
        self._act(case)

    def _act(self, case: Case) -> None:
        self._turn += 1
        base = self._root / f"turn{self._turn}"
        pods, volume = PodFiles(str(base / "pods")), base / "volume"
        volume.mkdir(parents=True)
        (volume / "kept").write_bytes(b"kept")
        directory = pods.create("uid")
        tree = ContainerTree(directory, "c")
        mounts: list[Mount] = []
        for n, (what, first, second, flag) in enumerate(case):
            with contextlib.suppress(NodeError, LeavesRoot, OSError, ValueError):
                if what == "mount":
                    source = pods.volume_dir(directory, f"v{n}") if flag else str(volume)
                    mounts.append(Mount(f"v{n}", first, source, sub_path=second, scratch=flag))
                    tree.prepare(mounts, log="1.log")
                elif what == "plant":
                    self._plant(volume if flag else Path(tree.root.root), first, second)
                else:
                    place = os.path.realpath(tree.place(first, create=flag))
                    assert place.startswith(str(base)), f"{first} is placed at {place}"
        assert picture(self._root / "outside") == self._outside, "the machine was touched"
        assert (volume / "kept").read_bytes() == b"kept", "bytes of a volume are lost"
        assert sorted(os.listdir(base)) == ["pods", "volume"] and os.listdir(base / "pods") == ["uid"]
        shutil.rmtree(base)

    def _plant(self, root: Path, where: str, goal: str) -> None:
        """As a process of the pod would, which is no danger by itself: only where it may write."""
        link = root / os.path.normpath("/" + where).lstrip("/")
        if os.path.realpath(link.parent).startswith(str(root)) and link.name:
            os.symlink(goal.replace("OUTSIDE", str(self._root / "outside")), link)

    async def good(self) -> None:
        await self.run([("mount", "/data", "sub", False), ("place", "/data/x", "", True)])

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="fuzz-paths-") as root:
        yield Machine(Path(root))
