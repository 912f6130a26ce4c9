"""Chaos over gRPC: who RBAC lets begin and end faults, what the supervisor is told, what the audit log holds."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rayplane.control_plane.apiserver.config import AuditConfig
from rayplane.control_plane.rpc import Context, RpcError, Server, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from tests.apiserver.conftest import Stack
from tests.apiserver.test_audit import EVERYTHING, environment
from tests.rpc.open_service import open_service

SUPERVISOR = "host-0:19999"
FAULT = "stop: {target: leader, for: 10s}"
RULE = {"apiGroups": ["chaos.rayplane.io"], "resources": ["faults"]}


class Supervisor:
    """A supervisor that notes what it is asked, and refuses when it should."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: RpcError | None = None
        self.ended = asyncio.Event()

    async def Begin(self, request: pb.BeginRequest, _: Context) -> pb.ActiveFault:
        return self._answer(request, pb.ActiveFault(id="7", fault=request.fault, by=request.by))

    async def End(self, request: pb.EndRequest, _: Context) -> pb.EndResponse:
        return self._answer(request, pb.EndResponse(fault=pb.ActiveFault(id=request.id)))

    async def List(self, request: pb.ListFaultsRequest, _: Context) -> pb.ListFaultsResponse:
        return self._answer(request, pb.ListFaultsResponse(faults=[pb.ActiveFault(id="7")]))

    async def Heal(self, request: pb.HealRequest, _: Context) -> pb.HealResponse:
        return self._answer(request, pb.HealResponse())

    async def Run(self, request: pb.TrialRequest, _: Context) -> AsyncIterator[pb.TrialResponse]:
        self._answer(request, None)
        try:
            yield pb.TrialResponse(event="it begins")
            if request.keep:
                await asyncio.Event().wait()
            yield pb.TrialResponse(verdict="{}")
        finally:
            self.ended.set()

    def _answer(self, request: Any, answer: Any) -> Any:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return answer


class Chaos:
    """An API server with an audit log, its supervisor, and calls as somebody."""

    def __init__(self, directory: Path) -> None:
        self.stack, self.supervisor, self._directory = Stack(), Supervisor(), directory
        self.served: Server | None = None

    async def start(self) -> None:
        services = pb.DESCRIPTOR.services_by_name
        self.served = await self.stack.network.serve(SUPERVISOR, [open_service(services["Faults"], self.supervisor)])
        await self.stack.add_server(
            env=environment(self._directory), audit=AuditConfig(EVERYTHING), supervisors=(SUPERVISOR,)
        )
        self._stub: Any = Stub(self.stack.network.channel(self.stack.servers[0].grpc_address), services["Chaos"])

    async def call(self, method: str, request: Any, *, user: str = "") -> Any:
        return await getattr(self._stub, method)(request, metadata={"impersonate-user": user} if user else {})

    async def refused(self, method: str, request: Any, *, user: str = "") -> tuple[str, str]:
        with pytest.raises(RpcError) as told:
            await self.call(method, request, user=user)
        return told.value.code.name, told.value.message

    async def grant(self, user: str, verbs: list[str], **more: Any) -> None:
        api = self.stack.client()
        named = {"metadata": {"name": f"{user}-strikes"}}
        rule = {**RULE, "verbs": verbs, **more}
        await api.create("clusterroles.rbac.authorization.k8s.io", {**named, "rules": [rule]})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{user}-strikes"}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        binding = {**named, "roleRef": role, "subjects": [subject]}
        await api.create("clusterrolebindings.rbac.authorization.k8s.io", binding)

    def run(self, request: pb.TrialRequest, *, user: str) -> Any:
        acting = self.stack.client().acting(user, ["devs"], uid="7", extra={"example.org/team": ["a,b", "ü"]})
        return self._stub.Run(request, metadata=acting._metadata)

    async def recorded(self, resource: str = "faults") -> list[dict[str, Any]]:
        """What the audit log holds of faults, or of trials, when the server has stopped."""
        await self.stack.servers[0].stop()
        events = [json.loads(line) for line in (self._directory / "audit.log").read_bytes().splitlines()]
        found = [e for e in events if e["stage"] == "ResponseComplete"]
        return [e for e in found if e.get("objectRef", {}).get("resource") == resource]


@pytest_asyncio.fixture
async def chaos(tmp_path: Path) -> AsyncIterator[Chaos]:
    made = Chaos(tmp_path)
    await made.start()
    yield made
    await made.stack.stop()
    if made.served is not None:
        await made.served.stop()


async def test_the_supervisor_is_told_who_begins_a_fault(chaos: Chaos) -> None:
    await chaos.grant("jane", ["create"])
    begun = await chaos.call("Begin", pb.BeginRequest(fault=FAULT, by="somebody else"), user="jane")
    assert (begun.id, begun.by, begun.fault) == ("7", "jane", FAULT)


