"""Streams of real processes: exec, attach, logs, port-forward and copies, and their bounds."""

import asyncio
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import node_pb2 as pb
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, log_bytes, logs, phase, run_in, shell, state, stub

pytestmark = pytest.mark.processes


async def test_exec_runs_beside_the_container(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    api.put("pods", shell("web", "sleep 1000"))
    await api.until(lambda: "running" in state(api, "web"))
    script = "cat; echo err >&2; exit 5"
    out, err, code = await run_in(host, "web", "sh", "-c", script, stdin_open=True, stdin=b"in", stdin_closed=True)
    assert (out, err, code) == (b"in", b"err\n", 5)
    out, _, code = await run_in(host, "web", "sh", "-c", "test -t 0 && stty size", tty=True, width=90, height=33)
    assert (out.strip(), code) == (b"33 90", 0)
    out, err, code = await run_in(host, "web", "no-such-program")
    assert (out, code) == (b"", 127)
    why = b'unable to start container process: exec: "no-such-program": executable file not found in $PATH'
    assert err == b"exec failed: " + why + b"\n"
    assert (await run_in(host, "web", "/etc"))[2] == 126


async def test_logs_follow_and_previous(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    volumes = [{"name": "d", "emptyDir": {}}]
    container = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    script = "n=$(ls /d | wc -l); echo run $n; touch /d/$n; until [ -e /d/stop ]; do sleep 0.01; done; [ $n != 0 ]"
    api.put("pods", shell("web", script, container=container, volumes=volumes, restartPolicy="OnFailure"))
    await api.until(lambda: "running" in state(api, "web"))
    ref = pb.ContainerRef(node="n1", namespace="default", pod="web")
    following = stub(host).Logs(pb.LogsRequest(ref=ref, follow=True))
    first = await anext(following)  # it follows this run, before there is another
    await run_in(host, "web", "sh", "-c", "touch /d/stop")
    assert b"".join([first.data, *[chunk.data async for chunk in following]]) == b"run 0\n"
    await api.until(lambda: phase(api, "web") == "Succeeded")
    assert await logs(host, "web") == b"run 2\n"
    assert await logs(host, "web", previous=True) == b"run 0\n"


async def test_port_forward(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    server = (
        "import os, socket; s = socket.create_server((os.environ['POD_IP'], 18083)); print('up', flush=True)\n"
        "c, _ = s.accept(); c.sendall(c.recv(100).upper()); c.close(); import time; time.sleep(1000)"
    )
    api.put("pods", make_pod("web", container={"command": [sys.executable, "-c", server]}))
    await api.until(lambda: "running" in state(api, "web"))
    while await logs(host, "web") != b"up\n":
        await asyncio.sleep(0.01)
    ref = pb.ContainerRef(node="n1", namespace="default", pod="web")

    async def requests(port: int) -> Any:
        yield pb.PortForwardRequest(ref=ref, port=port, data=b"hello")
        yield pb.PortForwardRequest(closed=True)

    answers = [r async for r in stub(host).PortForward(requests(18083))]
    assert b"".join(a.data for a in answers) == b"HELLO"
    with pytest.raises(RpcError, match="cannot connect"):
        _ = [r async for r in stub(host).PortForward(requests(18084))]


async def test_calls_about_pods_that_are_not_here(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    api.put("pods", shell("web", "sleep 1000"))
    await api.until(lambda: "running" in state(api, "web"))
    with pytest.raises(RpcError) as error:
        await logs(host, "other")
    assert error.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(RpcError, match="previous terminated container"):
        await logs(host, "web", previous=True)


async def test_a_log_keeps_its_end_when_it_grows_large(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, log_file_bytes=5 << 20, log_files=2)
    script = "yes 'a line of twenty byte' | head -n 600000; echo end"
    api.put("pods", shell("web", script, restartPolicy="Never"))
    await api.until(lambda: phase(api, "web") == "Succeeded")
    text = await logs(host, "web")
    assert text.endswith(b"a line of twenty byte\nend\n")
    assert len(text) < 12_000_000
    assert host.pod_files is not None
    assert log_bytes(host.pod_files.root) <= 11 << 20


async def test_copies_go_to_the_container_and_come_back(api: FakeClient, make_host: MakeHost, tmp_path: Path) -> None:
    host = await make_host(NODE)
    container = {"volumeMounts": [{"name": "d", "mountPath": "/data"}]}
    api.put("pods", shell("web", "sleep 1000", container=container, volumes=[{"name": "d", "emptyDir": {}}]))
    await api.until(lambda: "running" in state(api, "web"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("copied")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    where = f"/{tmp_path.name}/deep"  # would be made at the root of the machine
    for directory in (where, "/data", "../../../../../../../../../.."):
        unpack = ("tar", "-xmf", "-", "-C", directory)
        first: dict[str, Any] = {"stdin_open": True, "stdin": buffer.getvalue(), "stdin_closed": True}
        assert (await run_in(host, "web", *unpack, **first))[1:] == (b"", 0)
    assert not {tmp_path.name, "copied"} & {*os.listdir("/")}
    for path in (f"{where}/copied", "/data/copied", "/copied"):
        assert (await run_in(host, "web", "cat", path))[0] == b"hello"
        assert (await run_in(host, "web", "sh", "-c", f"cat '{path}'"))[0] == b"hello"
        out, _, code = await run_in(host, "web", "tar", "cf", "-", path)
        with tarfile.open(fileobj=io.BytesIO(out)) as archive:
            assert (archive.getnames(), code) == ([path.strip("/")], 0)
    out = (await run_in(host, "web", "tar", "cf", "-", "/data"))[0]
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert sorted(archive.getnames()) == ["data", "data/copied"]


async def test_sessions_of_a_pod_are_bounded_and_probes_find_room(
    api: FakeClient, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayplane.node.streaming.sessions.PER_POD", 2)
    monkeypatch.setattr("rayplane.node.streaming.sessions.PER_HOST", 3)
    host = await make_host(NODE)
    for name in ("a", "b"):
        api.put("pods", shell(name, "echo up; sleep 1000"))
        await api.until(lambda n=name: "running" in state(api, n))
    ended = asyncio.Event()

    async def hold(pod: str) -> tuple[bytes, int]:
        async def requests() -> Any:
            ref = pb.ContainerRef(node="n1", namespace="default", pod=pod)
            yield pb.ExecRequest(ref=ref, command=["cat"], stdin_open=True)
            await ended.wait()

        answers = [a async for a in stub(host).Exec(requests())]
        return b"".join(a.stdout for a in answers), answers[-1].exit_code

    sessions = host.sessions
    first = [asyncio.create_task(hold("a")) for _ in range(2)]
    while sessions.open("default/a") < 2:
        await asyncio.sleep(0.005)
    for command in (run_in(host, "a", "true"), logs(host, "a")):
        with pytest.raises(RpcError, match="2 sessions of pod default/a are open") as refused:
            await command
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    more = asyncio.create_task(hold("b"))
    while sessions.open("default/b") < 1:
        await asyncio.sleep(0.005)
    with pytest.raises(RpcError, match="3 sessions of this node host are open"):
        await run_in(host, "b", "true")
    ended.set()
    assert [code for _, code in await asyncio.gather(*first, more)] == [0, 0, 0]
    assert (await run_in(host, "a", "true"))[2] == 0
    assert await logs(host, "a") == b"up\n"
    assert sessions.open("default/a") == 0


async def test_output_that_nobody_reads_waits_in_the_pod(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE)
    api.put("pods", shell("web", "sleep 1000"))
    await api.until(lambda: "running" in state(api, "web"))
    (run,) = host.kubelet("n1").worker("default", "web").runs.values()
    session = await run.exec(["sh", "-c", "yes | head -c 300000000"], tty=False, stdin=False)
    reader = session.output()
    taken = len((await anext(reader))[0])
    # The command stands still, as its pipe is full: what is buffered here is bounded.
    for _ in range(20):
        await asyncio.sleep(0)
    readers: Any = session._readers  # type: ignore[attr-defined]
    held = sum(len(r._buffer) for r in readers)
    assert held <= 4 * 64 * 1024
    async for out, _ in reader:
        taken += len(out)
        if taken > 1 << 20:
            break
    session.kill()
    await reader.aclose()  # type: ignore[attr-defined]
