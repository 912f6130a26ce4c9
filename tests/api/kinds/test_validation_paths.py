"""Paths in pods and volumes that climb are refused, in the words of Kubernetes."""

from typing import Any

import pytest

from rayplane.control_plane.api.errors import FieldError
from rayplane.control_plane.api.kinds.core.persistent_volume import validate_volume
from rayplane.control_plane.api.kinds.pod_template.defaults import default_pod_spec
from rayplane.control_plane.api.kinds.pod_template.validation import validate_pod_spec

CLIMBS = "must not contain '..'"
STARTS = "must not start with '..'"


def problems(volume: dict[str, Any] | None = None, **container: Any) -> list[tuple[str, str]]:
    spec = {
        "containers": [
            {
                "name": "c",
                "image": "i",
                "imagePullPolicy": "Always",
                "terminationMessagePolicy": "File",
                **container,
            }
        ],
        "volumes": [{"name": "v", **(volume or {"emptyDir": {}})}, {"name": "w", "emptyDir": {}}],
        "restartPolicy": "Always",
        "dnsPolicy": "Default",
    }
    errs: list[FieldError] = []
    default_pod_spec(spec)
    validate_pod_spec(spec, "spec", errs)
    return [(e.field.removeprefix("spec."), e.detail) for e in errs]


@pytest.mark.parametrize("path", ["/../../..", "..", "/a/../../b"])
def test_mount_paths_do_not_climb(path: str) -> None:
    mount = {"name": "v", "mountPath": path}
    assert problems(volumeMounts=[mount]) == [("containers[0].volumeMounts[0].mountPath", CLIMBS)]


def test_mount_paths_are_unique() -> None:
    mounts = [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a"}]
    assert problems(volumeMounts=mounts) == [("containers[0].volumeMounts[1].mountPath", "must be unique")]


@pytest.mark.parametrize("field", ["subPath", "subPathExpr"])
@pytest.mark.parametrize(("path", "said"), [("../x", CLIMBS), ("/x", "must be a relative path"), ("a/..", CLIMBS)])
def test_sub_paths_stay_below_the_volume(field: str, path: str, said: str) -> None:
    mount = {"name": "v", "mountPath": "/a", field: path}
    assert problems(volumeMounts=[mount]) == [(f"containers[0].volumeMounts.{field}", said)]
    assert problems(volumeMounts=[{**mount, field: "..data/x"}]) == []


ITEMS: dict[str, Any] = {
    "configMap": lambda path: {"configMap": {"name": "m", "items": [{"key": "k", "path": path}]}},
    "secret": lambda path: {"secret": {"secretName": "s", "items": [{"key": "k", "path": path}]}},
    "downwardAPI": lambda path: {
        "downwardAPI": {"items": [{"path": path, "fieldRef": {"fieldPath": "metadata.name"}}]}
    },
    "token": lambda path: {"projected": {"sources": [{"serviceAccountToken": {"path": path}}]}},
    "bundle": lambda path: {"projected": {"sources": [{"clusterTrustBundle": {"name": "b", "path": path}}]}},
}


@pytest.mark.parametrize("kind", sorted(ITEMS))
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../x", [CLIMBS]),
        ("..", [CLIMBS, STARTS]),
        ("a/../b", [CLIMBS]),
        ("..x", [STARTS]),
        ("/x", ["must be a relative path"]),
    ],
)
def test_files_of_volumes_stay_in_them(kind: str, path: str, said: list[str]) -> None:
    assert [text for _, text in problems(ITEMS[kind](path))] == said
    assert problems(ITEMS[kind]("dir/x..y")) == []


def test_paths_of_the_machine_do_not_climb() -> None:
    assert problems({"hostPath": {"path": "/a/../b"}}) == [("volumes[0].hostPath.path", CLIMBS)]
    spec = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "local": {"path": "/a/../b"}}
    assert ("spec.local.path", CLIMBS) in {(e.field, e.detail) for e in validate_volume({"spec": spec})}


def test_devices_are_no_mounts() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "c"}}
    devices = [{"name": "v", "devicePath": "/dev/../x"}, {"name": "v", "devicePath": "/dev/../x"}]
    found = problems(claim, volumeDevices=devices, volumeMounts=[{"name": "v", "mountPath": "/dev/../x"}])
    assert {text for _, text in found} == {
        CLIMBS,
        "can not contain backsteps ('..')",
        "must be unique",
        "must not already exist in volumeDevices",
        "must not already exist as a path in volumeDevices",
        "must not already exist in volumeMounts",
        "must not already exist as a path in volumeMounts",
    }
