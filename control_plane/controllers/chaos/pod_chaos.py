"""PodChaos: kills pods and containers, or keeps pods from working for a while.

Source: Chaos Mesh, "Simulate pod chaos".
"""

from __future__ import annotations

from collections.abc import Sequence

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.controllers.actions import Action, Delete
from rayplane.control_plane.controllers.chaos.experiment import ExperimentController, Record, marked, new_record
from rayplane.control_plane.controllers.chaos.selection import chosen
from rayplane.control_plane.controllers.core import View


class PodChaosController(ExperimentController):
    name = "podchaos"
    kind = mesh.POD_CHAOS

    def selected(self, experiment: Object, view: View) -> list[Record]:
        pods = chosen(experiment, meta.spec(experiment), view)
        return [new_record(target, pod) for pod in pods for target in _targets(experiment, pod)]

    def act(self, experiment: Object, pod: Object, ours: Sequence[Record], view: View) -> Action:
        spec, uid = meta.spec(experiment), meta.uid(experiment)
        match spec.get("action"):
            case mesh.POD_FAILURE:
                return marked(pod, {marks.failed(uid): "true"})
            case mesh.CONTAINER_KILL:
                names = sorted(name for one in ours for name in one["id"].split("/")[2:])
                return marked(pod, {marks.killed(uid): marks.kill(ours[0]["injectedCount"], names)})
        return Delete("pods", pod, grace_seconds=int(spec.get("gracePeriod") or 0))

    def marks(self, experiment: Object) -> tuple[str, ...]:
        uid = meta.uid(experiment)
        return marks.failed(uid), marks.killed(uid)


def _targets(experiment: Object, pod: Object) -> list[str]:
    if meta.spec(experiment).get("action") != mesh.CONTAINER_KILL:
        return [meta.key(pod)]
    wanted = meta.spec(experiment).get("containerNames") or ()
    return [f"{meta.key(pod)}/{c['name']}" for c in meta.spec(pod).get("containers") or () if c["name"] in wanted]
