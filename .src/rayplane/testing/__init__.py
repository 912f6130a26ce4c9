"""Clusters, API servers and etcd members for tests of other people's software.

    with rayplane.testing.fake() as api:
        api.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})

pytest's fixtures are in `rayplane.testing.plugin`; `control_plane/testing/README.md` is the guide. Names are imported
when they are first used: who loads the plug-in pays for no others.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.leaps import LeapingLoop
    from rayplane.control_plane.testing.etcd import Etcd, etcd
    from rayplane.control_plane.testing.fake import Fake, fake
    from rayplane.control_plane.testing.memory import AsyncFake
    from rayplane.control_plane.testing.shared import ClusterInTest, own_namespace
    from rayplane.control_plane.testing.simulated import SimulationFailed, simulation
    from rayplane.control_plane.testing.until import NotInTime, until

__all__ = [
    "AsyncFake",
    "ClusterInTest",
    "Etcd",
    "Fake",
    "LeapingLoop",
    "NotInTime",
    "SimulationFailed",
    "etcd",
    "fake",
    "own_namespace",
    "simulation",
    "until",
]
_PLACES = {
    "AsyncFake": "testing.memory",
    "ClusterInTest": "testing.shared",
    "Etcd": "testing.etcd",
    "Fake": "testing.fake",
    "LeapingLoop": "cluster.leaps",
    "NotInTime": "testing.until",
    "SimulationFailed": "testing.simulated",
    "etcd": "testing.etcd",
    "fake": "testing.fake",
    "own_namespace": "testing.shared",
    "simulation": "testing.simulated",
    "until": "testing.until",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'rayplane.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rayplane.control_plane.{_PLACES[name]}"), name)
