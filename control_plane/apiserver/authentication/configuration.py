"""AuthenticationConfiguration: whose tokens are taken beside the cluster's own, and who may be nobody. Pure.

Source: apiserver.config.k8s.io/v1, apiserver's `pkg/apis/apiserver/validation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509

from rayplane.control_plane.api.config_files import ConfigFileError, read_document, read_fields, read_texts
from rayplane.control_plane.api.errors import FieldError, duplicate, invalid, not_supported, required, too_many
from rayplane.control_plane.api.kinds.references import domain_prefixed_path
from rayplane.control_plane.apiserver.authentication.claims import (
    Rule,
    Source,
    UserMapping,
    compile_mapping,
    compile_rule,
    looks_at,
)
from rayplane.control_plane.cel import Program

KIND: Final = "AuthenticationConfiguration"
VERSIONS: Final = tuple(f"apiserver.config.k8s.io/{version}" for version in ("v1", "v1beta1"))
ISSUERS_MAX: Final = 64

_TOP = {"apiVersion": str, "kind": str, "jwt": list, "anonymous": dict}
_JWT = {"issuer": dict, "claimMappings": dict, "claimValidationRules": list, "userValidationRules": list}
_ISSUER = {"url": str, "discoveryURL": str, "certificateAuthority": str, "audiences": list, "audienceMatchPolicy": str}
_MAPPINGS = {"username": dict, "groups": dict, "uid": dict, "extra": list}
_SOURCE = {"claim": str, "prefix": str, "expression": str}
_EXTRA = {"key": str, "valueExpression": str}
_CLAIM_RULE = {"claim": str, "requiredValue": str, "expression": str, "message": str}
_USER_RULE = {"expression": str, "message": str}
_ANONYMOUS = {"enabled": bool, "conditions": list}
_BOTH = "claim and expression can't both be set"
_EMAIL_VERIFIED = (
    "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression "
    "or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"
)

T = TypeVar("T")
_Errors = list[FieldError]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of tokens: where its keys are, and for whom its tokens must be."""

    url: str
    discovery_url: str
    audiences: tuple[str, ...]
    authority: str = ""
    """PEM of what to trust there; empty: what the machine trusts."""


@dataclass(frozen=True, slots=True)
class JwtAuthenticator:
    issuer: Issuer
    mapping: UserMapping


@dataclass(frozen=True, slots=True)
class Anonymous:
    """The users who show nothing: where `enabled` they are `system:anonymous`, with `paths` at these only."""

    enabled: bool = True
    paths: frozenset[str] | None = None

    def may_be(self, path: str) -> bool:
        return self.enabled and (self.paths is None or path in self.paths)


EVERYWHERE: Final = Anonymous()


@dataclass(frozen=True, slots=True)
class AuthenticationConfiguration:
    jwt: tuple[JwtAuthenticator, ...] = ()
    anonymous: Anonymous = EVERYWHERE


def read_authentication(text: str, *, own_issuer: str = "") -> AuthenticationConfiguration:
    """The configuration in YAML or JSON; without text the one that there is by itself. ConfigFileError.

    `own_issuer`: of the cluster's own tokens, which no other may issue.
    """
    if not text:
        return AuthenticationConfiguration()
    errors: _Errors = []
    given = read_fields(read_document(text, KIND, VERSIONS, errors), _TOP, "", errors)
    asked = given.get("jwt") or ()
    if len(asked) > ISSUERS_MAX:
        raise ConfigFileError.of([too_many("jwt", len(asked), ISSUERS_MAX)])
    jwt = [_authenticator(one, f"jwt[{at}]", own_issuer, errors) for at, one in enumerate(asked)]
    _no_twice([one.issuer.url for one in jwt], "jwt[{}].issuer.url", errors)
    _no_twice([one.issuer.discovery_url for one in jwt], "jwt[{}].issuer.discoveryURL", errors)
    anonymous = _anonymous(given["anonymous"], errors) if "anonymous" in given else EVERYWHERE
    if errors:
        raise ConfigFileError.of(errors)
    return AuthenticationConfiguration(tuple(jwt), anonymous)


