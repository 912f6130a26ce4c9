"""PodCertificateRequests that are older than anybody waits for are deleted.

Source: Kubernetes KEP-4317 (pod certificates), and its cleaner.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.actions import Delete
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
)

REQUESTS = "podcertificaterequests.certificates.k8s.io"
KEPT_S = 30 * 60.0


class PodCertificateCleaner(BaseController):
    name = component = "podcertificaterequestcleaner"
    watches = (Watch(REQUESTS, own_key, changed=lambda old, new: meta.uid(old) != meta.uid(new)),)

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        request = view.get(REQUESTS, *meta.split_key(key))
        if request is None or meta.is_deleting(request):
            return NOTHING
        left = KEPT_S - now.seconds_since(meta.metadata(request).get("creationTimestamp"))
        return result([Delete(REQUESTS, request)]) if left <= 0 else result(requeue_after=left)
