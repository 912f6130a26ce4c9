"""Credentials of registries, as pods' secrets have them (kubernetes.io/dockerconfigjson and dockercfg). Pure.

Source: Kubernetes documentation, "Pull an Image from a Private Registry" and "Images" (interpretation of config.json).
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.proto.cri import cri_pb2 as pb

_FORMS = {".dockerconfigjson": "auths", ".dockercfg": ""}
_DEFAULT = "docker.io"
_DEFAULT_HOSTS = ("index.docker.io", "registry-1.docker.io")


def credentials_for(image: str, secrets: Iterable[Object | None]) -> list[pb.AuthConfig]:
    """What the registry of an image may be shown, the most particular first. Secrets that cannot be read have none."""
    wanted = _place(image)
    found = [
        (len(place), auth)
        for secret in secrets
        if secret is not None
        for place, auth in _entries(secret)
        if _covers(place, wanted)
    ]
    return [auth for _, auth in sorted(found, key=lambda one: -one[0])]


def _place(image: str) -> str:
    """Registry and path of an image, without tag and digest."""
    name = image.partition("@")[0]
    head, _, last = name.rpartition("/")
    name = f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
    first, slash, _ = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return name if is_host else f"{_DEFAULT}/{name}"


def _covers(place: str, wanted: str) -> bool:
    """Whether credentials for `place` are for an image at `wanted`: the same host, by pattern, and a path above it."""
    host, _, path = place.partition("/")
    its_host, _, its_path = wanted.partition("/")
    if host.count(".") != its_host.count(".") or not fnmatchcase(its_host, host):
        return False
    return its_path == path or not path or its_path.startswith(f"{path}/")


def _entries(secret: Object) -> Iterator[tuple[str, pb.AuthConfig]]:
    for key, below in _FORMS.items():
        try:
            text = base64.b64decode((secret.get("data") or {}).get(key) or "")
            found = json.loads(text) if text else {}
            auths: Mapping[str, Any] = found.get(below) or {} if below else found
            for place, entry in auths.items():
                yield _normal(place), _auth(entry)
        except (AttributeError, TypeError, ValueError, binascii.Error):
            continue


def _normal(place: str) -> str:
    """A registry's name as it stands before an image's path."""
    place = place.partition("://")[2] or place
    host, _, path = place.partition("/")
    # What Docker's own tools write: the API's version is no part of an image's path.
    path = "" if path.strip("/") in ("v1", "v2") else path.strip("/")
    host = _DEFAULT if host in _DEFAULT_HOSTS else host
    return f"{host}/{path}" if path else host


def _auth(entry: Mapping[str, Any]) -> pb.AuthConfig:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth") and not (user or password):
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    return pb.AuthConfig(
        username=user,
        password=password.rstrip("\0"),
        identity_token=str(entry.get("identitytoken") or ""),
        registry_token=str(entry.get("registrytoken") or ""),
    )
