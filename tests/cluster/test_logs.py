"""Logs of a cluster through kills: each actor has its own, and what is expected is one line without a trace."""

import base64
import contextlib
import dataclasses
import io
import logging
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli.logs_of import change_level, print_remote
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.component_base import logs
from rayplane.control_plane.component_base.log_pages import LogQuery
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME
from rayplane.proto.etcd import rpc_pb2 as etcd
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.harness import Cluster, cluster

KILLED = (Role.MEMBER, Role.APISERVER, Role.SCHEDULER, Role.CONTROLLERS, Role.NODE_HOST, Role.LOAD_BALANCER)
TRACE = "Traceback"
AUTH = etcd.DESCRIPTOR.services_by_name["Auth"]


def written_to(directory: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in directory.glob("*.log")}


async def kill_each(running: Cluster) -> None:
    for role in KILLED:
        name = running.topology.of(role)[0].name
        await running.supervisor.Kill(pb.KillRequest(name=name), timeout=30)

        async def is_back(name: str = name) -> bool:
            answer = await running.supervisor.Topology(pb.TopologyRequest(), timeout=10)
            await running.api.list("nodes")
            return any(i.name == name and i.running and i.starts for i in answer.instances)

        await running.until(is_back, f"{name} is back")


async def set_levels(running: Cluster) -> None:
    """Each actor takes a level and gives it back; the others keep theirs."""
    for instance in running.topology.instances:
        assert await change_level(running.access, instance, "debug") == "the level is debug now"
        assert logging.getLogger().level == logging.DEBUG
        with pytest.raises(ClusterError, match="'loud' is no level"):
            await change_level(running.access, instance, "loud")
        assert await change_level(running.access, instance, "2") == "the level is info now"
        assert logging.getLogger().level == logging.INFO


async def read_logs(running: Cluster) -> None:
    """Each actor tells its own log, as to whom is on another machine; of one that is dead its neighbours tell."""
    for instance in running.topology.instances:
        told = io.BytesIO()
        await print_remote(running.access, instance, [], LogQuery(instance.name), told)
        assert instance.name.encode() in told.getvalue()
    first, *others = running.topology.of(Role.NODE_HOST)
    dead = dataclasses.replace(first, ports={"grpc": free_port("127.0.0.1", (), random.Random())})
    with pytest.raises(ClusterError, match="node-host-0 does not answer"):
        await print_remote(running.access, dead, others, LogQuery(dead.name), io.BytesIO())
    told = io.BytesIO()
    beside = running.topology.of(Role.MEMBER)
    await print_remote(running.access, dead, list(beside), LogQuery(dead.name, 1), told)
    assert told.getvalue().count(b"\n") == 1 and b"node-host-0" in told.getvalue()


@contextlib.contextmanager
def logging_to(directory: Path) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.to_files(directory / "process.log", shared=True)
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        root.setLevel(level)


async def test_no_log_of_a_cluster_with_kills_and_restarts_has_a_trace(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        async with cluster(members=3, apiservers=2, nodes=1) as running:
            names = {i.name for i in running.topology.instances}
            await set_levels(running)
            await read_logs(running)
            await kill_each(running)
    written = written_to(tmp_path)
    assert names <= set(written) <= names | {"process"}
    traced = {name: text[max(0, text.index(TRACE) - 300) :][:1500] for name, text in written.items() if TRACE in text}
    assert traced == {}


CONTENT, PASSWORD = "s3cret-of-a-secret", "s3cret-of-a-user"


async def use_secrets(running: Cluster) -> list[str]:
    """Writes of Secrets, right and wrong ones, and calls with a service account's token; the token."""
    data = base64.b64encode(CONTENT.encode()).decode()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}}
    await running.api.create("secrets", {**secret, "stringData": {"password": CONTENT}})
    await running.api.patch("secrets", "s", "default", {"data": {"again": data}})
    for wrong in ({"data": {"no key!": data}}, {"data": {"a": CONTENT}}, {"type": "kubernetes.io/tls", "data": {}}):
        with pytest.raises(ApiError):
            await running.api.create("secrets", {**secret, "stringData": {"b": CONTENT}, **wrong})
    account = {"metadata": {"name": "default", "namespace": "default"}, "spec": {"audiences": []}}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", **account}
    token: str = (await running.api.create("serviceaccounts", request, subresource="token"))["status"]["token"]
    trust = ssl.create_default_context(cadata=running.secrets.ca_cert.decode())
    url = f"https://{running.topology.endpoints(Role.APISERVER, 'https')[0]}/api/v1/namespaces/default/secrets"
    async with aiohttp.ClientSession() as session:
        for shown, status in ((token, 403), (token[:-4], 401)):
            headers = {"Authorization": f"Bearer {shown}"}
            async with session.get(url, headers=headers, ssl=trust, server_hostname=INTERNAL_SERVER_NAME) as answer:
                assert answer.status == status
    return [token, token.rpartition(".")[2][:40]]


async def use_passwords(running: Cluster) -> list[str]:
    """Calls of etcd with right and wrong passwords; the token that the right one gives."""
    auth: Any = Stub(running.network.channel(running.topology.endpoints(Role.MEMBER, "client")[0]), AUTH)
    await auth.UserAdd(etcd.AuthUserAddRequest(name="root", password=PASSWORD), timeout=10)
    await auth.UserChangePassword(etcd.AuthUserChangePasswordRequest(name="root", password=PASSWORD), timeout=10)
    await auth.UserGrantRole(etcd.AuthUserGrantRoleRequest(user="root", role="root"), timeout=10)
    await auth.AuthEnable(etcd.AuthEnableRequest(), timeout=10)
    with pytest.raises(RpcError):
        await auth.Authenticate(etcd.AuthenticateRequest(name="root", password=f"{PASSWORD}?"), timeout=10)
    shown = await auth.Authenticate(etcd.AuthenticateRequest(name="root", password=PASSWORD), timeout=10)
    metadata = {"token": shown.token}
    await auth.UserList(etcd.AuthUserListRequest(), timeout=10, metadata=metadata)
    await auth.AuthDisable(etcd.AuthDisableRequest(), timeout=10, metadata=metadata)
    return [shown.token]


def keys_of(running: Cluster) -> list[str]:
    """A line of each private key: those of the cluster, and of whom has one in its state directory."""
    values = (getattr(running.secrets, f.name) for f in dataclasses.fields(running.secrets))
    files = (path.read_bytes() for path in running.state_dir.rglob("*.key"))
    texts = [text for text in (*values, *files) if text.count(b"PRIVATE KEY-----") == 2]
    return [text.split(b"PRIVATE KEY-----")[1].split()[0].decode() for text in texts]


async def test_no_log_tells_a_secret_even_at_its_most_talkative(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=1) as running:
            for instance in running.topology.instances:
                await change_level(running.access, instance, "debug")
            assert logging.getLogger().level == logging.DEBUG
            keys = keys_of(running)
            needles = [CONTENT, base64.b64encode(CONTENT.encode()).decode(), PASSWORD, *keys]
            needles += await use_secrets(running)
            needles += await use_passwords(running)
    written = written_to(tmp_path)
    assert len(keys) >= 2 and written["member-0"]
    told = [line for text in written.values() for line in text.splitlines() if any(n in line for n in needles)]
    assert told == []
