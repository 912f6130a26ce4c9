"""The audit log: who asked for what, with what outcome, and what becomes of the file."""

import asyncio
import base64
import json
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.audit import trail
from rayplane.control_plane.apiserver.audit.log import AuditLog
from rayplane.control_plane.apiserver.config import AuditConfig
from rayplane.control_plane.client import ops
from rayplane.control_plane.durations import parse_duration
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.rayplane.v1 import objects_pb2
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rest import CONFIG_MAPS, Rest
from tests.apiserver.test_webhooks import BUNDLE, Hooks, add, configure, hooks, webhook

__all__ = ["hooks"]

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
EVERYTHING = HEAD + "rules: [{level: RequestResponse}]"
SECRETS = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"]}


class Audited(Rest):
    """A server with an audit log, and what it says."""

    directory: Path

    async def events(self, *, stage: str = "ResponseComplete", resource: str = "configmaps") -> list[dict[str, Any]]:
        """What the log holds when the server has stopped."""
        await self.stack.servers[0].stop()
        lines = (self.directory / "audit.log").read_bytes().splitlines()
        found = [json.loads(line) for line in lines]
        return [e for e in found if e["stage"] == stage and (e.get("objectRef") or {}).get("resource", "") == resource]


def environment(directory: Path) -> Env:
    return Env(SystemClock(), random.Random(1), LocalDisk(directory))


@pytest_asyncio.fixture
async def audited(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Audited]:
    monkeypatch.setattr(trail, "SLOW_S", math.inf)  # of a busy machine nothing is told
    policy = getattr(request, "param", EVERYTHING)
    stack = Stack()
    await stack.add_server(
        env=environment(tmp_path),
        https_address="127.0.0.1:0",
        audit=AuditConfig(policy),
        token_key=Authority.create("tokens").key,
        static_tokens={"sesame": ("someone", ("people",))},
    )
    async with aiohttp.ClientSession() as session:
        made = Audited(stack, session)
        made.directory = tmp_path
        yield made
    await stack.stop()


async def test_an_event_tells_who_did_what(audited: Audited) -> None:
    body = b'{"metadata":\n {"name": "a"},\n "data": {"x": "\xc3\xa9"}}'
    headers = {"User_Agent": "curl/8", "X_Forwarded_For": "10.1.2.3, 10.1.2.4"}
    async with audited.request("POST", f"{CONFIG_MAPS}?fieldManager=me", body, **headers) as response:
        assert response.status == 201
        audit_id = response.headers["Audit-Id"]
    (event,) = await audited.events()
    assert event["requestObject"]["data"] == {"x": "é"}
    assert event["responseObject"]["metadata"]["uid"]
    assert event["requestReceivedTimestamp"] <= event["stageTimestamp"]
    for field in ("requestObject", "responseObject", "requestReceivedTimestamp", "stageTimestamp"):
        del event[field]
    assert event == {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": audit_id,
        "stage": "ResponseComplete",
        "requestURI": f"{CONFIG_MAPS}?fieldManager=me",
        "verb": "create",
        "user": {"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]},
        "sourceIPs": ["10.1.2.3", "10.1.2.4", "127.0.0.1"],
        "userAgent": "curl/8",
        "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 201},
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    }


SECRETIVE = f"{HEAD}omitManagedFields: true\nrules:\n" + (
    "- {level: Metadata, resources: [{resources: [secrets]}]}\n- {level: Request}"
)


@pytest.mark.parametrize("audited", [SECRETIVE], indirect=True)
async def test_levels_keep_what_they_must_not_say(audited: Audited) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
    await audited.json("POST", "/api/v1/namespaces/default/secrets", secret)
    await audited.json("GET", "/api/v1/namespaces/default/secrets/s")
    async with audited.request("POST", CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"x": "y"}}) as response:
        made = await response.json()
    assert made["metadata"]["managedFields"]
    await audited.json("PUT", f"{CONFIG_MAPS}/a", made)
    merge = {"Content_Type": "application/merge-patch+json"}
    await audited.json("PATCH", f"{CONFIG_MAPS}/a", {"data": {"y": "z"}}, **merge)
    create, update, patch = await audited.events()
    assert "responseObject" not in create
    assert "managedFields" not in update["requestObject"]["metadata"]
    assert (patch["verb"], patch["requestObject"]) == ("patch", {"data": {"y": "z"}})
    log = (audited.directory / "audit.log").read_text()
    assert "hunter2" not in log
    assert "aHVudGVyMg" not in log
    names = [json.loads(line).get("objectRef", {}).get("name") for line in log.splitlines()]
    assert names.count("s") == 3  # the received stage of the create does not know it yet


FAULTS_ALONE = HEAD + "rules:\n- {level: Request, resources: [{group: chaos.rayplane.io, resources: [faults]}]}"


