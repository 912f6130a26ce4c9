"""Sandbox of a pod: its address, directory, volumes and environment on its node.

On a node with real processes every volume becomes a directory; on a simulated node only what can fail is looked at
(missing ConfigMaps and Secrets, claims that are not bound), so that a pod hangs where a real one would.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import every
from rayplane.node.config import NodeConfig
from rayplane.node.environment import (
    Files,
    Found,
    PodFacts,
    Reference,
    container_env,
    env_references,
    expand_path,
    file_references,
)
from rayplane.node.errors import ContainerConfigError, DeviceError, MountError, NodeError, SourceUnavailable
from rayplane.node.events import Events
from rayplane.node.kubelet.addresses import NodeAddresses
from rayplane.node.kubelet.env_files import BYTES_MAX as ENV_FILE_MAX
from rayplane.node.kubelet.env_files import parse_env_file
from rayplane.node.kubelet.etc_files import HOSTS, etc_files, hosts, kernel_name
from rayplane.node.kubelet.pod_credentials import RENEW_AGAIN_S, Certificates, PodCredentials, Tokens
from rayplane.node.kubelet.token_manager import JITTER_S
from rayplane.node.lifecycle.containers import check_recursive, is_recursive
from rayplane.node.lifecycle.model import SandboxReady
from rayplane.node.runtime import Mount, PodPlace, Runtime
from rayplane.node.runtime.resolv import RESOLV_CONF
from rayplane.node.tasks import Tasks
from rayplane.node.volumes.backend import Published
from rayplane.node.volumes.pod_files import PodFiles
from rayplane.node.volumes.projected import (
    PROJECTED,
    mount_failed,
    volume_files,
    volume_references,
)

log = logging.getLogger(__name__)

ROOT_CA = "kube-root-ca.crt"
_CLAIMS = ("persistentVolumeClaim", "ephemeral")


def needs_lookup(container: dict[str, Any]) -> bool:
    """Tell whether a container's variables come from other objects."""
    if container.get("envFrom"):
        return True
    return any(v.get("valueFrom") for v in container.get("env") or ())


class ObjectLookup(Protocol):
    """A cache that finds what pods refer to, and calls back when it changes."""

    async def find(self, namespace: str, references: Iterable[Reference]) -> Found:
        """Return the objects, None for one that is not there. Raises SourceUnavailable."""

    async def services(self, namespace: str) -> list[Object]:
        """Return the services whose variables a pod gets. Raises SourceUnavailable."""

    def watch(self, namespace: str, references: Iterable[Reference], watcher: Callable[[], None]) -> None: ...

    def unwatch(self, namespace: str, references: Iterable[Reference], watcher: Callable[[], None]) -> None: ...


class PodVolumes(Protocol):
    """A manager that makes claims of pods usable on a node."""

    async def publish(self, pod: Object, volume: dict[str, Any], *, node: str) -> Published:
        """Make a volume ready. Raises MountError."""

    async def unpublish(self, pod: Object, *, node: str) -> None:
        """The pod has ended: give back what it was the last to use."""

    def in_use(self, node: str) -> list[str]:
        """Volumes of others' drivers that pods use, as the node's status lists them."""


class ImageVolumes(Protocol):
    """A manager that has images as volumes."""

    async def volume(self, pod: Object, source: dict[str, Any]) -> tuple[str, ...]:
        """The directories of an image, the highest first. Raises ImageError, OSError."""


@dataclass(frozen=True, slots=True)
class SandboxParts:
    """Parts that the sandboxes of one node share. `files`: where pods have directories, else None."""

    node: NodeConfig
    addresses: NodeAddresses
    objects: ObjectLookup
    tokens: Tokens
    certificates: Certificates
    volumes: PodVolumes
    files: PodFiles | None
    runtime: Runtime
    dns: str
    """The cluster's DNS server; empty where pods have no resolv.conf of their own."""
    events: Events
    tasks: Tasks
    images: ImageVolumes | None = None
    """None where containers are simulated."""


