"""Things that a pod lacks: a node, images; ConfigMaps and Secrets that are nowhere, and whose pods could make them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lifecycled
from rayplane.control_plane.cli.stages import example
from rayplane.control_plane.client import ApiClient

if TYPE_CHECKING:
    from rayplane.node.environment import Reference

PODS_MAX = 500
ACCOUNTS_MAX = 20
SHOWN_MAX = 3
_EXPLAIN = "`rayplane explain pod` tells what its scheduler made of each node."
_KINDS = {"secrets": "Secret", "configmaps": "ConfigMap"}


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that a pod needs and nobody has made. `makers`: pods whose accounts may make it, and the accounts."""

    resource: str
    namespace: str
    name: str
    simulated: bool
    makers: tuple[tuple[str, str], ...]
    example: str = ""
    """The application whose Stages, which come along, make it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Lacks:
    """Things that a pod lacks. `simulated`: containers that are data on a node of processes, with their images."""

    missing: tuple[Missing, ...] = ()
    simulated: tuple[tuple[str, str], ...] = ()
    unscheduled: str = ""
    """Why it has no node, in words of its scheduler; empty where it has one."""
    unexplained: str = ""
    """Why the cluster's own schedulers cannot tell more of that; empty where they can."""

    def to_json(self) -> dict[str, Any]:
        data = [{"container": container, "image": image} for container, image in self.simulated]
        return {"waits": [one.to_json() for one in self.missing], "simulated": data, "unscheduled": self.unscheduled}

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.unscheduled:
            yield f"It has no node: {self.unscheduled}"
            told = f"Nothing more is known here: {self.unexplained}." if self.unexplained else _EXPLAIN
            yield f"    {told}"
        yield from lines(self.missing)
        yield from _simulated_lines(self.simulated)


async def lacks(api: ApiClient, namespace: str, name: str) -> Lacks:
    missing, simulated = await waits(api, namespace, name), await _simulated(api, namespace, name)
    return Lacks(tuple(missing), tuple(simulated), await _unscheduled(api, namespace, name))


async def _unscheduled(api: ApiClient, namespace: str, name: str) -> str:
    try:
        pod = await api.get("pods", name, namespace)
    except ApiError:
        return ""
    if meta.node_name(pod) or meta.status(pod).get("phase") != "Pending":
        return ""
    said = meta.get_condition(pod, "PodScheduled") or {}
    return said.get("message") or f"scheduler {meta.spec(pod).get('schedulerName')} has said nothing about it."


async def waits(api: ApiClient, namespace: str, name: str) -> list[Missing]:
    """What a pod waits for; nothing where it does not wait, or the API does not tell."""
    try:
        pod = await api.get("pods", name, namespace)
        if meta.status(pod).get("phase") != "Pending" or not meta.node_name(pod):
            return []
        needed = [ref for ref in _needed(pod) if await _is_missing(api, namespace, ref)]
        if not needed:
            return []
        simulated = await _is_simulated(api, meta.node_name(pod))
        pods = (await api.list("pods", namespace, limit=PODS_MAX)).items
        return [
            Missing(
                *(ref.resource, namespace, ref.name, simulated),
                await _makers(api, ref, pods, pod),
                example(ref.name) if simulated else "",
            )
            for ref in needed
        ]
    except ApiError:
        return []


async def _simulated(api: ApiClient, namespace: str, name: str) -> list[tuple[str, str]]:
    from rayplane.node.images.containers import SIMULATED_ID

    try:
        status = meta.status(await api.get("pods", name, namespace))
    except ApiError:
        return []
    told = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return [(one["name"], one["image"]) for one in told if str(one.get("imageID")).startswith(SIMULATED_ID)]


def _simulated_lines(found: Sequence[tuple[str, str]]) -> Iterator[str]:
    from rayplane.node.images.containers import to_run

    for container, image in found:
        yield f"Container {container} is simulated, and runs no program: image {image} is nowhere, and no command said."
    if found:
        yield f"    {to_run(isolates=True)}"


def _needed(pod: Object) -> "list[Reference]":
    from rayplane.node.environment import env_references
    from rayplane.node.volumes.projected import volume_references

    spec = meta.spec(pod)
    found = [ref for container in lifecycled(spec) for ref in env_references(container)]
    found += [ref for volume in spec.get("volumes") or () for ref in volume_references(volume)]
    return [*dict.fromkeys(ref for ref in found if not ref.optional)]


async def _is_missing(api: ApiClient, namespace: str, ref: "Reference") -> bool:
    try:
        await api.get(ref.resource, ref.name, namespace)
    except NotFound:
        return True
    return False


async def _is_simulated(api: ApiClient, node: str) -> bool:
    info = meta.status(await api.get("nodes", node)).get("nodeInfo") or {}
    return "simulated" in (info.get("containerRuntimeVersion") or "")


async def _makers(
    api: ApiClient, ref: "Reference", pods: Sequence[Object], waiting: Object
) -> tuple[tuple[str, str], ...]:
    """The first pod of each account that may make the object, and the account."""
    by_account: dict[str, str] = {}
    for pod in pods:
        account = meta.spec(pod).get("serviceAccountName") or "default"
        if meta.uid(pod) != meta.uid(waiting):
            by_account.setdefault(account, meta.name(pod))
    accounts = [*by_account][:ACCOUNTS_MAX]
    allowed = await asyncio.gather(*(_may_make(api, account, ref, meta.namespace(waiting)) for account in accounts))
    return tuple((by_account[account], account) for account, may in zip(accounts, allowed, strict=True) if may)


async def _may_make(api: ApiClient, account: str, ref: "Reference", namespace: str) -> bool:
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    asked = {"verb": "create", "resource": ref.resource, "namespace": namespace}
    spec = {"user": f"system:serviceaccount:{namespace}:{account}", "groups": groups, "resourceAttributes": asked}
    review = {"metadata": {}, "spec": spec}
    answer = await api.create("subjectaccessreviews.authorization.k8s.io", review)
    return bool(meta.status(answer).get("allowed"))


def lines(missing: Sequence[Missing]) -> Iterator[str]:
    """What is waited for, for people."""
    for one in missing:
        kind = _KINDS[one.resource]
        yield f"It waits for {kind} {one.namespace}/{one.name}, which is not there."
        shown = ", ".join(f"{pod} (service account {account})" for pod, account in one.makers[:SHOWN_MAX])
        more = f" and {len(one.makers) - SHOWN_MAX} more" if len(one.makers) > SHOWN_MAX else ""
        if shown:
            yield f"    May make it: {shown}{more}."
        if one.example:
            yield "    Pods of simulated nodes run no programs: Stages that come along make it as these start."
            yield f"    `rayplane stages {one.example} | kubectl apply -f -`; where a Job makes it, apply that again."
        elif one.simulated and shown:
            yield "    Pods of simulated nodes run no programs: a Stage with an `apply` step makes it in their name."
        elif one.simulated:
            yield "    Pods of simulated nodes run no programs: make it by hand, or by a Stage with an `apply` step."
        else:
            yield "    Make it, or look into the logs of whatever should have."
