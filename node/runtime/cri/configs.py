"""Pods and containers of the API in the words of CRI. Pure.

Source: the comments of CRI's own definition, and the documentation of core/v1.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.api.pods.ports import port_mappings
from rayplane.node.environment import expand
from rayplane.node.runtime import PodPlace, StartOrder
from rayplane.node.runtime.cri.labels import container_labels, pod_labels
from rayplane.node.runtime.cri.resources import cgroup_parent, container_resources
from rayplane.node.runtime.resolv import parse_resolv
from rayplane.proto.cri import cri_pb2 as pb

OWNER = "io.rayplane.owner"
"""The label of everything that one node host made in a runtime; others' is never touched."""
TERMINATION_LOG = "/dev/termination-log"
_Modes = pb.NamespaceMode
_PROTOCOLS = {"TCP": pb.Protocol.TCP, "UDP": pb.Protocol.UDP, "SCTP": pb.Protocol.SCTP}
_PROPAGATION = {
    "HostToContainer": pb.MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.MountPropagation.PROPAGATION_BIDIRECTIONAL,
}
_PROFILES = {
    "RuntimeDefault": pb.SecurityProfile.ProfileType.RuntimeDefault,
    "Unconfined": pb.SecurityProfile.ProfileType.Unconfined,
    "Localhost": pb.SecurityProfile.ProfileType.Localhost,
}
#: What containers see nothing of, and what they cannot write to, unless `procMount` says otherwise.
MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
    "/sys/devices/virtual/powercap",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it shows in what its runtime is told. `memory`: in bytes; `driver`: the runtime's, of cgroups;
    `profiles`: directory of its filters of system calls.
    """

    owner: str
    name: str
    memory: int
    driver: int = pb.CgroupDriver.CGROUPFS
    profiles: str = ""


def sandbox_config(place: PodPlace, node: Node, *, attempt: int, log_directory: str) -> pb.PodSandboxConfig:
    pod = place.pod
    spec = meta.spec(pod)
    servers, searches, options = parse_resolv(place.files.get("/etc/resolv.conf", b"").decode(errors="replace"))
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=meta.name(pod), uid=meta.uid(pod), namespace=meta.namespace(pod), attempt=attempt
        ),
        # With the machine's network its name is the machine's too.
        hostname="" if place.host_network else place.host_name,
        log_directory=log_directory,
        dns_config=pb.DNSConfig(
            servers=servers,
            searches=searches,
            options=[name if value is None else f"{name}:{value}" for name, value in options.items()],
        ),
        port_mappings=[
            pb.PortMapping(
                protocol=_PROTOCOLS.get(protocol, pb.Protocol.TCP),
                container_port=inner,
                host_port=number,
                host_ip=address,
            )
            for (protocol, address, number), inner in port_mappings(spec)
        ],
        labels={**pod_labels(pod), OWNER: node.owner},
        annotations=meta.annotations(pod),
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=cgroup_parent(pod, meta.uid(pod), node.driver),
            security_context=_sandbox_security(spec),
            sysctls={s["name"]: s["value"] for s in (spec.get("securityContext") or {}).get("sysctls") or ()},
        ),
    )


def _namespaces(spec: Mapping[str, Any]) -> pb.NamespaceOption:
    own_pid = _Modes.POD if spec.get("shareProcessNamespace") else _Modes.CONTAINER
    return pb.NamespaceOption(
        network=_Modes.NODE if spec.get("hostNetwork") else _Modes.POD,
        pid=_Modes.NODE if spec.get("hostPID") else own_pid,
        ipc=_Modes.NODE if spec.get("hostIPC") else _Modes.POD,
    )


def _groups(security: Mapping[str, Any]) -> list[int]:
    fs_group = security.get("fsGroup")
    return [*([] if fs_group is None else [fs_group]), *(security.get("supplementalGroups") or ())]


def _policy(security: Mapping[str, Any]) -> pb.SupplementalGroupsPolicy:
    strict = security.get("supplementalGroupsPolicy") == "Strict"
    return pb.SupplementalGroupsPolicy.Strict if strict else pb.SupplementalGroupsPolicy.Merge


def _number(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


def _profile(profile: Mapping[str, Any] | None, default: str, directory: str = "") -> pb.SecurityProfile:
    """`directory`: where the machine has its own, of which runtimes are told the whole path."""
    kind, name = (profile or {}).get("type") or default, (profile or {}).get("localhostProfile") or ""
    return pb.SecurityProfile(
        profile_type=_PROFILES.get(kind, _PROFILES[default]),
        localhost_ref=f"{directory}/{name}" if name and directory else name,
    )


def _selinux(options: Mapping[str, Any] | None) -> pb.SELinuxOption | None:
    if not options:
        return None
    return pb.SELinuxOption(**{name: options.get(name) or "" for name in ("user", "role", "type", "level")})


def _sandbox_security(spec: Mapping[str, Any]) -> pb.LinuxSandboxSecurityContext:
    security = spec.get("securityContext") or {}
    privileged = any((c.get("securityContext") or {}).get("privileged") for c in every(spec))
    user = security.get("runAsUser")
    return pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(spec),
        selinux_options=_selinux(security.get("seLinuxOptions")),
        run_as_user=_number(user),
        # A group without a user is none that a runtime takes.
        run_as_group=_number(security.get("runAsGroup")) if user is not None else None,
        supplemental_groups=_groups(security),
        supplemental_groups_policy=_policy(security),
        privileged=bool(privileged),
        seccomp=_profile(None, "RuntimeDefault"),
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rest that a container needs besides its order: the image that was found, its mounts, its log's name."""

    image: pb.Image
    log_path: str
    mounts: tuple[pb.Mount, ...]
    target_id: str = ""
    """The container whose processes an ephemeral one looks at."""


