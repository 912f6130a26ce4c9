"""Questions to the components that know more than objects tell: why a pod is where it is, what controllers did."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.errors import NobodyAnswers, NotThere
from rayplane.control_plane.cluster.topology import Instance, Role
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.errors import Code
from rayplane.proto.rayplane.v1 import controllers_pb2, scheduler_pb2

_CONTROLLERS = controllers_pb2.DESCRIPTOR.services_by_name["Controllers"]
_SCHEDULER = scheduler_pb2.DESCRIPTOR.services_by_name["Scheduler"]
EXPLAIN_S = 30.0
WHY_S = 10.0


async def explained(admin: Access, request: scheduler_pb2.ExplainRequest) -> scheduler_pb2.ExplainResponse:
    """The answer of the scheduler that leads. NobodyAnswers when none does, NotThere when it has no such pod."""
    topology = await current_topology(admin)
    silent: list[str] = []
    for instance in topology.of(Role.SCHEDULER):
        if not instance.metrics:
            silent.append(f"{instance.name}: of an earlier version")
            continue
        stub: Any = Stub(admin.network.channel(instance.metrics), _SCHEDULER)
        try:
            answer: scheduler_pb2.ExplainResponse = await stub.Explain(request, timeout=EXPLAIN_S)
        except RpcError as e:
            if e.code is Code.NOT_FOUND:
                raise NotThere(await _why_unknown(admin, request) or e.message) from e
            silent.append(f"{instance.name}: {e.message}")
            continue
        return answer
    raise NobodyAnswers(f"no scheduler leads; try again in a moment ({'; '.join(silent)})")


async def _why_unknown(admin: Access, asked: scheduler_pb2.ExplainRequest) -> str:
    """Why the cluster's schedulers have no such pod; empty when that is not known."""
    key = f"{asked.namespace}/{asked.name}"
    try:
        pod = await admin.api.get("pods", asked.name, asked.namespace)
    except NotFound:
        return f"no pod {key}"
    except ApiError:
        return ""
    if pod_is_terminated(pod):
        return f"pod {key} has ended"
    if meta.node_name(pod):
        return ""
    return f"pod {key} names scheduler {meta.spec(pod).get('schedulerName')}, and the cluster's own have not taken it"


@dataclass(frozen=True, slots=True)
class Story:
    """The memory that controller managers have of an object; of those that say nothing, why."""

    answers: list[controllers_pb2.WhyResponse]
    silent: Mapping[str, str]


async def story(admin: Access, request: controllers_pb2.WhyRequest) -> Story:
    """The word of every replica. NobodyAnswers when none answers."""
    replicas = (await current_topology(admin)).of(Role.CONTROLLERS)
    found = await asyncio.gather(*(_told(admin, replica, request) for replica in replicas))
    answers = [one for one in found if isinstance(one, controllers_pb2.WhyResponse)]
    silent = {r.name: one for r, one in zip(replicas, found, strict=True) if isinstance(one, str)}
    if not answers:
        raise NobodyAnswers("no controller manager answers: " + "; ".join(f"{n}: {e}" for n, e in silent.items()))
    return Story(answers, silent)


async def _told(
    admin: Access, replica: Instance, request: controllers_pb2.WhyRequest
) -> controllers_pb2.WhyResponse | str:
    stub = Stub(admin.network.channel(replica.endpoint("metrics")), _CONTROLLERS)
    try:
        answer: controllers_pb2.WhyResponse = await stub.Why(request, timeout=WHY_S)
    except RpcError as e:
        return e.message
    answer.replica = replica.name
    return answer
