"""Encryption at rest: what the API server stores of some resources is ciphertext in etcd, its log and its backups.

Owns Kubernetes' EncryptionConfiguration (API reference, apiserver.config.k8s.io/v1) with the providers `aesgcm` and
`identity`, and the form of what is stored, which is Kubernetes' own:

    k8s:enc:aesgcm:v1:KEY NAME:  nonce (12 bytes)  ciphertext and tag (AES-GCM)

The key in etcd is authenticated with it, so that no ciphertext can be put in another object's place. Pure: bytes in,
bytes out; nonces come from injected randomness. They need not be secret, only never the same twice under one key, so
Kubernetes wants a key changed after some 200 000 writes.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from rayplane.control_plane.api.machinery.resources import ResourceInfo

API_VERSION, KIND = "apiserver.config.k8s.io/v1", "EncryptionConfiguration"
#: How everything begins that any provider but `identity` has stored.
ENCRYPTED = b"k8s:enc:"
_AESGCM = b"k8s:enc:aesgcm:v1:"
_NONCE_BYTES, _TAG_BYTES = 12, 16
_KEY_BYTES = (16, 24, 32)
_EVERYTHING = "*.*"

RandomBytes = Callable[[int], bytes]


class BadEncryptionConfig(ValueError):
    """An EncryptionConfiguration that cannot be used; the text says where and what to write instead."""


class Untransformable(Exception):
    """A stored value that cannot be turned into an object. The text is Kubernetes'."""

    def __init__(self, key: str, cause: str) -> None:
        super().__init__(f'unable to transform key "{key}": {cause}')


@dataclass(frozen=True, slots=True)
class _Cipher:
    prefix: bytes
    aead: AESGCM


class Transformer:
    """Transformer between objects' bytes and those in etcd, for the resources of one entry of the configuration.

    The first provider (and its first key) writes, all read.
    """

    def __init__(self, providers: Sequence[Sequence[_Cipher]], random_bytes: RandomBytes) -> None:
        """`providers`: the ciphers of each provider in turn; none for `identity`."""
        self._ciphers = [cipher for provider in providers for cipher in provider]
        self._writes = providers[0][0] if providers[0] else None
        self._reads_plain = any(not provider for provider in providers)
        self._random_bytes = random_bytes

    def to_storage(self, key: str, value: bytes) -> bytes:
        """What to store under `key`."""
        return value if self._writes is None else self._encrypt(self._writes, key, value)

    def _encrypt(self, cipher: _Cipher, key: str, value: bytes) -> bytes:
        nonce = self._random_bytes(_NONCE_BYTES)
        return cipher.prefix + nonce + cipher.aead.encrypt(nonce, value, key.encode())

    def from_storage(self, key: str, stored: bytes) -> tuple[bytes, bool]:
        """The object's bytes, and whether they are stale: written otherwise than `to_storage` would write them now.

        Raises Untransformable: an unknown key, damage, or bytes that were stored under another key.
        """
        if not stored.startswith(ENCRYPTED):
            if not self._reads_plain:
                raise Untransformable(key, "no matching prefix found")
            return stored, self._writes is not None
        value, cipher = self._decrypt(key, stored)
        return value, cipher is not self._writes

    def _decrypt(self, key: str, stored: bytes) -> tuple[bytes, _Cipher]:
        cause = "no matching prefix found"
        for cipher in self._ciphers:
            # Two providers may have a key of the same name.
            if not stored.startswith(cipher.prefix):
                continue
            at = len(cipher.prefix) + _NONCE_BYTES
            if len(stored) < at + _TAG_BYTES:
                cause = "the stored data was shorter than the required size"
                continue
            try:
                return cipher.aead.decrypt(stored[at - _NONCE_BYTES : at], stored[at:], key.encode()), cipher
            except InvalidTag:
                cause = "cipher: message authentication failed"
        raise Untransformable(key, cause)

    def change(self, key: str, stored: bytes, change: Callable[[bytes], bytes]) -> bytes:
        """Change the object in what is stored, and leave it under the key that it is under. Raises Untransformable."""
        if not stored.startswith(ENCRYPTED):
            return change(stored)
        value, cipher = self._decrypt(key, stored)
        changed = change(value)
        return stored if changed == value else self._encrypt(cipher, key, changed)


