"""What tests of isolated pods share: whether this machine lets them be, a host that isolates, pods that end."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.config import NAMESPACES, NodeConfig
from rayplane.node.host import NodeHost
from rayplane.node.runtime.isolation.probe import probe
from tests.fakes import FakeClient
from tests.node.processes import logs, phase, shell

FOUND = probe()
isolating = pytest.mark.skipif(not FOUND.works, reason=f"no isolation here: {FOUND.why}")

Isolating = Callable[..., Awaitable[NodeHost]]
SLEEP = "sleep 1000"


@pytest.fixture
def make_isolating(make_host: Isolating, tmp_path: Path) -> Isolating:
    """`await make_isolating(NODE, machine="other")`: hosts of one machine share a network."""

    def make(*nodes: NodeConfig, machine: str = "machine", **config: Any) -> Awaitable[NodeHost]:
        return make_host(
            *nodes,
            isolation=NAMESPACES,
            machine_file=str(tmp_path / machine / "isolation"),
            image_dir=str(tmp_path / machine / "images"),
            services="10.78.0.0/16",
            loopback_networks=("10.77.0.0/16", "10.78.0.0/16", "127.78.0.0/16"),
            dns="10.78.0.10",
            **config,
        )

    return make


async def ended(api: FakeClient, host: NodeHost, script: str, *, name: str = "job", **spec: Any) -> str:
    """The output of a pod that runs a script to its end."""
    api.put("pods", shell(name, script, restartPolicy="Never", **spec))
    await api.until(lambda: phase(api, name) in ("Succeeded", "Failed"))
    return (await logs(host, name)).decode()
