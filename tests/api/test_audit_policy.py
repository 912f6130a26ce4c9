"""Audit policies: which rule decides, and which files are none."""

from dataclasses import replace

import pytest

from rayplane.control_plane.api.audit import Level, Stage, default_policy, read_policy
from rayplane.control_plane.api.authorization.rbac import Attributes
from rayplane.control_plane.api.config_files import ConfigFileError

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"


def level(rules: str, **request: object) -> str:
    policy = read_policy(f"{HEAD}rules: [{rules}, {{level: Request}}]")
    fields = {"user": "u", "verb": "get", "resource": "pods", "namespace": "n", **request}
    return policy.decide(Attributes(**fields)).level.text  # type: ignore[arg-type]


MATCHING = [
    ("users: [u]", {}, True),
    ("users: [v]", {}, False),
    ("userGroups: [a]", {"groups": ("b", "a")}, True),
    ("userGroups: [a]", {"groups": ("b",)}, False),
    ("verbs: [get, list]", {}, True),
    ("verbs: [list]", {}, False),
    ("namespaces: [n]", {}, True),
    ('namespaces: [""]', {"resource": "nodes", "namespace": ""}, True),
    ('namespaces: [""]', {}, False),
    ("namespaces: [n]", {"resource": "", "path": "/x"}, False),
    ('resources: [{group: ""}]', {"resource": "anything"}, True),
    ("resources: [{group: apps}]", {}, False),
    ("resources: [{resources: [pods]}]", {}, True),
    ("resources: [{resources: [pods]}]", {"subresource": "log"}, False),
    ("resources: [{resources: [pods/log]}]", {"subresource": "log"}, True),
    ('resources: [{resources: ["pods/*"]}]', {"subresource": "log"}, True),
    ('resources: [{resources: ["*/log"]}]', {"subresource": "log"}, True),
    ('resources: [{resources: ["*/log"]}]', {}, False),
    ('resources: [{resources: ["*"]}]', {"subresource": "log"}, True),
    ("resources: [{resources: [pods], resourceNames: [a]}]", {"name": "a"}, True),
    ("resources: [{resources: [pods], resourceNames: [a]}]", {"name": "b"}, False),
    ('nonResourceURLs: ["/healthz*"]', {"resource": "", "path": "/healthz/etcd"}, True),
    ("nonResourceURLs: [/version]", {"resource": "", "path": "/version/x"}, False),
    ('nonResourceURLs: ["*"]', {"resource": "", "path": "/x"}, True),
    ('nonResourceURLs: ["*"]', {}, False),
]


@pytest.mark.parametrize(("rule", "request_", "matches"), MATCHING)
def test_the_first_rule_that_matches_decides(rule: str, request_: dict[str, object], matches: bool) -> None:
    assert level(f"{{level: Metadata, {rule}}}", **request_) == ("Metadata" if matches else "Request")


def test_what_no_rule_matches_is_not_recorded_and_stages_and_fields_are_left_out() -> None:
    policy = read_policy(
        f"{HEAD}omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n"
        "- {level: Request, users: [a], omitStages: [Panic], omitManagedFields: false}\n- {level: Metadata, users: [b]}"
    )
    first, second = (policy.decide(Attributes(user=u, verb="get", resource="pods")) for u in "ab")
    assert (first.omit_stages, first.omit_managed_fields) == ({Stage.REQUEST_RECEIVED, Stage.PANIC}, False)
    assert (second.omit_stages, second.omit_managed_fields) == ({Stage.REQUEST_RECEIVED}, True)
    assert policy.decide(Attributes(user="c", verb="get", resource="pods")).level == Level.NONE


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "rules: Required value"),
        ("rules: []", "rules: Required value"),
        ("rules: [{users: [u]}]", "rules[0].level: Required value"),
        ("rules: [{level: All}]", 'rules[0].level: Unsupported value: "All"'),
        ("rules: [{level: None, verbs: get}]", "rules[0].verbs: Invalid value"),
        ("rules: [{level: None, verbs: [1]}]", "rules[0].verbs[0]: Invalid value"),
        ("rules: [{level: None, verb: [get]}]", "rules[0].verb: Forbidden: unknown field"),
        ("rules: [{level: None, omitStages: [Later]}]", "rules[0].omitStages[0]: Unsupported value"),
        ("rules: [{level: None, nonResourceURLs: [x]}]", "rules[0].nonResourceURLs[0]: Invalid value"),
        ("rules: [{level: None, nonResourceURLs: [/x], namespaces: [n]}]", "cannot apply to both"),
        ("rules: [{level: None, resources: [{resourceNames: [a]}]}]", "requires at least one resource"),
        ("rules: [{level: None, resources: [{group: A_}]}]", "rules[0].resources[0].group: Invalid value"),
        ("rules: [5]", "rules[0]: Invalid value"),
        ("rules: {", "yaml"),
    ],
)
def test_files_that_are_no_policy_say_why(text: str, problem: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read_policy(HEAD + text)
    assert problem in str(refused.value)


def test_another_version_is_refused() -> None:
    with pytest.raises(ConfigFileError, match=r"audit\.k8s\.io/v1"):
        read_policy("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]")


def test_the_bundled_policy_tells_no_secret() -> None:
    policy = read_policy(default_policy())
    for resource, part, verb in (
        ("secrets", "", "create"),
        ("serviceaccounts", "token", "create"),
        ("secrets", "", "list"),
    ):
        request = Attributes(user="u", verb=verb, resource=resource, subresource=part, namespace="n")
        assert policy.decide(request).level == Level.METADATA
    role = Attributes(user="u", verb="update", group="rbac.authorization.k8s.io", resource="roles", namespace="n")
    assert policy.decide(role).level == Level.REQUEST_RESPONSE
    node = ("system:nodes",)
    beat = Attributes(user="system:node:n", groups=node, verb="update", group="coordination.k8s.io", resource="leases")
    assert policy.decide(beat).level == Level.NONE
    # Whose heartbeat it is not takes a lead or kills a node; and what nodes read of secrets is to be seen.
    assert policy.decide(replace(beat, user="u", groups=())).level == Level.METADATA
    read = Attributes(user="system:node:n", groups=node, verb="get", resource="secrets", namespace="n", name="s")
    assert policy.decide(read).level == Level.METADATA
    assert policy.decide(replace(read, resource="services")).level == Level.NONE
