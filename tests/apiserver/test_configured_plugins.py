"""Admission plug-ins that a file configures, and plug-ins that look at classes and namespaces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.admission.plugins import names
from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.configuration import EventLimit, read_admission
from rayplane.control_plane.apiserver.admission.events import Buckets
from rayplane.control_plane.apiserver.admission_files import admission_text
from rayplane.control_plane.apiserver.config import Files, Timing
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.https_server import https_server
from tests.apiserver.test_admission_plugins import pod

EVENTS = "eventratelimit.admission.k8s.io/v1alpha1"
TOLERATIONS = "podtolerationrestriction.admission.k8s.io/v1alpha1"
SECURITY = "pod-security.admission.config.k8s.io/v1"


def configuration(**plugins: Any) -> str:
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration"}
    return json.dumps({**head, "plugins": [{"name": n, "configuration": c} for n, c in plugins.items()]})


def limit(**parts: Any) -> dict[str, Any]:
    return limits({"type": "User", "qps": 1, "burst": 1, **parts})


def limits(*given: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": EVENTS, "kind": "Configuration", "limits": [*given]}


@asynccontextmanager
async def serving(on: str = "", **changes: Any) -> AsyncIterator[tuple[Stack, ApiClient]]:
    stack = Stack()
    try:
        await stack.add_server(admission_plugins_on=names(on), **changes)
        client = stack.client()
        await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        yield stack, client
    finally:
        await stack.stop()


def event(name: str, about: str = "p") -> Object:
    involved = {"kind": "Pod", "namespace": "default", "name": about}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": involved,
        "source": {"component": "c"},
    }


# --- events ---------------------------------------------------------------------------------------


def test_buckets_fill_with_time_and_forget_who_was_long_away() -> None:
    buckets = Buckets(EventLimit("User", qps=2, burst=3, cache_size=2))
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not buckets.take("a", 0.25)
    assert buckets.take("a", 0.75) and not buckets.take("a", 0.75)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", 100.0) and buckets.take("c", 100.0)
    assert buckets.take("a", 100.0)  # the third of two: it begins anew


@pytest.mark.parametrize(
    ("kind", "key"), [("Server", ""), ("Namespace", "default"), ("User", "eve"), ("SourceAndObject", "cPoddefaultp")]
)
async def test_events_come_no_faster_than_the_configuration_says(kind: str, key: str) -> None:
    text = configuration(EventRateLimit=limits({"type": kind, "qps": 1, "burst": 2}))
    async with serving("EventRateLimit", admission=text) as (stack, _):
        eve = stack.client_as("eve", "system:masters")
        for name in ("a", "b"):
            await eve.create("events", event(name))
        with pytest.raises(errors.TooManyRequests) as refused:
            await eve.create("events", event("c"))
        assert refused.value.message == f"Too many requests: limit reached on type {kind} for key {key}"
        await eve.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}})
        if kind == "User":
            await stack.client_as("bob", "system:masters").create("events", event("d"))
        if kind == "SourceAndObject":
            await eve.create("events", event("d", about="other"))


async def test_a_plugin_that_needs_a_configuration_does_not_start_without() -> None:
    with pytest.raises(ValueError, match="admission plug-in EventRateLimit needs an AdmissionConfiguration"):
        async with serving("EventRateLimit"):
            pass


# --- images ---------------------------------------------------------------------------------------


def images(kubeconfig: str, **parts: Any) -> str:
    return configuration(ImagePolicyWebhook={"imagePolicy": {"kubeConfigFile": kubeconfig, **parts}})


async def test_somebody_else_says_which_images_run(tmp_path: Path) -> None:
    async with https_server() as https:
        text = images(https.kubeconfig(tmp_path))
        bad = {"allowed": False, "reason": "no tag"}
        https.answer = lambda _, review: {
            **review,
            "status": {"allowed": True} if review["spec"]["containers"][0]["image"] == "good" else bad,
        }
        async with serving("ImagePolicyWebhook", admission=text) as (_, client):
            made = pod(containers=[{"name": "c", "image": "good"}], initContainers=[{"name": "i", "image": "init"}])
            made["metadata"]["annotations"] = {"a.image-policy.k8s.io/b": "c", "other": "d"}
            await client.create("pods", made)
            [(_, review)] = https.seen
            assert (review["apiVersion"], review["kind"]) == ("imagepolicy.k8s.io/v1alpha1", "ImageReview")
            assert review["spec"] == {
                "containers": [{"image": "good"}, {"image": "init"}],
                "namespace": "default",
                "annotations": {"a.image-policy.k8s.io/b": "c"},
            }
            for _ in range(2):
                with pytest.raises(errors.Forbidden, match="webhook backend denied one or more images: no tag"):
                    await client.create("pods", pod(containers=[{"name": "c", "image": "bad"}]))
            assert len(https.seen) == 2  # what was said is remembered


@pytest.mark.parametrize("allows", [True, False])
async def test_images_run_without_a_word_only_where_they_shall(tmp_path: Path, allows: bool) -> None:
    async with https_server() as https:
        text = images(https.kubeconfig(tmp_path), defaultAllow=allows, retryBackoff=1)
        async with serving("ImagePolicyWebhook", admission=text) as (_, client):
            https.answer = lambda path, review: 500
            if allows:
                await client.create("pods", pod())
            else:
                with pytest.raises(errors.Forbidden, match=r'pods "p" is forbidden: .*status code 500'):
                    await client.create("pods", pod())
            assert len(https.seen) == 5


# --- settings of others ---------------------------------------------------------------------------


async def test_a_cluster_says_where_pods_go_and_what_they_tolerate() -> None:
    text = configuration(
        PodNodeSelector={"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "a=b", "default": "a=b,c=d"}},
        PodTolerationRestriction={
            "apiVersion": TOLERATIONS,
            "kind": "Configuration",
            "default": [{"key": "k", "operator": "Exists"}],
            "whitelist": [{"key": "k", "operator": "Exists"}, {"operator": "Exists", "effect": "NoExecute"}],
        },
    )
    async with serving("PodNodeSelector,PodTolerationRestriction", admission=text) as (_, client):
        made = await client.create("pods", pod())
        assert made["spec"]["nodeSelector"] == {"a": "b"}
        assert {"key": "k", "operator": "Exists"} in made["spec"]["tolerations"]
        with pytest.raises(errors.Forbidden, match="labels conflict with its namespace whitelist"):
            await client.create("pods", pod(nodeSelector={"e": "f"}))
        with pytest.raises(errors.Forbidden, match="conflict with its namespace whitelist"):
            await client.create("pods", pod(tolerations=[{"key": "x", "operator": "Exists", "effect": "NoSchedule"}]))


async def test_pod_security_is_configured_and_changed_by_the_file(tmp_path: Path) -> None:
    def security(level: str) -> str:
        (tmp_path / "security.yaml").write_text(
            yaml.safe_dump({"apiVersion": SECURITY, "kind": "PodSecurityConfiguration", "defaults": {"enforce": level}})
        )
        return admission_text(str(file))

    file = tmp_path / "admission.yaml"
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration"}
    file.write_text(yaml.safe_dump({**head, "plugins": [{"name": "PodSecurity", "path": "security.yaml"}]}))
    seldom = Timing(file_pause_s=3600)
    text = security("restricted")
    async with serving(admission=text, files=Files(admission=str(file)), timing=seldom) as (stack, client):
        with pytest.raises(errors.Forbidden, match='violates PodSecurity "restricted:latest"'):
            await client.create("pods", pod())
        security("no such level")
        await stack.servers[0].registry.files.look()
        with pytest.raises(errors.Forbidden, match='violates PodSecurity "restricted:latest"'):
            await client.create("pods", pod())
        security("privileged")
        await stack.servers[0].registry.files.look()
        await client.create("pods", pod())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (configuration(LimitRanger={}), 'plugins[0].name: Unsupported value: "LimitRanger"'),
        (configuration(EventRateLimit={}), "plugins[0].configuration.limits: Invalid value"),
        (configuration(EventRateLimit=limit(type="Planet")), 'type: Unsupported value: "Planet"'),
        (configuration(EventRateLimit=limit(qps=0)), "limits[0].qps: Invalid value: 0: must be"),
        (configuration(EventRateLimit=limit(burst=0)), "limits[0].burst: Invalid value"),
        (configuration(ImagePolicyWebhook={"imagePolicy": {}}), "imagePolicy.kubeConfigFile: Required value"),
        (images("/a", allowTTL=4000), "allowTTL: Invalid value: 4000: valid value is between 1s and 1800s, got 4000s"),
        (configuration(PodSecurity={"apiVersion": SECURITY, "kind": "PodSecurityConfiguration",
                                    "defaults": {"enforce": "x"}}), "configuration.defaults: Invalid value"),
        (configuration(PodTolerationRestriction={"apiVersion": TOLERATIONS, "kind": "Configuration",
                                                 "default": [{"key": 1}]}), "default: Invalid value"),
        (configuration(PodNodeSelector={"podNodeSelectorPluginConfig": {"a": 1}}), "must be a string"),
        (json.dumps({"apiVersion": "v1", "kind": "AdmissionConfiguration"}), "apiVersion: Unsupported value"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_admission_configuration(text: str, problem: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read_admission(text)
    assert problem in str(refused.value)


def test_ttls_are_as_the_plugin_counts_them() -> None:
    found = read_admission(images("/a", allowTTL=10, denyTTL=-1, retryBackoff=20)).images
    assert found is not None and (found.allowed_s, found.denied_s, found.retry_s) == (10.0, 0.0, 0.02)


# --- namespaces, and all or nothing ---------------------------------------------------------------


async def test_namespaces_are_made_for_what_is_created_in_them() -> None:
    async with serving("NamespaceAutoProvision,AlwaysAdmit") as (_, client):
        with pytest.raises(errors.NotFound):
            await client.create("configmaps", {"metadata": {"name": "c", "namespace": "new"}}, dry_run=True)
        await client.create("configmaps", {"metadata": {"name": "c", "namespace": "new"}})
        assert (await client.get("namespaces", "new"))["status"]["phase"] == "Active"


async def test_nobody_writes_where_all_is_denied() -> None:
    stack = Stack()
    await stack.add_server(admission_plugins_on=("AlwaysDeny",))
    try:
        client = stack.client()
        with pytest.raises(errors.Forbidden, match='configmaps "c" is forbidden: admission control is denying all'):
            await client.create("configmaps", {"metadata": {"name": "c", "namespace": "default"}})
        with pytest.raises(errors.Forbidden):
            await client.delete("services", "kubernetes", "default")
        assert await client.list("configmaps")
    finally:
        await stack.stop()


# --- classes --------------------------------------------------------------------------------------


async def test_a_runtime_class_says_what_a_pod_costs_and_where_it_runs() -> None:
    async with serving() as (_, client):
        toleration = {"key": "vm", "operator": "Exists", "effect": "NoSchedule"}
        await client.create(
            "runtimeclasses.node.k8s.io",
            {
                "metadata": {"name": "vm"},
                "handler": "vm",
                "overhead": {"podFixed": {"cpu": "100m"}},
                "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [toleration]},
            },
        )
        spec = (await client.create("pods", pod(runtimeClassName="vm", overhead={"cpu": "0.1"})))["spec"]
        assert spec["overhead"] == {"cpu": "100m"} and spec["nodeSelector"] == {"vm": "yes"}
        assert toleration in spec["tolerations"]
        for parts, problem in (
            ({"runtimeClassName": "none"}, 'pod rejected: RuntimeClass "none" not found'),
            ({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}, "Overhead doesn't match RuntimeClass's defined"),
            ({"overhead": {"cpu": "1"}}, "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
            (
                {"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}},
                r"conflict: runtimeClass.scheduling.nodeSelector",
            ),
        ):
            with pytest.raises(errors.Forbidden, match=problem):
                await client.create("pods", pod(**parts))
