"""Admission from manifests: webhooks and policies that stand in files of a server, and not in the API. Pure.

They are in force before those of the API, whether etcd answers or not, and they alone judge what is done to webhooks
and policies of the API: no client sees or changes them.
Source: Kubernetes' KEP 5793; apiserver's plugin/manifest, plugin/webhook/manifest and plugin/policy/manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.admission.matching import GROUP
from rayplane.control_plane.api.config_files import ConfigFileError
from rayplane.control_plane.api.errors import ApiError, FieldError, Invalid, forbidden, invalid, required
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.validation import validate_create
from rayplane.control_plane.api.machinery import decoding, yaml_reader
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.apiserver.admission.compilation import errors_of
from rayplane.control_plane.apiserver.admission.plugins import only
from rayplane.control_plane.apiserver.admission.request import CREATE, AdmissionRequest

SUFFIX: Final = ".static.k8s.io"
#: By plug-in the kind of its configuration, and those of its manifests.
PLUGINS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "MutatingAdmissionPolicy": (
        "MutatingAdmissionPolicyConfiguration",
        ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"),
    ),
    "MutatingAdmissionWebhook": ("WebhookAdmissionConfiguration", ("MutatingWebhookConfiguration",)),
    "ValidatingAdmissionPolicy": (
        "ValidatingAdmissionPolicyConfiguration",
        ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    ),
    "ValidatingAdmissionWebhook": ("WebhookAdmissionConfiguration", ("ValidatingWebhookConfiguration",)),
}
_VERSION: Final = f"{GROUP}/v1"


@only(lambda request: request.operation == CREATE and request.info.group == GROUP and not request.subresource)
async def keep_names(request: AdmissionRequest) -> None:
    """Names of manifests are not for objects of the API. Raises Invalid."""
    if request.name.endswith(SUFFIX):
        text = (
            f'names ending with "{SUFFIX}" are reserved for static manifest-based configurations and cannot be managed '
            "via the API"
        )
        raise Invalid.of(request.info.kind, request.name, [invalid("metadata.name", request.name, text)], group=GROUP)


def read_manifests(plugin: str, files: Mapping[str, str]) -> tuple[Object, ...]:
    """The objects of one plug-in's files, by their names, as they are in force. ConfigFileError names the file."""
    found: dict[tuple[str, str], tuple[str, Object]] = {}
    for file, text in sorted(files.items()):
        try:
            for o in _objects(text.encode(), PLUGINS[plugin][1]):
                before = found.setdefault((o["kind"], name(o)), (file, o))
                if before[1] is not o:
                    raise ConfigFileError(f"{o['kind']} {name(o)} is in {before[0]} already")
        except (ApiError, ValueError) as e:
            raise ConfigFileError(f"{file}: {e}") from e
    for (kind, own), (file, o) in found.items():
        policy = (o.get("spec") or {}).get("policyName")
        if policy is not None and (kind.removesuffix("Binding"), policy) not in found:
            raise ConfigFileError(f"{file}: {kind} {own}: policy {policy} is in none of the directory's files")
    return tuple(o for _, (_, o) in sorted(found.items()))


def _objects(data: bytes, kinds: tuple[str, ...]) -> Iterator[Object]:
    """The objects of a file, with their defaults. ApiError, ValueError."""
    for document in yaml_reader.documents(data):
        value = decoding.decode(document, decoding.YAML)
        if doubled := decoding.duplicates(document, decoding.YAML):
            raise ConfigFileError(", ".join(doubled))
        items = value.get("items")
        is_list = isinstance(items, list) and str(value.get("kind") or "").endswith("List")
        for one in items if is_list and isinstance(items, list) else (value,):
            yield _object(one, kinds)


def _object(value: Any, kinds: tuple[str, ...]) -> Object:
    kind, version = (value.get("kind"), value.get("apiVersion")) if isinstance(value, dict) else (None, None)
    if kind not in kinds or version != _VERSION:
        wanted = " or ".join(kinds)
        raise ConfigFileError(f"{version or 'no apiVersion'} {kind or 'no kind'} must be {_VERSION} {wanted}")
    o = decoding.decode_object(
        orjson.dumps(value),
        api_version=_VERSION,
        kind=kind,
        definition=definition_of(_VERSION, kind),
        field_validation="Strict",
    ).object
    default(o)
    info = builtin_registry().by_kind(_VERSION, kind)
    assert info is not None
    if found := [*validate_create(o, info), *_own_rules(o)] or errors_of(o, info):
        raise Invalid.of(kind, name(o), found, group=GROUP)
    return o


def _own_rules(o: Object) -> Iterator[FieldError]:
    """Problems of a manifest beside those of any such object: it must need nothing of the API."""
    own, spec = name(o), o.get("spec") or {}
    if not own.endswith(SUFFIX):
        yield invalid("metadata.name", own, f'must end with "{SUFFIX}"')
    for field in ("paramKind", "paramRef"):
        if spec.get(field) is not None:
            yield forbidden(f"spec.{field}", "is not supported for static manifests")
    if not (spec.get("policyName") or SUFFIX).endswith(SUFFIX):
        yield invalid("spec.policyName", spec["policyName"], f'must end with "{SUFFIX}"')
    for index, webhook in enumerate(o.get("webhooks") or ()):
        client, at = webhook.get("clientConfig") or {}, f"webhooks[{index}].clientConfig"
        if client.get("service") is not None:
            yield forbidden(f"{at}.service", "is not supported for static manifests; use url")
        for field in ("url", "caBundle"):
            if not client.get(field):
                yield required(f"{at}.{field}", "is required for static manifests")
