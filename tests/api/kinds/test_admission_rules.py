"""Rules of webhooks and of admission policies, in Kubernetes' words."""

from typing import Any

import pytest

from tests.api.kinds.changes import GONE, Case, Changes, created, refused, status_refused

GROUP = "admissionregistration.k8s.io/v1"
RULE = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
HOOK = {
    "name": "a.example.com",
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
    "clientConfig": {"url": "https://x"},
    "rules": [RULE],
}
GOOD: dict[str, dict[str, Any]] = {
    **{
        kind: {"apiVersion": GROUP, "kind": kind, "webhooks": [HOOK]}
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    },
    "ValidatingAdmissionPolicy": {
        "apiVersion": GROUP,
        "kind": "ValidatingAdmissionPolicy",
        "spec": {"matchConstraints": {"resourceRules": [RULE]}, "validations": [{"expression": "true"}]},
    },
    "MutatingAdmissionPolicy": {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicy",
        "spec": {
            "matchConstraints": {"resourceRules": [RULE]},
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        },
    },
    "ValidatingAdmissionPolicyBinding": {
        "apiVersion": GROUP,
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": "p", "validationActions": ["Deny"]},
    },
    "MutatingAdmissionPolicyBinding": {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicyBinding",
        "spec": {"policyName": "p"},
    },
}
FORM = "; desired format: https://host[/path]"
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
OPERATIONS = 'supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"'


def service(**fields: Any) -> Any:
    return {"service": {"name": "n", "namespace": "s", **fields}}


