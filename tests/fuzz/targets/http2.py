"""HTTP/2 and HPACK: sessions of frames, spoiled, at a server's connection and at a client's."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from hpack import Encoder

from rayplane.control_plane.rpc.grpc_wire import frame as message_of
from rayplane.control_plane.rpc.http2 import ProtocolError, encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.fuzz import mutate
from tests.fuzz.targets._wire import calling, joined, registry_of, sizes_of
from tests.rpc.grpc_peers import RANGE, WATCH, Handler, services, watch
from tests.rpc.http2_peer import REQUEST, RESPONSE, TRAILERS, Recorder, frame, settings, window_update

CASES = 400
CASES_PER_WORLD = 500
#: What may be answered to one byte, and to nothing.
ANSWER_FACTOR, ANSWER_MIN = 64, 1 << 20
_PATHS = (RANGE, WATCH, "/", "/no/such", "/etcdserverpb.KV/Put", "/grpc.health.v1.Health/Check", "*")

Case = list[bytes]


def make(rng: random.Random) -> Case:
    """Pieces as they arrive; the first byte of the first says which end reads them."""
    client = rng.random() < 0.25
    said = _answers(rng) if client else _session(rng)
    if rng.random() < 0.9:
        said = mutate.of_list(rng, said, lambda one: _spoiled(rng, one))
    data = b"".join(said)
    if rng.random() < 0.3:
        data = mutate.of_bytes(rng, data, said)
    if not client:
        data = f.PREFACE + (settings() if rng.random() < 0.9 else b"") + data
    step = rng.choice((len(data) or 1, 1, 7, 60, 1000))
    if len(data) // step > 3000:
        step = len(data)
    return [b"c" if client else b"s", *(data[at : at + step] for at in range(0, len(data), step))]


def _spoiled(rng: random.Random, data: bytes) -> bytes:
    """A frame with another kind, flag, stream or length, or with other bytes in it."""
    if len(data) < f.HEAD_BYTES:
        return mutate.of_bytes(rng, data)
    _, _, kind, flags, stream = f.HEAD.unpack_from(data)
    payload = data[f.HEAD_BYTES :]
    match rng.randrange(6):
        case 0:
            kind = rng.randrange(12)
        case 1:
            flags ^= 1 << rng.randrange(8)
        case 2:
            stream = rng.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)))
        case 3:
            payload = mutate.of_bytes(rng, payload)
        case 4:
            payload = payload[: rng.randrange(len(payload) + 1)]
        case 5:
            return mutate.of_bytes(rng, data)
    return frame(kind, flags, stream, payload[: f.FRAME_BYTES_MAX * 2])


def _headers(rng: random.Random, encoder: Encoder, path: str) -> bytes:
    fields = [(n, path.encode() if n == b":path" else v) for n, v in REQUEST]
    extra = [
        (b"grpc-timeout", rng.choice((b"1S", b"9m", b"99999999n", b"-1S", b"1", b"S", b"0u", b"\xff"))),
        (b"grpc-encoding", rng.choice((b"gzip", b"identity", b"br", b""))),
        (b"x-bin", rng.choice((b"AAAA", b"!", b""))),
        (b"a-bin", rng.randbytes(5)),
        (b"te", b"trailers"),
        (rng.choice((b"Upper", b"", b":odd", b"a b", b"connection")), b"x"),
        (b"long", b"v" * rng.choice((10, 10, 5000, 70_000))),
    ]
    fields += [e for e in extra if rng.random() < 0.2]
    if rng.random() < 0.1:
        rng.shuffle(fields)
    small = all(len(v) < 1000 for _, v in fields)
    return encoder.encode(fields) if small and rng.random() < 0.5 else encode_headers(fields)


def _session(rng: random.Random) -> list[bytes]:
    encoder = Encoder()
    said, stream = [], 1
    for _ in range(rng.randrange(1, 8)):
        match rng.randrange(10):
            case 0:
                said.append(frame(f.PING, rng.choice((0, 1)), 0, rng.randbytes(8)))
            case 1:
                said.append(settings(window=rng.choice((0, 1, 65535, 2**31 - 1)), frame=rng.choice((16384, 2**24 - 1))))
            case 2:
                said.append(window_update(rng.choice((0, 1, stream)), rng.choice((1, 0, 2**31 - 1))))
            case 3:
                said.append(frame(f.RST_STREAM, 0, stream, f.U32.pack(8)))
            case 4:
                said.append(frame(f.GOAWAY, 0, 0, f.U32.pack(stream) + f.U32.pack(0) + b"bye"))
            case _:
                said += _call(rng, encoder, stream)
                stream += 2
    return said


def _call(rng: random.Random, encoder: Encoder, stream: int) -> list[bytes]:
    path = rng.choice((RANGE, RANGE, *_PATHS))
    block = _headers(rng, encoder, path)
    cut = rng.randrange(len(block)) if rng.random() < 0.2 else len(block)
    padding = rng.random() < 0.1
    first = bytes([5]) + block[:cut] + bytes(5) if padding else block[:cut]
    flags = (f.END_HEADERS if cut == len(block) else 0) | (f.PADDED if padding else 0)
    said = [frame(f.HEADERS, flags, stream, first)]
    if cut < len(block):
        said.append(frame(f.CONTINUATION, f.END_HEADERS, stream, block[cut:]))
    key = rng.choice((b"k", b"refuse", b"cancelled inside", b"k" * 1000))
    request = watch(key) if path == WATCH else pb.RangeRequest(key=key, limit=rng.choice((0, 9, 5000)))
    body = message_of(request.SerializeToString()) * rng.choice((1, 1, 3))
    half = rng.randrange(len(body))
    said += [frame(f.DATA, 0, stream, body[:half]), frame(f.DATA, f.END_STREAM, stream, body[half:])]
    return said


def _answers(rng: random.Random) -> list[bytes]:
    said = [settings(streams=100)]
    for stream in (1, 3):
        body = message_of(pb.RangeResponse(count=1).SerializeToString())
        said.append(frame(f.HEADERS, f.END_HEADERS, stream, encode_headers(RESPONSE)))
        said.append(frame(f.DATA, 0, stream, body))
        said.append(frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream, encode_headers(TRAILERS)))
    said.append(frame(f.GOAWAY, 0, 0, f.U32.pack(1) + f.U32.pack(rng.randrange(20)) + rng.randbytes(9)))
    said.append(frame(f.PUSH_PROMISE, f.END_HEADERS, 1, f.U32.pack(2) + encode_headers(REQUEST)))
    return said


class Server:
    def __init__(self) -> None:
        self.handler = Handler()
        self.handler.let_go.set()
        self.registry = registry_of(services(self.handler))

    async def run(self, case: Case) -> None:
        if case and case[0] == b"c":
            self._as_client(case[1:])
            return
        pipe = joined(self.registry, None, lambda data: None)
        received = 0
        for piece in case[1:]:
            if pipe.is_closing():
                break
            received += len(piece)
            pipe.server.data_received(piece)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        allowed = ANSWER_MIN + ANSWER_FACTOR * received
        assert pipe.bytes <= allowed, f"{pipe.bytes} bytes were answered to {received}"
        pipe.lose()
        assert not any(s.call for s in pipe.server.connection.streams.values()), "a lost connection has calls"

    def _as_client(self, pieces: list[bytes]) -> None:
        ours = Recorder(client=True)
        for _ in range(2):
            ours.connection.send_headers(ours.connection.open(), encode_headers(REQUEST), end=True)
        with contextlib.suppress(ProtocolError):
            for piece in pieces:
                ours.connection.receive(piece)
                ours.connection.take()

    async def good(self) -> None:
        async with calling(self.registry, None) as caller:
            answer = await caller.call(RANGE, [pb.RangeRequest(key=b"k").SerializeToString()], limit=b"60S")
            assert answer == "0 ", answer

    def sizes(self) -> dict[str, int]:
        self.handler.contexts.clear()
        return sizes_of(self.registry)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Server]:
    yield Server()
