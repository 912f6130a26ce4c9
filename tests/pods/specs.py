"""Pods drawn at random: rich in what rules about pods look at, and no more regular than users are.

Every draw comes from the `random.Random` given, so that hypothesis can shrink a pod (`strategies.randoms()`) and a
count over many pods can be repeated from a seed.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

RESOURCES = ("cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "example.com/gpu")
_AMOUNTS = {
    "cpu": ("0", "0m", "1", "1000m", "250m", "0.5", "2", "1500m", "100m"),
    "memory": ("0", "0Gi", "64Mi", "128Mi", "1Gi", "1024Mi", "500M", "1073741824"),
    "ephemeral-storage": ("0", "1Gi", "500M"),
    "hugepages-2Mi": ("2Mi", "4Mi"),
    "example.com/gpu": ("1", "2"),
}


def _amounts(rng: random.Random, chance: float, among: tuple[str, ...] = RESOURCES) -> dict[str, str]:
    return {name: rng.choice(_AMOUNTS[name]) for name in among if rng.random() < chance}


def requirements(rng: random.Random, among: tuple[str, ...] = RESOURCES) -> dict[str, Any]:
    """Requests and limits of one container, often equal, often with holes."""
    form = rng.randrange(6)
    if form == 0:
        return {}
    if form == 1:
        both = _amounts(rng, 0.8, among)
        return {"requests": dict(both), "limits": both}
    if form == 2:
        return {"limits": _amounts(rng, 0.7, among)}
    if form == 3:
        return {"requests": _amounts(rng, 0.7, among)}
    return {"requests": _amounts(rng, 0.5, among), "limits": _amounts(rng, 0.5, among)}


def _ports(rng: random.Random) -> list[dict[str, Any]]:
    found = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        port: dict[str, Any] = {"containerPort": rng.choice((80, 443, 8080))}
        if rng.random() < 0.6:
            port["name"] = rng.choice(("http", "metrics"))
        if rng.random() < 0.5:
            port["protocol"] = rng.choice(("TCP", "UDP"))
        if rng.random() < 0.4:
            port["hostPort"] = rng.choice((80, 8080))
        if rng.random() < 0.2:
            port["hostIP"] = rng.choice(("127.0.0.1", "0.0.0.0"))
        found.append(port)
    return found


def container(rng: random.Random, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "image": "i"}
    resources = requirements(rng)
    if resources or rng.random() < 0.5:
        found["resources"] = resources
    if ports := _ports(rng):
        found["ports"] = ports
    return found


def pod(rng: random.Random) -> dict[str, Any]:
    """A pod as a client could send it, before defaults."""
    spec: dict[str, Any] = {"containers": [container(rng, f"c{i}") for i in range(rng.choice((1, 1, 1, 2, 3)))]}
    inits = []
    for i in range(rng.choice((0, 0, 1, 2, 4))):
        one = container(rng, f"i{i}")
        if rng.random() < 0.5:
            one["restartPolicy"] = "Always"
        inits.append(one)
    if inits:
        spec["initContainers"] = inits
    if rng.random() < 0.25:
        spec["overhead"] = _amounts(rng, 0.6, ("cpu", "memory"))
    if rng.random() < 0.3:
        spec["resources"] = requirements(rng, ("cpu", "memory", "hugepages-2Mi"))
    if rng.random() < 0.2:
        spec["hostNetwork"] = True
    if rng.random() < 0.2:
        spec["ephemeralContainers"] = [{"name": "debug", "image": "i"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def resized(rng: random.Random, made: dict[str, Any]) -> dict[str, Any]:
    """The pod with a status of somewhere in the middle of resizes."""
    reports: dict[str, list[dict[str, Any]]] = {"containerStatuses": [], "initContainerStatuses": []}
    for field, part in (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")):
        for one in made["spec"].get(field) or ():
            if rng.random() < 0.2:
                continue
            report: dict[str, Any] = {"name": one["name"]}
            if rng.random() < 0.7:
                report["allocatedResources"] = _amounts(rng, 0.6)
            if rng.random() < 0.7:
                report["resources"] = requirements(rng)
            reports[part].append(report)
    status: dict[str, Any] = {part: found for part, found in reports.items() if found}
    if rng.random() < 0.4:
        reason = rng.choice(("Infeasible", "Deferred"))
        status["conditions"] = [{"type": "PodResizePending", "status": "True", "reason": reason}]
    if rng.random() < 0.3:
        status["allocatedResources"] = _amounts(rng, 0.6, ("cpu", "memory"))
    if rng.random() < 0.3:
        status["resources"] = requirements(rng, ("cpu", "memory"))
    return {**made, "status": {**(made.get("status") or {}), **status}}


def pods() -> st.SearchStrategy[dict[str, Any]]:
    return st.randoms(use_true_random=False).map(pod)


def resized_pods() -> st.SearchStrategy[dict[str, Any]]:
    return st.randoms(use_true_random=False).map(lambda rng: resized(rng, pod(rng)))
