"""Admission: what a write is checked for and completed with that needs other objects than its own.

Owns: namespace life cycle, service accounts of pods, priorities, default tolerations, default classes, limits, quotas,
the allocation of service addresses and of custom resources' names, when pods are held to the Pod Security Standards,
and which webhooks and policies of users a request meets. Does not own how webhooks are reached
(`control_plane.apiserver.outgoing`), defaults and validation that look at one object only (`control_plane.api`).
Plugins run in the order of `PLUGINS`; each looks at the request and may change the new object, refuse it, or reserve
something: reservations are guards and effects of the transaction that stores the object, so that a failed write
reserves nothing.
"""

from rayplane.control_plane.apiserver.admission.chain import Admission
from rayplane.control_plane.apiserver.admission.request import AdmissionRequest

__all__ = ["Admission", "AdmissionRequest"]
