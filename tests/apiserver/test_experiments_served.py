"""Chaos Mesh's kinds as API servers serve them: files as people have them are taken, nobody hits what is not theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml

from rayplane.control_plane.api import chaos_mesh as mesh
from rayplane.control_plane.api.authorization.controller_policy import user_of
from rayplane.control_plane.api.errors import Forbidden, Invalid
from tests.apiserver.conftest import Stack

PODS, SCHEDULES = mesh.resource(mesh.POD_CHAOS), mesh.resource(mesh.SCHEDULE)
#: As they are found in the wild: other namespaces, quoted keys, values as text, nothing that could be left out.
FILES = """
apiVersion: chaos-mesh.org/v1alpha1
kind: PodChaos
metadata: {name: kill-a-shop, namespace: chaos}
spec:
  action: pod-kill
  mode: one
  selector:
    namespaces: [shop]
    labelSelectors:
      "app.kubernetes.io/component": "cart"
---
apiVersion: chaos-mesh.org/v1alpha1
kind: PodChaos
metadata:
  name: fail-a-part
  namespace: chaos
  annotations: {experiment.chaos-mesh.org/pause: "true"}
spec:
  action: pod-failure
  mode: fixed-percent
  value: "30"
  duration: "1m30s"
  selector:
    pods: {shop: [cart-0, cart-1]}
---
apiVersion: chaos-mesh.org/v1alpha1
kind: PodChaos
metadata: {name: kill-containers, namespace: chaos}
spec:
  action: container-kill
  mode: random-max-percent
  value: "50"
  containerNames: [nginx]
  gracePeriod: 0
  selector:
    expressionSelectors:
      - {key: tier, operator: In, values: [front, back]}
    podPhaseSelectors: [Running]
---
apiVersion: chaos-mesh.org/v1alpha1
kind: NetworkChaos
metadata: {name: slow-web, namespace: chaos}
spec:
  action: delay
  mode: one
  selector: {namespaces: [web], labelSelectors: {"app.kubernetes.io/component": front}}
  delay: {latency: "90ms", correlation: "25", jitter: "90ms", reorder: {reorder: "1", correlation: "50", gap: 5}}
  direction: to
  target:
    selector: {namespaces: [db, storage], labelSelectors: {app: pool}}
    mode: all
  duration: "10s"
---
apiVersion: chaos-mesh.org/v1alpha1
kind: NetworkChaos
metadata: {name: lossy-web, namespace: chaos}
spec:
  action: loss
  mode: fixed
  value: "2"
  selector: {labelSelectors: {app: web}}
  loss: {loss: "25", correlation: "25"}
  externalTargets: ["192.0.2.7"]
---
apiVersion: chaos-mesh.org/v1alpha1
kind: NetworkChaos
metadata: {name: narrow-web, namespace: chaos}
spec:
  action: bandwidth
  mode: all
  selector: {labelSelectors: {app: web}}
  bandwidth: {rate: 1mbps, limit: 20971520, buffer: 10000}
---
apiVersion: chaos-mesh.org/v1alpha1
kind: Schedule
metadata: {name: every-hour, namespace: chaos}
spec:
  schedule: "@every 1h"
  type: PodChaos
  historyLimit: 5
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 300
  podChaos:
    action: pod-kill
    mode: all
    selector: {labelSelectors: {app: shop}}
---
apiVersion: chaos-mesh.org/v1alpha1
kind: StressChaos
metadata: {name: hungry-web, namespace: chaos}
spec:
  mode: one
  selector: {namespaces: [shop], labelSelectors: {app: web}}
  stressors:
    memory: {workers: 4, size: 256MB}
    cpu: {workers: 1, load: 50}
  duration: 30s