async def test_without_a_right_nothing_gets_to_the_supervisor(chaos: Chaos) -> None:
    await chaos.grant("jane", ["create", "list"])
    await chaos.grant("joe", ["delete"], resourceNames=["7"])
    assert (await chaos.call("List", pb.ListFaultsRequest(), user="jane")).faults[0].id == "7"
    assert (await chaos.call("End", pb.EndRequest(id="7"), user="joe")).fault.id == "7"
    chaos.supervisor.asked.clear()
    for method, request, user, verb in (
        ("End", pb.EndRequest(id="7"), "jane", "delete"),
        ("End", pb.EndRequest(id="8"), "joe", "delete"),
        ("Heal", pb.HealRequest(), "jane", "deletecollection"),
        ("List", pb.ListFaultsRequest(), "joe", "list"),
        ("Targets", pb.TargetsRequest(), "joe", "list"),
        ("Begin", pb.BeginRequest(fault=FAULT), "joe", "create"),
    ):
        code, message = await chaos.refused(method, request, user=user)
        assert code == "PERMISSION_DENIED"
        assert f'"{user}" cannot {verb} resource "faults" in API group "chaos.rayplane.io"' in message
    assert chaos.supervisor.asked == []


async def test_calls_are_in_the_audit_log(chaos: Chaos) -> None:
    await chaos.call("Begin", pb.BeginRequest(fault=FAULT))
    await chaos.refused("End", pb.EndRequest(id="7"), user="jane")
    begun, refused = await chaos.recorded()
    assert (begun["verb"], begun["user"]["username"]) == ("create", "kubernetes-admin")
    assert (begun["requestURI"], begun["responseStatus"]["code"]) == ("/rayplane.v1.Chaos/Begin", 201)
    assert begun["objectRef"] == {"resource": "faults", "apiGroup": "chaos.rayplane.io", "apiVersion": "v1"}
    assert (begun["requestObject"]["fault"], begun["responseObject"]["id"]) == (FAULT, "7")
    assert (refused["verb"], refused["impersonatedUser"]["username"]) == ("delete", "jane")
    assert (refused["objectRef"]["name"], refused["responseStatus"]["code"]) == ("7", 403)
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (Code.NOT_FOUND, "NOT_FOUND"),
        (Code.FAILED_PRECONDITION, "ABORTED"),
        (Code.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
        (Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (Code.INTERNAL, "INTERNAL"),
    ],
)
async def test_what_the_supervisor_refuses_is_refused_for_the_same_reason(chaos: Chaos, code: Code, told: str) -> None:
    chaos.supervisor.error = RpcError(code, "not so")
    assert (await chaos.refused("End", pb.EndRequest(id="7")))[0] == told


async def test_a_trial_tells_how_it_goes_to_whom_may_have_one_and_is_in_the_audit_log(chaos: Chaos) -> None:
    request = pb.TrialRequest(scenario="steps: []", by="somebody else", groups=["system:masters"])
    request.extra["example.org/admin"].values.append("yes")
    await chaos.grant("jane", ["create"], resources=["trials", "faults"])
    await chaos.grant("joe", ["*"])
    await chaos.grant("jim", ["*"], resources=["trials"])
    # What is broken in a trial is faults, too.
    for user, resource in (("joe", "trials"), ("jim", "faults")):
        with pytest.raises(RpcError, match=f'cannot create resource "{resource}"') as refused:
            _ = [one async for one in chaos.run(request, user=user)]
        assert refused.value.code is Code.PERMISSION_DENIED
    assert not chaos.supervisor.asked
    assert [one.event or one.verdict async for one in chaos.run(request, user="jane")] == ["it begins", "{}"]
    [asked] = chaos.supervisor.asked
    assert (asked.by, [*asked.groups]) == ("jane", ["devs", "system:authenticated"])
    extra = {key: [*one.values] for key, one in asked.extra.items()}
    assert (asked.uid, extra) == ("7", {"example.org/team": ["a,b", "ü"]})
    chaos.supervisor.error = RpcError(Code.FAILED_PRECONDITION, "another trial goes on")
    with pytest.raises(RpcError) as second:
        _ = [one async for one in chaos.run(request, user="jane")]
    assert (second.value.code, second.value.message) == (Code.ABORTED, "another trial goes on")
    done = await chaos.recorded("trials")
    assert [(one["impersonatedUser"]["username"], one["responseStatus"]["code"]) for one in done] == [
        ("joe", 403),
        ("jim", 403),
        ("jane", 201),
        ("jane", 409),
    ]


async def test_who_gives_a_trial_up_ends_it(chaos: Chaos) -> None:
    await chaos.grant("jane", ["create"], resources=["trials", "faults"])
    told = chaos.run(pb.TrialRequest(scenario="steps: []", keep=True), user="jane")
    assert (await anext(told)).event == "it begins"
    assert not chaos.supervisor.ended.is_set()
    await told.aclose()
    await asyncio.wait_for(chaos.supervisor.ended.wait(), 60)


async def test_a_supervisor_that_is_away_is_said_to_be(chaos: Chaos) -> None:
    assert chaos.served is not None
    await chaos.served.stop()
    chaos.served = None
    code, message = await chaos.refused("List", pb.ListFaultsRequest())
    assert code == "UNAVAILABLE" and "supervisor does not answer" in message
