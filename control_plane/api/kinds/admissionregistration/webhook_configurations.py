"""Mutating and validating webhook configurations."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_PREPARATION,
    NO_SCALE,
    NO_STATUS,
    NO_UPDATE_RULES,
    NO_VALIDATION,
    Rules,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name


def webhooks(obj: Object) -> None:
    for hook in obj.get("webhooks") or ():
        for field, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent")):
            if not hook.get(field):
                hook[field] = value
        for field in ("namespaceSelector", "objectSelector"):
            if hook.get(field) is None:
                hook[field] = {}
        if hook.get("timeoutSeconds") is None:
            hook["timeoutSeconds"] = 10
        for rule in hook.get("rules") or ():
            if not rule.get("scope"):
                rule["scope"] = "*"
        target = (hook.get("clientConfig") or {}).get("service")
        if target is not None and not target.get("port"):
            target["port"] = 443


def _default_mutating_webhook_configuration(obj: Object) -> None:
    webhooks(obj)
    for hook in obj.get("webhooks") or ():
        if not hook.get("reinvocationPolicy"):
            hook["reinvocationPolicy"] = "Never"


def _row_mutating_webhook_configuration(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len(obj.get("webhooks") or ()), age(obj, now)]


RULES = {
    "MutatingWebhookConfiguration": Rules(
        name=names.subdomain_errors,
        defaults=_default_mutating_webhook_configuration,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Webhooks", "integer"), AGE), _row_mutating_webhook_configuration),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
    "ValidatingWebhookConfiguration": Rules(
        name=names.subdomain_errors,
        defaults=webhooks,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Webhooks", "integer"), AGE), _row_mutating_webhook_configuration),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
