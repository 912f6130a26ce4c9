"""What extends an API and is not about what is measured: definitions, policies, webhooks; objects with their paths."""

from collections.abc import Iterator
from typing import Any

GROUP = "bench.rayplane.io"
#: Nobody listens there: a webhook that is asked by mistake is an error of the request, which is counted.
_NOBODY = "https://127.0.0.1:9/"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
# Of resources that are not measured; what is measured is in the same namespace, by the same user.
_ELSEWHERE = {"apiGroups": [GROUP, "apps"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}


def extensions(definitions: int, policies: int, webhooks: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path of the collection, and object."""
    for n in range(definitions):
        yield "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _definition(n)
    for n in range(policies):
        yield f"{_ADMISSION}/validatingadmissionpolicies", _policy(n)
        yield f"{_ADMISSION}/validatingadmissionpolicybindings", _binding(n)
    for n in range(webhooks):
        yield f"{_ADMISSION}/validatingwebhookconfigurations", _webhook(n)


def _definition(n: int) -> dict[str, Any]:
    rule = {"rule": "self.replicas <= 10 && self.image.startsWith('registry.')", "message": "too many"}
    properties = {"replicas": {"type": "integer", "minimum": 0}, "image": {"type": "string", "maxLength": 200}}
    spec = {"type": "object", "properties": properties, "x-kubernetes-validations": [rule]}
    schema = {"type": "object", "properties": {"spec": spec, "status": {"type": "object"}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": f"things{n}", "singular": f"thing{n}", "kind": f"Thing{n}", "listKind": f"Thing{n}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things{n}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced",
            "versions": [version | {"subresources": {"status": {}}}],
        },
    }


def _policy(n: int) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"policy-{n}.{GROUP}"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [_ELSEWHERE]},
            "validations": [{"expression": "!has(object.spec.replicas) || object.spec.replicas <= 10"}],
        },
    }


def _binding(n: int) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"policy-{n}.{GROUP}"},
        "spec": {"policyName": f"policy-{n}.{GROUP}", "validationActions": ["Deny"]},
    }


def _webhook(n: int) -> dict[str, Any]:
    webhook = {
        "name": f"webhook-{n}.{GROUP}",
        "rules": [_ELSEWHERE],
        "clientConfig": {"url": _NOBODY},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"webhook-{n}.{GROUP}"},
        "webhooks": [webhook],
    }
