"""Validation of the volumes of a pod and of the sources they share with persistent volumes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, not_supported, required, too_long
from rayplane.control_plane.api.kinds.core.persistent_volume_claim import validate_claim_spec
from rayplane.control_plane.api.kinds.metadata import Errors, checked, in_range, one_of, validate_template_metadata
from rayplane.control_plane.api.kinds.pod_template.containers import validate_pull_policy
from rayplane.control_plane.api.kinds.pod_template.paths import validate_local_path, validate_no_backsteps
from rayplane.control_plane.api.kinds.pod_template.projections import (
    validate_file_defaults,
    validate_items,
    validate_pod_fields,
    validate_projected,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse

_HOST_PATH_TYPES: Final = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_EMPTY_DIR_MODE_MAX: Final = 0o1777
_LUN_MAX: Final = 255
_ISCSI_NAMES: Final = {
    "iqn": re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9\-.]+:[^,;*&$|\s]+"),
    "eui": re.compile(r"eui.[A-Za-z0-9]{16}"),
    "naa": re.compile(r"naa.[A-Za-z0-9]{32}"),
}
_ISCSI_PORTAL_MAX: Final = 64
_TENANT_MAX: Final = 64
_DRIVER_MAX: Final = 63
_REGISTRY: Final = "must be a host:port pair or multiple pairs separated by commas"
_CACHING: Final = ("None", "ReadOnly", "ReadWrite")
_DISKS: Final = ("Dedicated", "Managed", "Shared")
_MANAGED_DISK: Final = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
_BLOB_DISK: Final = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"


def validate_volumes(
    volumes: Sequence[Mapping[str, Any]], pod: str, path: str, errs: Errors
) -> dict[str, Mapping[str, Any]]:
    """All volumes of a pod of that name (empty in a template); the good ones by name, for its mounts."""
    found: dict[str, Mapping[str, Any]] = {}
    made = {f"{pod}-{one.get('name') or ''}" for one in volumes if pod and one.get("ephemeral") is not None}
    for index, volume in enumerate(volumes):
        at, own, before = f"{path}[{index}]", volume.get("name") or "", len(errs)
        validate_source(volume, at, errs, of_pod=True)
        if pod and own and volume.get("ephemeral") is not None:
            claim = f"{pod}-{own}"
            problems = names.subdomain_errors(claim)
            errs += [invalid(f"{at}.name", own, f'PVC name "{claim}": {problem}') for problem in problems]
        if not own:
            errs.append(required(f"{at}.name"))
        else:
            checked(names.label_errors(own), own, f"{at}.name", errs)
        if own in found:
            errs.append(duplicate(f"{at}.name", own))
        if len(errs) == before:
            found[own] = volume
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName") or ""
        if claim in made:
            text = "must not reference a PVC that gets created for an ephemeral volume"
            errs.append(invalid(f"{at}.persistentVolumeClaim.claimName", claim, text))
    return found


def validate_source(volume: Mapping[str, Any], path: str, errs: Errors, *, of_pod: bool = False) -> None:
    """Exactly one source, and that one well-formed; what drivers serve to all pods has rules of its own."""
    given = [kind for kind in volume if kind in SOURCES and volume[kind] is not None]
    if not given:
        errs.append(required(path, "must specify a volume type"))
        return
    if len(given) > 1:
        given = [kind for kind in _CHECKS if kind in given]
    first = given[0]
    at = f"{path}.{_FIRST.get(first, first)}"
    for field in _REQUIRED.get(first, ()):
        if not volume[first].get(field):
            errs.append(required(f"{at}.{field}"))
    if of_pod or first != "csi":
        _CHECKS[first](volume[first], at, errs)
    for kind in given[1:]:
        errs.append(forbidden(f"{path}.{_OTHERS.get(kind, kind)}", "may not specify more than 1 volume type"))
    if "iscsi" in given and volume["iscsi"].get("initiatorName") is not None:
        _portal(volume.get("name") or "", volume["iscsi"], path, errs)


# --- what every cluster has ---------------------------------------------------------------------


def _nothing_more(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    """The fields that it must have are all there is."""


def _empty_dir(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if source.get("sizeLimit") is not None:
        try:
            bad = parse(source["sizeLimit"]).nano < 0
        except QuantityError:
            bad = True
        if bad:
            errs.append(forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity"))
    mode = source.get("mode")
    if mode is not None and not 0 <= mode <= _EMPTY_DIR_MODE_MAX:
        text = "must be a number between 0 and 01777 (octal), both inclusive"
        errs.append(invalid(f"{path}.mode", mode, text))


def _host_path(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if source.get("path"):
        validate_no_backsteps(source["path"], f"{path}.path", errs)
        one_of(source.get("type") or "", _HOST_PATH_TYPES, f"{path}.type", errs)


def _local(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_no_backsteps(source.get("path") or "", f"{path}.path", errs)


def _keys(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_file_defaults(source, path, errs)
    if source.get("items"):
        validate_items(source["items"], f"{path}.items", errs)


def _pod_fields(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_file_defaults(source, path, errs)
    validate_pod_fields(source.get("items") or (), path, errs)


def _csi(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    driver, secret = source.get("driver") or "", source.get("nodePublishSecretRef")
    if len(driver) > _DRIVER_MAX:
        errs.append(too_long(f"{path}.driver", _DRIVER_MAX))
    if driver:
        checked(names.subdomain_errors(driver.lower()), driver, f"{path}.driver", errs)
    if secret is not None and not secret.get("name"):
        errs.append(required(f"{path}.nodePublishSecretRef.name"))
    elif secret is not None:
        checked(names.subdomain_errors(secret["name"]), secret["name"], f"{path}.name", errs)


def _ephemeral(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    template, at = source.get("volumeClaimTemplate"), f"{path}.volumeClaimTemplate"
    if template is None:
        errs.append(required(at))
    else:
        validate_template_metadata(template.get("metadata") or {}, f"{at}.metadata", errs)
        validate_claim_spec(template.get("spec") or {}, f"{at}.spec", errs)


def _image(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_pull_policy(source.get("pullPolicy"), f"{path}.pullPolicy", errs)


# --- what some clusters have, or had ------------------------------------------------------------


def _git_repo(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_local_path(source.get("directory") or "", f"{path}.directory", errs)


def _nfs(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not (source.get("path") or "").startswith("/"):
        errs.append(invalid(f"{path}.path", source.get("path") or "", "must be an absolute path"))


def _iscsi(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if source.get("iqn"):
        _iscsi_name(source["iqn"], f"{path}.iqn", errs)
    in_range(source.get("lun") or 0, 0, _LUN_MAX, f"{path}.lun", errs)
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and source.get("secretRef") is None:
        errs.append(required(f"{path}.secretRef"))
    if source.get("initiatorName") is not None:
        _iscsi_name(source["initiatorName"], f"{path}.initiatorname", errs)


def _iscsi_name(text: str, path: str, errs: Errors) -> None:
    form = _ISCSI_NAMES.get(text[:3])
    if form is None:
        errs.append(invalid(path, text, "must be valid format starting with iqn, eui, or naa"))
    elif not form.fullmatch(text):
        errs.append(invalid(path, text, "must be valid format"))


def _portal(volume: str, source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if len(f"{volume}:{source.get('targetPortal') or ''}") > _ISCSI_PORTAL_MAX:
        text = (
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters "
            "if iscsi.initiatorName is specified."
        )
        errs.append(invalid(f"{path}.name", volume, text))


def _fc(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    names_, ids = source.get("targetWWNs"), source.get("wwids")
    if not names_ and not ids:
        errs.append(required(f"{path}.targetWWNs", "must specify either targetWWNs or wwids, but not both"))
    if names_ and ids:
        text = "targetWWNs and wwids can not be specified simultaneously"
        errs.append(invalid(f"{path}.targetWWNs", list(names_), text))
    if names_ and source.get("lun") is None:
        errs.append(required(f"{path}.lun", "lun is required if targetWWNs is specified"))
    elif names_:
        in_range(source["lun"], 0, _LUN_MAX, f"{path}.lun", errs)


def _disk(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    partition = source.get("partition") or 0
    if not 0 <= partition <= _LUN_MAX:
        errs.append(invalid(f"{path}.partition", partition, "must be between 1 and 255, inclusive"))


def _secret(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if source.get("secretRef") is not None and not source["secretRef"].get("name"):
        errs.append(required(f"{path}.secretRef.name"))


def _quobyte(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    registry, tenant = source.get("registry"), source.get("tenant") or ""
    if not registry:
        errs.append(required(f"{path}.registry", _REGISTRY))
    elif len(tenant) > _TENANT_MAX:
        text = f"must be a UUID and may not exceed a length of {_TENANT_MAX} characters"
        errs.append(required(f"{path}.tenant", text))
    else:
        bad = (pair for pair in registry.split(",") if not _is_host_and_port(pair))
        errs += [invalid(f"{path}.registry", registry, _REGISTRY) for _ in bad]
    if not source.get("volume"):
        errs.append(required(f"{path}.volume"))


def _is_host_and_port(pair: str) -> bool:
    host, colon, port = pair.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    return bool(colon) and "]" not in port and (bracketed or not set(host) & set(":[]"))


def _flocker(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    name, uid = source.get("datasetName"), source.get("datasetUUID")
    if not name and not uid:
        errs.append(required(path, "one of datasetName and datasetUUID is required"))
    if name and uid:
        text = "datasetName and datasetUUID can not be specified simultaneously"
        errs.append(invalid(path, "resource", text))
    if "/" in (name or ""):
        errs.append(invalid(f"{path}.datasetName", name, "must not contain '/'"))


def _flex(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    for key in source.get("options") or ():
        if f".{key.partition('/')[0].lower()}".endswith((".kubernetes.io", ".k8s.io")):
            text = "kubernetes.io and k8s.io namespaces are reserved"
            errs.append(invalid(f"{path}.options[{key}]", key, text))


def _azure_disk(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    if source.get("cachingMode") is not None:
        one_of(source["cachingMode"], _CACHING, f"{path}.cachingMode", errs)
    kind, uri = source.get("kind"), source.get("diskURI") or ""
    if kind is None:
        return
    one_of(kind, _DISKS, f"{path}.kind", errs)
    if kind == "Managed" and not uri.startswith("/subscriptions/"):
        errs.append(not_supported(f"{path}.diskURI", uri, (_MANAGED_DISK,)))
    if kind != "Managed" and not uri.startswith("https://"):
        errs.append(not_supported(f"{path}.diskURI", uri, (_BLOB_DISK,)))


def _storageos(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("volumeName", "volumeNamespace"):
        if source.get(field):
            checked(names.label_errors(source[field]), source[field], f"{path}.{field}", errs)
    _secret(source, path, errs)


#: The sources in the order in which Kubernetes looks for them.
_CHECKS: Final[dict[str, Any]] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "gitRepo": _git_repo,
    "gcePersistentDisk": _disk,
    "awsElasticBlockStore": _disk,
    "secret": _keys,
    "nfs": _nfs,
    "iscsi": _iscsi,
    "glusterfs": _nothing_more,
    "flocker": _flocker,
    "persistentVolumeClaim": _nothing_more,
    "rbd": _nothing_more,
    "cinder": _secret,
    "cephfs": _nothing_more,
    "quobyte": _quobyte,
    "downwardAPI": _pod_fields,
    "fc": _fc,
    "flexVolume": _flex,
    "configMap": _keys,
    "azureFile": _nothing_more,
    "vsphereVolume": _nothing_more,
    "photonPersistentDisk": _nothing_more,
    "portworxVolume": _nothing_more,
    "azureDisk": _azure_disk,
    "storageos": _storageos,
    "projected": validate_projected,
    "scaleIO": _nothing_more,
    "local": _local,
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": _image,
}
SOURCES: Final = frozenset(_CHECKS)
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "hostPath": ("path",),
    "gitRepo": ("repository",),
    "gcePersistentDisk": ("pdName",),
    "awsElasticBlockStore": ("volumeID",),
    "secret": ("secretName",),
    "nfs": ("server", "path"),
    "iscsi": ("targetPortal", "iqn"),
    "glusterfs": ("endpoints", "path"),
    "persistentVolumeClaim": ("claimName",),
    "rbd": ("monitors", "image"),
    "cinder": ("volumeID",),
    "cephfs": ("monitors",),
    "flexVolume": ("driver",),
    "configMap": ("name",),
    "azureFile": ("secretName", "shareName"),
    "vsphereVolume": ("volumePath",),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "azureDisk": ("diskName", "diskURI"),
    "storageos": ("volumeName",),
    "scaleIO": ("gateway", "system", "volumeName"),
    "local": ("path",),
    "csi": ("driver",),
    "image": ("reference",),
}
#: Names under which Kubernetes tells of what is wrong in a source, and of one that is too many, where not its own.
_FIRST: Final = {"gcePersistentDisk": "persistentDisk"}
_OTHERS: Final = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
