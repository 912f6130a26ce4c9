"""What is wrong with an AuthenticationConfiguration or an AuthorizationConfiguration, told in Kubernetes' words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.apiserver.authentication.configuration import read_authentication
from rayplane.control_plane.apiserver.authorization.configuration import NODE, RBAC, WebhookSettings, read_authorization

ISSUER = {"url": "https://example.org", "audiences": ["a"]}
USERNAME = {"claim": "sub", "prefix": ""}
JWT = {"issuer": ISSUER, "claimMappings": {"username": USERNAME}}


def authentication(**parts: Any) -> str:
    return json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", **parts})


def one(issuer: Any = None, mappings: Any = None, **parts: Any) -> str:
    """A configuration with one issuer, in which something is wrong."""
    mapped = {"username": USERNAME, **(mappings or {})}
    return authentication(jwt=[{"issuer": {**ISSUER, **(issuer or {})}, "claimMappings": mapped, **parts}])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "couldn't get version/kind"),
        (authentication(apiVersion="v2"), "apiVersion: Unsupported value"),
        (authentication(jwtt=[]), "jwtt: Forbidden: unknown field"),
        (authentication(jwt=[JWT] * 65), "jwt: Too many: 65: must have at most 64 items"),
        (authentication(jwt=[JWT, JWT]), 'jwt[1].issuer.url: Duplicate value: "https://example.org"'),
        (one({"url": ""}), "jwt[0].issuer.url: Required value"),
        (one({"url": "http://example.org"}), "URL scheme must be https"),
        (one({"url": "https://a:b@example.org"}), "URL must not contain a username or password"),
        (one({"url": "https://example.org?x=y"}), "URL must not contain a query"),
        (one({"url": "https://example.org#x"}), "URL must not contain a fragment"),
        (one({"url": "https://cluster"}), "URL must not overlap with disallowed issuers: [https://cluster]"),
        (one({"discoveryURL": "https://example.org/"}), "discoveryURL must be different from URL"),
        (one({"audiences": []}), "jwt[0].issuer.audiences: Required value: at least one"),
        (one({"audiences": ["a", "b"]}), "audienceMatchPolicy must be MatchAny for multiple audiences"),
        (one({"certificateAuthority": "x"}), "data does not contain any valid RSA or ECDSA certificates"),
        (one(mappings={"username": {}}), "claimMappings.username: Required value: claim or expression is required"),
        (one(mappings={"username": {"claim": "sub"}}), "username.prefix: Required value: prefix is required"),
        (one(mappings={"groups": {"claim": "a", "expression": "'b'"}}), "claim and expression can't both be set"),
        (one(mappings={"groups": {"prefix": "a", "expression": "'b'"}}), "may not be specified when expression is set"),
        (one(mappings={"uid": {"expression": "claim.s"}}), 'uid.expression: Invalid value: "claim.s": compilation'),
        (one(mappings={"username": {"expression": "claims.email"}}), "claims.email_verified must be used in"),
        (one(mappings={"username": {"expression": "claims.?email.orValue('x')"}}), "claims.email_verified must be"),
        (one(mappings={"extra": [{"key": "a", "valueExpression": "'b'"}]}), "must be a domain-prefixed path"),
        (one(mappings={"extra": [{"key": "k8s.io/a", "valueExpression": "'b'"}]}), "are reserved for Kubernetes use"),
        (one(mappings={"extra": [{"key": "a.io/A", "valueExpression": "'b'"}]}), "must be lowercase"),
        (one(claimValidationRules=[{"expression": "claims.a"}]), "must evaluate to bool"),
        (one(claimValidationRules=[{"claim": "a", "message": "b"}]), "may not be specified when claim is set"),
        (one(claimValidationRules=[{"claim": "a"}, {"claim": "a"}]), "claimValidationRules[1].claim: Duplicate value"),
        (one(userValidationRules=[{"expression": "user.name == 'a'"}]), "undefined field 'name'"),
        (one(userValidationRules=[{}]), "userValidationRules[0].expression: Required value"),
        (authentication(anonymous={"conditions": [{"path": "/a"}]}), "enabled should be set to true when conditions"),
    ],
)
def test_what_is_wrong_with_an_authentication_configuration(text: str, problem: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read_authentication(text, own_issuer="https://cluster")
    assert problem in str(refused.value)


def test_an_email_that_is_verified_is_a_name() -> None:
    mappings = {"username": {"expression": "claims.email"}}
    rules = [{"expression": "claims.?email_verified.orValue(false) == true"}]
    assert read_authentication(one(mappings=mappings, claimValidationRules=rules)).jwt
    assert read_authentication(authentication(apiVersion="apiserver.config.k8s.io/v1beta1")).jwt == ()


WEBHOOK = {
    "authorizedTTL": "5m",
    "unauthorizedTTL": "30s",
    "timeout": "3s",
    "subjectAccessReviewVersion": "v1",
    "failurePolicy": "NoOpinion",
    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/a"},
}


def authorization(*authorizers: Any) -> str:
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration"}
    return json.dumps({**head, "authorizers": authorizers})


def webhook(**parts: Any) -> str:
    return authorization({"type": "Webhook", "name": "w", "webhook": {**WEBHOOK, **parts}})


def conditions(*expressions: str) -> str:
    listed = [{"expression": text} for text in expressions]
    return webhook(matchConditionSubjectAccessReviewVersion="v1", matchConditions=listed)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (authorization(), "authorizers: Required value: at least one authorization mode must be defined"),
        (authorization({"type": "ABAC", "name": "a"}), 'authorizers[0].type: Unsupported value: "ABAC"'),
        (authorization({"type": "RBAC", "name": "a"}, {"type": "RBAC", "name": "b"}), "type: Duplicate value"),
        (authorization({"type": "RBAC"}), "authorizers[0].name: Required value"),
        (authorization({"type": "RBAC", "name": "A"}), "authorizer name is invalid"),
        (authorization({"type": "RBAC", "name": "a", "webhook": {}}), "may only be specified when type=Webhook"),
        (authorization({"type": "Webhook", "name": "a"}), "required when type=Webhook"),
        (webhook(timeout="31s"), "must be > 0s and <= 30s"),
        (webhook(timeout="soon"), "webhook.timeout: Invalid value"),
        (webhook(authorizedTTL=""), "webhook.authorizedTTL: Required value"),
        (webhook(unauthorizedTTL="-1s"), "webhook.unauthorizedTTL: Invalid value"),
        (webhook(subjectAccessReviewVersion="v2"), 'Unsupported value: "v2"'),
        (webhook(failurePolicy="Fail"), "webhook.failurePolicy: Unsupported value"),
        (webhook(connectionInfo={"type": "InClusterConfig"}), "connectionInfo.type: Unsupported value"),
        (webhook(connectionInfo={"type": "KubeConfigFile", "kubeConfigFile": "a"}), "must be an absolute path"),
        (webhook(matchConditions=[{"expression": "true"}]), "required if match conditions are specified"),
        (conditions("request.user"), "must evaluate to bool"),
        (conditions("request.usr == ''"), "undefined field 'usr'"),
        (conditions("true", "true"), "matchConditions[1].expression: Duplicate value"),
        (conditions(*(f"{n} > 0" for n in range(65))), "Too many: 65"),
    ],
)
def test_what_is_wrong_with_an_authorization_configuration(text: str, problem: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read_authorization(text)
    assert problem in str(refused.value)


def test_who_decides_in_which_order() -> None:
    assert read_authorization("") == (NODE, RBAC)
    asked = {"type": "Webhook", "name": "w", "webhook": WEBHOOK}
    first, second = read_authorization(authorization(asked, {"type": "RBAC", "name": "rbac"}))
    assert second == RBAC and isinstance(first, WebhookSettings)
    assert (first.timeout_s, first.allowed_s, first.denied_s, first.denies_when_it_fails) == (3, 300, 30, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WEBHOOK, *JWT, "type"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["jwt", "anonymous", "authorizers"]), JSON | st.lists(JSON, max_size=3)))
def test_no_file_is_a_fault(parts: dict[str, Any]) -> None:
    for read, text in ((read_authentication, authentication(**parts)), (read_authorization, authorization(parts))):
        try:
            read(text)
        except ConfigFileError as e:
            assert str(e)
