"""Validation of files that volumes are made of: of config maps and secrets, of the pod's own fields, of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, validate_annotations_size, validate_selector
from rayplane.control_plane.api.kinds.pod_template.environment import (
    VOLUME_FIELDS,
    validate_field,
    validate_resource_field,
)
from rayplane.control_plane.api.kinds.pod_template.paths import validate_own_path
from rayplane.control_plane.api.kinds.pod_template.security import validate_user
from rayplane.control_plane.api.kinds.references import is_kubernetes_signer, signer_name
from rayplane.control_plane.api.machinery import names

_MODE_MAX: Final = 0o777
_TOKEN_SECONDS_MIN: Final = 600
_TOKEN_SECONDS_MAX: Final = 1 << 32
_CERTIFICATE_SECONDS_MIN: Final = 3600
_CERTIFICATE_SECONDS_MAX: Final = 91 * 86_400
_KUBERNETES_CERTIFICATE_SECONDS_MAX: Final = 86_400
_KEY_TYPES: Final = ("RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
_CERTIFICATE_PATHS: Final = ("credentialBundlePath", "keyPath", "certificateChainPath")
_TWICE: Final = "conflicting duplicate paths"


def validate_mode(mode: int | None, path: str, errs: Errors) -> None:
    if mode is not None and not 0 <= mode <= _MODE_MAX:
        errs.append(invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive"))


def validate_file_defaults(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Mode and owner of files that do not say their own."""
    validate_mode(source.get("defaultMode"), f"{path}.defaultMode", errs)
    validate_user(source.get("defaultUser"), f"{path}.defaultUser", errs)


