"""Names of a cluster's objects, for a shell that completes: by HTTPS as Python has it, which is loaded soonest.

Does not own sessions of commands (`session`), whose clients go on where a server is lost, and take seconds to load.
"""

import json
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from typing import Any

from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role

ANSWER_S = 3.0
NAMES_MAX = 500
FAILURES = (ClusterError, OSError, HTTPException, ValueError, LookupError)
"""Raised where names cannot be had."""
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


async def listed(directory: StateDir, namespace: str, kind: str) -> list[str]:
    """The first names of a kind's objects, by any of the words that the kind has. Raises one of FAILURES."""
    server = _Server(directory, time.monotonic() + ANSWER_S)
    info = (await Kinds(server).resolve(kind))[0]
    found = server.ask(f"{info.path(namespace or 'default')}?limit={NAMES_MAX}", _METADATA)
    return [str(item["metadata"]["name"]) for item in found["items"]]


@dataclass(frozen=True, slots=True)
class _Listing:
    items: list[dict[str, Any]]


class _Server:
    """Whoever the load balancer leads to."""

    def __init__(self, directory: StateDir, until: float) -> None:
        self._directory = directory
        self._until = until

    async def list(self, resource: str) -> _Listing:
        return _Listing(self.ask(builtin_registry().resolve(resource).path())["items"])

    def ask(self, path: str, accept: str = "application/json") -> Any:
        pki = self._directory.admin
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.load_cert_chain(pki / "tls.crt", pki / "tls.key", password="")  # nobody is asked for one
        balancer = self._directory.read_reachable().topology.of(Role.LOAD_BALANCER)[0]
        connection = HTTPSConnection(
            balancer.machine.address,
            balancer.ports["https"],
            context=context,
            timeout=max(self._until - time.monotonic(), 0.01),
        )
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            if answer.status != 200:
                raise ClusterError(f"{path}: {answer.status} {answer.reason}")
            return json.load(answer)
        finally:
            connection.close()