def _anonymous(value: Any, errors: _Errors) -> Anonymous:
    given = read_fields(value, _ANONYMOUS, "anonymous", errors)
    enabled = given.get("enabled") or False
    paths = []
    for at, one in enumerate(given.get("conditions") or ()):
        condition = read_fields(one, {"path": str}, f"anonymous.conditions[{at}]", errors)
        if not condition.get("path"):
            errors.append(required(f"anonymous.conditions[{at}].path"))
        paths.append(condition.get("path") or "")
    if paths and not enabled:
        text = "enabled should be set to true when conditions are defined"
        errors.append(invalid("anonymous.conditions", paths, text))
    return Anonymous(enabled, frozenset(paths) if paths else None)


def _authenticator(value: Any, path: str, own_issuer: str, errors: _Errors) -> JwtAuthenticator:
    given = read_fields(value, _JWT, path, errors)
    issuer = _issuer(given.get("issuer") or {}, f"{path}.issuer", own_issuer, errors)
    required_claims, claim_rules = _claim_rules(given, f"{path}.claimValidationRules", errors)
    mappings = read_fields(given.get("claimMappings") or {}, _MAPPINGS, f"{path}.claimMappings", errors)
    at = f"{path}.claimMappings"
    username = _source(mappings, "username", at, errors)
    extra = _extra(mappings, f"{at}.extra", errors)
    if username.program is not None and looks_at(username.program, "email"):
        others = [username.program, *(program for _, program in extra), *(rule.program for rule in claim_rules)]
        if not any(looks_at(program, "email_verified") for program in others):
            errors.append(invalid(f"{at}.username.expression", username.program.expression, _EMAIL_VERIFIED))
    mapping = UserMapping(
        username,
        _source(mappings, "groups", at, errors),
        _source(mappings, "uid", at, errors),
        extra,
        required_claims,
        claim_rules,
        _user_rules(given, f"{path}.userValidationRules", errors),
    )
    return JwtAuthenticator(issuer, mapping)


def _issuer(value: Any, path: str, own_issuer: str, errors: _Errors) -> Issuer:
    given = read_fields(value, _ISSUER, path, errors)
    url, discovery = given.get("url") or "", given.get("discoveryURL") or ""
    if not url:
        errors.append(required(f"{path}.url"))
    else:
        _check_url(url, f"{path}.url", errors)
    if url and url == own_issuer:
        text = f"URL must not overlap with disallowed issuers: [{own_issuer}]"
        errors.append(invalid(f"{path}.url", url, text))
    if discovery:
        _check_url(discovery, f"{path}.discoveryURL", errors)
        if discovery.rstrip("/") == url.rstrip("/"):
            errors.append(invalid(f"{path}.discoveryURL", discovery, "discoveryURL must be different from URL"))
    audiences = read_texts(given, "audiences", path, errors)
    if not audiences:
        errors.append(required(f"{path}.audiences", f"at least one {path}.audiences is required"))
    errors += [required(f"{path}.audiences[{at}]") for at, one in enumerate(audiences) if not one]
    _no_twice(audiences, f"{path}.audiences[{{}}]", errors)
    policy = given.get("audienceMatchPolicy") or ""
    if len(audiences) > 1 and policy != "MatchAny":
        text = "audienceMatchPolicy must be MatchAny for multiple audiences"
        errors.append(invalid(f"{path}.audienceMatchPolicy", policy, text))
    elif policy not in ("", "MatchAny"):
        errors.append(not_supported(f"{path}.audienceMatchPolicy", policy, ["MatchAny"]))
    authority = given.get("certificateAuthority") or ""
    if authority and not _is_authority(authority):
        text = "data does not contain any valid RSA or ECDSA certificates"
        errors.append(invalid(f"{path}.certificateAuthority", "<omitted>", text))
    where = discovery or f"{url.rstrip('/')}/.well-known/openid-configuration"
    return Issuer(url, where, audiences, authority)


