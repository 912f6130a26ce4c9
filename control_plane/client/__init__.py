"""Clients with which components talk to etcd and to the API.

Owns the etcd client, the API client over gRPC, informers, the work queue, leader election by Lease, the event
recorder, and work that is done once for all who ask for it at the same time. Owns no policy of any component.
Everything runs on the caller's event loop; every object here that starts tasks has a `stop`.
"""

from rayplane.control_plane.client.api import ApiClient, ObjectList, WatchEvent
from rayplane.control_plane.client.election import LeaderElector
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.events import EventRecorder
from rayplane.control_plane.client.informer import Informer
from rayplane.control_plane.client.workqueue import QueueMetrics, Standing, WorkQueue

__all__ = [
    "ApiClient",
    "EtcdClient",
    "EventRecorder",
    "Informer",
    "LeaderElector",
    "ObjectList",
    "QueueMetrics",
    "Standing",
    "WatchEvent",
    "WorkQueue",
]
