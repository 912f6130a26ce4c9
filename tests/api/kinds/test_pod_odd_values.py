"""Several odd values at once in a pod: whoever judges it, as new, changed or reported, answers in words."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.pod_template.updates import (
    resized_spec,
    validate_ephemeral_update,
    validate_resize,
)
from rayplane.control_plane.api.kinds.strategy import (
    prepare_for_create,
    prepare_for_status_update,
    prepare_for_update,
)
from rayplane.control_plane.api.kinds.validation import validate_create, validate_status_update, validate_update
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.machinery.strict import DecodeError, conform
from rayplane.control_plane.api.meta import Object
from tests.api.kinds.changes import created, info_of
from tests.api.odd_values import Path, fields, placed

TERM = {"topologyKey": "t", "labelSelector": {}}
FULL: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x", "namespace": "ns", "uid": "u", "labels": {"a": "b"}, "annotations": {"a": "b"}},
    "spec": {
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "env": [{"name": "a", "value": "b"}],
                "ports": [{"name": "p", "containerPort": 80}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
            }
        ],
        "initContainers": [{"name": "i", "image": "nginx", "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [TERM]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **TERM}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "schedulingGates": [{"name": "g"}],
        "resourceClaims": [{"name": "r", "resourceClaimName": "r"}],
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["h"]}],
        "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
        "dnsConfig": {"nameservers": ["1.2.3.4"]},
    },
}
PLAIN: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
ODD = [(path, value) for path, value in fields("v1", "Pod") if path[0] in ("metadata", "spec", "status")]
Some = Sequence[tuple[Path, Any]]
some = st.lists(st.sampled_from(ODD), min_size=1, max_size=6)


def odd(base: Object, values: Some) -> Object | None:
    """What a request with these values reads as; None where it is not read at all."""
    made = copy.deepcopy(base)
    for path, value in values:
        try:
            made = placed(made, path, value)
        except (AttributeError, IndexError, KeyError, TypeError):
            continue  # An earlier value stands in the way.
    definition = definition_of("v1", "Pod")
    assert definition is not None
    try:
        conform(made, definition)
    except (DecodeError, ApiError):
        return None
    return made


def said(errors: Sequence[Any]) -> None:
    assert all(str(error) and error.cause for error in errors)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([FULL, PLAIN]), some)
def test_new_pods(base: Object, values: Some) -> None:
    pod = odd(base, values)
    if pod is None:
        return
    pod.setdefault("metadata", {}).setdefault("name", "x")
    default(pod)
    prepare_for_create(pod, info_of(PLAIN))
    said(validate_create(pod, info_of(PLAIN)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([FULL, PLAIN]), some, some)
def test_changed_pods(base: Object, first: Some, then: Some) -> None:
    """Also what is there may be odd: the rules were others once."""
    info = info_of(PLAIN)
    good, found = created(base, {})
    assert found == []
    old = odd(good, first) or good
    new = odd(old, then)
    if new is None or not new.get("spec") or not old.get("spec"):
        return
    default(old)
    default(new)
    changed = copy.deepcopy(new)
    prepare_for_update(changed, old, info)
    said(validate_update(changed, old, info))
    said(validate_ephemeral_update(new, old))
    said(validate_resize({**old, "spec": resized_spec(new["spec"], old["spec"])}, old))
    prepare_for_status_update(new, old, info)
    said(validate_status_update(new, old, info))
