"""Workload of a trial: what it makes is written down before it is made, and deleted by whoever comes next.

A file in the state directory, as `journal` is. What is made bears a mark: of what only has such a name, nothing is
deleted.
"""

import asyncio
import contextlib
import copy
import json
import re
from dataclasses import asdict, dataclass

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import MADE, StateDir
from rayplane.storage.env.private import write_private

MARK = "chaos.rayplane.io/trial"
"""The annotation of what a trial made: its own name."""
GONE_S = 60.0
_LOOK_S = 0.25
_CLAIMS = "persistentvolumeclaims"


@dataclass(frozen=True, slots=True)
class Made:
    """An object of a trial."""

    resource: str
    namespace: str
    name: str
    trial: str

    def __str__(self) -> str:
        return f"{self.resource} {self.namespace}/{self.name}" if self.namespace else f"{self.resource} {self.name}"


class Workload:
    """Objects that trials of one cluster have made and not deleted yet. Bounded by what files of scenarios make."""

    def __init__(self, directory: StateDir) -> None:
        self._path = directory.path / MADE

    def read(self) -> list[Made]:
        """Raises ClusterError when the file is damaged."""
        try:
            return [Made(**one) for one in json.loads(self._path.read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as e:
            raise ClusterError(f"{self._path} is damaged ({e}); delete what trials have left, and it") from e

    def marked(self, resource: str, manifest: Object, trial: str) -> Object:
        """What to make in place of a manifest; it is written down."""
        one = Made(resource, meta.namespace(manifest), meta.name(manifest), trial)
        if one not in (made := self.read()):
            self._write([*made, one])
        marked = copy.deepcopy(manifest)
        marked["metadata"].setdefault("annotations", {})[MARK] = trial
        return marked

    async def delete(self, api: ApiClient) -> list[str]:
        """Delete all of it, the last first, and wait until it is gone; what of it is left, and why."""
        left: dict[Made, str] = {}
        until = asyncio.get_running_loop().time() + GONE_S
        for one in reversed(self.read()):
            try:
                async with asyncio.timeout_at(until):
                    await _delete(api, one)
            except (ApiError, TimeoutError) as e:
                left[one] = str(e) or f"not gone after {GONE_S:.0f} s"
        self._write([one for one in self.read() if one in left])
        return [f"{one}: {why}" for one, why in left.items()]

    def _write(self, made: list[Made]) -> None:
        if made:
            write_private(self._path, json.dumps([asdict(one) for one in made]).encode())
        else:
            self._path.unlink(missing_ok=True)


async def _delete(api: ApiClient, one: Made) -> None:
    while (found := await _found(api, one.resource, one)) is not None:
        if meta.annotations(found).get(MARK) != one.trial:
            return
        claims = await _claims(api, found) if found["kind"] == "StatefulSet" else []
        await _end(api, one.resource, found, "Foreground")
        for claim in claims:
            await _end(api, _CLAIMS, claim)
        await asyncio.sleep(_LOOK_S)


async def _found(api: ApiClient, resource: str, one: Made) -> Object | None:
    try:
        return await api.get(resource, one.name, one.namespace)
    except NotFound:
        return None


async def _end(api: ApiClient, resource: str, obj: Object, propagation: str = "") -> None:
    if not meta.is_deleting(obj):
        with contextlib.suppress(NotFound):
            await api.delete(resource, meta.name(obj), meta.namespace(obj), uid=meta.uid(obj), propagation=propagation)


async def _claims(api: ApiClient, stateful: Object) -> list[Object]:
    """The claims that were made for a StatefulSet, which nobody owns; not one that was there before it."""
    templates = [meta.name(one) for one in stateful["spec"].get("volumeClaimTemplates") or ()]
    if not templates:
        return []
    named = re.compile(f"({'|'.join(map(re.escape, templates))})-{re.escape(meta.name(stateful))}-[0-9]+")
    since = meta.metadata(stateful)["creationTimestamp"]
    claims = (await api.list(_CLAIMS, meta.namespace(stateful))).items
    return [c for c in claims if named.fullmatch(meta.name(c)) and meta.metadata(c)["creationTimestamp"] >= since]
