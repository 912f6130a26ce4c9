"""StressChaos: has processors and memory of containers taken by work beside them.

Without names it is each pod's first container. Source: Chaos Mesh, "Simulate stress scenarios".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api import chaos_stress, meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods import marks
from rayplane.control_plane.api.pods.resources import container_limits
from rayplane.control_plane.controllers.actions import Action
from rayplane.control_plane.controllers.chaos.experiment import ExperimentController, Record, marked, new_record
from rayplane.control_plane.controllers.chaos.selection import chosen
from rayplane.control_plane.controllers.core import View

OURS = "rayplane-"
"""Begins what nodes say of a runtime that is none of another project."""


class StressChaosController(ExperimentController):
    name = "stresschaos"
    kind = mesh.STRESS_CHAOS

    def selected(self, experiment: Object, view: View) -> list[Record]:
        spec = meta.spec(experiment)
        pods = chosen(experiment, spec, view)
        return [new_record(f"{meta.key(pod)}/{name}", pod) for pod in pods for name in _containers(spec, pod)]

    def act(self, experiment: Object, pod: Object, ours: Sequence[Record], view: View) -> Action:
        names = sorted(name for one in ours for name in one["id"].split("/")[2:])
        stress = chaos_stress.stress_of(meta.spec(experiment), _least(pod, names, view))
        return marked(pod, {marks.stressed(meta.uid(experiment)): marks.stress(stress, names)})

    def refusal(self, experiment: Object, pod: Object, view: View) -> str:
        node = view.get("nodes", "", meta.node_name(pod))
        if node is None:
            return "the pod is on no node yet"
        told = str((meta.status(node).get("nodeInfo") or {}).get("containerRuntimeVersion") or OURS)
        if not told.startswith(OURS):
            return f"containers on node {meta.name(node)} are another runtime's ({told})"
        try:
            chaos_stress.stress_of(meta.spec(experiment), 1)
        except ValueError as e:
            return str(e)  # it was let in before anybody looked at it
        return ""

    def marks(self, experiment: Object) -> tuple[str, ...]:
        return (marks.stressed(meta.uid(experiment)),)


def _containers(spec: Mapping[str, Any], pod: Object) -> list[str]:
    names = [c["name"] for c in meta.spec(pod).get("containers") or ()]
    wanted = spec.get("containerNames")
    return [name for name in names if name in wanted] if wanted else names[:1]


def _least(pod: Object, names: Sequence[str], view: View) -> int:
    """Bytes that each of these may have: one mark says the same of all of them."""
    node = view.get("nodes", "", meta.node_name(pod)) or {}
    of_node = quantity.value((meta.status(node).get("capacity") or {}).get("memory") or 0)
    found = [c for c in meta.spec(pod).get("containers") or () if c["name"] in names]
    return min(quantity.value(container_limits(c).get("memory") or of_node) for c in found)
