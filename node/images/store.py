"""The images of one machine: content, names, unpacked layers; shared by all node hosts of a cluster there.

Locks are the kernel's (flock), so they go with whoever held them. `work`: shared while images come, exclusive while
some go. `catalog`: exclusive while it is changed; it is read without, since it is replaced whole. `uses/DIGEST`: shared
while containers run from an image; who cannot have it exclusively must not remove that image.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from rayplane.node.images.blobs import Blobs
from rayplane.node.images.catalog import LOADED, PROGRAMS_MAX, Catalog, Credentials, Stored
from rayplane.node.images.collection import Candidate, Thresholds, Wanted, wanted
from rayplane.node.images.errors import BadImage, BadReference, ImageInUse, TooLarge
from rayplane.node.images.layers import Layers
from rayplane.node.images.manifests import Config, Descriptor, Manifest, document, read_config, read_manifest
from rayplane.node.images.platforms import check_platform
from rayplane.node.images.references import Reference, parse_reference
from rayplane.node.images.unpacking import Owners
from rayplane.node.images.users import Accounts
from rayplane.storage.beneath import Beneath
from rayplane.storage.env.private import make_private_dir, write_private

log = logging.getLogger(__name__)

PATTERN_MAX, COMMAND_MAX = 512, 32 * 1024
_TRIES, _AGAIN_S = 100, 0.05


class Use:
    """A hold on an image: it is not removed while this is open, in whichever process."""

    def __init__(self, fd: int, path: Path, now: Callable[[], float]) -> None:
        self._fd, self._path, self._now = fd, path, now

    def close(self) -> None:
        """May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.utime(self._path, (self._now(), self._now()))
            os.close(fd)