---
apiVersion: chaos-mesh.org/v1alpha1
kind: Workflow
metadata: {name: try-it-all, namespace: chaos}
spec:
  entry: the-entry
  templates:
    - {name: the-entry, templateType: Serial, deadline: 240s, children: [press, rest, both]}
    - {name: rest, templateType: Suspend, deadline: 10s}
    - {name: both, templateType: Parallel, children: [cut, often]}
    - name: press
      templateType: StressChaos
      deadline: 20s
      stressChaos:
        mode: one
        selector: {labelSelectors: {app: web}}
        stressors: {cpu: {workers: 1, load: 20}}
    - name: cut
      templateType: NetworkChaos
      deadline: 20s
      networkChaos: {action: partition, mode: all, selector: {labelSelectors: {app: web}}}
    - name: often
      templateType: Schedule
      deadline: 40s
      schedule:
        schedule: "@every 2s"
        type: PodChaos
        podChaos: {action: pod-kill, mode: one, selector: {labelSelectors: {app: web}}}
"""


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Stack]:
    made = Stack()
    await made.add_server(experiments=True)
    for name in ("chaos", "shop"):
        await made.client().create("namespaces", {"metadata": {"name": name}})
    yield made
    await made.stop()


def pod_chaos(**spec: Any) -> dict[str, Any]:
    whole = {"action": "pod-kill", "mode": "one", "selector": {}, **spec}
    return {"metadata": {"name": "e", "namespace": "chaos"}, "spec": whole}


async def test_files_as_people_have_them_are_taken_as_they_are(served: Stack) -> None:
    for written in yaml.safe_load_all(FILES):
        made = await served.client().create(mesh.resource(written["kind"]), written)
        assert made["spec"] == written["spec"], "no field is dropped"


#: What is wrong, and what is said of it.
EXPERIMENTS: list[tuple[dict[str, Any], str]] = [
    ({"action": "pod-explode"}, "spec.action"),
    ({"mode": "some"}, "spec.mode"),
    ({"mode": "fixed"}, "spec.value.*must be a whole number"),
    ({"mode": "fixed-percent", "value": "101"}, "spec.value.*from 0 to 100"),
    ({"duration": "soon"}, "spec.duration"),
    ({"duration": "-3s"}, "spec.duration"),
    ({"action": "container-kill"}, "spec.containerNames: Required value"),
    ({"selector": {"fieldSelectors": {"spec.color": "red"}}}, "fieldSelectors"),
    ({"selector": {"expressionSelectors": [{"key": "a", "operator": "Like"}]}}, "expressionSelectors"),
    ({"remoteCluster": "other"}, "no other cluster"),
]
#: Of a partition.
NETWORKS: list[tuple[dict[str, Any], str]] = [
    ({"direction": "both"}, "spec.target: Required value"),
    ({"direction": "up"}, "spec.direction"),
    ({"action": "loss", "loss": {"loss": "all"}}, "spec.loss.loss"),
    ({"action": "loss", "loss": {"loss": "nan"}}, "spec.loss.loss"),
    ({"action": "delay"}, "spec.delay.latency: Invalid value: null: must be more than nothing"),
    ({"action": "delay", "delay": {"latency": "2m"}}, "spec.delay.latency.*at most 60s"),
    ({"action": "delay", "delay": {"latency": "1s", "jitter": "some"}}, "spec.delay.jitter"),
    ({"action": "corrupt", "corrupt": {"corrupt": "5", "correlation": "101"}}, "spec.corrupt.correlation.*0 to 100"),
    ({"action": "netem"}, "spec.delay.*needs one of"),
    ({"action": "netem", "rate": {"rate": "fast"}}, "spec.rate.rate"),
    ({"externalTargets": ["example.org"]}, "spec.externalTargets.*IPv4 addresses"),
    ({"target": {"mode": "fixed", "value": "x", "selector": {}}}, "spec.target.value"),
]
_KILL = {"name": "k", "templateType": "PodChaos", "podChaos": pod_chaos()["spec"]}
_CPU = {"mode": "one", "selector": {}, "stressors": {"cpu": {}}}
STRESSES: list[tuple[dict[str, Any], str]] = [
    ({"stressors": {}}, "spec.stressors: Required value"),
    ({"stressors": {"cpu": {"workers": 1000}}}, "cpu.workers.*from 1 to 64"),
    ({"stressors": {"cpu": {"load": 101}}}, "cpu.load"),
    ({"stressors": {"cpu": {"options": ["--hdd 1"]}}}, "cpu.options.*stress-ng"),
    ({"stressors": {"memory": {}}}, "memory.size.*such as 256MB"),
    ({"stressors": {"memory": {"size": "120%"}}}, "memory.size"),
    ({"stressngStressors": "--cpu 1"}, "stressngStressors.*say it as stressors"),
]
#: The entry is the first template's name.
FLOWS: list[tuple[list[dict[str, Any]], str]] = [
    (
        [{**_KILL, "templateType": "TimeChaos"}],
        "templateType.*TimeChaos.*supported: Serial, Parallel, Suspend, PodChaos",
    ),
    ([{**_KILL, "templateType": "Task"}], "templateType.*not carried out here"),
    ([{**_KILL, "templateType": "StressChaos"}], "stressChaos: Required value"),
    ([{**_KILL, "podChaos": pod_chaos(action="pod-failure")["spec"]}], "deadline: Required value"),
    ([{**_KILL, "podChaos": pod_chaos(mode="fixed")["spec"]}], "templates.0..podChaos.value"),
    ([{"name": "s", "templateType": "Suspend"}], "deadline: Required value"),
    ([{"name": "s", "templateType": "Suspend", "deadline": "long"}], "deadline: Invalid value"),
    ([{"name": "s", "templateType": "Serial", "children": ["x"]}], "children.*must be the name of a template"),
    ([{"name": "s", "templateType": "Serial", "children": ["k", "s"]}, _KILL], "must not contain themselves"),
    ([{"name": "s", "templateType": "Serial", "children": ["k"] * 256}, _KILL], "more than 256 steps"),
    ([_KILL, _KILL], "names must be there, each once"),
]
EVERY_HOUR: list[tuple[dict[str, Any], str]] = [
    ({"schedule": "now", "type": "PodChaos", "podChaos": pod_chaos()["spec"]}, "spec.schedule"),
    ({"schedule": "@hourly", "type": "TimeChaos"}, "spec.type.*supported here: PodChaos"),
    ({"schedule": "@hourly", "type": "PodChaos"}, "spec.podChaos: Required value"),
    ({"schedule": "@hourly", "type": "PodChaos", "podChaos": pod_chaos(duration="x")["spec"]}, "podChaos.duration"),
]


async def test_what_makes_no_sense_is_refused(served: Stack) -> None:
    for spec, why in EXPERIMENTS:
        with pytest.raises(Invalid, match=why):
            await served.client().create(PODS, pod_chaos(**spec))
    for spec, why in NETWORKS:
        with pytest.raises(Invalid, match=why):
            await served.client().create(
                mesh.resource(mesh.NETWORK_CHAOS), pod_chaos(**{"action": "partition", **spec})
            )
    own = {"metadata": {"name": "s", "namespace": "chaos"}}
    for spec, why in EVERY_HOUR:
        with pytest.raises(Invalid, match=why):
            await served.client().create(SCHEDULES, {**own, "spec": spec})
    for spec, why in STRESSES:
        with pytest.raises(Invalid, match=why):
            await served.client().create(mesh.resource(mesh.STRESS_CHAOS), {**own, "spec": {**_CPU, **spec}})
    for templates, why in FLOWS:
        spec = {"entry": templates[0]["name"], "templates": templates}
        with pytest.raises(Invalid, match=why):
            await served.client().create(mesh.resource(mesh.WORKFLOW), {**own, "spec": spec})


@pytest.mark.parametrize("kind", mesh.REFUSED)
async def test_kinds_that_nobody_carries_out_are_refused_and_it_is_said_what_there_is(served: Stack, kind: str) -> None:
    plural, instead = mesh.REFUSED[kind]
    with pytest.raises(Invalid) as refused:
        await served.client().create(f"{plural}.{mesh.GROUP}", pod_chaos())
    assert f"is not carried out here: {instead}" in str(refused.value)


async def grant(served: Stack, user: str, namespace: str, resources: list[str]) -> None:
    group, api = "rbac.authorization.k8s.io", served.client()
    named = {"metadata": {"name": user, "namespace": namespace}}
    rule = {"apiGroups": [mesh.GROUP], "resources": resources, "verbs": ["create", "update", "get"]}
    await api.create(f"roles.{group}", {**named, "rules": [rule]})
    subject = {"apiGroup": group, "kind": "User", "name": user}
    ref = {"apiGroup": group, "kind": "Role", "name": user}
    await api.create(f"rolebindings.{group}", {**named, "roleRef": ref, "subjects": [subject]})


async def test_nobody_hits_pods_of_a_namespace_where_they_may_make_no_experiment(served: Stack) -> None:
    await grant(served, "jane", "chaos", ["podchaos", "schedules"])
    jane = served.client_as("jane")
    elsewhere = {"namespaces": ["shop"]}
    made = await jane.create(PODS, pod_chaos())
    with pytest.raises(Forbidden, match='right to create podchaos in the namespace "shop"'):
        await jane.create(PODS, {**pod_chaos(selector=elsewhere), "metadata": {"name": "f", "namespace": "chaos"}})
    with pytest.raises(Forbidden, match='"shop"'):
        await jane.update(PODS, {**made, "spec": {**made["spec"], "selector": {"pods": {"shop": ["cart-0"]}}}})
    template = pod_chaos(selector=elsewhere)["spec"]
    spec = {"schedule": "@hourly", "type": "PodChaos", "podChaos": template}
    with pytest.raises(Forbidden, match='"shop"'):
        await jane.create(SCHEDULES, {"metadata": {"name": "s", "namespace": "chaos"}, "spec": spec})
    await grant(served, "jane", "shop", ["podchaos"])
    await jane.create(SCHEDULES, {"metadata": {"name": "s", "namespace": "chaos"}, "spec": spec})
    await jane.create(PODS, {**pod_chaos(selector=elsewhere), "metadata": {"name": "f", "namespace": "chaos"}})
    steps = [{"name": "k", "templateType": "Schedule", "deadline": "1m", "schedule": spec}]
    await grant(served, "jim", "chaos", ["podchaos", "workflows"])
    with pytest.raises(Forbidden, match='right to create podchaos in the namespace "shop"'):
        own = {"metadata": {"name": "w", "namespace": "chaos"}}
        await served.client_as("jim").create(
            mesh.resource(mesh.WORKFLOW), {**own, "spec": {"entry": "k", "templates": steps}}
        )
    await grant(served, "joe", "chaos", ["networkchaos"])
    target = {"mode": "all", "selector": elsewhere}
    with pytest.raises(Forbidden, match='right to create networkchaos in the namespace "shop"'):
        await served.client_as("joe").create(
            mesh.resource(mesh.NETWORK_CHAOS), pod_chaos(action="partition", target=target)
        )


async def test_what_an_experiment_does_is_not_changed_while_it_is_there(served: Stack) -> None:
    api = served.client()
    made = await api.create(PODS, pod_chaos(action="pod-failure"))
    with pytest.raises(Invalid, match="spec: Forbidden: field is immutable"):
        await api.update(PODS, {**made, "spec": {**made["spec"], "action": "pod-kill"}})
    await api.patch(PODS, "e", "chaos", {"metadata": {"annotations": {mesh.PAUSE: "true"}}})


async def test_nobody_says_in_a_status_that_pods_of_such_a_namespace_were_chosen(served: Stack) -> None:
    kinds = ("podchaos", "networkchaos", "stresschaos")
    await grant(served, "jane", "chaos", [*kinds, *(f"{kind}/status" for kind in kinds)])
    jane, controller = served.client_as("jane"), served.client_as(user_of("chaos-controller"))
    for kind in mesh.EXPERIMENTS:
        spec: dict[str, Any] = {"action": "pod-kill" if kind == mesh.POD_CHAOS else "partition"}
        body = {**pod_chaos(), "spec": _CPU} if kind == mesh.STRESS_CHAOS else pod_chaos(**spec)
        made = await jane.create(mesh.resource(kind), body)

        def chose(pod: str, made: Any = made) -> Any:
            return {**made, "status": {"experiment": {"containerRecords": [{"id": pod, "uid": "u"}]}}}

        with pytest.raises(Forbidden, match=f'records need the right to create {mesh.PLURALS[kind]} .* "kube-system"'):
            await jane.update(mesh.resource(kind), chose("kube-system/dns"), subresource="status")
        made = await jane.update(mesh.resource(kind), chose("chaos/p"), subresource="status")
        await controller.update(mesh.resource(kind), chose("shop/p", made), subresource="status")
