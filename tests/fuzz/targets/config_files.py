"""Files that people and rayplane itself write: policies, who gets in, who decides, scenarios, manifests, the state of a
cluster, ledgers. Read right, or refused with one typed error."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml

from rayplane.control_plane.api.audit.reading import default_policy, read_policy
from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authorization.configuration import read_authorization
from rayplane.control_plane.apiserver.storage.encryption import BadEncryptionConfig, Encryption
from rayplane.control_plane.cluster import scenario
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.manifests import ManifestError
from rayplane.control_plane.cluster.manifests import parse as parse_manifests
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, founding
from rayplane.control_plane.simulation.scenario import _package as scenarios
from rayplane.control_plane.simulation.scenario import builtin_scenarios, parse_scenario
from rayplane.node.volumes.errors import VolumeError
from rayplane.node.volumes.reservations import Reservations
from rayplane.storage.env import SimulatedDisk
from tests.apiserver.test_configuration_files import authentication, authorization, conditions, one
from tests.apiserver.test_encryption import aesgcm, config
from tests.cluster.test_scenario import ALL
from tests.fuzz import mutate
from tests.fuzz.targets._objects import _PIECES, SEEDS, good

CASES = 100
CASES_PER_WORLD = 2000

Case = tuple[str, bytes]
"""Which kind of file, and its content."""

_CLUSTER = ClusterConfig(name="c", host="process")
_STATE = ClusterState(_CLUSTER, AddressPlan(1), founding(_CLUSTER, (Machine(),)), running=True, host={"pid": 1})
_JWT = one(
    {"discoveryURL": "https://example.org/keys", "audienceMatchPolicy": "MatchAny"},
    {
        "username": {"expression": "'corp:' + claims.name"},
        "groups": {"claim": "groups", "prefix": ""},
        "uid": {"claim": "sub"},
        "extra": [{"key": "example.org/team", "valueExpression": "claims.?team.orValue('none')"}],
    },
    claimValidationRules=[{"claim": "hd", "requiredValue": "a"}, {"expression": "claims.exp - claims.nbf <= 86400"}],
    userValidationRules=[{"expression": "!user.username.startsWith('system:')", "message": "no"}],
)
_ANONYMOUS = authentication(anonymous={"enabled": True, "conditions": [{"path": "/livez"}]})
_USUAL = authorization({"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"})
_WEBHOOK = conditions("has(request.resourceAttributes)", "!('system:masters' in request.groups)")
_GOOD: dict[str, list[bytes]] = {
    "authentication": [_JWT.encode(), _ANONYMOUS.encode()],
    "authorization": [_USUAL.encode(), _WEBHOOK.encode()],
    "audit": [default_policy().encode()],
    "encryption": [config(aesgcm("a", "b"), {"identity": {}})],
    "scenario": [ALL.encode() if isinstance(ALL, str) else ALL],
    "simulation": [scenarios().joinpath(f"{name}.yaml").read_bytes() for name in builtin_scenarios()],
    "manifest": [yaml.safe_dump_all([good(seed) for seed in SEEDS[n : n + 3]]).encode() for n in (0, 14, 20)],
    "state": [json.dumps(_STATE.to_json()).encode()],
    "reservations": [b'{"local/a": 5, "replica/b": 7}'],
}


def make(rng: random.Random) -> Case:
    kind = rng.choice(list(_GOOD))
    data = rng.choice(_GOOD[kind])
    if rng.random() < 0.5:
        try:
            value: Any = mutate.of_json(rng, list(yaml.safe_load_all(data)))
            value = value[0] if isinstance(value, list) and value else value
            return kind, json.dumps(value).encode()
        except (yaml.YAMLError, RecursionError):
            pass
    return kind, mutate.of_bytes(rng, data, [*_PIECES, *_GOOD[kind]])


async def _reservations(data: bytes) -> None:
    disk = SimulatedDisk()
    await disk.write_atomic("volumes/reservations.json", data)
    ledger = Reservations(disk, "n1", 1 << 30)
    assert ledger.free_bytes >= 0
    ledger.reserved("local")
    await ledger.reserve("local", "new", 1)


class Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._readers: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
            "audit": (lambda data: read_policy(data.decode("utf-8", "replace")), ConfigFileError),
            "authentication": (self._authentication, ConfigFileError),
            "authorization": (lambda data: read_authorization(data.decode("utf-8", "replace")), ConfigFileError),
            "encryption": (lambda data: Encryption.parse(data, random.Random(1).randbytes), BadEncryptionConfig),
            "scenario": (lambda data: scenario.parse(data, "f"), ClusterError),
            "simulation": (lambda data: parse_scenario(data.decode("utf-8", "replace"), source="f"), ClusterError),
            "manifest": (lambda data: parse_manifests(data, "f"), ManifestError),
            "state": (self._state, ClusterError),
        }

    async def run(self, case: Case) -> None:
        kind, data = case
        if kind == "reservations":
            with contextlib.suppress(VolumeError):
                await _reservations(data)
            return
        read, error = self._readers[kind]
        try:
            read(data)
        except error as e:
            assert str(e) and len(str(e)) < 100_000, f"an error of {len(str(e))} characters"

    def _authentication(self, data: bytes) -> None:
        read_authentication(data.decode("utf-8", "replace"), own_issuer="https://cluster")

    def _state(self, data: bytes) -> None:
        (self._directory / "cluster.json").write_bytes(data)
        StateDir(self._directory).read()

    async def good(self) -> None:
        for kind in ("audit", "authentication", "authorization", "state"):
            for data in _GOOD[kind]:
                self._readers[kind][0](data)

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Files]:
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as directory:
        yield Files(Path(directory))
