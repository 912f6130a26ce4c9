"""Policies of services: nothing is open by default, and who may not call never reaches a handler."""

import pytest
from grpc import StatusCode

from rayplane.control_plane.rpc import ADMINISTRATORS, EVERYONE, Callers, Identity, RpcError, Service, Stub, each
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.etcd import rpc_pb2 as pb

LEASE = pb.DESCRIPTOR.services_by_name["Lease"]
OPERATORS = Callers.of(users=("olga",), groups=("operators",))


class Handler:
    """Two of the methods of a service."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def LeaseGrant(self, request: pb.LeaseGrantRequest, context: object) -> pb.LeaseGrantResponse:
        self.called.append("LeaseGrant")
        return pb.LeaseGrantResponse()

    async def LeaseRevoke(self, request: pb.LeaseRevokeRequest, context: object) -> pb.LeaseRevokeResponse:
        self.called.append("LeaseRevoke")
        return pb.LeaseRevokeResponse()


@pytest.mark.parametrize(
    ("callers", "said"),
    [
        ({}, "LeaseGrant.*LeaseRevoke"),
        (each(EVERYONE, "LeaseGrant"), "LeaseRevoke"),
        (each(EVERYONE, "LeaseGrant", "LeaseRevoke", "Lease"), "Lease"),
    ],
)
def test_a_method_without_callers_and_callers_without_a_method_are_refused(
    callers: dict[str, Callers], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Service(LEASE, Handler(), callers=callers)
    # What the handler does not answer may be named or not.
    Service(LEASE, Handler(), callers=each(EVERYONE, "LeaseGrant", "LeaseRevoke", "LeaseLeases"))


@pytest.mark.parametrize(
    ("identity", "refusal"),
    [
        (Identity("olga"), None),
        (Identity("x", ("visitors", "operators")), None),
        (Identity("operators"), StatusCode.PERMISSION_DENIED),
        (Identity("x", ("olga",)), StatusCode.PERMISSION_DENIED),
        (Identity("system:admin", ("system:masters",)), StatusCode.PERMISSION_DENIED),
        (Identity("", ("operators",)), StatusCode.UNAUTHENTICATED),
        (None, StatusCode.UNAUTHENTICATED),
    ],
)
async def test_each_method_is_for_its_callers(identity: Identity | None, refusal: StatusCode | None) -> None:
    fabric, handler = Fabric(), Handler()
    callers = {"LeaseGrant": OPERATORS, "LeaseRevoke": EVERYONE}
    await MemoryNetwork(fabric, "s").serve("s:1", [Service(LEASE, handler, callers=callers)])
    stub = Stub(MemoryNetwork(fabric, "c", identity).channel("s:1"), LEASE)
    if refusal is None:
        await stub.LeaseGrant(pb.LeaseGrantRequest())
    else:
        with pytest.raises(RpcError) as caught:
            await stub.LeaseGrant(pb.LeaseGrantRequest())
        assert caught.value.code is refusal
    await stub.LeaseRevoke(pb.LeaseRevokeRequest())
    assert handler.called == (["LeaseGrant"] if refusal is None else []) + ["LeaseRevoke"]


def test_a_refusal_says_who_may() -> None:
    refusal = ADMINISTRATORS.refusal(Identity("system:node:a", ("system:nodes",)), "/rayplane.v1.Supervisor/Kill")
    assert refusal is not None
    assert refusal.message == "system:node:a may not call /rayplane.v1.Supervisor/Kill: only group system:masters may"
    assert str(Callers()) == "nobody"
