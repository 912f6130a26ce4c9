"""The past of a control plane: how it stood at each look of the last hour. Pure, in memory."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from rayplane.control_plane.api.meta import format_micro_time

EVERY_S: Final = 10.0
LOOKS_MAX: Final = 360
LATELY: Final = timedelta(minutes=5)
"""For how long before an instant it is told who led."""
_OF_MEMBERS: Final = ("name", "leader", "term", "error")
_OF_LEASES: Final = ("name", "holder", "error")


@dataclass(frozen=True, slots=True)
class _Look:
    at: datetime
    revision: int
    seen: bytes
    led: dict[str, Any]


class Past:
    """The looks that were kept, oldest first; the oldest go for new ones."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=LOOKS_MAX)

    def keep(self, look: dict[str, Any], at: datetime) -> None:
        """Keep what `status.glance` tells.

        It is of the highest revision that a member tells of, and of none before that of the look before it.
        """
        revisions = [one.get("revision", 0) for one in look["members"]]
        revision = max([*revisions, self._looks[-1].revision if self._looks else 0])
        led = {"members": _some(look["members"], _OF_MEMBERS), "leases": _some(look["leases"], _OF_LEASES)}
        self._looks.append(_Look(at, revision, orjson.dumps(look), led))

    def then(self, revision: int) -> dict[str, Any]:
        """The last look up to a revision, `seen` then, and who led `lately`; nothing where nobody had looked yet."""
        upto = [one for one in self._looks if one.revision <= revision]
        if not upto:
            return {}
        found = upto[-1]
        lately = [{"seen": format_micro_time(one.at), **one.led} for one in upto if one.at > found.at - LATELY]
        return {**orjson.loads(found.seen), "seen": format_micro_time(found.at), "lately": lately}


def _some(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names if name in row} for row in rows]
