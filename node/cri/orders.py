"""Sandboxes and containers of CRI in the words of this project's runtimes: objects of the API, and mounts. Pure."""

from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.node.errors import Malformed
from rayplane.node.runtime import Mount
from rayplane.proto.cri import cri_pb2 as pb

_NODE = pb.NamespaceMode.NODE
_POD = pb.NamespaceMode.POD
_SIGNAL = "SIGNAL_"
_SECCOMP = {
    pb.SecurityProfile.ProfileType.RuntimeDefault: "RuntimeDefault",
    pb.SecurityProfile.ProfileType.Unconfined: "Unconfined",
    pb.SecurityProfile.ProfileType.Localhost: "Localhost",
}


def is_host_network(config: pb.PodSandboxConfig) -> bool:
    return config.linux.security_context.namespace_options.network == _NODE


def pod_of(config: pb.PodSandboxConfig, *, uid: str) -> Object:
    """The pod that a sandbox stands for. `uid`: this host's own name for it."""
    security, dns = config.linux.security_context, config.dns_config
    namespaces = security.namespace_options
    metadata = config.metadata
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": uid,
            "labels": dict(config.labels),
            "annotations": dict(config.annotations),
        },
        "spec": {
            "hostname": config.hostname,
            "hostNetwork": namespaces.network == _NODE,
            "hostPID": namespaces.pid == _NODE,
            "hostIPC": namespaces.ipc == _NODE,
            "shareProcessNamespace": namespaces.pid == _POD,
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": [*dns.servers],
                "searches": [*dns.searches],
                "options": [_option(text) for text in dns.options],
            },
            "securityContext": {
                **_user(security),
                "supplementalGroups": [*security.supplemental_groups],
                "sysctls": [{"name": n, "value": v} for n, v in sorted(config.linux.sysctls.items())],
            },
            "containers": [],
        },
        "status": {},
    }


def pod_around(pod: Object, config: pb.ContainerConfig) -> Object:
    """The pod as it is for one of its containers, which may have groups of its own."""
    groups = [*config.linux.security_context.supplemental_groups]
    if not groups:
        return pod
    security = {**pod["spec"]["securityContext"], "supplementalGroups": groups}
    return {**pod, "spec": {**pod["spec"], "securityContext": security}}


def _option(text: str) -> dict[str, str]:
    name, colon, value = text.partition(":")
    return {"name": name, "value": value} if colon else {"name": name}


def _user(security: Any) -> dict[str, int]:
    """`security`: of a sandbox or of a container."""
    found = {}
    if security.HasField("run_as_user"):
        found["runAsUser"] = security.run_as_user.value
    if security.HasField("run_as_group"):
        found["runAsGroup"] = security.run_as_group.value
    return found


def container_of(config: pb.ContainerConfig) -> dict[str, Any]:
    """A container's part of its pod's spec. The user of `run_as_username` is its image's to tell. Raises Malformed."""
    security = config.linux.security_context
    if security.HasField("run_as_group") and not (security.HasField("run_as_user") or security.run_as_username):
        raise Malformed("run_as_group: a group goes with a user: give run_as_user or run_as_username")
    spec: dict[str, Any] = {
        "name": config.metadata.name,
        "image": config.image.image,
        "command": [_verbatim(word) for word in config.command],
        "args": [_verbatim(word) for word in config.args],
        "workingDir": config.working_dir,
        "stdin": config.stdin,
        "stdinOnce": config.stdin_once,
        "tty": config.tty,
        "resources": resources_of(config.linux.resources),
        "volumeMounts": [],
    }
    if config.linux.HasField("security_context"):
        spec["securityContext"] = {
            **_user(security),
            "readOnlyRootFilesystem": security.readonly_rootfs,
            "privileged": security.privileged,
            "allowPrivilegeEscalation": not security.no_new_privs,
            "capabilities": {
                "add": [*security.capabilities.add_capabilities],
                "drop": [*security.capabilities.drop_capabilities],
            },
        }
        # A client that says nothing of a filter wants none, as with other runtimes.
        kind = _SECCOMP.get(security.seccomp.profile_type, "RuntimeDefault")
        profile = {"type": kind if security.HasField("seccomp") else "Unconfined"}
        spec["securityContext"]["seccompProfile"] = profile | _localhost(security.seccomp.localhost_ref)
    if config.stop_signal:
        name = pb.Signal.Name(config.stop_signal) if config.stop_signal in pb.Signal.values() else ""
        spec["lifecycle"] = {"stopSignal": name.removeprefix(_SIGNAL)}
    return {name: value for name, value in spec.items() if value not in ("", [], False)}


def _localhost(reference: str) -> dict[str, str]:
    return {"localhostProfile": reference} if reference else {}


def _verbatim(word: str) -> str:
    """A word of which a runtime here makes this one: its client has put in what variables say."""
    return word.replace("$", "$$")


def resources_of(resources: pb.LinuxContainerResources) -> dict[str, dict[str, str]]:
    """Quantities of what control groups would be told; what is not positive is no bound."""
    asked = {"cpu": f"{resources.cpu_shares * 1000 // 1024}m"} if resources.cpu_shares > 0 else {}
    return {"limits": _limits(resources), "requests": asked}


def _limits(resources: pb.LinuxContainerResources) -> dict[str, str]:
    found = {}
    if resources.cpu_quota > 0 and resources.cpu_period > 0:
        found["cpu"] = f"{resources.cpu_quota * 1000 // resources.cpu_period}m"
    if resources.memory_limit_in_bytes > 0:
        found["memory"] = str(resources.memory_limit_in_bytes)
    return found


def mounts_of(config: pb.ContainerConfig) -> tuple[Mount, ...]:
    """Directories of this machine that a container has. Raises Malformed for what is none."""
    found = []
    for number, mount in enumerate(config.mounts):
        if mount.image.image:
            continue
        if not (mount.host_path.startswith("/") and mount.container_path):
            raise Malformed(f"mount {mount.container_path!r}: give an absolute host_path and a container_path")
        found.append(Mount(f"mount-{number}", mount.container_path, mount.host_path, read_only=mount.readonly))
    return tuple(found)


def image_mounts_of(config: pb.ContainerConfig) -> tuple[tuple[Mount, str], ...]:
    """Images that a container has as directories, with their names; their layers are still to be found.

    Raises Malformed.
    """
    found = []
    for number, mount in enumerate(config.mounts):
        if not mount.image.image:
            continue
        if not mount.container_path or mount.host_path:
            raise Malformed(f"mount {mount.container_path!r}: an image has a container_path and no host_path")
        below = mount.image_sub_path
        found.append((Mount(f"mount-{number}", mount.container_path, "", below, read_only=True), mount.image.image))
    return tuple(found)
