"""Alarms: what keeps the whole cluster from writing (a full store, a member that holds something else).

Raised and cleared through the log; kept in the store's bucket "alarm".
"""

from rayplane.control_plane import etcd_errors as errors
from rayplane.proto.etcd.rpc_pb2 import CORRUPT, NONE, NOSPACE, AlarmMember, AlarmRequest, AlarmType
from rayplane.storage.keyvalue import Backend

_KNOWN = frozenset(AlarmType.values())


class Alarms:
    """Alarms that are on, as (member, type); every change is written through to the backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._on: dict[tuple[int, int], None] = {}
        self.load()

    def load(self) -> None:
        """Read everything anew: at start, and after the store was replaced."""
        alarms = [_decode(key) for key, _ in self._backend.scan("alarm")]
        self._on = {alarm: None for alarm in alarms if alarm[1] in _KNOWN}

    def __bool__(self) -> bool:
        return bool(self._on)

    def all(self) -> list[AlarmMember]:
        return [AlarmMember(memberID=m, alarm=a) for m, a in sorted(self._on)]  # type: ignore[arg-type]

    @property
    def out_of_space(self) -> bool:
        return any(alarm == NOSPACE for _, alarm in self._on)

    def is_corrupt(self, member: int) -> bool:
        """Whether there is a CORRUPT alarm that names this member."""
        return (member, CORRUPT) in self._on

    def check_sound(self) -> None:
        """As in etcd, no member takes writes while any is known to be corrupt. Raises Corrupt."""
        if any(alarm == CORRUPT for _, alarm in self._on):
            raise errors.Corrupt

    def check_space(self) -> None:
        """Raises Corrupt, NoSpace."""
        if self._on:
            self.check_sound()
            if self.out_of_space:
                raise errors.NoSpace

    def apply(self, request: AlarmRequest) -> list[AlarmMember]:
        """Raise or clear one; those that the request was about."""
        alarm = (request.memberID, int(request.alarm))
        if alarm[1] not in _KNOWN:
            return []  # of a newer version, or of nobody: no member knows what it means
        if request.action == AlarmRequest.ACTIVATE and alarm[1] != NONE:
            if alarm not in self._on:
                self._on[alarm] = None
                self._backend.put("alarm", _key(alarm), b"1")
        elif request.action == AlarmRequest.DEACTIVATE and alarm in self._on:
            del self._on[alarm]
            self._backend.delete("alarm", _key(alarm))
        else:
            return []
        return [AlarmMember(memberID=request.memberID, alarm=request.alarm)]


def _key(alarm: tuple[int, int]) -> bytes:
    return alarm[0].to_bytes(8, "big") + alarm[1].to_bytes(1, "big")


def _decode(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:8], "big"), key[8]