@dataclass(frozen=True, slots=True)
class Encryption:
    """The transformers of resources. An empty one transforms nothing."""

    exact: Mapping[str, Transformer] = field(default_factory=dict)
    """By `plural[.group]`."""
    groups: Mapping[str, Transformer] = field(default_factory=dict)
    """By group, the core one is empty."""
    everything: Transformer | None = None

    def of(self, info: "ResourceInfo") -> Transformer | None:
        """For the objects of a resource; None when they are stored as they are."""
        return self.exact.get(info.name) or self.groups.get(info.group) or self.everything

    @staticmethod
    def parse(text: bytes, random_bytes: RandomBytes) -> "Encryption":
        """From the YAML or JSON of an EncryptionConfiguration; empty text is none. BadEncryptionConfig."""
        exact: dict[str, Transformer] = {}
        groups: dict[str, Transformer] = {}
        everything: Transformer | None = None
        for place, entry in _entries(text):
            transformer = Transformer(_providers(f"{place}.providers", entry.get("providers")), random_bytes)
            names = entry.get("resources")
            if not isinstance(names, list) or not names:
                raise BadEncryptionConfig(f"{place}.resources: name at least one resource, such as secrets")
            for name in names:
                if not isinstance(name, str) or not name or "/" in name or name.lower() != name:
                    raise BadEncryptionConfig(f"{place}.resources: {name!r} is no plural[.group], *.group or *.*")
                plural, _, group = name.partition(".")
                # The first entry that names a resource counts, so what follows a wildcard would never be used.
                if everything is not None or group in groups or name in exact:
                    raise BadEncryptionConfig(f"{place}.resources: {name} is covered by an earlier entry")
                if name == _EVERYTHING:
                    everything = transformer
                elif plural == "*":
                    groups[group] = transformer
                else:
                    exact[name] = transformer
        return Encryption(exact, groups, everything)


def all_keys(text: bytes, random_bytes: RandomBytes) -> Transformer:
    """Reads whatever any key of a configuration encrypted, of any resource. BadEncryptionConfig."""
    entries = _entries(text)
    found = [p for place, entry in entries for p in _providers(f"{place}.providers", entry.get("providers"))]
    return Transformer([[], *found], random_bytes)


def key_name_of(stored: bytes) -> str:
    """The name of the key that encrypted a stored value; empty when it is not encrypted by `aesgcm`."""
    if not stored.startswith(_AESGCM):
        return ""
    return stored[len(_AESGCM) :].split(b":", 1)[0].decode(errors="replace")


def generate(random_bytes: RandomBytes) -> bytes:
    """A configuration with a new key for secrets; secrets that are stored in plain text stay readable."""
    name = f"key-{random_bytes(4).hex()}"
    key = {"name": name, "secret": base64.b64encode(random_bytes(32)).decode()}
    providers: list[Any] = [{"aesgcm": {"keys": [key]}}, {"identity": {}}]
    resources = [{"resources": ["secrets"], "providers": providers}]
    made = {"apiVersion": API_VERSION, "kind": KIND, "resources": resources}
    return yaml.safe_dump(made, sort_keys=False).encode()


def _entries(text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    if not text.strip():
        return
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise BadEncryptionConfig(f"it is no YAML: {e}") from e
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise BadEncryptionConfig(f"it is no {KIND} of {API_VERSION}")
    found = document.get("resources")
    if not isinstance(found, list) or not found:
        raise BadEncryptionConfig("resources: there is no entry")
    for number, entry in enumerate(found):
        place = f"resources[{number}]"
        if not isinstance(entry, dict):
            raise BadEncryptionConfig(f"{place}: it is no mapping with resources and providers")
        yield place, entry


def _providers(place: str, found: Any) -> list[list[_Cipher]]:
    if not isinstance(found, list) or not found:
        raise BadEncryptionConfig(f"{place}: name at least one provider, aesgcm or identity")
    providers: list[list[_Cipher]] = []
    for number, provider in enumerate(found):
        if not isinstance(provider, dict) or len(provider) != 1:
            raise BadEncryptionConfig(f"{place}[{number}]: one provider each")
        kind, settings = next(iter(provider.items()))
        if kind == "identity":
            providers.append([])
        elif kind == "aesgcm":
            keys = settings.get("keys") if isinstance(settings, dict) else None
            providers.append(_ciphers(f"{place}[{number}].aesgcm.keys", keys))
        else:
            raise BadEncryptionConfig(f"{place}[{number}]: {kind!r} is not supported; use aesgcm or identity")
    return providers


def _ciphers(place: str, found: Any) -> list[_Cipher]:
    if not isinstance(found, list) or not found:
        raise BadEncryptionConfig(f"{place}: there is no key")
    ciphers: list[_Cipher] = []
    for number, key in enumerate(found):
        name, secret = (key.get("name"), key.get("secret")) if isinstance(key, dict) else (None, None)
        if not isinstance(name, str) or not name or ":" in name:
            raise BadEncryptionConfig(f"{place}[{number}].name: give it a name without ':'")
        try:
            prefix = _AESGCM + name.encode() + b":"
        except UnicodeEncodeError as e:
            raise BadEncryptionConfig(f"{place}[{number}].name: it is no text") from e
        if any(c.prefix == prefix for c in ciphers):
            raise BadEncryptionConfig(f"{place}[{number}].name: {name!r} is there twice")
        try:
            raw = base64.b64decode(secret if isinstance(secret, str) else "", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) not in _KEY_BYTES:
            # Never what was written there: it may be the key.
            raise BadEncryptionConfig(f"{place}[{number}].secret: it must be base64 of 16, 24 or 32 bytes")
        ciphers.append(_Cipher(prefix, AESGCM(raw)))
    return ciphers