# What a rule is, wherever it stands: the change of one, and what is found below it.
RULES: list[Case] = [
    ({"operations": []}, ["operations: Required value"]),
    ({"operations": ["*", "CREATE"]},
     ['operations: Invalid value: ["*","CREATE"]: if \'*\' is present, must not specify other operations']),
    ({"operations": ["GET"]}, [f'operations[0]: Unsupported value: "GET": {OPERATIONS}']),
    ({"apiGroups": []}, ["apiGroups: Required value"]),
    ({"apiGroups": ["a", "*"]},
     ['apiGroups: Invalid value: ["a","*"]: if \'*\' is present, must not specify other API groups']),
    ({"apiGroups": [""]}, []),
    ({"apiVersions": []}, ["apiVersions: Required value"]),
    ({"apiVersions": ["v1", ""]}, ["apiVersions[1]: Required value"]),
    ({"apiVersions": ["v1", "*"]},
     ['apiVersions: Invalid value: ["v1","*"]: if \'*\' is present, must not specify other API versions']),
    ({"resources": []}, ["resources: Required value"]),
    ({"resources": ["a", ""]}, ["resources[1]: Required value"]),
    ({"resources": ["a/*", "a/b"]},
     ["resources[1]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b"]),
    ({"resources": ["*/b", "a/b"]},
     ["resources[1]: Invalid value: \"a/b\": if '*/b' is present, must not specify a/b"]),
    ({"resources": ["*/*", "a"]},
     ['resources: Invalid value: ["*/*","a"]: if \'*/*\' is present, must not specify other resources']),
    ({"resources": ["*", "a"]},
     ['resources: Invalid value: ["*","a"]: if \'*\' is present, must not specify other resources without '
      "subresources"]),
    ({"resources": ["*", "a/b"]}, []),
    ({"resources": ["a/*", "b/*"]}, []),
    ({"scope": "All"}, ['scope: Unsupported value: "All": supported values: "*", "Cluster", "Namespaced"']),
    ({"operations": [], "apiGroups": [], "apiVersions": [], "resources": []},
     ["operations: Required value", "apiGroups: Required value", "apiVersions: Required value",
      "resources: Required value"]),
]  # fmt: skip
WEBHOOKS: list[Case] = [
    ({}, []),
    ({"name": ""}, ["name: Required value"]),
    ({"name": "example.com"},
     ['name: Invalid value: "example.com": should be a domain with at least three segments separated by dots']),
    ({"name": "A"}, [f'name: Invalid value: "A": {SUBDOMAIN}']),
    ({"rules": []}, []),
    ({"failurePolicy": "Retry"}, ['failurePolicy: Unsupported value: "Retry": supported values: "Fail", "Ignore"']),
    ({"matchPolicy": "Any"}, ['matchPolicy: Unsupported value: "Any": supported values: "Equivalent", "Exact"']),
    ({"sideEffects": GONE}, ["sideEffects: Required value: must specify one of None, NoneOnDryRun"]),
    ({"sideEffects": "Some"}, ['sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"']),
    ({"sideEffects": "NoneOnDryRun"}, []),
    ({"timeoutSeconds": 0}, ["timeoutSeconds: Invalid value: 0: the timeout value must be between 1 and 30 seconds"]),
    ({"timeoutSeconds": 31}, ["timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"]),
    ({"timeoutSeconds": 30}, []),
    ({"admissionReviewVersions": []}, ["admissionReviewVersions: Required value: must specify one of v1, v1beta1"]),
    ({"admissionReviewVersions": ["v2"]},
     ['admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1']),
    ({"admissionReviewVersions": ["v1", "v1"]}, ['admissionReviewVersions[1]: Invalid value: "v1": duplicate version']),
    ({"admissionReviewVersions": ["v1", "1"]}, [f'admissionReviewVersions[1]: Invalid value: "1": {LABEL}']),
    ({"admissionReviewVersions": ["v9", "v1beta1"]}, []),
    ({"clientConfig": {}}, ["clientConfig: Required value: exactly one of url or service is required"]),
    ({"clientConfig": {"url": "https://x", **service()}},
     ["clientConfig: Required value: exactly one of url or service is required"]),
    ({"clientConfig": {"url": "http://x"}},
     [f"clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme{FORM}"]),
    ({"clientConfig": {"url": ""}},
     [f"clientConfig.url: Invalid value: \"\": 'https' is the only allowed URL scheme{FORM}",
      f'clientConfig.url: Invalid value: "": host must be provided{FORM}']),
    ({"clientConfig": {"url": "https:///x"}}, [f'clientConfig.url: Invalid value: "": host must be provided{FORM}']),
    ({"clientConfig": {"url": "https://u:p@x/y?a=b#c"}},
     ['clientConfig.url: Invalid value: "u:p": user information is not permitted in the URL',
      'clientConfig.url: Invalid value: "c": fragments are not permitted in the URL',
      'clientConfig.url: Invalid value: "a=b": query parameters are not permitted in the URL']),
    ({"clientConfig": {"url": ":x"}},
     [f'clientConfig.url: Required value: url must be a valid URL: parse ":x": missing protocol scheme{FORM}']),
    ({"clientConfig": {"url": "https://x:y"}},
     ['clientConfig.url: Required value: url must be a valid URL: parse "https://x:y": invalid port ":y" after host'
      f"{FORM}"]),
    ({"clientConfig": {"url": "https://x:443/y/z"}}, []),
    ({"clientConfig": {"url": "https://[::1]:8443"}}, []),
    ({"clientConfig": service()}, []),
    ({"clientConfig": service(name="", namespace="")},
     ["clientConfig.service.name: Required value: service name is required",
      "clientConfig.service.namespace: Required value: service namespace is required"]),
    ({"clientConfig": service(port=65536)},
     ["clientConfig.service.port: Invalid value: 65536: port is not valid: must be between 1 and 65535, inclusive"]),
    ({"clientConfig": service(path="/a/b.c/")}, []),
    ({"clientConfig": service(path="//")},
     ['clientConfig.service.path: Invalid value: "//": segment[0] may not be empty']),
    ({"clientConfig": service(path="/a//b")},
     ['clientConfig.service.path: Invalid value: "/a//b": segment[1] may not be empty']),
    ({"clientConfig": service(path="/A")},
     [f'clientConfig.service.path: Invalid value: "/A": segment[0]: {SUBDOMAIN}']),
    ({"clientConfig": service(path="ab")}, ['clientConfig.service.path: Invalid value: "ab": must start with a \'/\'']),
    ({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
     ["namespaceSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or "
      "'NotIn'"]),
    ({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "b/c", "expression": "true"}]}, []),
    ({"matchConditions": [{"name": "", "expression": " "}]},
     ["matchConditions[0].expression: Required value", "matchConditions[0].name: Required value"]),
    ({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "false"}]},
     ['matchConditions[1].name: Duplicate value: "a"']),
    ({"matchConditions": [{"name": f"a{i}", "expression": "true"} for i in range(65)]},
     ["matchConditions: Too many: 65: must have at most 64 items"]),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"])
@pytest.mark.parametrize(("change", "found"), WEBHOOKS)
def test_what_is_wrong_with_webhooks(kind: str, change: Changes, found: list[str]) -> None:
    hook = {key: value for key, value in {**HOOK, **change}.items() if value is not GONE}
    assert refused(GOOD[kind], {"webhooks": [hook]}) == [f"webhooks[0].{each}" for each in found]


