"""Pods of one template are judged once, and nothing wrong passes for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayplane.control_plane.api.kinds.defaulting import default
from rayplane.control_plane.api.kinds.pod_template.alike import judged_once, shape_of
from rayplane.control_plane.api.kinds.pod_template.validation import validate_pod

TOKEN = {
    "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "t"}}]}
}
Pod = dict[str, Any]


def pod(name: str = "a", volume: str = "kube-api-access-bcdfg", **spec: Any) -> Pod:
    """A good pod, as it is after admission."""
    mount = {"name": volume, "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "containers": [{"name": "c", "image": "i", "volumeMounts": [mount]}],
            "serviceAccountName": "default",
            "volumes": [{"name": volume, **copy.deepcopy(TOKEN)}],
            **spec,
        },
    }
    default(made)
    return made


class Counted:
    """The rules, and how often they were asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.judge = judged_once(self._judge)

    def _judge(self, pod: Pod) -> list[Any]:
        self.asked += 1
        return validate_pod(pod)


def test_pods_that_differ_in_their_names_are_judged_once() -> None:
    rules = Counted()
    assert rules.judge(pod("a", "kube-api-access-bcdfg")) == rules.judge(pod("b", "kube-api-access-hjklm")) == []
    assert rules.asked == 1


def two_volumes() -> Pod:
    made = pod()
    made["spec"]["volumes"] *= 2
    return made


def other_mount() -> Pod:
    made = pod()
    made["spec"]["containers"][0]["volumeMounts"][0]["name"] = "kube-api-access-hjklm"
    return made


def annotated() -> Pod:
    made = pod()
    made["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/c": "odd"}
    return made


WRONG = {
    "two volumes of the token's name": two_volumes,
    "a mount of another token": other_mount,
    "an annotation": annotated,
    "a policy": lambda: pod(restartPolicy="Sometimes"),
    "a name of the token's length that is none": lambda: pod(volume="kube-api-access-BCDFG"),
    "a name that stands for the token's": lambda: pod(volume="\0"),
    "a number for a truth": lambda: pod(terminationGracePeriodSeconds=-1),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_after_a_good_pod_and_again(name: str) -> None:
    rules, wrong = Counted(), WRONG[name]()
    expected = [str(e) for e in validate_pod(wrong)]
    rules.judge(pod())
    for _ in range(2):
        assert [str(e) for e in rules.judge(copy.deepcopy(wrong))] == expected != []


def test_claims_that_are_called_by_the_pods_name_are_judged_by_it() -> None:
    claim = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    volumes = [{"name": "data", "ephemeral": {"volumeClaimTemplate": claim}}]
    rules = Counted()
    good, wrong = (pod(name, volumes=copy.deepcopy(volumes)) for name in ("a", "a" * 250))
    for one in (good, wrong):
        one["spec"]["containers"][0]["volumeMounts"] = []
    assert rules.judge(good) == []
    assert "PVC name" in str(rules.judge(wrong)[0])


def test_what_has_the_tokens_name_within_other_text_is_judged_by_itself() -> None:
    def of_container(named: str) -> Pod:
        made = pod(volume="kube-api-access-hjklm")
        made["spec"]["containers"][0]["name"] = "kube-api-access-hjklm"
        annotation = f"container.apparmor.security.beta.kubernetes.io/{named}"
        made["metadata"]["annotations"] = {annotation: "runtime/default"}
        return made

    rules, wrong = Counted(), of_container("kube-api-access-bcdfg")
    assert rules.judge(pod_of := of_container("kube-api-access-hjklm")) == []
    assert shape_of(pod_of) is None
    assert "container not found" in str(rules.judge(wrong)[0])


def test_two_tokens_are_no_shape() -> None:
    made = pod()
    made["spec"]["volumes"].append({"name": "kube-api-access-hjklm", **copy.deepcopy(TOKEN)})
    assert shape_of(made) is None
