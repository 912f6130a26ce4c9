"""Webhooks and policies from manifests: in force first, out of the API's reach, taken whole or not at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.admission.configuration import read_admission
from rayplane.control_plane.apiserver.admission.manifests import PLUGINS, read_manifests
from rayplane.control_plane.apiserver.admission_files import admission_text
from rayplane.control_plane.apiserver.config import Files, Timing
from rayplane.control_plane.client.api import ApiClient
from tests.apiserver.conftest import Stack
from tests.apiserver.test_policies import (
    BINDINGS,
    CONFIGMAPS,
    POLICIES,
    binding,
    config,
    enforce,
    policy,
    refusal,
    valid,
)
from tests.apiserver.test_webhooks import Hooks, add, configure, hooks, webhook

__all__ = ["hooks"]
GROUP = "admissionregistration.k8s.io"
VERSION = f"{GROUP}/v1"
WEBHOOKS = f"validatingwebhookconfigurations.{GROUP}"
JUDGES, MUTATES = "ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"
HOOKS, CHANGES = "ValidatingAdmissionWebhook", "MutatingAdmissionWebhook"
PROTECTED = {"operations": ["DELETE"], "apiGroups": [GROUP], "apiVersions": ["*"], "resources": ["*"]}


def manifest(kind: str, o: Object) -> Object:
    return {"apiVersion": VERSION, "kind": kind, **o}


def judge(name: str = "p", expression: str = "object.metadata.name != 'bad'", **parts: Any) -> list[Object]:
    """A policy that is bound."""
    made = policy(f"{name}.static.k8s.io", **{**valid(expression), **parts})
    bound = binding(f"{name}-bound.static.k8s.io", f"{name}.static.k8s.io")
    return [manifest(JUDGES, made), manifest(f"{JUDGES}Binding", bound)]


class Directory:
    """An AdmissionConfiguration, with a directory of manifests for each plug-in that was given any."""

    def __init__(self, path: Path) -> None:
        self.file = path / "admission.yaml"
        self._path = path
        self._plugins: dict[str, Object] = {}

    def put(self, plugin: str, *documents: Object, file: str = "a.yaml") -> Directory:
        directory = self._path / plugin
        directory.mkdir(exist_ok=True)
        (directory / file).write_text(yaml.safe_dump_all(documents))
        head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": PLUGINS[plugin][0]}
        configuration = {**head, "staticManifestsDir": str(directory)}
        self._plugins[plugin] = {"name": plugin, "configuration": configuration}
        whole = {**head, "kind": "AdmissionConfiguration", "plugins": [*self._plugins.values()]}
        self.file.write_text(yaml.safe_dump(whole))
        return self

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Stack, ApiClient]]:
        stack, files = Stack(), Files(admission=str(self.file))
        try:
            timing = Timing(file_pause_s=3600)
            await stack.add_server(admission=admission_text(str(self.file)), files=files, timing=timing)
            yield stack, stack.client()
        finally:
            await stack.stop()


async def test_a_policy_of_a_file_is_in_force_and_nobody_sees_or_makes_one(tmp_path: Path) -> None:
    async with Directory(tmp_path).put(JUDGES, *judge()).serving() as (_, client):
        assert "'p.static.k8s.io' with binding 'p-bound.static.k8s.io'" in await refused(client, config("bad"))
        assert await refusal(client, config("good")) == ""
        for resource in (POLICIES, BINDINGS):
            assert (await client.list(resource)).items == []
        with pytest.raises(errors.NotFound):
            await client.get(POLICIES, "p.static.k8s.io")
        with pytest.raises(errors.Invalid, match=r'metadata.name: Invalid value: "q.static.k8s.io": names ending with'):
            await client.create(POLICIES, policy("q.static.k8s.io", **valid("true")))
        await enforce(client, policy(**valid("object.metadata.name != 'worse'")), binding())
        assert await refusal(client, config("worse")) and await refusal(client, config("bad"))


async def refused(client: ApiClient, o: Object) -> str:
    with pytest.raises(errors.ApiError) as found:
        await client.create("configmaps", o)
    return found.value.message


async def test_what_protects_the_policies_of_the_api_cannot_be_taken_away(tmp_path: Path) -> None:
    kept = "!has(oldObject.metadata.labels) || !('kept' in oldObject.metadata.labels)"
    files = Directory(tmp_path).put(JUDGES, *judge("keep", kept, rules=[PROTECTED]))
    async with files.serving() as (_, client):
        # A policy of the API has no say about policies, as ever.
        await enforce(client, policy("all", rules=[PROTECTED], **valid("false")), binding(to="all"))
        await client.create(
            POLICIES, {**policy("kept", **valid("true")), "metadata": {"name": "kept", "labels": {"kept": ""}}}
        )
        with pytest.raises(errors.ApiError, match=r"keep\.static\.k8s\.io.* denied request"):
            await client.delete(POLICIES, "kept")
        await client.delete(POLICIES, "all")


async def test_webhooks_of_files_are_asked_first_and_about_webhooks_too(tmp_path: Path, hooks: Hooks) -> None:
    hooks.answers = {
        "first": lambda _: add("/data/first", "x"),
        "second": lambda request: add("/data/second", request["object"]["data"]["first"]),
        "judge": lambda request: {"allowed": request["object"]["metadata"]["name"] != "bad"},
    }
    files = Directory(tmp_path)
    files.put(CHANGES, manifest("MutatingWebhookConfiguration", hook_of(hooks, "first")))
    rules = [CONFIGMAPS, {**PROTECTED, "operations": ["CREATE"]}]
    files.put(HOOKS, manifest("ValidatingWebhookConfiguration", hook_of(hooks, "judge", rules)))
    async with files.serving() as (_, client):
        await configure(client, "mutating", "a", webhook("second", hooks.client("second")))
        hooks.seen.clear()
        made = await client.create("configmaps", config("good"))
        assert made["data"] == {"a": "b", "first": "x", "second": "x"}
        assert hooks.paths() == ["first", "second", "judge"]
        with pytest.raises(errors.ApiError, match=r'admission webhook "judge\.example\.com" denied the request'):
            await client.create(WEBHOOKS, {"metadata": {"name": "bad"}, "webhooks": []})


def hook_of(hooks: Hooks, path: str, rules: list[Object] | None = None) -> Object:
    return {"metadata": {"name": f"{path}.static.k8s.io"}, "webhooks": [webhook(path, hooks.client(path), rules)]}


async def test_a_mutating_policy_of_a_file_completes_objects(tmp_path: Path) -> None:
    patch = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{data: {'m': 'x'}}"}}
    made = policy("m.static.k8s.io", mutations=[patch], reinvocationPolicy="Never")
    bound = {"metadata": {"name": "b.static.k8s.io"}, "spec": {"policyName": "m.static.k8s.io"}}
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [manifest(MUTATES, made), manifest(f"{MUTATES}Binding", bound)],
    }
    async with Directory(tmp_path).put(MUTATES, listed).serving() as (_, client):
        assert (await client.create("configmaps", config()))["data"] == {"a": "b", "m": "x"}


async def test_changed_manifests_are_taken_and_broken_ones_change_nothing(tmp_path: Path) -> None:
    files = Directory(tmp_path).put(JUDGES, *judge())
    async with files.serving() as (stack, client):
        look = stack.servers[0].registry.files.look

        def metrics() -> tuple[dict[str, float], set[str]]:
            prefix = "apiserver_manifest_admission_config_controller"
            families = {family.name: family for family in stack.servers[0].registry.files.collect()}
            counts = families[f"{prefix}_automatic_reloads_total"].samples
            info = families[f"{prefix}_last_config_info"].samples
            assert {plugin for _, plugin, _ in (*counts, *info)} <= {JUDGES}
            return {status: count for (_, _, status), count in counts.items()}, {found for _, _, found in info}

        before = metrics()
        assert before[0] == {} and len(before[1]) == 1
        files.put(JUDGES, *judge(expression="1"))
        await look()
        assert await refusal(client, config("bad"))
        assert metrics() == ({"failure": 1}, before[1])
        files.put(JUDGES, *judge(expression="object.metadata.name != 'worse'"))
        await look()
        assert await refusal(client, config("worse")) and not await refusal(client, config("bad"))
        assert metrics()[0] == {"failure": 1, "success": 1} and metrics()[1] != before[1]
        (tmp_path / JUDGES / "a.yaml").unlink()
        await look()
        assert not await refusal(client, config("worse"))


def test_other_files_and_directories_are_none_of_it(tmp_path: Path) -> None:
    files = Directory(tmp_path).put(JUDGES, *judge())
    (tmp_path / JUDGES / "b.yaml").mkdir()
    (tmp_path / JUDGES / "c.txt").write_text("{")
    files.put(JUDGES, *judge("q"), file="d.JSON").put(JUDGES, file="e.yml")
    found = read_admission(admission_text(str(files.file))).manifests[JUDGES]
    assert [o["metadata"]["name"].partition(".")[0] for o in found] == ["p", "q", "p-bound", "q-bound"]


def hook_manifest(**client: Any) -> Object:
    target = {"url": "https://a.example", "caBundle": "YQ==", **client}
    target = {field: value for field, value in target.items() if value is not None}
    return manifest(
        "ValidatingWebhookConfiguration", {"metadata": {"name": "h.static.k8s.io"}, "webhooks": [webhook("h", target)]}
    )


@pytest.mark.parametrize(
    ("plugin", "documents", "problem"),
    [
        (JUDGES, [manifest(JUDGES, policy("p", **valid("true")))], '"p": must end with ".static.k8s.io"'),
        (JUDGES, judge(expression="nothing"), "undeclared reference to 'nothing'"),
        (JUDGES, judge(paramKind={"apiVersion": "v1", "kind": "ConfigMap"}), "spec.paramKind: Forbidden"),
        (JUDGES, judge()[1:], "policy p.static.k8s.io is in none of the directory's files"),
        (JUDGES, [*judge(), *judge()], f"{JUDGES} p.static.k8s.io is in a.yaml already"),
        (JUDGES, [hook_manifest()], f"must be {VERSION} {JUDGES} or {JUDGES}Binding"),
        (JUDGES, [{**judge()[0], "apiVersion": f"{GROUP}/v1beta1"}], f"must be {VERSION}"),
        (JUDGES, [{**judge()[0], "specs": {}}], 'unknown field "specs"'),
        (JUDGES, [{"apiVersion": "v1", "kind": "List", "items": [1]}], "no kind must be"),
        (HOOKS, [hook_manifest(service={"name": "a", "namespace": "b"}, url=None)], "clientConfig.service: Forbidden"),
        (HOOKS, [hook_manifest(caBundle=None)], "clientConfig.caBundle: Required value"),
        (HOOKS, [hook_manifest(url="http://a.example")], "clientConfig.url: Invalid value"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_manifest(plugin: str, documents: list[Object], problem: str) -> None:
    with pytest.raises(ConfigFileError) as found:
        read_manifests(plugin, {"a.yaml": yaml.safe_dump_all(documents)})
    assert str(found.value).startswith("a.yaml: ") and problem in str(found.value)


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigFileError, match=r'a\.yaml: .*"kind" already set in map'):
        read_manifests(JUDGES, {"a.yaml": f"apiVersion: {VERSION}\nkind: A\nkind: {JUDGES}\n"})


@pytest.mark.parametrize(
    ("plugin", "configuration", "problem"),
    [
        (JUDGES, {"staticManifestsDir": "relative"}, "must be an absolute file path"),
        (JUDGES, {"staticManifestsDir": "/none"}, "its manifests come with it"),
        (JUDGES, {"kubeConfigFile": "/a"}, "kubeConfigFile: Forbidden: unknown field"),
        (HOOKS, {"kubeConfigFile": "/a"}, "webhooks are called without credentials"),
        (HOOKS, {"kind": "Other"}, 'kind: Unsupported value: "Other"'),
    ],
)
def test_what_is_wrong_with_the_configuration(plugin: str, configuration: Object, problem: str) -> None:
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": PLUGINS[plugin][0]}
    plugins = [{"name": plugin, "configuration": {**head, **configuration}}]
    with pytest.raises(ConfigFileError) as found:
        read_admission(json.dumps({**head, "kind": "AdmissionConfiguration", "plugins": plugins}))
    assert problem in str(found.value)


def test_manifests_stand_in_their_files_only(tmp_path: Path) -> None:
    files = Directory(tmp_path).put(JUDGES, *judge())
    files.file.write_text(yaml.safe_dump({**yaml.safe_load(files.file.read_text()), "plugins": [{"manifests": {}}]}))
    with pytest.raises(ConfigFileError, match="manifests: unknown field"):
        admission_text(str(files.file))
    with pytest.raises(FileNotFoundError, match="gone"):
        files.file.write_text(admission(staticManifestsDir=str(tmp_path / "gone")))
        admission_text(str(files.file))


def test_manifests_of_all_directories_together_are_as_large_as_one_text(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    for plugin in (JUDGES, MUTATES):
        for file in ("a.yaml", "b.yaml", "c.yaml", "d.yaml"):
            files.put(plugin, file=file)
            (tmp_path / plugin / file).write_text("#" * 200_000)
    with pytest.raises(ConfigFileError, match=rf"^{tmp_path}/{MUTATES}/b.yaml: with it .* more than 1048576 "):
        admission_text(str(files.file))


def test_manifests_that_take_too_much_room_as_one_text_are_told_by_who_names_them(tmp_path: Path) -> None:
    files = Directory(tmp_path).put(JUDGES)
    (tmp_path / JUDGES / "a.yaml").write_text("#\n" * 400_000)
    with pytest.raises(ConfigFileError, match=f"^{files.file}, with what it names, .* more than 1048576 "):
        admission_text(str(files.file))


def admission(**configuration: Any) -> str:
    return json.dumps({"plugins": [{"name": JUDGES, "configuration": configuration}]})
