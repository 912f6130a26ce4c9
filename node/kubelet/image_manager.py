"""The images of a host's pods: found in the store, stood for by a program, pulled, or done without; held while used."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import part_of
from rayplane.control_plane.backoff import Backoff
from rayplane.node.config import NodeHostConfig
from rayplane.node.environment import Found, Reference
from rayplane.node.errors import ContainerConfigError
from rayplane.node.events import Events
from rayplane.node.images.catalog import Catalog, Stored
from rayplane.node.images.collection import Thresholds
from rayplane.node.images.containers import ContainerImage, environment, own_command, to_run
from rayplane.node.images.credentials import Auth, auths_of, credentials_of, fitting
from rayplane.node.images.errors import BadReference, ImageError, NoPull, PullBackOff
from rayplane.node.images.listing import listed
from rayplane.node.images.manifests import digest_of
from rayplane.node.images.policy import Choice, choose, policy_of
from rayplane.node.images.references import Reference as ImageReference
from rayplane.node.images.references import parse_reference
from rayplane.node.images.registries import Registries
from rayplane.node.images.registry import RegistryClient
from rayplane.node.images.store import ImageStore, Ready, Use
from rayplane.node.images.unpacking import Owners
from rayplane.node.kubelet.puller import Puller
from rayplane.node.lifecycle import StartContainer, StartFailed
from rayplane.node.lifecycle.containers import present_text
from rayplane.node.restarts import KUBERNETES_RESTARTS
from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST
from rayplane.storage.env import Env

T = TypeVar("T")
THREADS = 4
NOT_PRESENT = "ImageNotPresent"
"""The reason of the event on a container that is data since nothing here is its image."""
_FAMILIAR = ("docker.io/library/", "docker.io/")


class Secrets(Protocol):
    """A cache that finds secrets of pods; see ReferencedObjects."""

    async def find(self, namespace: str, references: Iterable[Reference]) -> Found:
        """Return the objects, None for one that is not there. Raises SourceUnavailable."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """The ways of a host with images. `isolates`: containers can have roots of their own; `refuses`: nothing stands in
    for an image that is not there; `backoff`: between pulls that fail."""

    isolates: bool
    refuses: bool = False
    registries: Registries = field(default_factory=Registries)
    backoff: Backoff = KUBERNETES_RESTARTS.backoff
    thresholds: Thresholds = field(default_factory=Thresholds)


class ImageManager:
    """A host's way to images."""

    place = ""  # the disk of the pods

    def __init__(self, store: ImageStore, events: Events, secrets: Secrets, rules: ImageRules) -> None:
        self.store = store
        self._events = events
        self._secrets, self._rules = secrets, rules
        self._puller = Puller(RegistryClient(store, rules.registries, self.run), events, rules.backoff)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="images")
        self._seen = Catalog()
        self._uses: dict[str, dict[str, Use]] = {}  # by uid of the pod and digest

    async def open(self) -> None:
        await self.run(self.store.clean)

    async def close(self) -> None:
        await self._puller.close()
        for uid in [*self._uses]:
            self.release(uid)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Work of the store, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def image(self, pod: Object, container: dict[str, Any]) -> ContainerImage | None:
        """The image of a container, held until `release`; None where this machine stands for it, or it is simulated.

        Raises ImageError, OSError.
        """
        said, part = container.get("image") or "", part_of(meta.spec(pod), container.get("name") or "")
        if not said:
            return None
        try:
            reference = parse_reference(said)
        except BadReference as e:
            message = f'Failed to apply default image tag "{said}": {e}'
            self._events.record(pod, "Warning", "InspectFailed", message, part=part)
            raise BadReference(message) from e
        program = self.store.catalog().program(said, reference)
        if program is not None:
            image_id = f"program@{digest_of(chr(0).join(program.command).encode())}"
            self._tell(pod, present_text(said), part)
            return ContainerImage(str(reference), image_id, entrypoint=program.command)
        ready = await self._ready(pod, said, reference, policy_of(container, reference), part)
        if ready is None:
            self._stood_for(pod, container, said, part)
            return None
        name = str(reference) if not reference.digest else next(iter(ready.image.names), str(reference))
        return _container_image(name, ready)

    def _stood_for(self, pod: Object, container: dict[str, Any], said: str, part: str) -> None:
        """Say what a container is that has no image here: nobody should take it for its image's program."""
        if own_command(container):
            text = f'Container image "{said}" is not present: programs of this machine stand for it'
            self._tell(pod, text, part)
            return
        why = "is not present and no registry is asked for it"
        if not self._rules.isolates:
            why = "is not used on this node, which does not isolate pods"
        data = f"container {container.get('name')} has no command: it is simulated, and runs no program"
        text = f'Container image "{said}" {why}, and {data}. {to_run(isolates=self._rules.isolates)}'
        self._events.record(pod, "Warning", NOT_PRESENT, text, part=part)

    async def volume(self, pod: Object, source: dict[str, Any]) -> tuple[str, ...]:
        """The directories of an image that is a volume, the highest first. Raises ImageError, OSError."""
        said = source.get("reference") or ""
        reference = parse_reference(said)
        ready = await self._ready(pod, said, reference, policy_of(source, reference))
        if ready is None or not ready.layers:
            raise NoPull(f'image "{said}" is not present: load it with `rayplane image load`, on nodes that isolate')
        return ready.layers

    async def _ready(
        self, pod: Object, said: str, reference: ImageReference, policy: str, part: str = ""
    ) -> Ready | None:
        """The image unpacked; None where something else stands in for it. `part`: of the pod, as events say it."""
        rules = self._rules
        if not rules.isolates and policy == "Never":
            policy = "IfNotPresent"  # where no image can be present, all that is asked for is that none is fetched
        image = self.store.catalog().find(reference) if rules.isolates else None
        pulls = rules.isolates and rules.registries.allow(reference)
        auths = await self._auths(pod, reference) if pulls or (image is not None and image.credentials) else []
        # What was pulled with somebody's credentials is for those who have them too.
        present = image is not None and image.credentials.admits(credentials_of(auths))
        try:
            choice = choose(said, policy, present=present, pulls=pulls, refuses=rules.refuses)
        except NoPull as e:
            self._events.record(pod, "Warning", NoPull.reason, str(e), part=part)
            raise
        if choice is Choice.PULL:
            image = await self._puller.pull(pod, said, reference, auths, part)
        elif choice is Choice.STAND_IN or image is None:
            return None
        else:
            self._tell(pod, present_text(said), part)
        await self._hold(meta.uid(pod), image)
        return await self.run(self.store.ready, image)

    # --- for others than pods ---------------------------------------------------------------------

    async def fetched(self, said: str, reference: ImageReference, auths: Sequence[Auth]) -> Stored | None:
        """An image for who is no pod: fetched where its registry may be asked, else as it is here.

        None where something else stands in for it. Raises ImageError, OSError.
        """
        rules = self._rules
        if rules.isolates and rules.registries.allow(reference):
            return await self._puller.fetched(reference, auths)
        image = self.store.catalog().find(reference)
        if image is None:
            choose(said, "IfNotPresent", present=False, pulls=False, refuses=rules.refuses)
        return image

    async def held(self, holder: str, image: Stored) -> ContainerImage | None:
        """An image as a container runs from it, held until `release`; None where containers have no roots here."""
        if not self._rules.isolates:
            return None
        await self._hold(holder, image)
        ready = await self.run(self.store.ready, image)
        return _container_image(next(iter(image.names), image.digest), ready)

    async def _auths(self, pod: Object, reference: ImageReference) -> list[Auth]:
        names = [str(one.get("name") or "") for one in meta.spec(pod).get("imagePullSecrets") or ()]
        wanted = [Reference("secrets", name, True) for name in dict.fromkeys(names) if name]
        found = await self._secrets.find(meta.namespace(pod), wanted)
        missing = [one.name for one in wanted if found[one.resource, one.name] is None]
        if missing:
            text = f"Unable to retrieve some image pull secrets ({', '.join(missing)})"
            more = "attempting to pull the image may not succeed."
            self._events.record(pod, "Warning", "FailedToRetrieveImagePullSecret", f"{text}; {more}")
        secrets = [secret for one in wanted if (secret := found[one.resource, one.name]) is not None]
        return fitting([auth for secret in secrets for auth in auths_of(secret)], reference)

    async def _hold(self, uid: str, image: Stored) -> None:
        if image.digest not in self._uses.setdefault(uid, {}):
            taking = asyncio.ensure_future(self.run(self.store.use, image))
            taking.add_done_callback(partial(self._taken, uid, image.digest))
            # The thread goes on, whoever is cancelled: what it takes has to be given back.
            await asyncio.shield(taking)

    def _taken(self, uid: str, digest: str, taking: asyncio.Future[Use]) -> None:
        if taking.cancelled() or taking.exception() is not None:
            return
        held = self._uses.get(uid)
        # The pod may have ended meanwhile, or another container of it have come first.
        if held is None or digest in held:
            taking.result().close()
        else:
            held[digest] = taking.result()

    # --- what nodes tell --------------------------------------------------------------------------

    def listed(self) -> list[dict[str, Any]]:
        """The images as a node's status lists them (core/v1 ContainerImage), the largest first."""
        try:
            images = self.store.catalog().images.values()
        except (ImageError, OSError):
            return []  # told by whoever needs one
        return listed(([*_names_of(one)], one.size) for one in images)

    async def look(self) -> bool:
        catalog, before = self.store.catalog(), self._seen
        self._seen = catalog
        return catalog is not before and catalog != before

    async def collect(self) -> tuple[int, int]:
        return await self.run(self.store.collect, self._rules.thresholds)

    async def reclaim(self) -> bool:
        """Remove all images that go by themselves and nobody uses; whether there was any. Pods come before them."""
        try:
            going = [one.digest for one in self.store.catalog().images.values() if one.goes_by_itself]
            return bool(going) and bool(await self.run(self.store.remove_images, going))
        except (ImageError, OSError):
            return False  # told by whoever needs one

    def release(self, uid: str) -> None:
        """The pod's containers have ended."""
        self._puller.forget(uid)
        for use in self._uses.pop(uid, {}).values():
            use.close()

    def _tell(self, pod: Object, text: str, part: str) -> None:
        self._events.record(pod, "Normal", "Pulled", text, part=part)


