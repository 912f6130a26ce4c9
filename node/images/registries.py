"""Registries that images may be pulled from, and where they are asked. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayplane.node.images.errors import BadReference
from rayplane.node.images.references import DEFAULT_REGISTRY, Reference, parse_reference

ALL = "all"
_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")
_ADDRESS = re.compile(r"https?://[^\s/,]+(/[^\s,]*)?")


@dataclass(frozen=True, slots=True)
class Registries:
    """Registries by name. `allowed`: those that may be asked, or ALL; `mirrors`: addresses asked before a registry."""

    allowed: tuple[str, ...] = ()
    mirrors: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(text: str) -> "Registries":
        """Registries of a flag: `docker.io=http://mirror:5000,ghcr.io`, `all` or nothing. Raises BadReference."""
        allowed: list[str] = []
        mirrors: dict[str, str] = {}
        for part in text.split(",") if text else ():
            name, given, address = part.partition("=")
            if name != ALL and parse_reference(f"{name}/a").registry != name:
                raise BadReference(f"{name!r} is no registry: write one as docker.io or localhost:5000, or {ALL}")
            if given and (name == ALL or not _ADDRESS.fullmatch(address)):
                raise BadReference(f"{address!r} is no mirror of {name}: write an address as http://127.0.0.1:5000")
            allowed.append(name)
            mirrors |= {name: address} if given else {}
        return Registries(tuple(allowed), mirrors)

    def allow(self, reference: Reference) -> bool:
        return ALL in self.allowed or reference.registry in self.allowed

    def addresses(self, reference: Reference) -> list[str]:
        """Where to ask, the mirror first. Registries on loopback speak HTTP, as everywhere."""
        registry = reference.registry
        scheme = "http" if _LOOPBACK.fullmatch(registry) else "https"
        own = f"{scheme}://{_HOSTS.get(registry, registry)}"
        return [self.mirrors[registry], own] if registry in self.mirrors else [own]
