"""Schemas and rules of definitions that Kubernetes does not take, in its words."""

from typing import Any

import pytest

from rayplane.control_plane.apiserver.apiextensions import acceptance, rules
from tests.apiserver.test_operators import defined

AT = "spec.validation.openAPIV3Schema"
X = f"{AT}.properties[x]"
STRING = {"type": "string"}
MAP_LIST = {"type": "array", "x-kubernetes-list-type": "map"}


def judged(schema: dict[str, Any]) -> list[str]:
    crd = defined(schema, "Thing", "example.com")
    acceptance.complete(crd, "2024-02-20T10:00:00Z", ())
    return [str(error) for error in acceptance.errors_of(crd, ())]


PROPERTIES: list[tuple[dict[str, Any], str]] = [
    ({}, f"{X}.type: Required value: must not be empty for specified object fields"),
    ({"type": "array"}, f"{X}.items: Required value: must be specified"),
    ({"type": "array", "items": {}}, f"{X}.items: Required value: must be specified"),
    ({"type": "array", "items": {"minLength": 1}}, f"{X}.items.type: Required value: must not be empty for specified"),
    ({"type": "array", "items": [STRING]}, f"{X}.items: Forbidden: items must be a schema object and not an array"),
    ({"type": "text"}, f'{X}.type: Unsupported value: "text": supported values: "array", "boolean", "integer"'),
    ({"type": "null"}, f"{X}.type: Forbidden: type cannot be set to null, use nullable as an alternative"),
    ({"$ref": "#/a", "type": "string"}, f"{X}.$ref: Forbidden: $ref is not supported"),
    ({"type": "array", "items": STRING, "uniqueItems": True}, f"{X}.uniqueItems: Forbidden: uniqueItems cannot be"),
    (
        {"type": "object", "properties": {"a": STRING}, "additionalProperties": STRING},
        f"{X}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
    ),
    ({"type": "string", "pattern": "("}, f'{X}.pattern: Invalid value: "(": must be a valid regular expression, but'),
    ({"type": "integer", "default": "five"}, f'{X}.default in body must be of type integer: "string"'),
    ({"type": "integer", "default": 1, "minimum": 5}, f"{X}.default in body should be greater than or equal to 5"),
    (
        {"type": "integer", "default": 1, "x-kubernetes-validations": [{"rule": "self > 1", "message": "too small"}]},
        f'{X}.default: Invalid value: "integer": too small',
    ),
    (
        {
            "type": "object",
            "default": {},
            "properties": {"a": {"type": "integer", "default": 1, "x-kubernetes-validations": [{"rule": "self > 1"}]}},
        },
        f'{X}.default.a: Invalid value: "integer": failed rule: self > 1',
    ),
    (
        {"type": "object", "default": {"b": 1}, "properties": {"a": STRING}},
        f'{X}.default: Invalid value: {{"b":1}}: must not have unknown fields',
    ),
    (MAP_LIST | {"items": {"type": "object"}}, f"{X}.x-kubernetes-list-map-keys: Required value: must not be empty if"),
    (
        MAP_LIST | {"x-kubernetes-list-map-keys": ["a"], "items": {"type": "object", "properties": {"a": STRING}}},
        f"{X}.items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must",
    ),
    (
        MAP_LIST | {"x-kubernetes-list-map-keys": ["b"], "items": {"type": "object", "properties": {"a": STRING}}},
        "entries must all be names of item properties",
    ),
    (
        MAP_LIST | {"x-kubernetes-list-map-keys": ["a"], "items": STRING},
        "must be object if parent array's x-kubernetes",
    ),
    ({"type": "string", "x-kubernetes-list-type": "set"}, f'{X}.type: Invalid value: "string": must be array if x-kub'),
    (
        {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}},
        f"{X}.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with",
    ),
    ({"type": "object", "x-kubernetes-map-type": "odd"}, f'{X}.x-kubernetes-map-type: Unsupported value: "odd"'),
    ({"type": "string", "x-kubernetes-preserve-unknown-fields": False}, "must be true or undefined"),
    (
        {"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True},
        f"{X}.x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string",
    ),
    ({"type": "object", "x-kubernetes-embedded-resource": True}, f"{X}.properties: Required value: must not be empty"),
    (
        {"type": "object", "anyOf": [{"properties": {"a": {"minLength": 1}}}]},
        f"{X}.properties[a]: Required value: because it is defined in {X}.anyOf[0].properties[a]",
    ),
    (
        {"type": "object", "properties": {"a": STRING}, "anyOf": [{"properties": {"a": STRING}}]},
        f"{X}.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
    ),
    (
        {"type": "string", "not": {"description": "d"}},
        f"{X}.not.description: Forbidden: must be empty to be structural",
    ),
]
ROOTS: list[tuple[dict[str, Any], str]] = [
    ({"properties": {}}, f"{AT}.type: Required value: must not be empty at the root"),
    ({"type": "array", "items": STRING}, f'{AT}.type: Invalid value: "array": must be object at the root'),
    ({"type": "object", "additionalProperties": STRING}, f"{AT}.additionalProperties: Forbidden: must not be used at"),
    (
        {
            "type": "object",
            "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
        },
        f"{AT}.properties[metadata]: Forbidden: must not specify anything other than name and generateName",
    ),
    ({"type": "object", "properties": {"kind": {"type": "integer"}}}, "properties[kind].type: Invalid value"),
    (
        {"type": "object", "properties": {"kind": {"type": "string", "default": "K"}}},
        f"{AT}.properties[kind].default: Forbidden: must not be set in top-level kind",
    ),
]
DEAR = "exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and"
RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {"rule": "self.nosuch"},
        '.rule: Invalid value: {"rule":"self.nosuch"}: compilation failed: ERROR: <input>:1:5',
    ),
    ({}, {"rule": "1 + 1"}, "cel expression must evaluate to a bool"),
    ({}, {"rule": " "}, ".rule: Required value: rule is not specified"),
    ({}, {"rule": "true\n"}, ""),
    ({}, {"rule": "true &&\ntrue"}, ".message: Required value: message must be specified if rule contains line breaks"),
    ({}, {"rule": "true", "message": "a\nb"}, ".message: Invalid value"),
    ({}, {"rule": "true", "messageExpression": "1"}, "messageExpression must evaluate to a string"),
    (
        {},
        {"rule": "true", "reason": "Odd"},
        '.reason: Unsupported value: "Odd": supported values: "FieldValueDuplicate"',
    ),
    ({}, {"rule": "true", "fieldPath": ".b"}, '.fieldPath: Invalid value: ".b": must be a valid path'),
    ({}, {"rule": "true", "fieldPath": ".a"}, ""),
    ({}, {"rule": "true", "optionalOldSelf": True}, "may not be set if oldSelf is not used in rule"),
    ({}, {"rule": "self.a == oldSelf.a"}, ""),
    ({}, {"rule": "self.l.all(x, x.contains('gpu'))"}, f".rule: Forbidden: estimated rule cost {DEAR}"),
    (
        {},
        {"rule": "self.l.all(x, self.l.all(y, x != y))"},
        f"{AT}: Forbidden: x-kubernetes-validations estimated rule cost",
    ),
    ({"maxItems": 10, "items": {"type": "string", "maxLength": 20}}, {"rule": "self.l.all(x, x.contains('gpu'))"}, ""),
    ({}, {"rule": "true", "messageExpression": "'a' + string(self.n)"}, f"estimated messageExpression cost {DEAR}"),
]