class Work:
    """A time in which nothing is removed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Ready:
    """An image that containers can run from. `layers`: directories, the highest first."""

    image: Stored
    config: Config
    layers: tuple[str, ...]
    accounts: Accounts


class ImageStore:
    """A store in the directory `root`.

    `owners`: the machine's numbers that pods have, where the store is root's; `now`: seconds since 1970. Methods block;
    all but `catalog` belong into a thread. They raise ImageError and OSError.
    """

    def __init__(self, root: str | Path, owners: Owners | None, now: Callable[[], float]) -> None:
        self.root = Path(root)
        self._owners, self._now = owners, now
        making = self.root / "making"
        self.blobs = Blobs(self.root / "blobs" / "sha256", making)
        self.layers = Layers(self.root / "layers", making, self.blobs, owners)
        self._making, self._uses, self._file = making, self.root / "uses", self.root / "catalog.json"
        self._known: tuple[tuple[int, int, int], Catalog] | None = None
        self._accounts: dict[str, Accounts] = {}

    def prepare(self) -> None:
        """Make its directories."""
        make_private_dir(self.root)
        if self._owners is not None:
            os.chmod(self.root, 0o711)
        self.blobs.prepare()
        self.layers.prepare()
        make_private_dir(self._uses)

    def clean(self) -> None:
        """Remove what killed ones left half made, unless somebody is at work."""
        with self._alone(wait=False) as alone:
            if alone:
                for name in Beneath(self._making).names():
                    Beneath(self._making).remove(name)

    # --- reading ----------------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """All there is, as of now. Raises OSError, BadImage."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return Catalog()
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known
        if known is None or known[0] != version:
            known = (version, _read(self._file))
            self._known = known
        return known[1]

    def manifest(self, digest: str) -> Manifest:
        return read_manifest(document(self.blobs.document(digest), "a manifest"))

    def config(self, image: Stored) -> Config:
        return read_config(self.blobs.document(image.config))

    def to_collect(self, thresholds: Thresholds) -> Wanted:
        """What is to go since the disk gets full."""
        room = os.statvfs(self.root)
        going = [one for one in self.catalog().images.values() if one.goes_by_itself]
        candidates = [Candidate(one.digest, one.size, self._used_at(one)) for one in going]
        total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        return wanted(candidates, total=total, free=free, thresholds=thresholds, now=self._now())

    def collect(self, thresholds: Thresholds) -> tuple[int, int]:
        """Remove images, the longest unused first, until the disk has room; bytes that were short, and that still are.

        How much one frees is seen when it is gone: layers may be others' too, and are larger than their archives.
        """
        plan, until = self.to_collect(thresholds), replace(thresholds, high=thresholds.low)
        short = plan.short
        while plan.short and any(self.remove_images([digest]) for digest in plan.digests):
            plan = self.to_collect(until)
        return short, plan.short

    def _used_at(self, image: Stored) -> float:
        """When its last use ended, or it came; now while it is used."""
        if self.is_used(image):
            return self._now()
        return max(image.added, self._use_file(image.digest).stat().st_mtime)

    def is_used(self, image: Stored) -> bool:
        with self._unused(image.digest) as unused:
            return not unused

    # --- adding -----------------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this is open nothing is removed."""
        work = self.begin_work()
        try:
            yield
        finally:
            work.close()

    def begin_work(self) -> "Work":
        """As `working`, until it is closed."""
        fd = self._open_lock("work.lock")
        fcntl.flock(fd, fcntl.LOCK_SH)
        return Work(fd)

    def add(
        self,
        manifest: Descriptor,
        names: Sequence[Reference],
        *,
        source: str = LOADED,
        repository: str = "",
        credentials: Credentials | None = None,
    ) -> Stored:
        """Have an image whose content is here under names. Call it inside of `working`."""
        content = self.manifest(manifest.digest)
        config = read_config(self.blobs.document(content.config.digest))
        check_platform(config)
        if len(config.diff_ids) != len(content.layers):
            raise BadImage(f"an image has {len(content.layers)} layers and {len(config.diff_ids)} diff_ids")
        for layer in content.layers:
            if not self.blobs.has(layer.digest):
                raise BadImage(f"layer {layer.digest} of an image is missing")
        image = Stored(
            manifest.digest,
            content.config.digest,
            tuple(str(name) for name in names),
            (repository,) if repository else (),
            manifest.size + content.config.size + sum(layer.size for layer in content.layers),
            source,
            self._now(),
            credentials or Credentials(),
        )
        self._change(lambda catalog: catalog.with_image(image))
        return image

    def ready(self, image: Stored) -> Ready:
        """Have an image's layers unpacked."""
        with self.working():
            content = self.manifest(image.digest)
            config = self.config(image)
            check_platform(config)
            for layer, diff_id in zip(content.layers, config.diff_ids, strict=True):
                self.layers.unpack(layer, diff_id)
            # A layer that comes twice shows nothing below its upper self, and the kernel takes it once.
            places = tuple(dict.fromkeys(str(self.layers.path(diff_id)) for diff_id in reversed(config.diff_ids)))
            accounts = self._accounts.get(image.digest)
            if accounts is None:
                accounts = self._accounts[image.digest] = self.layers.accounts(config.diff_ids)
        return Ready(image, config, places, accounts)

    def use(self, image: Stored) -> Use:
        """Raises ImageInUse where it has just been removed."""
        path = self._use_file(image.digest)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        use = Use(fd, path, self._now)
        fcntl.flock(fd, fcntl.LOCK_SH)
        # Who removed it meanwhile has removed the file of this lock too.
        if image.digest not in self.catalog().images or not os.fstat(fd).st_nlink:
            use.close()
            raise ImageInUse(f"image {image.digest} has just been removed: load or pull it again")
        return use

    def map_program(self, pattern: str, command: Sequence[str]) -> None:
        """Let a program stand for images of a name; an empty command takes it back."""
        if not pattern or len(pattern) > PATTERN_MAX or any(c.isspace() or c == "\0" for c in pattern):
            raise BadReference(f"an image's name has 1 to {PATTERN_MAX} characters and no blanks")
        if sum(map(len, command)) > COMMAND_MAX or any("\0" in word for word in command):
            raise BadImage(f"a command has at most {COMMAND_MAX} characters and no NUL")
        if command and not set(pattern) & set("*?["):
            parse_reference(pattern)  # no pod could say another name

        def changed(catalog: Catalog) -> Catalog:
            fresh = catalog.with_program(pattern, command)
            if len(fresh.programs) > PROGRAMS_MAX:
                raise TooLarge(f"there are {PROGRAMS_MAX} programs for images: remove some, or use a pattern with *")
            return fresh

        self._change(changed)

    def tag(self, image: Stored, name: Reference) -> None:
        """Give an image a name more."""
        self._change(lambda catalog: catalog.with_image(_named(image, name)))

    # --- removing ---------------------------------------------------------------------------------

    def remove(self, text: str) -> list[str]:
        """Remove a name, and the image when it was its last; what is gone, by name or digest. Raises ImageInUse."""
        image, name = self.catalog().chosen(text)
        if name and [*image.names] != [name]:
            self._change(lambda catalog: catalog.without_name(catalog.images.get(image.digest, image), name))
            return [name]
        gone = self.remove_images([image.digest])
        if not gone:
            raise ImageInUse(f"containers run from image {text}: delete their pods first, or wait until pulls are over")
        return [*image.names, *gone]

    def remove_images(self, digests: Iterable[str]) -> list[str]:
        """As `free`, without the bytes."""
        return self.free(digests)[0]

    def free(self, digests: Iterable[str]) -> tuple[list[str], int]:
        """Remove those of the images that nobody uses, with content that no other has.

        Returns the digests of those gone, and the bytes of their content that is. None where somebody is loading or
        pulling.
        """
        with self._alone(wait=True) as alone, ExitStack() as held:
            if not alone:
                return [], 0
            gone = [digest for digest in digests if held.enter_context(self._unused(digest))]
            if gone:
                self._change(lambda catalog: catalog.without(gone))
                for digest in gone:
                    self._accounts.pop(digest, None)
                    self._use_file(digest).unlink(missing_ok=True)
            return gone, self._sweep()

    def _sweep(self) -> int:
        """Remove content of no image; its bytes as it came."""
        freed = 0
        blobs, layers = set[str](), set[str]()
        for image in self.catalog().images.values():
            blobs |= {image.digest, image.config}
            with suppress(BadImage):
                blobs |= {layer.digest for layer in self.manifest(image.digest).layers}
                layers |= {self.layers.name(diff_id) for diff_id in self.config(image).diff_ids}
        for digest in self.blobs.digests():
            if digest not in blobs:
                freed += self.blobs.path(digest).stat().st_size
                self.blobs.remove(digest)
        for name in self.layers.names():
            if name not in layers:
                self.layers.remove(name)
        return freed

    # --- locks ------------------------------------------------------------------------------------

    def _change(self, change: Callable[[Catalog], Catalog]) -> None:
        fd = self._open_lock("catalog.lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            write_private(self._file, orjson.dumps(change(self.catalog()).to_json()), durable=True)
        finally:
            os.close(fd)

    @contextmanager
    def _alone(self, *, wait: bool) -> Iterator[bool]:
        """Whether nobody else adds or removes, and will not until this is closed."""
        fd = self._open_lock("work.lock")
        try:
            yield _taken(fd, tries=_TRIES if wait else 1)
        finally:
            os.close(fd)

    @contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        fd = os.open(self._use_file(digest), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _taken(fd, tries=1)
        finally:
            os.close(fd)

    def _open_lock(self, name: str) -> int:
        return os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _use_file(self, digest: str) -> Path:
        return self._uses / digest.removeprefix("sha256:")


def _taken(fd: int, *, tries: int) -> bool:
    """Whether the lock could be had alone."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(_AGAIN_S)
        else:
            return True
    return False


def _named(image: Stored, name: Reference) -> Stored:
    return replace(image, names=(*image.names, str(name)))


def _read(path: Path) -> Catalog:
    try:
        return Catalog.from_json(orjson.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadImage(f"{path} is damaged ({e}): remove it, and load the images again") from e