def _is_authority(pem: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return False


def _check_url(url: str, path: str, errors: _Errors) -> None:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as e:
        errors.append(invalid(path, url, str(e)))
        return
    for wrong, text in (
        (parts.scheme != "https", "URL scheme must be https"),
        (not has_host, "URL must have a host"),
        (parts.username is not None or parts.password is not None, "URL must not contain a username or password"),
        (bool(parts.query), "URL must not contain a query"),
        (bool(parts.fragment), "URL must not contain a fragment"),
    ):
        if wrong:
            errors.append(invalid(path, url, text))


def _no_twice(values: Iterable[str], path: str, errors: _Errors) -> None:
    seen: set[str] = set()
    for at, value in enumerate(values):
        if value and value in seen:
            errors.append(duplicate(path.format(at), value))
        seen.add(value)


def _made(make: Callable[[str], T], text: str, path: str, errors: _Errors) -> T | None:
    try:
        return make(text)
    except ValueError as e:
        errors.append(invalid(path, text, str(e)))
        return None


def _source(mappings: Mapping[str, Any], part: str, path: str, errors: _Errors) -> Source:
    path = f"{path}.{part}"
    given = read_fields(mappings.get(part) or {}, _SOURCE, path, errors)
    claim, text = given.get("claim") or "", given.get("expression") or ""
    if claim and text:
        errors.append(invalid(path, "", _BOTH))
    elif text:
        if "prefix" in given:
            errors.append(invalid(f"{path}.prefix", given["prefix"], "may not be specified when expression is set"))
        return Source(program=_made(compile_mapping, text, f"{path}.expression", errors))
    elif not claim and part == "username":
        errors.append(required(path, "claim or expression is required"))
    elif claim and "prefix" not in given and part != "uid":
        text = "prefix is required when claim is set. It can be set to an empty string to disable prefixing"
        errors.append(required(f"{path}.prefix", text))
    return Source(claim, given.get("prefix") or "")


def _extra(mappings: Mapping[str, Any], path: str, errors: _Errors) -> tuple[tuple[str, Program], ...]:
    found: list[tuple[str, Program]] = []
    keys = []
    for at, one in enumerate(mappings.get("extra") or ()):
        given = read_fields(one, _EXTRA, f"{path}[{at}]", errors)
        key, text = given.get("key") or "", given.get("valueExpression") or ""
        _check_key(key, f"{path}[{at}].key", errors)
        keys.append(key)
        if not text:
            errors.append(required(f"{path}[{at}].valueExpression"))
            continue
        program = _made(compile_mapping, text, f"{path}[{at}].valueExpression", errors)
        if program is not None:
            found.append((key, program))
    _no_twice(keys, f"{path}[{{}}].key", errors)
    return tuple(found)


def _check_key(key: str, path: str, errors: _Errors) -> None:
    domain_prefixed_path(key, path, errors)
    if key != key.lower():
        errors.append(invalid(path, key, "must be lowercase"))
    domain = f".{key.partition('/')[0]}"
    if domain.endswith((".kubernetes.io", ".k8s.io")):
        text = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"
        errors.append(invalid(path, key, text))


def _claim_rules(given: Mapping[str, Any], path: str, errors: _Errors) -> tuple[dict[str, str], tuple[Rule, ...]]:
    """The values that claims must have, and conditions on all of them."""
    wanted: dict[str, str] = {}
    rules: list[tuple[str, str]] = []
    for at, one in enumerate(given.get("claimValidationRules") or ()):
        where = f"{path}[{at}]"
        rule = read_fields(one, _CLAIM_RULE, where, errors)
        claim, text = rule.get("claim") or "", rule.get("expression") or ""
        if claim and text:
            errors.append(invalid(where, claim, _BOTH))
        elif not claim and not text:
            errors.append(required(where, "claim or expression is required"))
        other = "message" if claim else "requiredValue"
        if rule.get(other):
            set_one = "claim" if claim else "expression"
            errors.append(invalid(f"{where}.{other}", rule[other], f"may not be specified when {set_one} is set"))
        if claim in wanted:
            errors.append(duplicate(f"{where}.claim", claim))
        if claim:
            wanted[claim] = rule.get("requiredValue") or ""
        rules.append((text, rule.get("message") or ""))
    return wanted, _rules(rules, path, compile_rule, errors)


def _user_rules(given: Mapping[str, Any], path: str, errors: _Errors) -> tuple[Rule, ...]:
    rules = []
    for at, one in enumerate(given.get("userValidationRules") or ()):
        rule = read_fields(one, _USER_RULE, f"{path}[{at}]", errors)
        if not rule.get("expression"):
            errors.append(required(f"{path}[{at}].expression"))
        rules.append((rule.get("expression") or "", rule.get("message") or ""))
    return _rules(rules, path, lambda text: compile_rule(text, of_user=True), errors)


def _rules(
    rules: Sequence[tuple[str, str]], path: str, make: Callable[[str], Program], errors: _Errors
) -> tuple[Rule, ...]:
    _no_twice([text for text, _ in rules], f"{path}[{{}}].expression", errors)
    found = []
    for at, (text, message) in enumerate(rules):
        program = _made(make, text, f"{path}[{at}].expression", errors) if text else None
        if program is not None:
            found.append(Rule(program, message))
    return tuple(found)
