"""Clusters, API servers and etcd members for tests of other people's software.

    with rayplane.testing.fake() as api:
        api.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})

pytest's fixtures come with `pip install rayplane[pytest]`; `control_plane/testing/README.md` is the guide.
"""

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
