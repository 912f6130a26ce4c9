"""Builds of images from a Dockerfile and the files beside it: each COPY and RUN is a layer, and the same give the same.

Times of files are the build's epoch, owners are root unless told, names are sorted: digests say what is in an image and
not when or by whom it was built. What a RUN makes of the same files is its own to answer for.
"""

import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.archives import keep_manifest
from rayplane.node.images.build_cache import BuildCache, key_of
from rayplane.node.images.catalog import Stored
from rayplane.node.images.containers import UPPER, environment
from rayplane.node.images.decompress import MAGICS, OTHERS
from rayplane.node.images.dockerfile import Copy, Instruction, Made, Order, Plan, Run
from rayplane.node.images.errors import BadImage, ImageError
from rayplane.node.images.layer_files import Changes, Entry, layer_of, with_parents
from rayplane.node.images.manifests import OCI_CONFIG, OCI_LAYER, Descriptor, document, encoded, read_config
from rayplane.node.images.platforms import OS, architecture
from rayplane.node.images.references import Reference
from rayplane.node.images.stages import SCRATCH, Stage, needed
from rayplane.node.images.store import ImageStore
from rayplane.node.images.trees import Folder, LayeredTree, Tree, check_count
from rayplane.node.images.users import User, user_of
from rayplane.storage.beneath import Beneath
from rayplane.storage.env.private import own_name


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a RUN. `directory`: its own, where UPPER becomes; `layers`: directories, the highest first."""

    directory: str
    layers: Sequence[str]
    words: Sequence[str]
    env: Mapping[str, str]
    user: User
    working_dir: str


class Runner(Protocol):
    """A runner of commands in roots of their own. `mounted`: paths that it mounts files on, which are not theirs."""

    mounted: frozenset[str]

    def run(self, step: Step) -> None:
        """Return when it has ended well. Raises ImageError, with what it ended with else."""


@dataclass(frozen=True, slots=True)
class _State:
    """A stage as far as it is built."""

    made: Made
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...] = ()
    diff_ids: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()


class Build:
    """A build in `store`, which nobody else uses meanwhile, from the files of the folder `context`.

    `images`: those that stages begin with or copy from, by name, which the store has; `runner`: None where nothing can
    be run; `epoch`: seconds since 1970; `told`: called with each order before it is done.
    """

    def __init__(
        self,
        store: ImageStore,
        context: Path,
        stages: Sequence[Stage],
        images: Mapping[str, Stored],
        *,
        arguments: Mapping[str, str],
        runner: Runner | None = None,
        epoch: int = 0,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._stages, self._images = store, stages, images
        self._folder = Folder(context)
        self._arguments, self._runner, self._epoch, self._told = arguments, runner, epoch, told
        self._built: dict[int | str, _State] = {}
        self.cache: BuildCache | None = None
        """Where layers of commands may be that ran before."""

    def image(self, names: Sequence[Reference], target: str = "") -> Stored:
        """Build a stage, the last one if none is named. Raises ImageError, OSError."""
        with self._store.working():
            numbers = needed(self._stages, target)
            for number in numbers:
                self._built[number] = self._stage(self._stages[number])
            state = self._built[numbers[-1]]
            config = Descriptor(OCI_CONFIG, *self._store.blobs.add([encoded(self._config_of(state))]))
            manifest = keep_manifest(store=self._store, config=config, layers=state.layers)
            return self._store.add(manifest, names)

    def _stage(self, stage: Stage) -> _State:
        state = self._state_of(stage.base)
        plan = Plan(stage.instructions, self._arguments, stage.outer)
        plan.made = state.made
        for order in plan.steps():
            self._told(order.at.said)
            try:
                state = self._with(state, order, stage)
            except (ImageError, ContainerConfigError, OSError) as e:
                raise order.at.wrong(str(e)) from e
        return replace(state, made=plan.made)

    def _state_of(self, base: int | str) -> _State:
        """A stage before, or an image, or nothing."""
        if base == SCRATCH:
            return _State(Made(), {"architecture": architecture(), "os": OS, "rootfs": {"type": "layers"}})
        if base not in self._built:
            self._built[base] = self._of_image(self._images[str(base)])
        return self._built[base]

    def _of_image(self, image: Stored) -> _State:
        self._store.ready(image)
        data = self._store.blobs.document(image.config)
        config, whole = read_config(data), document(data, "the base's config")
        own, history = whole.get("config") or {}, whole.get("history")
        made = Made(
            environment(config.env),
            own.get("Labels") or {},
            config.entrypoint,
            config.cmd,
            config.user,
            config.working_dir,
            config.stop_signal,
            tuple(own.get("ExposedPorts") or ()),
            config.volumes,
        )
        layers = self._store.manifest(image.digest).layers
        return _State(made, whole, layers, config.diff_ids, tuple(history) if isinstance(history, list) else ())

    def _with(self, state: _State, order: Order, stage: Stage) -> _State:
        """A state with an order's layer."""
        if isinstance(order, Run):
            return self._with_run(state, order)
        origin = stage.reads[order.origin] if order.origin else None
        tree: Tree = self._folder
        if origin is not None:
            tree = LayeredTree(self._store.layers.merged(self._state_of(origin).diff_ids))
        return self._over(state, order.at, self._layers_of(self._copied(state, order, tree)))

    def _layers_of(self, entries: Mapping[str, Entry]) -> tuple[Descriptor, ...]:
        """A layer; none of no entries."""
        if not entries:
            return ()
        return (Descriptor(OCI_LAYER, *self._store.blobs.add(layer_of(entries, self._epoch))),)

    def _over(self, state: _State, at: Instruction, layers: tuple[Descriptor, ...]) -> _State:
        """A state with an order's layer, if it made one."""
        told: dict[str, Any] = {"created": self._stamp, "created_by": at.said}
        if not layers:
            return replace(state, history=(*state.history, told | {"empty_layer": True}))
        for layer in layers:
            self._store.layers.unpack(layer, layer.digest)
        digests = (layer.digest for layer in layers)
        history = (*state.history, told)
        return replace(state, layers=state.layers + layers, diff_ids=(*state.diff_ids, *digests), history=history)

    # --- RUN --------------------------------------------------------------------------------------

    def _with_run(self, state: _State, order: Run) -> _State:
        if self._runner is None:
            raise BadImage("this machine cannot run it apart from others: make its files beforehand, and COPY them")
        if not order.words:
            raise BadImage("says nothing")
        user = user_of(order.user, self._store.layers.accounts(state.diff_ids))
        key, blobs = self._key(state, order, user, self._runner), self._store.blobs
        made = self.cache.find(key, blobs) if self.cache is not None else None
        if made is None:
            made = self._run(state, order, user, self._runner)
            if self.cache is not None:
                self.cache.keep(key, made, blobs)
        else:
            self._told("  is in the cache")
        return self._over(state, order.at, made)

    def _key(self, state: _State, order: Run, user: User, runner: Runner) -> str:
        told = {
            "words": order.words,
            "env": dict(order.env),
            "user": [user.uid, user.gid, user.groups, user.home],
            "directory": order.directory,
            "mounted": sorted(runner.mounted),
            "epoch": self._epoch,
            "has_owners": self._store.layers.owners is not None,
        }
        return key_of(state.diff_ids, told)

    def _run(self, state: _State, order: Run, user: User, runner: Runner) -> tuple[Descriptor, ...]:
        layers = self._store.layers
        places = dict.fromkeys(str(layers.path(one)) for one in reversed(state.diff_ids))
        directory = Path(own_name(str(self._store.root / "making" / "run")))
        try:
            directory.mkdir()
            runner.run(Step(str(directory), [*places], order.words, order.env, user, order.directory))
            changes = Changes(Beneath(str(directory / UPPER)), layers.owners, runner.mounted)
            return self._layers_of(changes.entries())
        finally:
            Beneath(str(directory.parent)).remove(directory.name)

    # --- COPY -------------------------------------------------------------------------------------

    def _copied(self, state: _State, order: Copy, tree: Tree) -> dict[str, Entry]:
        """What a copy brings, by path."""
        layers = self._store.layers
        merged = layers.merged(state.diff_ids)
        owner = None
        if order.owner:
            user = user_of(order.owner, layers.accounts(state.diff_ids))
            owner = user.uid, user.gid
        target = merged.resolve(order.target.strip("/"))
        there = merged.look(target) if target else None
        inside = order.target.endswith("/") or not target or (there is not None and there.is_directory)
        found: dict[str, Entry] = {}
        for path, source in self._pairs(order, tree, target, inside=inside):
            entry = _of_image(tree.entry(source), order.mode, owner)
            if order.at.name == "ADD" and entry.source is not None:
                _check_no_archive(entry.source.root, entry.source.path)
            found[path] = entry
            check_count(len(found), order.at.said)
        return with_parents(found, merged)

    def _pairs(self, order: Copy, tree: Tree, target: str, *, inside: bool) -> Iterator[tuple[str, str]]:
        """Paths in the image with where they come from in a tree. Raises BadImage where a source names nothing."""
        for source in order.sources:
            named = tree.named(source)
            if not named:
                raise BadImage(f"there is no {source!r} to copy, or it is ignored")
            for name, one in named:
                if not tree.is_directory(one):
                    yield posixpath.join(target, name) if inside else target, one
                    continue
                empty = True
                for path in tree.below(one):
                    empty = False
                    yield posixpath.join(target, path[len(one) :].lstrip("/")), path
                if empty and target and one:
                    yield target, one

    # --- config -----------------------------------------------------------------------------------

    @property
    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _config_of(self, state: _State) -> dict[str, Any]:
        made = state.made
        own: dict[str, Any] = {
            "Env": [f"{name}={value}" for name, value in made.env.items()],
            "Entrypoint": [*made.entrypoint],
            "Cmd": [*made.cmd],
            "User": made.user,
            "WorkingDir": made.directory,
            "StopSignal": made.stop_signal,
            "Labels": dict(made.labels),
            "ExposedPorts": {port: {} for port in made.ports},
            "Volumes": {place: {} for place in made.volumes},
        }
        return {
            **state.config,
            "created": self._stamp,
            "config": {name: value for name, value in own.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [*state.diff_ids]},
            "history": [*state.history],
        }


def _of_image(entry: Entry, mode: int | None, owner: tuple[int, int] | None) -> Entry:
    """An entry of a tree as it is in the image."""
    uid, gid = owner or (entry.uid, entry.gid)
    if mode is not None and not stat.S_ISLNK(entry.mode):
        entry = replace(entry, mode=stat.S_IFMT(entry.mode) | mode)
    return replace(entry, uid=uid, gid=gid)


def _check_no_archive(root: Beneath, path: str) -> None:
    """Raises BadImage for what Docker would unpack."""
    head = root.read(path, tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        if not head.startswith((*MAGICS, *OTHERS)):
            return
    raise BadImage(f"{path!r} is an archive, and is not unpacked here: COPY it and RUN tar, or unpack it beforehand")
