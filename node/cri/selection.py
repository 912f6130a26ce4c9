"""Selection of sandboxes and containers as clients of CRI ask for them. Pure."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from rayplane.node.errors import Malformed, NotHere
from rayplane.proto.cri import cri_pb2 as pb

T = TypeVar("T")
ID_BYTES = 32


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def wants_sandbox(asked: pb.PodSandboxFilter, status: pb.PodSandboxStatus) -> bool:
    """Whether a filter lets a sandbox through; an empty one lets all."""
    if not status.id.startswith(asked.id):
        return False
    if asked.HasField("state") and asked.state.state != status.state:
        return False
    return has_labels(status.labels, asked.label_selector)


def wants_container(asked: pb.ContainerFilter, status: pb.ContainerStatus, sandbox_id: str) -> bool:
    if not (status.id.startswith(asked.id) and sandbox_id.startswith(asked.pod_sandbox_id)):
        return False
    if asked.HasField("state") and asked.state.state != status.state:
        return False
    return has_labels(status.labels, asked.label_selector)


def find(kind: str, wanted: str, found: Iterable[tuple[str, T]]) -> T:
    """The one whose id is `wanted` or begins with it. Raises NotHere for none, Malformed for several or no name."""
    if not wanted:
        raise Malformed(f"name a {kind} by its id")
    matches = []
    for ident, one in found:
        if ident == wanted:
            return one
        if ident.startswith(wanted):
            matches.append(one)
    if len(matches) > 1:
        raise Malformed(f"{len(matches)} {kind}s have ids that begin with {wanted}: name more of it")
    if not matches:
        raise NotHere(f'{kind} "{wanted}": not found')
    return matches[0]


def sandbox_item(status: pb.PodSandboxStatus) -> pb.PodSandbox:
    """A sandbox as lists have it."""
    return pb.PodSandbox(
        id=status.id,
        metadata=status.metadata,
        state=status.state,
        created_at=status.created_at,
        labels=status.labels,
        annotations=status.annotations,
        runtime_handler=status.runtime_handler,
    )


def container_item(status: pb.ContainerStatus, sandbox_id: str) -> pb.Container:
    """A container as lists have it."""
    return pb.Container(
        id=status.id,
        pod_sandbox_id=sandbox_id,
        metadata=status.metadata,
        image=status.image,
        image_ref=status.image_ref,
        image_id=status.image_id,
        state=status.state,
        created_at=status.created_at,
        labels=status.labels,
        annotations=status.annotations,
    )
