"""Pages of a component about itself: the texts and documents of Kubernetes, and no secret in them."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from rayplane.control_plane.apiserver.config import ApiServerConfig, AuditConfig
from rayplane.control_plane.component_base import debugging, healthz
from rayplane.control_plane.component_base.debugging import Debugging, told
from rayplane.control_plane.component_base.flags import CLASSIFIED, flags_of
from rayplane.control_plane.component_base.zpages import FLAGZ, SLIS, STATUSZ, Component, page
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Identity

STARTED = datetime(2024, 10, 6, 21, 3, 43, tzinfo=UTC)
NOW = STARTED + timedelta(hours=1, minutes=2, seconds=16.9)
FLAGS = {"b-flag": "[x,y]", "a-flag": "true"}
ONE = Component("kube-scheduler", STARTED, FLAGS, ("/healthz", "/metrics", "/apis/apps", "/openapi/v2"))
WARNING = "Warning: This endpoint is not meant to be machine parseable"


def text_of(path: str, accept: str = "") -> str:
    found = page(path, accept, ONE, NOW)
    assert found is not None and (found.status, found.content_type) == (200, "text/plain; charset=utf-8")
    return found.body.decode()


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/html, text/*;q=0.5", "application/json, */*"])
def test_people_are_told_in_lines(accept: str) -> None:
    first, title, warning, blank, *lines = text_of(STATUSZ, accept).splitlines()
    assert (first, title, blank) == ("", "kube-scheduler statusz", "") and warning.startswith(WARNING)
    assert lines == [
        "Started: Sun Oct  6 21:03:43 UTC 2024",
        "Up: 1 hr 02 min 16 sec",
        "Go version: go1.26",
        "Binary version: 1.37.0",
        "Emulation version: 1.37",
        "Paths: /flagz /healthz /metrics /statusz",
    ]
    first, title, warning, *lines = text_of(FLAGZ, accept).splitlines()
    assert (first, title) == ("", "kube-scheduler flagz") and warning.startswith(WARNING)
    assert lines == ["a-flag=true", "b-flag=[x,y]"]


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
@pytest.mark.parametrize(("media", "read"), [("application/json", json.loads), ("application/yaml", yaml.safe_load)])
def test_programs_are_told_in_the_form_that_they_name(version: str, media: str, read: Any) -> None:
    found = page(STATUSZ, f"{media};v={version};g=config.k8s.io;as=Statusz", ONE, NOW)
    assert found is not None and (found.status, found.content_type) == (200, media)
    assert read(found.body) == {
        "kind": "Statusz",
        "apiVersion": f"config.k8s.io/{version}",
        "metadata": {"name": "kube-scheduler"},
        "startTime": "2024-10-06T21:03:43Z",
        "uptimeSeconds": 3736,
        "goVersion": "go1.26",
        "binaryVersion": "1.37.0",
        "emulationVersion": "1.37",
        "minimumCompatibilityVersion": "1.36",
        "paths": ["/flagz", "/healthz", "/metrics", "/statusz"],
    }
    found = page(FLAGZ, f"text/html, {media};as=Flagz;g=config.k8s.io;v={version}", ONE, NOW)
    assert found is not None and read(found.body)["flags"] == FLAGS


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/json;v=v1;g=config.k8s.io;as=Statusz",
        "application/json;v=v1beta1;g=config.k8s.io;as=Flagz",
        "application/vnd.kubernetes.protobuf",
        "application/vnd.kubernetes.protobuf;v=v1beta1;g=config.k8s.io;as=Statusz",
        "text/plain;as=Statusz",
    ],
)
def test_a_form_that_is_not_there_is_not_acceptable(accept: str) -> None:
    found = page(STATUSZ, accept, ONE, NOW)
    assert found is not None and found.status == 406
    status = json.loads(found.body)
    assert (
        status["reason"] == "NotAcceptable"
        and "application/json;as=Statusz;g=config.k8s.io;v=v1beta1" in status["message"]
    )


def test_health_checks_are_told_as_they_went_last_and_counted() -> None:
    one = Component("kubelet", STARTED, {}, ())
    one.health.observe("readyz", {"ping": True, "etcd": False})
    one.health.observe("readyz", {"ping": True, "etcd": True})
    found = page(SLIS, "", one, NOW)
    assert found is not None
    samples = {
        (s.name, s.labels["name"], s.labels.get("status")): s.value
        for family in text_string_to_metric_families(found.body.decode())
        for s in family.samples
    }
    assert samples == {
        ("kubernetes_healthcheck", "ping", None): 1,
        ("kubernetes_healthcheck", "etcd", None): 1,
        ("kubernetes_healthchecks_total", "ping", "success"): 2,
        ("kubernetes_healthchecks_total", "etcd", "success"): 1,
        ("kubernetes_healthchecks_total", "etcd", "error"): 1,
    }


# --- flags ----------------------------------------------------------------------------------------


class Mode(StrEnum):
    ON = "on"


@dataclass(frozen=True)
class Inner:
    wait_s: float = 1.5
    api_password: str = "hidden"


@dataclass(frozen=True)
class Settings:
    name: str = "one"
    some_number: int = 3
    on: bool = True
    nothing: str | None = None
    mode: Mode = Mode.ON
    names: tuple[str, ...] = ("x", "y")
    mirrors: tuple[str, ...] = ("http://plain", "http://user:hidden@host/")
    inner: Inner = field(default_factory=Inner)
    blob: bytes = b"hidden"
    token: str = "hidden"
    unused_token: str = ""
    ca_certificate: str = "hidden"
    text: str = "a: hidden\nb: 1"
    document: str = '{"a": "hidden"}'
    by_name: dict[str, str] = field(default_factory=lambda: {"hidden": "hidden"})


def test_flags_are_the_settings_without_what_is_secret() -> None:
    flags = flags_of(Settings())
    assert flags == {
        **{"name": "one", "some-number": "3", "on": "true", "nothing": "", "mode": "on", "names": "[x,y]"},
        **{"mirrors": f"[http://plain,{CLASSIFIED}]", "inner-wait-s": "1.5", "inner-api-password": CLASSIFIED},
        **dict.fromkeys(("blob", "token", "ca-certificate", "text", "document"), CLASSIFIED),
        "unused-token": "",
    }
    assert "hidden" not in str(flags)


def test_an_api_server_s_secrets_are_no_flags() -> None:
    config = ApiServerConfig(
        token_key=b"hidden",
        encryption=b"hidden",
        static_tokens={"hidden": ("jane", ())},
        authentication="jwt: hidden",
        authorization="hidden",
        admission="hidden",
        audit=AuditConfig("a: 1\nrules: hidden"),
        admission_plugins_on=("AlwaysPullImages",),
    )
    flags = flags_of(config)
    assert "hidden" not in str(flags)
    assert (flags["token-key"], flags["encryption"]) == (CLASSIFIED, CLASSIFIED)
    assert flags["admission-plugins-on"] == "[AlwaysPullImages]"


# --- on the port of a component -------------------------------------------------------------------


@pytest.mark.parametrize(("identity", "status"), [(Identity("a", (MASTERS,)), 200), (Identity("b"), 403), (None, 403)])
async def test_who_may_ask_a_component_for_its_metrics_may_ask_for_its_pages(
    identity: Identity | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugging, "identity_of_transport", lambda _: identity)
    checks = lambda kind: healthz.of_elected(kind, "", ending=False, sync="informer-sync", synced=False)  # noqa: E731
    own = Debugging(lambda: (), component=told("kube-scheduler", Settings(), lambda: NOW, checks))
    answers: dict[str, web.Response] = {}
    for path in ("/metrics", "/healthz", "/livez", STATUSZ, FLAGZ, SLIS):
        answer = await own(make_mocked_request("GET", path))
        assert isinstance(answer, web.Response) and answer.status == status, path
        answers[path] = answer
    if status == 200:
        assert answers["/healthz"].text == "ok"
        assert b'kubernetes_healthcheck{name="ping",type="livez"} 1' in answers[SLIS].body  # type: ignore[operator]
        assert (await own(make_mocked_request("GET", "/readyz"))).status == 500
        alone = await own(make_mocked_request("GET", "/readyz/leaderElection"))
        assert isinstance(alone, web.Response) and alone.body == b"ok"
        passed_over = await own(make_mocked_request("GET", "/readyz?exclude=informer-sync&verbose"))
        assert isinstance(passed_over, web.Response) and passed_over.body == (
            b"[+]leaderElection ok\n[+]shutdown ok\n[+]informer-sync excluded: ok\nreadyz check passed\n"
        )
        for method in ("GET", "POST", "PUT"):
            for path in ("/statuszx", "/livezx", "/livez/nothing", "/"):
                assert (await own(make_mocked_request(method, path))).status == 404, (method, path)
        assert (await own(make_mocked_request("POST", "/metrics"))).status == 405
        assert (await Debugging(lambda: ())(make_mocked_request("GET", STATUSZ))).status == 404