@pytest.mark.parametrize("audited", [FAULTS_ALONE], indirect=True)
async def test_faults_of_the_dashboard_are_caught_by_rules_for_faults(audited: Audited) -> None:
    fault = {"fault": "kill: {target: leader}"}
    await audited.json("POST", "/rayplane/v1/faults", fault)
    await audited.json("DELETE", "/rayplane/v1/faults?id=7")
    begin, end = await audited.events(resource="faults")
    assert (begin["verb"], begin["requestObject"]) == ("create", fault)
    reference = {"resource": "faults", "apiGroup": "chaos.rayplane.io", "apiVersion": "v1", "name": "7"}
    assert (end["verb"], end["objectRef"]) == ("delete", reference)


async def test_refusals_are_recorded_with_their_reason(audited: Audited) -> None:
    code, _ = await audited.json("GET", CONFIG_MAPS, Authorization="Bearer sesame")
    assert code == 403
    code, _ = await audited.json("GET", CONFIG_MAPS, Authorization="Bearer wrong")
    assert code == 401
    code, _ = await audited.json("GET", CONFIG_MAPS, Impersonate_User="jane")
    assert code == 403
    forbidden, acted = await audited.events()
    assert forbidden["user"]["username"] == "someone"
    assert forbidden["responseStatus"]["reason"] == "Forbidden"
    assert forbidden["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert (acted["user"]["username"], acted["impersonatedUser"]["username"]) == ("kubernetes-admin", "jane")
    lines = [json.loads(line) for line in (audited.directory / "audit.log").read_text().splitlines()]
    (unknown,) = [e for e in lines if (e.get("responseStatus") or {}).get("code") == 401]
    assert (unknown["stage"], unknown["user"]) == ("ResponseStarted", {})


async def test_over_grpc_too_it_is_known_who_acts_as_whom_and_who_asks_in_vain(audited: Audited) -> None:
    address = audited.stack.servers[0].grpc_address
    stub = Stub(audited.stack.network.channel(address), objects_pb2.DESCRIPTOR.services_by_name["Objects"])
    ref = objects_pb2.ResourceRef(version="v1", resource="configmaps", namespace="default")
    for metadata in ({"authorization": "Bearer wrong"}, {"impersonate-user": "jane", "user-agent": "me/1"}):
        with pytest.raises(RpcError):
            await stub.List(objects_pb2.ListRequest(ref=ref), metadata=metadata)
    (acted,) = await audited.events()
    assert (acted["user"]["username"], acted["impersonatedUser"]["username"]) == ("kubernetes-admin", "jane")
    assert (acted["userAgent"], acted["responseStatus"]["code"]) == ("me/1", 403)
    lines = [json.loads(line) for line in (audited.directory / "audit.log").read_text().splitlines()]
    (unknown,) = [e for e in lines if (e.get("responseStatus") or {}).get("code") == 401]
    assert (unknown["requestURI"], unknown["verb"], unknown["user"]) == ("/rayplane.v1.Objects/List", "list", {})


async def test_streams_are_recorded_when_they_start_and_when_they_end(audited: Audited) -> None:
    async with audited.request(
        "GET", f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
    ) as response:
        audit_id = response.headers.get("Audit-Id")
        await response.read()
    started = (await audited.events(stage="ResponseStarted"))[0]
    ended = (await audited.events())[0]
    assert (started["auditID"], ended["auditID"], started["verb"]) == (audit_id, audit_id, "watch")
    assert ended["responseStatus"]["code"] == started["responseStatus"]["code"]


async def test_a_fault_of_the_server_is_a_panic(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(audited.stack.servers[0].registry.reader, "list", fails)
    code, _ = await audited.json("GET", CONFIG_MAPS)
    assert code == 500
    (event,) = await audited.events(stage="Panic")
    assert event["responseStatus"]["code"] == 500


async def test_operations_of_a_batch_are_recorded_one_by_one(audited: Audited) -> None:
    client = audited.stack.client()
    made = [{"metadata": {"name": name, "namespace": "default"}, "data": {"n": name}} for name in ("a", "b", "a")]
    await client.batch([ops.create("configmaps", o) for o in made])
    with pytest.raises(errors.NotFound):
        await client.get("configmaps", "none", "default")
    await client.list("configmaps", "default")
    *batch, missed, listed = await audited.events()
    assert sorted((e["objectRef"]["name"], e["responseStatus"]["code"]) for e in batch) == [
        ("a", 201),
        ("a", 409),
        ("b", 201),
    ]
    assert len({e["auditID"] for e in batch}) == 3
    assert missed["responseStatus"]["reason"] == "NotFound"
    assert missed["requestURI"] == f"{CONFIG_MAPS}/none"
    assert [i["data"]["n"] for i in listed["responseObject"]["items"]] == ["a", "b"]


async def test_pod_security_tells_the_log(audited: Audited) -> None:
    client = audited.stack.client()
    labels = {"pod-security.kubernetes.io/audit": "baseline"}
    await client.create("namespaces", {"metadata": {"name": "n", "labels": labels}})
    await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "n"}})
    spec = {"hostNetwork": True, "containers": [{"name": "c", "image": "i"}]}
    await client.create("pods", {"metadata": {"name": "p", "namespace": "n"}, "spec": spec})
    (event,) = await audited.events(resource="pods")
    notes = {k.rpartition("/")[2]: v for k, v in event["annotations"].items()}
    assert notes["enforce-policy"] == "privileged:latest"
    assert notes["audit-violations"] == (
        'would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)'
    )


