"""Files of a pod's volume from configMap, secret, downwardAPI and projected sources. Pure."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import named
from rayplane.node.environment import Found, PodFacts, Reference, binary_data, field_value, resource_value
from rayplane.node.errors import MountError

DEFAULT_MODE = 0o644
TOKEN_SECONDS = 3607
PROJECTED = ("configMap", "secret", "downwardAPI", "projected")
_NAMES = {"configMap": "configmaps", "secret": "secrets"}
BUNDLES = "clustertrustbundles.certificates.k8s.io"
_ALL_BUNDLES = Reference(BUNDLES, "", True)


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file of a volume: content and permission bits."""

    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """A service account token that the volume holds (TokenRequest). `audience` empty: the API's own."""

    audience: str
    seconds: int


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A private key and the certificates that say whose it is, in PEM, the pod's own first."""

    key: bytes
    chain: bytes


def volume_sources(volume: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(kind, source) of each part of the volume; kinds as in a projected volume."""
    if "projected" in volume:
        return [
            (kind, source)
            for part in volume["projected"].get("sources") or ()
            for kind, source in part.items()
            if source is not None
        ]
    return [(kind, volume[kind]) for kind in PROJECTED if volume.get(kind) is not None]


def volume_references(volume: dict[str, Any]) -> list[Reference]:
    """The ConfigMaps and Secrets that the volume shows, and all trust bundles where it shows some: no name."""
    refs = []
    for kind, source in volume_sources(volume):
        if kind in _NAMES:
            refs.append(Reference(_NAMES[kind], _name(source), bool(source.get("optional"))))
        elif kind == "clusterTrustBundle" and _ALL_BUNDLES not in refs:
            refs.append(_ALL_BUNDLES)
    return refs


def tokens_wanted(volume: dict[str, Any]) -> list[TokenWanted]:
    return [
        TokenWanted(source.get("audience") or "", source.get("expirationSeconds") or TOKEN_SECONDS)
        for kind, source in volume_sources(volume)
        if kind == "serviceAccountToken"
    ]


def certificates_wanted(volume: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The certificates of the pod's own that the volume holds, each with its number among the volume's sources."""
    return [(n, source) for n, (kind, source) in enumerate(volume_sources(volume)) if kind == "podCertificate"]


def volume_files(
    volume: dict[str, Any],
    pod: Object,
    facts: PodFacts,
    *,
    found: Found,
    tokens: dict[TokenWanted, str],
    certificates: Mapping[tuple[str, int], CertifiedKey] | None = None,
) -> dict[str, VolumeFile]:
    """Relative path to file. `certificates`: by the volume's name and the number of the source.

    Raises MountError that names the missing object or key.
    """
    files: dict[str, VolumeFile] = {}
    outer = volume.get("projected") or {}
    for number, (kind, source) in enumerate(volume_sources(volume)):
        mode = source.get("defaultMode") or outer.get("defaultMode") or DEFAULT_MODE
        if kind in _NAMES:
            files.update(_object_files(volume["name"], kind, source, found, mode))
        elif kind == "downwardAPI":
            for item in source.get("items") or ():
                text = _downward(item, pod, facts)
                files[item["path"]] = VolumeFile(text.encode(), item.get("mode") or mode)
        elif kind == "serviceAccountToken":
            wanted = TokenWanted(source.get("audience") or "", source.get("expirationSeconds") or TOKEN_SECONDS)
            if wanted in tokens:
                files[source["path"]] = VolumeFile(tokens[wanted].encode(), mode)
        elif kind == "clusterTrustBundle":
            bundles = (found.get((BUNDLES, "")) or {}).get("items") or ()
            files[source["path"]] = VolumeFile(_anchors(volume["name"], source, bundles), mode)
        elif kind == "podCertificate":
            certified = (certificates or {}).get((volume["name"], number))
            if certified is not None:
                files |= {path: VolumeFile(data, mode) for path, data in _certified_files(source, certified)}
        else:
            raise mount_failed(volume["name"], f"source {kind} is not supported")
    return files


def _object_files(volume: str, kind: str, source: dict[str, Any], found: Found, mode: int) -> dict[str, VolumeFile]:
    name = _name(source)
    optional = bool(source.get("optional"))
    obj = found.get((_NAMES[kind], name))
    if obj is None:
        if optional:
            return {}
        raise mount_failed(volume, f'{kind.lower()} "{name}" not found')
    data = binary_data(obj)
    items = source.get("items")
    if not items:
        return {key: VolumeFile(data[key], mode) for key in sorted(data)}
    files = {}
    for item in items:
        if item["key"] in data:
            files[item["path"]] = VolumeFile(data[item["key"]], item.get("mode") or mode)
        elif not optional:
            raise mount_failed(volume, f"references non-existent {kind.lower()} key: {item['key']}")
    return files


def _certified_files(source: dict[str, Any], certified: CertifiedKey) -> list[tuple[str, bytes]]:
    whole = certified.key + certified.chain
    parts = {"credentialBundlePath": whole, "keyPath": certified.key, "certificateChainPath": certified.chain}
    return [(source[field], data) for field, data in parts.items() if source.get(field)]


def _anchors(volume: str, source: dict[str, Any], bundles: Sequence[Object]) -> bytes:
    """The certificates of the chosen bundles, each once, without what stands between them."""
    from rayplane.control_plane.api.kinds.certificates.pem import blocks

    name, signer = source.get("name"), source.get("signerName") or ""
    if name:
        chosen = [bundle for bundle in bundles if meta.name(bundle) == name]
        missing = f'clustertrustbundle "{name}" not found'
    else:
        selector = from_label_selector(source.get("labelSelector"))
        of_signer = [bundle for bundle in bundles if meta.spec(bundle).get("signerName") == signer]
        chosen = [bundle for bundle in of_signer if selector.matches(meta.labels(bundle))]
        missing = "combination of signerName and labelSelector matched zero ClusterTrustBundles"
    if not chosen and not source.get("optional"):
        raise mount_failed(volume, missing)
    texts = (meta.spec(bundle).get("trustBundle") or "" for bundle in chosen)
    return b"".join(pem(der) for der in sorted({b.der for text in texts for b in blocks(text.encode()) if b.der}))


def pem(der: bytes) -> bytes:
    """A certificate (DER) as text."""
    text = base64.b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"


def _downward(item: dict[str, Any], pod: Object, facts: PodFacts) -> str:
    if "fieldRef" in item:
        return field_value(item["fieldRef"]["fieldPath"], pod, facts)
    ref = item["resourceFieldRef"]
    container = named(pod["spec"], ref.get("containerName")) or pod["spec"]["containers"][0]
    return resource_value(ref, container, facts)


def _name(source: dict[str, Any]) -> str:
    return source.get("name") or source.get("secretName") or ""


def mount_failed(volume: str, why: str) -> MountError:
    """The error kubelet reports when a volume cannot be set up."""
    return MountError(f'MountVolume.SetUp failed for volume "{volume}" : {why}')