PLACES = [
    ("ValidatingWebhookConfiguration", "webhooks[0].rules[0]", lambda rule: {"webhooks": [{**HOOK, "rules": [rule]}]}),
    ("ValidatingAdmissionPolicy", "spec.matchConstraints.resourceRules[0]",
     lambda rule: {"spec.matchConstraints.resourceRules": [rule]}),
    ("ValidatingAdmissionPolicy", "spec.matchConstraints.excludeResourceRules[0]",
     lambda rule: {"spec.matchConstraints.excludeResourceRules": [rule]}),
    ("ValidatingAdmissionPolicyBinding", "spec.matchResources.resourceRules[0]",
     lambda rule: {"spec.matchResources": {"resourceRules": [rule]}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "placed"), PLACES, ids=[path for _, path, _ in PLACES])
@pytest.mark.parametrize(("change", "found"), RULES)
def test_what_is_wrong_with_rules(kind: str, path: str, placed: Any, change: Changes, found: list[str]) -> None:
    assert refused(GOOD[kind], placed({**RULE, **change})) == [f"{path}.{each}" for each in found]


NOT_MUTABLE = 'operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"'
REFUSED: dict[str, list[Case]] = {
    "ValidatingAdmissionPolicy": [
        ({"spec.failurePolicy": "Retry"},
         ['spec.failurePolicy: Unsupported value: "Retry": supported values: "Fail", "Ignore"']),
        ({"spec.paramKind": {}}, ["spec.paramKind.apiVersion: Required value", "spec.paramKind.kind: Required value"]),
        ({"spec.paramKind": {"apiVersion": "a/b/c", "kind": "K"}},
         ['spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c']),
        ({"spec.paramKind": {"apiVersion": "a/", "kind": "K"}},
         ['spec.paramKind.apiVersion: Invalid value: "a/": version must be specified']),
        ({"spec.paramKind": {"apiVersion": "A/1", "kind": "K_"}},
         [f'spec.paramKind.apiVersion: Invalid value: "A": {SUBDOMAIN}',
          f'spec.paramKind.apiVersion: Invalid value: "1": {LABEL}',
          f'spec.paramKind.kind: Invalid value: "K_": may have mixed case, but should otherwise match: {LABEL}']),
        ({"spec.paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}, []),
        ({"spec.matchConstraints": GONE}, ["spec.matchConstraints: Required value"]),
        ({"spec.matchConstraints": {}}, ["spec.matchConstraints.resourceRules: Required value"]),
        ({"spec.matchConstraints.matchPolicy": "Any"},
         ['spec.matchConstraints.matchPolicy: Unsupported value: "Any": supported values: "Equivalent", "Exact"']),
        ({"spec.matchConditions": [{}]},
         ["spec.matchConditions[0].expression: Required value", "spec.matchConditions[0].name: Required value"]),
        ({"spec.variables": [{"name": "a_B1", "expression": "1"}]}, []),
        ({"spec.variables": [{"name": " ", "expression": " "}]},
         ["spec.variables[0].name: Required value: name is not specified",
          "spec.variables[0].expression: Required value: expression is not specified"]),
        ({"spec.variables": [{"name": "1a", "expression": "1"}, {"name": "in", "expression": "1"}]},
         ['spec.variables[0].name: Invalid value: "1a": name is not a valid CEL identifier',
          'spec.variables[1].name: Invalid value: "in": name is not a valid CEL identifier']),
        ({"spec.validations": []},
         ["spec.validations: Required value: validations or auditAnnotations must contain at least one item",
          "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"]),
        ({"spec.validations": [{"expression": " "}]},
         ["spec.validations[0].expression: Required value: expression is not specified"]),
        ({"spec.validations": [{"expression": "true", "message": " ", "messageExpression": " ", "reason": "Conflict"}]},
         ['spec.validations[0].messageExpression: Invalid value: " ": must be non-empty if specified',
          'spec.validations[0].message: Invalid value: " ": message must be non-empty if specified',
          'spec.validations[0].reason: Unsupported value: "Conflict": supported values: "Forbidden", "Invalid", '
          '"RequestEntityTooLarge"']),
        ({"spec.validations": [{"expression": "true", "message": "a\nb"}]},
         ['spec.validations[0].message: Invalid value: "a\\nb": message must not contain line breaks']),
        ({"spec.validations": [{"expression": "true", "message": "a\n", "reason": "Forbidden"}]}, []),
        ({"spec.validations": [], "spec.auditAnnotations": [{"key": "k", "valueExpression": "'v'"}]}, []),
        ({"spec.auditAnnotations": [{"key": "k", "valueExpression": "'v'"}, {"key": "k", "valueExpression": ""}]},
         ["spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
          'spec.auditAnnotations[1].key: Duplicate value: "k"']),
        ({"spec.auditAnnotations": [{"key": "k", "valueExpression": "a" * 5121}]},
         ["spec.auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length"]),
    ],
    "MutatingAdmissionPolicy": [
        ({}, []),
        ({"spec.matchConstraints.resourceRules": [{**RULE, "resourceNames": ["a/b", "c", "c"]}]},
         ["spec.matchConstraints.resourceRules[0].resourceNames[0]: Invalid value: \"a/b\": may not contain '/'",
          'spec.matchConstraints.resourceRules[0].resourceNames[2]: Duplicate value: "c"']),
        ({"spec.mutations": []}, ["spec.mutations: Required value: mutations must contain at least one item"]),
        ({"spec.mutations": [{}]}, ["spec.mutations[0].patchType: Required value"]),
        ({"spec.mutations": [{"patchType": "Merge"}]},
         ['spec.mutations[0].patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", '
          '"JSONPatch"']),
        ({"spec.mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "x"}}]},
         ["spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
          'spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when '
          "patchType is JSONPatch"]),
        ({"spec.mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": " "}}]},
         ["spec.mutations[0].applyConfiguration.expression: Required value"]),
        ({"spec.reinvocationPolicy": GONE}, ["spec.reinvocationPolicy: Required value"]),
        ({"spec.reinvocationPolicy": "Always"},
         ['spec.reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"']),
        ({"spec.matchConstraints.resourceRules": [{**RULE, "operations": ["CREATE", "DELETE"]}]},
         [f"spec.matchConstraints.resourceRules.{NOT_MUTABLE}"]),
    ],
    "ValidatingAdmissionPolicyBinding": [
        ({}, []),
        ({"spec.policyName": GONE}, ["spec.policyName: Required value"]),
        ({"spec.policyName": "P"}, [f'spec.policyName: Invalid value: "P": {SUBDOMAIN}']),
        ({"spec.paramRef": {}},
         ["spec.paramRef: Required value: one of name or selector must be specified",
          "spec.paramRef.parameterNotFoundAction: Required value"]),
        ({"spec.paramRef": {"name": "a", "selector": {}, "parameterNotFoundAction": "Warn"}},
         ["spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
          "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
          'spec.paramRef.parameterNotFoundAction: Unsupported value: "Warn": supported values: "Deny", "Allow"']),
        ({"spec.paramRef": {"name": "a/b", "parameterNotFoundAction": "Deny"}},
         ["spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'"]),
        ({"spec.validationActions": []},
         ["spec.validationActions: Required value: at least one validation action is required"]),
        ({"spec.validationActions": ["Log", "Deny", "Deny"]},
         ['spec.validationActions[0]: Unsupported value: "Log": supported values: "Audit", "Deny", "Warn"',
          'spec.validationActions[2]: Duplicate value: "Deny"']),
        ({"spec.validationActions": ["Deny", "Warn"]},
         ['spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both Deny and Warn (repeating the '
          "same validation failure information in the API response and headers serves no purpose)"]),
        ({"spec.validationActions": ["Deny", "Audit"]}, []),
    ],
    "MutatingAdmissionPolicyBinding": [
        ({}, []),
        ({"spec.matchResources": {"resourceRules": [{**RULE, "operations": ["DELETE"]}]}},
         [f"spec.matchResources.resourceRules.{NOT_MUTABLE}"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in REFUSED.items() for case in cases])
def test_what_is_wrong_with_policies(kind: str, case: Case) -> None:
    assert refused(GOOD[kind], case[0]) == case[1]


def test_names_of_webhooks_and_numbers_of_annotations() -> None:
    found = refused(GOOD["MutatingWebhookConfiguration"], {"webhooks": [HOOK, HOOK]})
    assert found == ['webhooks[1].name: Duplicate value: "a.example.com"']
    annotations = [{"key": f"k{i}", "valueExpression": "'v'"} for i in range(21)]
    found = refused(GOOD["ValidatingAdmissionPolicy"], {"spec.auditAnnotations": annotations})
    assert [each.rpartition(": ")[2] for each in found] == ["must not have more than 20 auditAnnotations"]


def test_what_is_filled_in() -> None:
    hook = created(GOOD["MutatingWebhookConfiguration"], {"webhooks": [{**HOOK, "clientConfig": service()}]})[0]
    made = hook["webhooks"][0]
    assert made["clientConfig"]["service"]["port"] == 443
    assert made["rules"][0]["scope"] == "*"
    assert (made["failurePolicy"], made["matchPolicy"], made["timeoutSeconds"]) == ("Fail", "Equivalent", 10)
    assert made["reinvocationPolicy"] == "Never"
    spec = created(GOOD["ValidatingAdmissionPolicy"], {})[0]["spec"]
    assert spec["failurePolicy"] == "Fail"
    assert spec["matchConstraints"]["namespaceSelector"] == spec["matchConstraints"]["objectSelector"] == {}


def test_statuses_of_policies() -> None:
    good = GOOD["ValidatingAdmissionPolicy"]
    status = {"typeChecking": {"expressionWarnings": [{"fieldRef": " ", "warning": ""}]}}
    at = "status.typeChecking.expressionWarnings[0]"
    assert status_refused(good, {}, status) == [f"{at}.warning: Required value", f"{at}.fieldRef: Required value"]
    assert status_refused(good, {}, {"typeChecking": {}}) == []