async def test_slow_requests_tell_in_which_layers_they_were(
    audited: Audited, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = audited.stack.client()
    for path, kind in (("m", "mutating"), ("v", "validating"), ("w", "validating")):
        hooks.answers[path] = lambda _: {}
        await configure(client, kind, path, webhook(path, hooks.client(path)))
    await audited.json("POST", CONFIG_MAPS, {"metadata": {"name": "quick"}})
    monkeypatch.setattr(trail, "SLOW_S", 0.0)
    await audited.json("POST", CONFIG_MAPS, {"metadata": {"name": "slow"}})
    quick, slow = [
        {key.removeprefix("apiserver.latency.k8s.io/"): parse_duration(value) for key, value in told.items()}
        for event in await audited.events()
        if (told := {k: v for k, v in event["annotations"].items() if "latency" in k}) is not None
    ]
    assert not quick
    assert set(slow) == {"etcd", "mutating-webhook", "validating-webhook", "total"}
    assert slow.pop("total") > sum(slow.values()) > 0


METADATA = HEAD + "rules: [{level: Metadata}]"


@pytest.mark.parametrize("audited", [METADATA, EVERYTHING], indirect=True)
async def test_webhooks_leave_in_the_log_what_they_did(audited: Audited, hooks: Hooks, request: Any) -> None:
    """Also when one refuses. Patches are there where bodies are recorded."""
    client = audited.stack.client()
    hooks.answers["m"] = lambda _: {**add("/data/m", "x"), "auditAnnotations": {"k": "v", "bad key": "v"}}
    hooks.answers["no"] = lambda _: {"allowed": False}
    silent = {"url": "https://127.0.0.1:1/x", "caBundle": BUNDLE}
    lost = webhook("lost", silent, failurePolicy="Ignore")
    await configure(client, "mutating", "a", lost, webhook("m", hooks.client("m"), reinvocationPolicy="IfNeeded"))
    await configure(client, "mutating", "b", webhook("no", hooks.client("no")))
    await configure(client, "validating", "v", webhook("w", silent, [SECRETS]), lost)
    with pytest.raises(errors.ApiError, match="denied the request"):
        await client.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}, "data": {"a": "b"}})
    await client.delete("mutatingwebhookconfigurations.admissionregistration.k8s.io", "b")
    await client.list("mutatingwebhookconfigurations.admissionregistration.k8s.io")
    await client.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}, "data": {"a": "b"}})
    refused, made = [
        {key: value for key, value in event["annotations"].items() if not key.startswith("authorization")}
        for event in await audited.events()
    ]
    place = "webhook.admission.k8s.io/round_0_index"
    common = {
        f"failed-open.mutation.{place}_0": "lost.example.com",
        f"mutation.{place}_0": '{"configuration":"a","webhook":"lost.example.com","mutated":false}',
        f"mutation.{place}_1": '{"configuration":"a","webhook":"m.example.com","mutated":true}',
        "m.example.com/k": "v",
    }
    if request.node.callspec.params["audited"] == EVERYTHING:
        operations = '"patch":[{"op":"add","path":"/data/m","value":"x"}],"patchType":"JSONPatch"'
        common[f"patch.{place}_1"] = '{"configuration":"a","webhook":"m.example.com",' + operations + "}"
    no = '{"configuration":"b","webhook":"no.example.com","mutated":false}'
    assert refused == {**common, f"mutation.{place}_2": no}
    assert made == {**common, f"failed-open.validating.{place}_0": "lost.example.com"}


async def test_versions_on_their_way_out_are_marked_in_the_log(audited: Audited) -> None:
    path = "/api/v1/namespaces/default/endpoints"
    for one in (path, f"{path}/none", f"{path}?watch=1&timeoutSeconds=0", CONFIG_MAPS):
        async with audited.request("GET", one) as response:
            await response.read()
    events = await audited.events(resource="endpoints")
    assert [event["annotations"].get("k8s.io/deprecated") for event in events] == ["true"] * 3


