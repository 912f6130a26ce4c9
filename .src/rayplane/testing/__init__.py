"""Clusters, API servers and etcd members for tests of other people's software.

    with rayplane.testing.fake() as api:
        api.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})

pytest's fixtures are in `rayplane.testing.plugin`; `control_plane/testing/README.md` is the guide. Names are imported
when they are first used: who loads the plug-in pays for no others.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.in_memory import AsyncFake
    from rayplane.control_plane.testing.etcd import Etcd, etcd
    from rayplane.control_plane.testing.fake import Fake, fake
    from rayplane.control_plane.testing.shared import ClusterInTest, own_namespace
    from rayplane.control_plane.testing.simulated import SimulationFailed, simulation
    from rayplane.control_plane.testing.until import NotInTime, until
    from rayplane.storage.env.leaps import LeapingLoop

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
    "AsyncFake": "control_plane.cluster.in_memory",
    "ClusterInTest": "control_plane.testing.shared",
    "Etcd": "control_plane.testing.etcd",
    "Fake": "control_plane.testing.fake",
    "LeapingLoop": "storage.env.leaps",
    "NotInTime": "control_plane.testing.until",
    "SimulationFailed": "control_plane.testing.simulated",
    "etcd": "control_plane.testing.etcd",
    "fake": "control_plane.testing.fake",
    "own_namespace": "control_plane.testing.shared",
    "simulation": "control_plane.testing.simulated",
    "until": "control_plane.testing.until",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'rayplane.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rayplane.{_PLACES[name]}"), name)
