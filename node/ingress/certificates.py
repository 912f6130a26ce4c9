"""Certificates that the ingress shows, by the name that a client asks for (SNI, RFC 6066).

They come from the Secrets which Ingresses name, and follow them. A host of several Ingresses has the oldest one's.
Where no certificate is a host's own, that of the Secret DEFAULT_CERTIFICATE is shown, else one that nobody has signed.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.ingresses import DEFAULT_CERTIFICATE, TLS_SECRET, is_served, tls_parts
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import Informer
from rayplane.control_plane.rpc.tls import Authority, Credentials
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.environment import Reference, binary_data
from rayplane.node.errors import SourceUnavailable
from rayplane.node.events import Events
from rayplane.node.ingress.routes import age
from rayplane.node.kubelet.sandbox import ObjectLookup

log = logging.getLogger(__name__)

SECRETS_MAX = 1000
"""As many are followed, each by a watch of its own; the oldest Ingresses' come first."""
PEM_BYTES_MAX = 256 * 1024
GATHER_S = 0.05
AGAIN_S = 2.0
PROTOCOLS = ("h2", "http/1.1")
_Key = tuple[str, str]
"""Namespace and name of a Secret."""


class Certificates:
    """The certificates of all hosts; `context` is for the listening socket."""

    def __init__(self, ingresses: Informer, secrets: ObjectLookup, events: Events) -> None:
        """`ingresses` has been synced."""
        self._ingresses = ingresses
        self._secrets = secrets
        self._events = events
        made = Authority.create("Rayplane Ingress").issue("Rayplane Ingress Default Certificate", [])
        self._fallback = _context(made.cert, made.key)
        self._default = self._fallback
        self._hosts: dict[str, ssl.SSLContext] = {}
        self._loaded: dict[_Key, tuple[bytes, ssl.SSLContext]] = {}
        self._watched: dict[_Key, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Each connection begins with the first and goes on with its host's.
        self.context = _context(made.cert, made.key)
        self.context.sni_callback = self._choose

    async def start(self) -> None:
        """Return when what is there is shown."""
        self._ingresses.add_handler(lambda *_: self._wake.set())
        self._wake.clear()
        await self._refresh()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ingress certificates")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        self._follow({})

    def has(self, host: str) -> bool:
        """Tell whether a host has a certificate of its own."""
        return self._own(host) is not None

    def _own(self, host: str) -> ssl.SSLContext | None:
        return self._hosts.get(host) or self._hosts.get("*." + host.partition(".")[2])

    def _choose(self, connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = (self._own(name.lower()) if name else None) or self._default

    # --- following --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                await self._refresh()
            except Exception:
                # Whatever one Secret has done to this, the others go on being followed.
                log.exception("the ingress's certificates are late")
                self._again()

    def _again(self) -> None:
        asyncio.get_running_loop().call_later(AGAIN_S, self._wake.set)

    async def _refresh(self) -> None:
        named = self._named()
        self._follow({DEFAULT_CERTIFICATE: None} | dict.fromkeys(key for key, _, _ in named))
        contexts = {key: await self._load(key, None) for key in (DEFAULT_CERTIFICATE,)}
        hosts: dict[str, ssl.SSLContext] = {}
        for key, names, ingress in named:
            if key not in contexts:
                contexts[key] = await self._load(key, ingress)
            context = contexts[key]
            for host in names if context is not None else ():
                assert context is not None
                hosts.setdefault(host.lower(), context)
        self._hosts = hosts
        self._default = contexts[DEFAULT_CERTIFICATE] or self._fallback
        self._loaded = {key: one for key, one in self._loaded.items() if key in contexts}

    def _named(self) -> list[tuple[_Key, list[str], Object]]:
        """Secrets with the hosts that they are for, the oldest Ingress's first."""
        found: list[tuple[_Key, list[str], Object]] = []
        for ingress in sorted(filter(is_served, self._ingresses.list()), key=age):
            space = meta.namespace(ingress)
            found += [((space, secret), hosts, ingress) for secret, hosts in tls_parts(ingress)]
        return found[:SECRETS_MAX]

    def _follow(self, wanted: dict[_Key, None]) -> None:
        for space, name in [key for key in self._watched if key not in wanted]:
            del self._watched[space, name]
            self._secrets.unwatch(space, _reference(name), self._wake.set)
        for space, name in wanted:
            if (space, name) not in self._watched:
                self._watched[space, name] = None
                self._secrets.watch(space, _reference(name), self._wake.set)

    async def _load(self, key: _Key, ingress: Object | None) -> ssl.SSLContext | None:
        space, name = key
        try:
            secret = (await self._secrets.find(space, _reference(name)))["secrets", name]
        except SourceUnavailable as e:
            log.info("certificate of secret %s/%s is not known yet: %s", space, name, e)
            self._again()
            return self._loaded[key][1] if key in self._loaded else None
        if secret is None:
            return None
        data = binary_data(secret)
        cert, private = data.get("tls.crt") or b"", data.get("tls.key") or b""
        known = self._loaded.get(key)
        if known is not None and known[0] == cert + private:
            return known[1]
        try:
            if secret.get("type") != TLS_SECRET or len(cert) + len(private) > PEM_BYTES_MAX:
                raise ValueError(f"it is no Secret of type {TLS_SECRET}, or too large")
            context = _context(cert, private)
        except (ssl.SSLError, ValueError, OSError) as e:
            if ingress is not None:
                text = f"secret {space}/{name} has no certificate that can be shown: {e}"
                self._events.record(ingress, "Warning", "BadCertificate", text)
            return None
        self._loaded[key] = (cert + private, context)
        return context


def _reference(name: str) -> Iterable[Reference]:
    return (Reference("secrets", name),)


def _context(cert: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([*PROTOCOLS])
    Credentials(b"", cert, key).load(context)
    return context
