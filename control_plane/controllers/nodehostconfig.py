"""The ConfigMap `rayplane-node-hosts` in `kube-system` tells nodes that join how the cluster's are configured."""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.joining import CONFIG, NAMESPACE, NODE_HOSTS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Create, Update
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

_KEY = f"{NAMESPACE}/{NODE_HOSTS}"


def _own(config_map: Object, _view: View) -> Iterable[str]:
    return (_KEY,) if meta.key(config_map) == _KEY else ()


class NodeHostConfigPublisher(BaseController):
    """A writer of one text, which it keeps as it is."""

    name = "nodehostconfig"
    component = "node-host-config"
    watches = (Watch("configmaps", _own),)
    resync_keys = (_KEY,)

    def __init__(self, text: str) -> None:
        self._data = {CONFIG: text}

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        held = view.get("configmaps", NAMESPACE, NODE_HOSTS)
        if held is None:
            own = {"name": NODE_HOSTS, "namespace": NAMESPACE}
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": self._data}
            return result([Create("configmaps", made, exists_ok=True)])
        if meta.is_deleting(held) or held.get("data") == self._data:
            return NOTHING
        return result([Update("configmaps", {**meta.copy_for_write(held), "data": self._data})])
