"""Pods of kubelets as sandboxes and containers of CRI. Pure.

A pod has a sandbox from the moment on that it has an address; its id follows from the pod's uid. A container's id is
the one that the pod's status tells. Of a container's runs, the last one and the one before it are there.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.node.lifecycle import PodMachine
from rayplane.node.lifecycle.model import Container, Run, Stage, Termination
from rayplane.node.runtime import ContainerRun
from rayplane.node.runtime.cri.labels import container_labels, pod_labels
from rayplane.proto.cri import cri_pb2 as pb

_RUNNING = (Run.RUNNING, Run.STOPPING)
_NODE, _POD = pb.NamespaceMode.NODE, pb.NamespaceMode.POD


class KubeletPod(Protocol):
    """A pod of a kubelet: its object, its state, and the runs of its containers by name."""

    @property
    def pod(self) -> Object: ...

    @property
    def machine(self) -> PodMachine: ...

    @property
    def runs(self) -> Mapping[str, ContainerRun]: ...

    @property
    def previous(self) -> Mapping[str, ContainerRun]: ...


def nanoseconds(stamp: str) -> int:
    """An RFC 3339 stamp since 1970; 0 for none."""
    if not stamp:
        return 0
    moment = meta.parse_time(stamp)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def sandbox_id(pod: Object) -> str:
    return hashlib.sha256(f"sandbox of {meta.uid(pod)}".encode()).hexdigest()


def sandbox_status(found: KubeletPod) -> pb.PodSandboxStatus | None:
    """None for a pod that has none yet."""
    pod, machine = found.pod, found.machine
    if not machine.ip and not found.runs:
        return None
    ended = machine.stage in (Stage.ENDED, Stage.GONE)
    spec = meta.spec(pod)
    options = pb.NamespaceOption(
        network=_NODE if spec.get("hostNetwork") else _POD,
        pid=_NODE if spec.get("hostPID") else _POD if spec.get("shareProcessNamespace") else pb.NamespaceMode.CONTAINER,
        ipc=_NODE if spec.get("hostIPC") else _POD,
    )
    return pb.PodSandboxStatus(
        id=sandbox_id(pod),
        metadata=pb.PodSandboxMetadata(
            name=meta.name(pod),
            uid=meta.uid(pod),
            namespace=meta.namespace(pod),
            attempt=max(0, machine.sandboxes - 1),
        ),
        state=pb.PodSandboxState.SANDBOX_NOTREADY if ended else pb.PodSandboxState.SANDBOX_READY,
        created_at=nanoseconds(machine.start_stamp or meta.metadata(pod).get("creationTimestamp") or ""),
        network=pb.PodSandboxNetworkStatus(ip="" if ended or spec.get("hostNetwork") else machine.ip),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        labels=pod_labels(pod),
        annotations=meta.annotations(pod),
    )


def container_statuses(found: KubeletPod) -> Iterator[tuple[pb.ContainerStatus, ContainerRun | None]]:
    """Each with the run that it is about, the last one of a container first."""
    for container in found.machine.containers:
        run, before = found.runs.get(container.name), found.previous.get(container.name)
        if container.run in _RUNNING:
            yield _running(found.pod, container, run), run
            if container.ended is not None:
                yield _exited(found.pod, container, container.ended, container.restart_count - 1, before), before
        elif container.ended is not None:
            yield _exited(found.pod, container, container.ended, container.restart_count, run), run


def _running(pod: Object, container: Container, run: ContainerRun | None) -> pb.ContainerStatus:
    since = nanoseconds(container.started_stamp)
    status = _status(pod, container, container.container_id, container.restart_count, run)
    status.state = pb.ContainerState.CONTAINER_RUNNING
    status.created_at = status.started_at = since
    return status


def _exited(
    pod: Object, container: Container, ended: Termination, attempt: int, run: ContainerRun | None
) -> pb.ContainerStatus:
    status = _status(pod, container, ended.container_id, max(0, attempt), run)
    status.state = pb.ContainerState.CONTAINER_EXITED
    status.created_at = status.started_at = nanoseconds(ended.started)
    status.finished_at = nanoseconds(ended.finished)
    status.exit_code, status.reason, status.message = ended.exit_code, ended.reason, ended.message
    return status


def _status(
    pod: Object, container: Container, ident: str, attempt: int, run: ContainerRun | None
) -> pb.ContainerStatus:
    spec: dict[str, Any] = container.spec
    image = spec.get("image") or ""
    return pb.ContainerStatus(
        id=ident.rpartition("/")[2],
        metadata=pb.ContainerMetadata(name=container.name, attempt=attempt),
        image=pb.ImageSpec(image=image, user_specified_image=image),
        image_ref=image,
        labels=container_labels(pod, container.name),
        mounts=[
            pb.Mount(container_path=m.get("mountPath") or "", readonly=bool(m.get("readOnly")))
            for m in spec.get("volumeMounts") or ()
        ],
        log_path=run.log_path if run is not None else "",
    )