class Sandbox:
    """The volumes and environment of a pod: `mount` once, then `environment` and `mounts` for each container, `unmount`
    at the end.
    """

    __slots__ = (
        "_credentials",
        "_devices",
        "_layers",
        "_parts",
        "_paths",
        "_pod",
        "_refreshing",
        "_renewal",
        "_sync_sockets",
        "_tell_moved",
        "_volumes",
        "_watched",
        "directory",
        "host_name",
        "ip",
        "live",
        "own_address",
        "taken_ip",
    )

    def __init__(
        self, parts: SandboxParts, pod: Object, ip: str, *, own_address: bool, moved: Callable[[str], None]
    ) -> None:
        self.ip = self.taken_ip = ip
        self.host_name = ""  # for programs: of simulated ones none asks
        self._tell_moved = moved
        self.own_address = own_address
        self.directory = ""
        self.live = False  # whether files of it follow the API
        self._pod = pod
        self._parts = parts
        self._volumes: list[dict[str, Any]] = pod["spec"].get("volumes") or []
        self._paths: dict[str, str] = {}
        self._devices: dict[str, str] = {}
        self._layers: dict[str, tuple[str, ...]] = {}
        self._sync_sockets: dict[str, str] = {}
        self._credentials = PodCredentials(parts.tokens, parts.certificates)
        self._renewal: asyncio.TimerHandle | None = None
        self._watched: list[Reference] = []
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def is_trivial(self) -> bool:
        """Tells that nothing has to be waited for."""
        if self._parts.files is not None:
            return False
        return not any(self._checked(v) or _is_claim(v) for v in self._volumes)

    # --- mount ------------------------------------------------------------------------------------

    async def mount(self, pod: Object) -> None:
        """Set up the volumes of the pod as it is now; again after a `rest`.

        Raises NodeError or OSError; what was mounted until then stays for `unmount`.
        """
        self._pod = pod
        try:
            if self._parts.files is not None:
                await self._mount_files(self._parts.files)
            else:
                await self._check()
            for volume in self._volumes:
                if _is_claim(volume):
                    await self._publish(volume)
            if self._parts.files is not None:
                place = self._place()
                self.host_name = place.host_name
                self.ip = await self._parts.runtime.add_pod(place)
        except SourceUnavailable as e:
            raise MountError(str(e)) from e

    def ready(self) -> SandboxReady:
        return SandboxReady(self.ip, recursive=self._mounts_recursively())

    def _place(self) -> PodPlace:
        pod, parts = self._pod, self._parts
        node, own_files = parts.node.name, parts.dns or parts.node.cri_path
        machine = {"machine_resolv": machine_file(RESOLV_CONF), "machine_hosts": machine_file(HOSTS)}
        return PodPlace(
            uid=meta.uid(pod),
            ip=self.ip,
            gateway=parts.addresses.node_ip,
            host_name=kernel_name(pod, node),
            directory=self.directory,
            host_network=not self.own_address,
            pod=pod,
            volumes={v["name"]: path for v in self._volumes if _is_owned(v) and (path := self._paths.get(v["name"]))},
            files=etc_files(pod, self.ip, dns=parts.dns, node=node, **machine) if own_files else {},
            hosts=(lambda ip: hosts(pod, ip).encode()) if self.own_address else None,
            moved=self._moved,
        )

    def _moved(self, ip: str) -> None:
        self.ip = ip
        self._tell_moved(ip)

    async def _check(self) -> None:
        for volume in self._volumes:
            refs = self._checked(volume)
            found = await self._parts.objects.find(meta.namespace(self._pod), refs)
            for ref in refs:
                if found[ref.resource, ref.name] is None:
                    kind = ref.resource.removesuffix("s")
                    raise mount_failed(volume["name"], f'{kind} "{ref.name}" not found')

    @staticmethod
    def _checked(volume: dict[str, Any]) -> list[Reference]:
        # Every pod mounts the cluster's root certificate; as data it needs none.
        return [r for r in volume_references(volume) if not r.optional and r.name != ROOT_CA]

    async def _publish(self, volume: dict[str, Any]) -> None:
        published = await self._parts.volumes.publish(self._pod, volume, node=self._parts.node.name)
        self._check_mode(volume["name"], published)
        if published.block:
            self._devices[volume["name"]] = published.path
            return
        if self._parts.files is not None:
            self._parts.files.make_host_dir(published.path)  # of a volume made by hand: container runtimes do so too
        self._paths[volume["name"]] = published.path
        if published.sync_socket:
            self._sync_sockets[volume["name"]] = published.sync_socket

    def _check_mode(self, name: str, published: Published) -> None:
        """Raises MountError where containers want a device that is none, or a directory that is none."""
        spec, wanted = meta.spec(self._pod), "volumeMounts" if published.block else "volumeDevices"
        mode = "Block" if published.block else "Filesystem"
        if any(one.get("name") == name for container in every(spec) for one in container.get(wanted) or ()):
            raise DeviceError(f"volume {name} has volumeMode {mode}, but is specified in {wanted}")
        if not published.block or self._parts.files is None:
            return
        failed = f'MapVolume.MapPodDevice failed for volume "{name}" : '
        if not self._parts.node.cri_path:
            other = "use volumeMode Filesystem, or nodes with --runtime cri:unix:///PATH"
            raise DeviceError(f"{failed}block devices are not given to pods of this runtime: {other}")
        try:
            is_device = stat.S_ISBLK(os.stat(published.path).st_mode)
        except OSError as e:
            raise DeviceError(f"{failed}{published.path}: {e.strerror}") from e
        if not is_device:
            raise DeviceError(f"{failed}{published.path} is not a block device")

    async def _mount_files(self, files: PodFiles) -> None:
        self.directory = files.create(meta.uid(self._pod))
        for volume in self._volumes:
            name = volume["name"]
            if "emptyDir" in volume:
                self._paths[name] = files.volume_dir(self.directory, name)
                self._keep_in_memory(name)
            elif "hostPath" in volume:
                self._paths[name] = files.host_path(volume)
            elif any(kind in volume for kind in PROJECTED):
                self._paths[name] = files.volume_dir(self.directory, name)
                self._watched += volume_references(volume)
            elif volume.get("image") is not None and self._parts.images is not None:
                layers = self._layers[name] = await self._parts.images.volume(self._pod, volume["image"])
                self._paths[name] = layers[0]
            elif not _is_claim(volume):
                kind = next((k for k in volume if k != "name"), "none")
                raise mount_failed(name, f"volumes of type {kind} are not supported")
        await self._project(files)
        self.live = True
        self._await_renewal()
        namespace = meta.namespace(self._pod)
        self._parts.objects.watch(namespace, self._watched, self._source_changed)

    def _keep_in_memory(self, name: str) -> None:
        """Have an emptyDir of medium Memory in memory, where the runtime does not see to it; else its pod says so."""
        node = self._parts.node
        if not node.cri_path:
            return
        # Imported here so that a simulation never loads what mounts.
        from rayplane.node.runtime.isolation.pods import memory_volumes
        from rayplane.node.volumes.memory import mount_in_memory

        settings = memory_volumes(self._pod, quantity.value(node.memory)).get(name)
        try:
            if settings is not None:
                mount_in_memory(self._paths[name], settings)
        except OSError as e:
            text = f'volume "{name}" has medium Memory and is on disk: a memory file system cannot be mounted'
            why = f"{text}: {e.strerror} (node hosts of root can)"
            self._parts.events.record(self._pod, "Warning", "MemoryVolumeOnDisk", why)

    async def _project(self, files: PodFiles) -> None:
        """Bring the files of projected volumes up to date."""
        for volume in self._volumes:
            if not any(kind in volume for kind in PROJECTED):
                continue
            await self._credentials.fetch(self._pod, volume)
            found = await self._parts.objects.find(meta.namespace(self._pod), volume_references(volume))
            content = volume_files(
                volume,
                self._pod,
                self.facts(),
                found=found,
                tokens=self._credentials.tokens,
                certificates=self._credentials.certificates,
            )
            group = (meta.spec(self._pod).get("securityContext") or {}).get("fsGroup")
            files.project(self._paths[volume["name"]], content, group)

    def _await_renewal(self, pause_s: float = JITTER_S) -> None:
        """Bring the files up to date when the next token is to be renewed, after `pause_s` at the earliest."""
        if self._renewal is not None:
            self._renewal.cancel()
        if (due := self._credentials.due) is not None and self.live:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_at(max(due, loop.time() + pause_s), self._source_changed)

    # --- changes ----------------------------------------------------------------------------------

    def refresh(self, pod: Object) -> None:
        """The pod's object changed: labels, annotations and resources may show in files."""
        old, self._pod = self._pod, pod
        if any("downwardAPI" in v or "projected" in v for v in self._volumes) and (
            meta.labels(old) != meta.labels(pod)
            or meta.annotations(old) != meta.annotations(pod)
            or meta.generation(old) != meta.generation(pod)
        ):
            self._source_changed()

    def _source_changed(self) -> None:
        # One pass at a time; a change during a pass is seen by the pass that follows it.
        previous, files = self._refreshing, self._parts.files
        assert files is not None

        async def again() -> None:
            if previous is not None and not previous.done():
                await asyncio.wait([previous])
            try:
                await self._project(files)
            except (NodeError, OSError) as e:
                # As in Kubernetes, files that were there stay when their source is gone.
                self._parts.events.record(self._pod, "Warning", "FailedMount", str(e))
                self._await_renewal(RENEW_AGAIN_S)
            else:
                self._await_renewal()

        self._refreshing = self._parts.tasks.spawn(again(), "refresh volumes")

    # --- containers -------------------------------------------------------------------------------

    def facts(self) -> PodFacts:
        node = self._parts.node
        return PodFacts(self.ip, self._parts.addresses.node_ip, node.name, node.cpu, node.memory)

    async def environment(self, pod: Object, container: dict[str, Any]) -> dict[str, str]:
        """Return the variables of a container. Raises ContainerConfigError."""
        objects, namespace = self._parts.objects, meta.namespace(pod)
        try:
            found = await objects.find(namespace, env_references(container))
            services = await objects.services(namespace) if self._parts.files is not None else []
        except SourceUnavailable as e:
            raise ContainerConfigError(str(e)) from e
        files = self._env_files(container)
        env = container_env(container, pod, self.facts(), found=found, services=services, files=files)
        for mount in container.get("volumeMounts") or ():
            if mount["name"] in self._sync_sockets:
                env["RAYPLANE_VOLUME_SYNC"] = self._sync_sockets[mount["name"]]
            expand_path(mount.get("subPathExpr") or "", env)
        return env

    def _env_files(self, container: dict[str, Any]) -> Files | None:
        """What files in volumes say of variables. Raises ContainerConfigError."""
        own, found = self._parts.files, {}
        if own is None:
            return None
        for volume, path in file_references(container):
            data = own.read(self._paths[volume], path, ENV_FILE_MAX + 1)
            try:
                if data is not None and len(data) > ENV_FILE_MAX:
                    raise ValueError(f"it is larger than {ENV_FILE_MAX} bytes")
                found[volume, path] = parse_env_file(data.decode()) if data is not None else None
            except ValueError as e:
                raise ContainerConfigError(f'environment variable file "{path}" of volume {volume}: {e}') from e
        return found

    def mounts(self, container: dict[str, Any], env: Mapping[str, str]) -> tuple[Mount, ...]:
        """`env`: the container's variables, for subPathExpr."""
        if not self._paths:
            return ()
        scratch = {v["name"] for v in self._volumes if "emptyDir" in v}
        can = self._mounts_recursively()
        projected = {v["name"] for v in self._volumes if not v.keys().isdisjoint(PROJECTED)}
        return tuple(
            Mount(
                m["name"],
                m["mountPath"],
                self._paths[m["name"]],
                sub_path=m.get("subPath") or expand_path(m.get("subPathExpr") or "", env),
                read_only=bool(m.get("readOnly")) or m["name"] in {*projected, *self._layers},
                recursive=is_recursive(m, can),
                scratch=m["name"] in scratch,
                sync_socket=self._sync_sockets.get(m["name"], ""),
                layers=self._layers.get(m["name"], ()),
            )
            for m in container.get("volumeMounts") or ()
            if m["name"] in self._paths
        )

    def check_mounts(self, container: dict[str, Any]) -> None:
        """Raises ContainerConfigError where they cannot be as the container wants them."""
        check_recursive(container, self._mounts_recursively())

    def _mounts_recursively(self) -> bool:
        """Whether what is mounted below read-only volumes can be read-only, too."""
        runtime = self._parts.runtime
        return runtime.features.recursive_read_only.get(runtime.handler_of(meta.uid(self._pod)), False)

    def devices(self, container: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """Block devices of a container: its path, and that of this machine."""
        wanted = container.get("volumeDevices") or ()
        return tuple((d["devicePath"], self._devices[d["name"]]) for d in wanted if d["name"] in self._devices)

    def rest(self) -> None:
        """Follow nothing until `mount` is tried again. What containers have of it stays."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        self.live = False
        self._await_renewal()
        self._parts.objects.unwatch(meta.namespace(self._pod), self._watched, self._source_changed)
        self._watched = []

    async def unmount(self) -> None:
        """Give back what `mount` took. Containers have ended."""
        self.rest()
        self._parts.runtime.remove_pod(meta.uid(self._pod))
        if self._parts.files is not None and self._parts.node.cri_path:
            try:
                self._parts.files.unmount(meta.uid(self._pod))
            except OSError as e:
                log.warning("memory of pod %s is kept until its files go: %s", meta.key(self._pod), e)
        await self._parts.volumes.unpublish(self._pod, node=self._parts.node.name)


def machine_file(path: str) -> str:
    """What one of the machine's files of names says; empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _is_owned(volume: dict[str, Any]) -> bool:
    """Whether files of a volume are given to its pod's group."""
    return _is_claim(volume) or "emptyDir" in volume


def _is_claim(volume: dict[str, Any]) -> bool:
    return any(kind in volume for kind in _CLAIMS)
