"""Files of an AdmissionConfiguration: those that it names, and the manifests in directories that it names.

All of it is one text: so it comes with a cluster's configuration to machines that have no such files, and is taken or
refused as a whole when something in it changes.
Source: kube-apiserver's reloading of manifests of webhooks and policies, with its metrics.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from rayplane.control_plane.api.config_files import BYTES_MAX, ConfigFileError
from rayplane.control_plane.apiserver.admission.configuration import MANIFESTS
from rayplane.control_plane.component_base.metrics import Family, counter, gauge

_PLUGINS_MAX = 16
_MANIFESTS_MAX = 256
_MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
_METRICS = "apiserver_manifest_admission_config_controller"


def admission_text(path: str) -> str:
    """An AdmissionConfiguration with what stands in files that it names, from its own place, and with the manifests of
    directories that it names. OSError, ValueError.
    """
    text = text_of(path)
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as e:
        raise ConfigFileError(f"{path} is no YAML: {e}") from e
    plugins = document.get("plugins") if isinstance(document, dict) else None
    named = [one for one in (plugins if isinstance(plugins, list) else ()) if isinstance(one, dict)]
    elsewhere = [one for one in named if isinstance(one.get("path"), str) and one.get("configuration") is None]
    if len(elsewhere) > _PLUGINS_MAX:
        raise ConfigFileError(f"{path} names more than {_PLUGINS_MAX} files")
    for one in elsewhere:
        file = os.path.join(os.path.dirname(path), one.pop("path"))
        try:
            one["configuration"] = yaml.safe_load(text_of(file))
        except (yaml.YAMLError, RecursionError) as e:
            raise ConfigFileError(f"{file} is no YAML: {e}") from e
    if any(MANIFESTS in one for one in named):
        raise ConfigFileError(f"{path}: plugins: {MANIFESTS}: unknown field")
    room = BYTES_MAX
    for one in named:
        room -= _take_manifests(one, room)
    if not elsewhere and not any(MANIFESTS in one for one in named):
        return text
    whole = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False)
    if len(whole) > BYTES_MAX:
        raise ConfigFileError(f"{path}, with what it names, has as one text more than {BYTES_MAX} characters")
    return whole


def _take_manifests(plugin: dict[str, Any], room: int) -> int:
    """Put manifests beside the configuration that names their directory; how many characters. OSError, ValueError.

    `room`: for how many there is, of all directories together.
    """
    configuration = plugin.get("configuration")
    directory = configuration.get("staticManifestsDir") if isinstance(configuration, dict) else None
    if not isinstance(directory, str) or not os.path.isabs(directory):
        return 0
    files = [file for file in sorted(os.listdir(directory)) if file.lower().endswith(_MANIFEST_SUFFIXES)]
    files = [file for file in files if not os.path.isdir(os.path.join(directory, file))]
    if len(files) > _MANIFESTS_MAX:
        raise ConfigFileError(f"{directory} has more than {_MANIFESTS_MAX} manifests")
    found, taken = plugin.setdefault(MANIFESTS, {}), 0
    for file in files:
        path = os.path.join(directory, file)
        found[file] = text_of(path)
        taken += len(found[file])
        if taken > room:
            raise ConfigFileError(f"{path}: with it the manifests of all directories have more than {BYTES_MAX} bytes")
    return taken


def text_of(path: str) -> str:
    """All that a file says. OSError, ValueError."""
    # A pipe in its place would never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigFileError(f"{path} is no file")
        content = file.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise ConfigFileError(f"{path} has more than {BYTES_MAX} bytes")
    return content.decode()


class ManifestReloads:
    """Outcomes of changes of the manifests of each plug-in. `server`: by which metrics tell servers apart."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._in_force: Mapping[str, str] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._times: dict[tuple[str, str, str], float] = {}

    def begin(self, text: str) -> None:
        """This configuration is in force."""
        self._in_force = _hashes(text)

    def count(self, text: str, status: str, at: float) -> None:
        """A configuration was taken or not (`success`, `failure`); an empty one could not even be read."""
        found = _hashes(text) if text else {}
        plugins = {plugin for plugin, _ in found.items() ^ self._in_force.items()}
        for plugin in plugins:
            key = self._server, plugin, status
            self._counts[key] += 1
            self._times[key] = at
        if status == "success":
            self._in_force = found

    def collect(self) -> Iterable[Family]:
        labels = "apiserver_id_hash", "plugin", "status"
        yield counter(f"{_METRICS}_automatic_reloads_total", "Changes of manifests.", self._counts, *labels)
        yield gauge(f"{_METRICS}_automatic_reload_last_timestamp_seconds", "Time of the last.", self._times, *labels)
        info = {(self._server, plugin, found): 1.0 for plugin, found in self._in_force.items()}
        yield gauge(f"{_METRICS}_last_config_info", "What is in force.", info, "apiserver_id_hash", "plugin", "hash")


def _hashes(text: str) -> dict[str, str]:
    """The hash of each plug-in's manifests in a configuration; of one that makes no sense none."""
    try:
        plugins = yaml.load(text, Loader=yaml.CSafeLoader)["plugins"]
        return {one["name"]: hash_of(repr(one[MANIFESTS])) for one in plugins if MANIFESTS in one}
    except (yaml.YAMLError, RecursionError, KeyError, TypeError):
        return {}


def hash_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