@pytest.mark.parametrize(("schema", "message"), PROPERTIES, ids=lambda case: str(case)[:60])
def test_a_field_that_is_not_structural(schema: dict[str, Any], message: str) -> None:
    found = judged({"type": "object", "properties": {"x": schema}})
    assert any(message in one for one in found), found


@pytest.mark.parametrize(("schema", "message"), ROOTS, ids=lambda case: str(case)[:60])
def test_a_root_that_is_not_structural(schema: dict[str, Any], message: str) -> None:
    found = judged(schema)
    assert any(message in one for one in found), found


@pytest.mark.parametrize(("of_list", "rule", "message"), RULES, ids=lambda case: str(case)[:60])
def test_rules_are_judged_with_their_definition(of_list: dict[str, Any], rule: dict[str, Any], message: str) -> None:
    items = {"type": "array", "items": STRING, **of_list}
    properties = {"a": STRING, "l": items, "n": {"type": "integer"}}
    inner = {"type": "object", "properties": properties, "x-kubernetes-validations": [rule]}
    found = judged({"type": "object", "properties": {"x": inner}})
    assert any(message in one for one in found) if message else found == [], found


SPEC = {"type": "object", "properties": {"a": STRING, "n": {"type": "object", "properties": {"b": STRING}}}}
OBJECT = {"type": "object", "properties": {"spec": SPEC}}
VERSIONS: list[tuple[dict[str, Any], str]] = [
    ({"schema": None}, "spec.versions[0].schema.openAPIV3Schema: Required value"),
    (
        {"schema": {"openAPIV3Schema": {**OBJECT, "oneOf": [{"required": ["spec"]}]}}, "subresources": {"status": {}}},
        "fields are allowed at the root of the schema if the status subresource is enabled",
    ),
    ({"schema": {"openAPIV3Schema": {**OBJECT, "oneOf": [{"required": ["spec"]}]}}}, ""),
    ({"schema": {"openAPIV3Schema": {**OBJECT, "required": ["spec"]}}, "subresources": {"status": {}}}, ""),
    ({"schema": {"openAPIV3Schema": {**OBJECT, "nullable": True}}}, f"{AT}.nullable: Forbidden: nullable cannot be"),
    ({"selectableFields": [{"jsonPath": ".spec.a"}]}, ""),
    ({"selectableFields": [{}]}, "spec.selectableFields[0].jsonPath: Required value"),
    (
        {"selectableFields": [{"jsonPath": ".spec.c"}]},
        'spec.selectableFields[0].jsonPath: Invalid value: ".spec.c": is an invalid path: does not refer to a valid',
    ),
    ({"selectableFields": [{"jsonPath": ".spec['a']"}]}, "is an invalid path: array notation is not allowed"),
    ({"selectableFields": [{"jsonPath": "spec.a"}]}, "is an invalid path: expected [ or . but got: spec.a"),
    ({"selectableFields": [{"jsonPath": ".spec.n"}]}, '".spec.n": must point to a field of type string, boolean or'),
    ({"selectableFields": [{"jsonPath": ".spec.a"}] * 2}, "spec.selectableFields[1].jsonPath: Duplicate value"),
    (
        {"additionalPrinterColumns": [{"name": "x", "type": "string", "jsonPath": "a"}]},
        'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "a": must be a simple json path starting with .',
    ),
    ({"additionalPrinterColumns": [{"name": "x", "type": "string", "jsonPath": ".a["}]}, ""),
    (
        {"subresources": {"scale": {"specReplicasPath": ".a", "statusReplicasPath": ".status.n"}}},
        'spec.subresources.scale.specReplicasPath: Invalid value: ".a": should be a json path under .spec',
    ),
    (
        {
            "subresources": {
                "scale": {
                    "specReplicasPath": ".spec.n",
                    "statusReplicasPath": ".status.n",
                    "labelSelectorPath": ".a",
                }
            }
        },
        'scale.labelSelectorPath: Invalid value: ".a": should be a json path under either .spec or .status',
    ),
]


