"""The names and shapes of what goes over the wire (RFC 9113 sections 4, 6 and 7), and what a peer may ask of us."""

import struct

from rayplane.control_plane.rpc.http2.errors import ErrorCode, ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Largest frame payload accepted: fewer, larger frames make large messages cheaper.
FRAME_BYTES_MAX = 256 * 1024
#: Bytes that a peer may send on a stream, or on all together, before somebody takes them.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
#: Streams that a peer may have open.
STREAMS_MAX = 4096
#: Answers to control frames in one turn: an honest peer needs few.
CONTROL_FRAMES_MAX = 4096
#: Streams that a peer may open only to reset them, between two times of `Connection.forgive`.
RESETS_MAX = 4096

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
SET_PUSH, SET_STREAMS, SET_WINDOW, SET_FRAME, SET_HEADERS = 2, 3, 4, 5, 6

WINDOW_DEFAULT = 65_535
WINDOW_MAX = 2**31 - 1
FRAME_DEFAULT = 16_384
STREAM_ID_MAX = 2**31 - 1

#: High and low part of the length, type, flags, stream.
HEAD = struct.Struct(">BHBBI")
HEAD_BYTES = 9
SETTING = struct.Struct(">HI")
U32 = struct.Struct(">I")


def unpadded(payload: bytes) -> bytes:
    """What a padded frame carries. Raises ProtocolError."""
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def parse_settings(payload: bytes) -> dict[int, int]:
    """By name; of a setting that is given twice the last one counts. Raises ProtocolError."""
    settings = dict(SETTING.iter_unpack(payload))
    if settings.get(SET_PUSH, 0) > 1:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {settings[SET_PUSH]}")
    if settings.get(SET_WINDOW, 0) > WINDOW_MAX:
        raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {settings[SET_WINDOW]} bytes")
    if not FRAME_DEFAULT <= settings.get(SET_FRAME, FRAME_DEFAULT) < 1 << 24:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"frames of {settings[SET_FRAME]} bytes")
    return settings