async def test_tokens_that_are_issued_have_their_name_in_the_log(audited: Audited) -> None:
    client = audited.stack.client()
    await client.create("serviceaccounts", {"metadata": {"name": "a", "namespace": "default"}})
    path = "/api/v1/namespaces/default/serviceaccounts/a/token"
    _, made = await audited.json("POST", path, {"spec": {}})
    token = made["status"]["token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    (event,) = [e for e in await audited.events(resource="serviceaccounts") if "subresource" in e["objectRef"]]
    assert event["annotations"]["authentication.kubernetes.io/issued-credential-id"] == f"JTI={claims['jti']}"


async def test_the_metrics_count_what_was_recorded(audited: Audited) -> None:
    await audited.json("GET", CONFIG_MAPS)
    async with audited.request("GET", "/metrics") as response:
        text = await response.text()
    # Both stages of the list, and that the metrics are asked for.
    assert "apiserver_audit_event_total 3.0\n" in text
    assert 'apiserver_audit_error_total{plugin="buffered"} 0.0\n' in text


async def test_without_a_policy_nothing_is_written(tmp_path: Path) -> None:
    stack = Stack()
    await stack.add_server(env=environment(tmp_path), https_address="127.0.0.1:0")
    async with aiohttp.ClientSession() as session, Rest(stack, session).request("GET", CONFIG_MAPS) as response:
        assert "Audit-Id" not in response.headers
    await stack.stop()
    assert environment(tmp_path).disk.list() == []


async def test_long_and_odd_texts_of_clients_are_cut(audited: Audited) -> None:
    path = f"{CONFIG_MAPS}/{'n' * 60_000}?x={'y' * 60_000}"
    async with audited.request("GET", path, User_Agent="a" * 60_000, Audit_ID="../" + "b" * 100) as response:
        assert response.status == 404
        assert ".." not in response.headers["Audit-Id"]
    (event,) = await audited.events()
    assert (len(event["requestURI"]), len(event["userAgent"])) == (16 * 1024, 1024)
    assert len(event["objectRef"]["name"]) == 512


# --- the file -----------------------------------------------------------------------------------


class Line:
    """A stand-in that stands for a record."""

    def __init__(self, text: str, weight: int = 1) -> None:
        self.text = text
        self.weight = weight


def audit_log(directory: Path, **limits: int) -> AuditLog:
    def encode(line: Line) -> bytes:
        if line.text == "bad":
            raise ValueError
        return line.text.encode() + b"\n"

    return AuditLog(AuditConfig("", **limits), environment(directory), encode)  # type: ignore[arg-type]


async def write(log: AuditLog, *lines: str) -> None:
    log.start()
    for line in lines:
        log.put(Line(line))  # type: ignore[arg-type]
    await log.stop()


async def test_the_file_is_its_owners_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    await write(audit_log(tmp_path), "one", "bad", "two")
    file = tmp_path / "audit.log"
    assert file.stat().st_mode & 0o777 == 0o600
    # Cut off in the middle of a line, as by kill -9.
    file.write_bytes(file.read_bytes() + b"thr")
    await write(audit_log(tmp_path), "four")
    assert file.read_text() == "one\ntwo\nthr\nfour\n"


async def test_files_are_put_aside_by_size_and_few_are_kept(tmp_path: Path) -> None:
    log = audit_log(tmp_path, file_bytes=30, files_kept=2)
    for number in range(12):
        await write(log, f"line {number:02}")
        log = audit_log(tmp_path, file_bytes=30, files_kept=2)
    old = [tmp_path / name for name in LocalDisk(tmp_path).list() if name != "audit.log"]
    assert len(old) == 2
    kept = "".join(file.read_text() for file in [*old, tmp_path / "audit.log"])
    assert kept.splitlines() == [f"line {n:02}" for n in range(12)][-len(kept.splitlines()) :]
    assert all(file.stat().st_size <= 30 for file in old)


async def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    log = audit_log(tmp_path, queue_events=3, queue_bytes=100)
    log.start()
    for number in range(5):
        log.put(Line(str(number)))  # type: ignore[arg-type]
    log.put(Line("heavy", weight=1000))  # type: ignore[arg-type]
    assert log.dropped == 3
    await log.stop()
    assert (tmp_path / "audit.log").read_text() == "0\n1\n2\n"


async def test_a_disk_that_fails_costs_events_and_nothing_else(tmp_path: Path) -> None:
    await write(audit_log(tmp_path), "before")
    log = audit_log(tmp_path, file_bytes=1)
    log.start()
    (tmp_path / "audit.log").unlink()  # it cannot be put aside any more
    log.put(Line("lost"))  # type: ignore[arg-type]
    while not log.failed:
        await asyncio.sleep(0)
    log.put(Line("kept"))  # type: ignore[arg-type]
    await log.stop()
    assert (tmp_path / "audit.log").read_text() == "kept\n"
