"""Kubeconfig files that say where a webhook is, what to trust there, and what to show it.

Source: Kubernetes' client configuration v1 and "Webhook Mode". Programs that make credentials (`exec`) are not run.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rayplane.control_plane.rpc.tls import Credentials

_BYTES_MAX = 1 << 20


class BadKubeconfig(ValueError):
    """A file that leads nowhere; it says why."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A place that a kubeconfig's current context leads to."""

    url: str
    tls: ssl.SSLContext | bool = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    server_name: str = ""
    """Whom its certificate must name; empty: the URL's host."""


def read_kubeconfig(path: str) -> Destination:
    """What a file says. BadKubeconfig."""
    file = Path(path)
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise BadKubeconfig(f"{path}: {e}") from e
    try:
        document = yaml.safe_load(text) if len(text) <= _BYTES_MAX else None
    except (yaml.YAMLError, RecursionError) as e:
        raise BadKubeconfig(f"{path} is no YAML: {e}") from e
    try:
        return _destination(document if isinstance(document, dict) else {}, file.parent)
    except (BadKubeconfig, OSError, ssl.SSLError, binascii.Error) as e:
        raise BadKubeconfig(f"{path}: {e}") from e


def _destination(document: dict[str, Any], directory: Path) -> Destination:
    current = document.get("current-context")
    context = _named(document, "contexts", "context", current) if current else {}
    # A webhook's file has one of each, and often no context.
    cluster = _named(document, "clusters", "cluster", context.get("cluster"))
    user = _named(document, "users", "user", context.get("user"))
    if "exec" in user or "auth-provider" in user:
        raise BadKubeconfig("programs that make credentials are not run: use a token or a client certificate")
    url = str(cluster.get("server") or "")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadKubeconfig(f"cluster.server {url!r} must be the webhook's URL")
    tls = _tls(cluster, user, directory) if parts.scheme == "https" else False
    return Destination(url, tls, _headers(user, directory), str(cluster.get("tls-server-name") or ""))


def _named(document: Mapping[str, Any], many: str, one: str, name: Any) -> dict[str, Any]:
    """The entry of this name; without one the only, or the first, there is."""
    entries = document.get(many)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and (not name or entry.get("name") == name):
            found = entry.get(one)
            return found if isinstance(found, dict) else {}
    if name:
        raise BadKubeconfig(f"no {one} is called {name!r}")
    return {}


def _data(part: Mapping[str, Any], name: str, directory: Path) -> bytes:
    """What stands in `name`-data, or in the file that `name` names; empty where there is neither."""
    if part.get(f"{name}-data"):
        return base64.b64decode(str(part[f"{name}-data"]), validate=True)
    return (directory / str(part[name])).read_bytes() if part.get(name) else b""


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], directory: Path) -> ssl.SSLContext:
    authority = _data(cluster, "certificate-authority", directory)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify") is True:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = (_data(user, name, directory) for name in ("client-certificate", "client-key"))
    if certificate:
        Credentials(authority, certificate, key).load(context)
    return context


def _headers(user: Mapping[str, Any], directory: Path) -> dict[str, str]:
    token = str(user.get("token") or "")
    if not token and user.get("tokenFile"):
        token = (directory / str(user["tokenFile"])).read_text().strip()
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password') or ''}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