def container_config(order: StartOrder, prepared: Prepared, node: Node) -> pb.ContainerConfig:
    pod, container = order.pod, order.container
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=container["name"], attempt=order.attempt),
        image=pb.ImageSpec(image=prepared.image.id, user_specified_image=container.get("image") or ""),
        command=[expand(part, order.env) for part in container.get("command") or ()],
        args=[expand(part, order.env) for part in container.get("args") or ()],
        working_dir=container.get("workingDir") or "",
        envs=[pb.KeyValue(key=k, value=v.encode(errors="surrogateescape")) for k, v in order.env.items()],
        mounts=prepared.mounts,
        devices=[pb.Device(container_path=at, host_path=path, permissions="mrw") for at, path in order.devices],
        labels={**container_labels(pod, container["name"]), OWNER: node.owner},
        annotations=_annotations(order),
        log_path=prepared.log_path,
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
        linux=pb.LinuxContainerConfig(
            resources=container_resources(pod, container, node_memory=node.memory),
            security_context=_container_security(order, prepared, node.profiles),
        ),
    )


def _annotations(order: StartOrder) -> dict[str, str]:
    container, spec = order.container, meta.spec(order.pod)
    grace = spec.get("terminationGracePeriodSeconds")
    found = {
        "io.kubernetes.container.restartCount": str(order.attempt),
        "io.kubernetes.container.terminationMessagePath": container.get("terminationMessagePath") or TERMINATION_LOG,
        "io.kubernetes.container.terminationMessagePolicy": container.get("terminationMessagePolicy") or "File",
    }
    if grace is not None:
        found["io.kubernetes.pod.terminationGracePeriod"] = str(grace)
    if container.get("ports"):
        found["io.kubernetes.container.ports"] = json.dumps(container["ports"])
    return found


def _container_security(order: StartOrder, prepared: Prepared, profiles: str) -> pb.LinuxContainerSecurityContext:
    spec = meta.spec(order.pod)
    whole, own = spec.get("securityContext") or {}, order.container.get("securityContext") or {}
    # What both may say the container says last.
    merged = {**whole, **{name: value for name, value in own.items() if value is not None}}
    namespaces = _namespaces(spec)
    if prepared.target_id:
        namespaces.pid, namespaces.target_id = _Modes.TARGET, prepared.target_id
    user = merged.get("runAsUser")
    # Runtimes take no group without a user: where the pod says none it is the image's.
    name = prepared.image.username if user is None else ""
    if user is None and not name:
        user = prepared.image.uid.value
    privileged = bool(own.get("privileged"))
    unmasked = own.get("procMount") == "Unmasked"
    capabilities = own.get("capabilities") or {}
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=capabilities.get("add") or (), drop_capabilities=capabilities.get("drop") or ()
        ),
        privileged=privileged,
        namespace_options=namespaces,
        selinux_options=_selinux(merged.get("seLinuxOptions")),
        run_as_user=_number(user),
        run_as_username=name,
        run_as_group=_number(merged.get("runAsGroup")),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        supplemental_groups=_groups(whole),
        supplemental_groups_policy=_policy(whole),
        no_new_privs=own.get("allowPrivilegeEscalation") is False and not privileged,
        masked_paths=() if privileged or unmasked else MASKED,
        readonly_paths=() if privileged or unmasked else READ_ONLY,
        seccomp=_profile(merged.get("seccompProfile"), "Unconfined", profiles),
        apparmor=_profile(armor, "RuntimeDefault") if (armor := merged.get("appArmorProfile")) else None,
    )


def propagation_of(container: Mapping[str, Any], mount_path: str) -> int:
    """How mounts pass between the machine and a container, as its mount at that path says."""
    for mount in container.get("volumeMounts") or ():
        if mount.get("mountPath") == mount_path:
            return _PROPAGATION.get(mount.get("mountPropagation") or "", pb.MountPropagation.PROPAGATION_PRIVATE)
    return pb.MountPropagation.PROPAGATION_PRIVATE