@pytest.mark.parametrize(("version", "message"), VERSIONS, ids=lambda case: str(case)[:60])
def test_a_version_that_is_not_taken(version: dict[str, Any], message: str) -> None:
    crd = defined(OBJECT, "Thing", "example.com")
    crd["spec"]["versions"][0].pop("subresources", None)
    crd["spec"]["versions"][0] |= version
    acceptance.complete(crd, "2024-02-20T10:00:00Z", ())
    found = [str(error) for error in acceptance.errors_of(crd, ())]
    assert any(message in one for one in found) if message else found == [], found


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scope": "World"}, 'spec.scope: Unsupported value: "World": supported values: "Cluster", "Namespaced"'),
        ({"scope": ""}, "spec.scope: Required value"),
        ({"group": "Exämple.com"}, 'spec.group: Invalid value: "Exämple.com": a lowercase RFC 1123 subdomain must'),
        ({"group": ""}, "spec.group: Required value"),
        ({"versions": 2}, 'spec.versions: Invalid value: ["v1","v1"]: must contain unique version names'),
    ],
)
def test_a_definition_that_is_not_taken(changed: dict[str, Any], message: str) -> None:
    crd = defined(OBJECT, "Thing", "example.com")
    if "versions" in changed:
        changed = {"versions": [*crd["spec"]["versions"], {**crd["spec"]["versions"][0], "storage": False}]}
    crd["spec"] |= changed
    acceptance.complete(crd, "2024-02-20T10:00:00Z", ())
    found = [str(error) for error in acceptance.errors_of(crd, ())]
    assert any(message in one for one in found), found


def test_old_values_of_what_cannot_be_known_again_are_not_asked_for() -> None:
    rule = {"rule": "self == oldSelf"}
    items = {"type": "array", "maxItems": 3, "items": {**STRING, "maxLength": 5, "x-kubernetes-validations": [rule]}}
    found = judged({"type": "object", "properties": {"x": items}})
    assert found == [
        f'{X}.items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be used on the '
        f"uncorrelatable portion of the schema within {X}"
    ]


def test_all_rules_of_an_object_have_one_budget() -> None:
    rule = {"rule": "self.all(x, self.all(y, x + y != ''))"}
    many = {"type": "array", "items": STRING, "x-kubernetes-validations": [rule]}
    node = rules.compiled({"type": "object", "properties": {name: many for name in "abc"}})
    value = {name: ["v"] * 60 for name in "abc"}
    assert rules.broken_rules(node, value) == []
    [error] = rules.broken_rules(node, value, budget=40_000)
    assert "validation failed due to running out of cost budget, no further validation rules will be run" in str(error)
    [error] = rules.broken_rules(node, {"a": ["v"] * 600})
    assert "no further validation rules will be run due to call cost exceeds limit for rule: self.all" in str(error)


def test_what_an_update_leaves_as_it_was_is_not_judged_again() -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "object", "properties": {"a": STRING, "n": {"type": "integer"}}}},
    }
    schema["properties"]["x"]["x-kubernetes-validations"] = [{"rule": "self.a == 'right'"}]  # type: ignore[index]
    node = rules.compiled(schema)
    wrong = {"x": {"a": "wrong", "n": 1}}
    assert rules.broken_rules(node, wrong, wrong) == []
    assert len(rules.broken_rules(node, {"x": {"a": "wrong", "n": 2}}, wrong)) == 1