def validate_items(items: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    """Keys of a config map or secret, and the files that they become."""
    for index, item in enumerate(items):
        _item(item, f"{path}[{index}]", errs)


def _item(item: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not item.get("key"):
        errs.append(required(f"{path}.key"))
    _own_path(item.get("path"), f"{path}.path", errs)
    validate_mode(item.get("mode"), f"{path}.mode", errs)
    validate_user(item.get("user"), f"{path}.user", errs)


def _own_path(where: str | None, path: str, errs: Errors) -> None:
    if not where:
        errs.append(required(path))
    else:
        validate_own_path(where, path, errs)


def validate_pod_fields(items: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    """Files of the pod's own fields; Kubernetes tells of them without their number."""
    for item in items:
        _own_path(item.get("path"), f"{path}.path", errs)
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            validate_field(field, VOLUME_FIELDS, f"{path}.fieldRef", errs)
            if resource is not None:
                text = "fieldRef and resourceFieldRef can not be specified simultaneously"
                errs.append(invalid(path, "resource", text))
        elif resource is not None:
            validate_resource_field(resource, f"{path}.resourceFieldRef", errs, of_volume=True)
        else:
            errs.append(required(path, "one of fieldRef and resourceFieldRef is required"))
        validate_mode(item.get("mode"), f"{path}.mode", errs)
        validate_user(item.get("user"), f"{path}.user", errs)


class _Paths:
    """The files of a volume so far: each path is there once."""

    def __init__(self, path: str, errs: Errors) -> None:
        self.path, self._errs = path, errs
        self._seen: set[str] = set()

    def add(self, where: str | None, said: str | None = None) -> None:
        if where in self._seen:
            self._errs.append(invalid(self.path, where if said is None else said, _TWICE))
        elif where:
            self._seen.add(where)


def validate_projected(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_file_defaults(source, path, errs)
    files = _Paths(path, errs)
    for index, part in enumerate(source.get("sources") or ()):
        at = f"{path}.sources[{index}]"
        given = [kind for kind in _PARTS if part.get(kind) is not None]
        for kind in given:
            _PARTS[kind](part[kind], f"{at}.{kind}", files, errs)
        if len(given) > 1:
            errs.append(forbidden(at, "may not specify more than 1 volume type per source"))


def _keys(part: Mapping[str, Any], path: str, files: _Paths, errs: Errors) -> None:
    own = part.get("name") or ""
    if not own:
        errs.append(required(f"{path}.name"))
    for index, item in enumerate(part.get("items") or ()):
        _item(item, f"{path}.items[{index}]", errs)
        files.add(item.get("path"), own)


def _pod_fields(part: Mapping[str, Any], path: str, files: _Paths, errs: Errors) -> None:
    for item in part.get("items") or ():
        validate_pod_fields([item], path, errs)
        files.add(item.get("path"))


def _token(part: Mapping[str, Any], path: str, files: _Paths, errs: Errors) -> None:
    seconds, at = part.get("expirationSeconds"), f"{path}.expirationSeconds"
    if seconds is None:
        errs.append(required(at))
    elif seconds < _TOKEN_SECONDS_MIN:
        errs.append(invalid(at, seconds, "may not specify a duration less than 10 minutes"))
    elif seconds > _TOKEN_SECONDS_MAX:
        errs.append(invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"))
    # Kubernetes tells of the path of a token as if it were the volume's.
    _own_path(part.get("path"), f"{files.path}.path", errs)
    validate_user(part.get("user"), f"{path}.user", errs)


def _trust_bundle(part: Mapping[str, Any], path: str, files: _Paths, errs: Errors) -> None:
    name, signer = part.get("name"), part.get("signerName")
    if name is not None and signer is not None:
        errs.append(invalid(path, dict(part), "only one of name and signerName may be used"))
    elif name is not None:
        _bundle_name(name, f"{path}.name", errs)
        if part.get("labelSelector") is not None:
            text = "labelSelector must be unset if name is specified"
            errs.append(invalid(f"{path}.labelSelector", part["labelSelector"], text))
    elif signer is not None:
        if not signer:
            errs.append(required(f"{path}.signerName", "must be a valid signer name"))
        signer_name(signer, f"{path}.signerName", errs)
        validate_selector(part.get("labelSelector"), f"{path}.labelSelector", errs)
    else:
        errs.append(required(path, "either name or signerName must be specified"))
    if not part.get("path"):
        errs.append(required(f"{path}.path"))
    validate_user(part.get("user"), f"{path}.user", errs)
    validate_own_path(part.get("path") or "", f"{path}.path", errs)
    files.add(part.get("path"))


def _bundle_name(name: str, path: str, errs: Errors) -> None:
    if not name:
        errs.append(required(path, "must be a valid object name"))
    signer, _, own = name.rpartition(":")
    if ":" in name and not signer:
        problems: Sequence[str] = ('ClusterTrustBundle without signer name must not have ":" in its name',)
    else:
        problems = names.subdomain_errors(own if signer else name)
    errs += [invalid(path, name, f"not a valid clustertrustbundlename: {problem}") for problem in problems]


def _certificate(part: Mapping[str, Any], path: str, files: _Paths, errs: Errors) -> None:
    signer = part.get("signerName") or ""
    signer_name(signer, f"{path}.signerName", errs)
    if part.get("userAnnotations"):
        validate_user_annotations(part["userAnnotations"], f"{path}.userAnnotations", errs)
    validate_user(part.get("user"), f"{path}.user", errs)
    if part.get("keyType") not in _KEY_TYPES:
        errs.append(not_supported(f"{path}.keyType", part.get("keyType") or "", _KEY_TYPES))
    seconds, at = part.get("maxExpirationSeconds"), f"{path}.maxExpirationSeconds"
    if seconds is not None:
        longest = _KUBERNETES_CERTIFICATE_SECONDS_MAX if is_kubernetes_signer(signer) else _CERTIFICATE_SECONDS_MAX
        if seconds < _CERTIFICATE_SECONDS_MIN:
            text = f"if provided, maxExpirationSeconds must be >= {_CERTIFICATE_SECONDS_MIN}"
            errs.append(invalid(at, seconds, text))
        if seconds > longest:
            errs.append(invalid(at, seconds, f"if provided, maxExpirationSeconds must be <= {longest}"))
    given = [field for field in _CERTIFICATE_PATHS if part.get(field)]
    for field in given:
        validate_own_path(part[field], f"{path}.{field}", errs)
        files.add(part[field])
    if not given:
        text = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"
        errs.append(required(path, text))


def validate_user_annotations(annotations: Mapping[str, str], path: str, errs: Errors) -> None:
    """What a pod tells a signer of itself, under keys with a domain."""
    for key in annotations:
        lower = key.lower()
        problems = names.qualified_name_errors(lower)
        if not problems and "/" not in lower:
            problems = ('must be a domain-prefixed key (such as "acme.io/foo")',)
        if not key:
            errs.append(required(path))
        else:
            checked(problems, lower, path, errs)
    validate_annotations_size(annotations, path, errs)


_PARTS: Final[dict[str, Any]] = {
    "secret": _keys,
    "configMap": _keys,
    "downwardAPI": _pod_fields,
    "serviceAccountToken": _token,
    "clusterTrustBundle": _trust_bundle,
    "podCertificate": _certificate,
}