def images_of(config: NodeHostConfig, env: Env, events: Events, secrets: Secrets) -> ImageManager:
    """The images of a host that runs processes. Raises OSError."""
    owners = Owners(RANGE_FIRST, RANGE_COUNT) if config.isolates and os.geteuid() == 0 else None
    store = ImageStore(config.image_dir, owners, lambda: env.clock.now().timestamp())
    store.prepare()
    registries = Registries(config.registries, config.registry_mirrors)
    backoff = config.timing.restarts.backoff
    rules = ImageRules(config.isolates, config.refuses_images, registries, backoff, thresholds_of(config))
    return ImageManager(store, events, secrets, rules)


def thresholds_of(config: NodeHostConfig) -> Thresholds:
    return Thresholds(config.image_gc_high_percent, config.image_gc_low_percent, config.image_gc_min_age_s)


def _names_of(image: Stored) -> Iterator[str]:
    """Its names in full, and as pods say them."""
    yield from (f"{name}@{image.digest}" for name in image.digests)
    for name in image.names:
        yield name
        if name.startswith(_FAMILIAR):
            yield name.removeprefix(_FAMILIAR[0]).removeprefix(_FAMILIAR[1])


def not_started(start: StartContainer, error: ContainerConfigError | ImageError | OSError) -> StartFailed:
    """What becomes of a start that has no image or no environment. Of images the Event tells the reason only."""
    if isinstance(error, ContainerConfigError):
        return StartFailed(start.container, start.attempt, error.reason, str(error))
    reason = error.reason if isinstance(error, ImageError) else ImageError.reason
    wait_s = error.wait_s if isinstance(error, PullBackOff) else None
    return StartFailed(start.container, start.attempt, reason, str(error), told=reason, retry_s=wait_s)


def _container_image(name: str, ready: Ready) -> ContainerImage:
    image, config = ready.image, ready.config
    return ContainerImage(
        name=name,
        image_id=image.image_id,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        env=environment(config.env),
        user=config.user,
        accounts=ready.accounts,
        working_dir=config.working_dir,
        stop_signal=config.stop_signal,
        volumes=config.volumes,
        layers=ready.layers,
    )
