"""AdmissionConfiguration: what single plug-ins are told. Pure.

Source: apiserver.config.k8s.io/v1 AdmissionConfiguration; the configuration types of eventratelimit, imagepolicy,
podnodeselector, podtolerationrestriction (kubernetes/plugin/pkg/admission), pod-security-admission, and of webhooks
and policies from manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.api.config_files import ConfigFileError, read_document, read_fields, read_texts
from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import TOLERATIONS_MAX, are_tolerations
from rayplane.control_plane.apiserver.admission.manifests import PLUGINS, read_manifests
from rayplane.control_plane.apiserver.config import PodSecurityConfig

KIND: Final = "AdmissionConfiguration"
VERSIONS: Final = ("apiserver.config.k8s.io/v1",)
SERVER, NAMESPACE, USER, SOURCE_AND_OBJECT = "Server", "Namespace", "User", "SourceAndObject"
LIMIT_TYPES: Final = (SERVER, NAMESPACE, USER, SOURCE_AND_OBJECT)
CACHE_SIZE: Final = 4096
CLUSTER_DEFAULT: Final = "clusterDefaultNodeSelector"

#: Where the texts of manifests stand by their files beside the configuration that names their directory.
MANIFESTS: Final = "manifests"

_PLUGIN = {"name": str, "path": str, "configuration": dict, MANIFESTS: dict}
_LIMIT = {"type": str, "qps": int, "burst": int, "cacheSize": int}
_IMAGES = {"kubeConfigFile": str, "allowTTL": int, "denyTTL": int, "retryBackoff": int, "defaultAllow": bool}
_EXEMPTIONS = {"usernames": list, "namespaces": list, "runtimeClasses": list}
_Errors = list[FieldError]


@dataclass(frozen=True, slots=True)
class EventLimit:
    """A limit of events, by what `type` says: `qps` a second and `burst` at once, for `cache_size` of them."""

    type: str
    qps: int
    burst: int
    cache_size: int = CACHE_SIZE


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """A webhook that is asked about images, and how long what it says counts."""

    kubeconfig: str
    allowed_s: float
    denied_s: float
    retry_s: float
    allows_when_it_fails: bool


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """The configuration of all plug-ins: what the file says, and what goes without saying."""

    events: tuple[EventLimit, ...] | None = None
    images: ImagePolicy | None = None
    pod_security: PodSecurityConfig | None = None
    node_selectors: Mapping[str, str] = field(default_factory=dict)
    """By namespace the labels that its pods may select at most, `a=b,c=d`; CLUSTER_DEFAULT for those that say
    nothing."""
    tolerations: Sequence[Any] = ()
    """What pods of namespaces that say nothing tolerate."""
    tolerated: Sequence[Any] = ()
    """What they may tolerate at most."""
    manifests: Mapping[str, tuple[Object, ...]] = field(default_factory=dict)
    """By plug-in the webhooks and policies that stand in files."""


def read_admission(text: str) -> AdmissionSettings:
    """The settings in YAML or JSON; without text what goes without saying. ConfigFileError."""
    if not text:
        return AdmissionSettings()
    errors: _Errors = []
    known = {"apiVersion": str, "kind": str, "plugins": list}
    given = read_fields(read_document(text, KIND, VERSIONS, errors), known, "", errors)
    found: dict[str, Any] = {"manifests": {}}
    names: set[str] = set()
    plugins = sorted((*_READERS, *PLUGINS))
    for at, one in enumerate(given.get("plugins") or ()):
        path = f"plugins[{at}]"
        plugin = read_fields(one, _PLUGIN, path, errors)
        name = plugin.get("name") or ""
        if name not in plugins:
            errors.append(not_supported(f"{path}.name", name, plugins) if name else required(f"{path}.name"))
        elif name in names:
            errors.append(duplicate(f"{path}.name", name))
        elif "configuration" not in plugin:
            errors.append(required(f"{path}.configuration"))
        elif name in PLUGINS:
            found["manifests"][name] = _manifests(name, plugin, f"{path}.configuration", errors)
        else:
            found |= _READERS[name](plugin["configuration"], f"{path}.configuration", errors)
        names.add(name)
    if errors:
        raise ConfigFileError.of(errors)
    return AdmissionSettings(**found)


def _headed(
    value: Any, fields: Mapping[str, type], group: str, kind: str, path: str, errors: _Errors
) -> dict[str, Any]:
    """The fields of a versioned configuration. `group`: with its version."""
    given = read_fields(value, {"apiVersion": str, "kind": str, **fields}, path, errors)
    if given.get("apiVersion") != group:
        errors.append(not_supported(f"{path}.apiVersion", given.get("apiVersion") or "", [group]))
    if given.get("kind") != kind:
        errors.append(not_supported(f"{path}.kind", given.get("kind") or "", [kind]))
    return given


def _manifests(name: str, plugin: Mapping[str, Any], path: str, errors: _Errors) -> tuple[Object, ...]:
    kind = PLUGINS[name][0]
    fields = {"staticManifestsDir": str} | ({"kubeConfigFile": str} if name.endswith("Webhook") else {})
    given = _headed(plugin["configuration"], fields, VERSIONS[0], kind, path, errors)
    if given.get("kubeConfigFile"):
        errors.append(forbidden(f"{path}.kubeConfigFile", "webhooks are called without credentials"))
    directory = given.get("staticManifestsDir") or ""
    if directory and not directory.startswith("/"):
        errors.append(invalid(f"{path}.staticManifestsDir", directory, "must be an absolute file path"))
    elif bool(directory) != (MANIFESTS in plugin):
        errors.append(invalid(f"{path}.staticManifestsDir", directory, "its manifests come with it, and only with it"))
    try:
        return read_manifests(name, {str(file): str(text) for file, text in (plugin.get(MANIFESTS) or {}).items()})
    except ConfigFileError as e:
        errors.append(invalid(f"{path}.staticManifestsDir", directory, str(e)))
    return ()


def _events(value: Any, path: str, errors: _Errors) -> dict[str, Any]:
    group = "eventratelimit.admission.k8s.io/v1alpha1"
    given = _headed(value, {"limits": list}, group, "Configuration", path, errors)
    if not given.get("limits"):
        errors.append(invalid(f"{path}.limits", given.get("limits") or [], "must not be empty"))
    limits = []
    for at, one in enumerate(given.get("limits") or ()):
        where = f"{path}.limits[{at}]"
        limit = read_fields(one, _LIMIT, where, errors)
        kind, size = limit.get("type") or "", limit.get("cacheSize") or 0
        if kind not in LIMIT_TYPES:
            errors.append(not_supported(f"{where}.type", kind, LIMIT_TYPES))
        for part in ("burst", "qps"):
            if limit.get(part, 0) <= 0:
                errors.append(invalid(f"{where}.{part}", limit.get(part, 0), "must be positive"))
        if kind != SERVER and size < 0:
            errors.append(invalid(f"{where}.cacheSize", size, "must not be negative"))
        limits.append(EventLimit(kind, limit.get("qps", 0), limit.get("burst", 0), size or CACHE_SIZE))
    return {"events": tuple(limits)}


def _images(value: Any, path: str, errors: _Errors) -> dict[str, Any]:
    path = f"{path}.imagePolicy"
    given = read_fields(
        read_fields(value, {"imagePolicy": dict}, path, errors).get("imagePolicy"), _IMAGES, path, errors
    )
    if not given.get("kubeConfigFile"):
        errors.append(required(f"{path}.kubeConfigFile"))
    return {
        "images": ImagePolicy(
            given.get("kubeConfigFile") or "",
            allowed_s=_span(given, "allowTTL", 1.0, (1, 1800), 300, path, errors),
            denied_s=_span(given, "denyTTL", 1.0, (1, 1800), 30, path, errors),
            retry_s=_span(given, "retryBackoff", 0.001, (1e-9, 300), 0.5, path, errors),
            allows_when_it_fails=given.get("defaultAllow") or False,
        )
    }


def _span(
    given: Mapping[str, Any],
    part: str,
    unit_s: float,
    within_s: tuple[float, float],
    usual_s: float,
    path: str,
    errors: _Errors,
) -> float:
    """Seconds; -1 stands for none, 0 for the usual."""
    value = given.get(part) or 0
    if value in (-1, 0):
        return usual_s if value == 0 else 0.0
    least, most = within_s
    if not least < value * unit_s <= most:
        text = f"valid value is between {least:g}s and {most:g}s, got {value * unit_s:g}s"
        errors.append(invalid(f"{path}.{part}", value, text))
    return float(value * unit_s)


def _pod_security(value: Any, path: str, errors: _Errors) -> dict[str, Any]:
    group = "pod-security.admission.config.k8s.io/v1"
    fields = {"defaults": dict, "exemptions": dict}
    given = _headed(value, fields, group, "PodSecurityConfiguration", path, errors)
    defaults = given.get("defaults") or {}
    exempt = read_fields(given.get("exemptions") or {}, _EXEMPTIONS, f"{path}.exemptions", errors)
    users, namespaces, classes = (
        frozenset(read_texts(exempt, part, f"{path}.exemptions", errors)) for part in _EXEMPTIONS
    )
    errors += [
        invalid(f"{path}.defaults.{mode}", level, "must be a string")
        for mode, level in defaults.items()
        if not isinstance(level, str)
    ]
    defaults = {mode: level for mode, level in defaults.items() if isinstance(level, str)}
    found = PodSecurityConfig(defaults, users, namespaces, classes)
    try:
        found.policy()
    except ValueError as e:
        errors.append(invalid(f"{path}.defaults", defaults, str(e)))
    return {"pod_security": found}


def _node_selectors(value: Any, path: str, errors: _Errors) -> dict[str, Any]:
    known = {"podNodeSelectorPluginConfig": dict}
    given = read_fields(value, known, path, errors).get("podNodeSelectorPluginConfig") or {}
    for name, selector in given.items():
        if not isinstance(selector, str):
            errors.append(invalid(f"{path}.podNodeSelectorPluginConfig[{name}]", selector, "must be a string"))
    return {"node_selectors": given}


def _tolerations(value: Any, path: str, errors: _Errors) -> dict[str, Any]:
    group = "podtolerationrestriction.admission.k8s.io/v1alpha1"
    given = _headed(value, {"default": list, "whitelist": list}, group, "Configuration", path, errors)
    for part in ("default", "whitelist"):
        if not are_tolerations(given.get(part) or []):
            text = f"must be at most {TOLERATIONS_MAX} tolerations"
            errors.append(invalid(f"{path}.{part}", given[part], text))
    return {"tolerations": given.get("default") or (), "tolerated": given.get("whitelist") or ()}


_READERS: Mapping[str, Callable[[Any, str, _Errors], dict[str, Any]]] = {
    "EventRateLimit": _events,
    "ImagePolicyWebhook": _images,
    "PodNodeSelector": _node_selectors,
    "PodSecurity": _pod_security,
    "PodTolerationRestriction": _tolerations,
}
