"""Volumes of pods: what is refused of them and in which words, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.kinds.changes import Case, Changes, refused, tables

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {"containers": [{"name": "c", "image": "nginx"}], "serviceAccountName": "s"},
}
V = "spec.volumes[0]"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
CLIMBS = "must not contain '..'"
STARTS = "must not start with '..'"
MODE = "must be a number between 0 and 0777 (octal), both inclusive"
ID = "must be between 0 and 2147483647, inclusive"
TWICE = "conflicting duplicate paths"
MORE = "may not specify more than 1 volume type"
KEY_TYPES = '"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"'
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
NAME_FIELD = {"fieldPath": "metadata.name"}
WWN = "500a0982991b8dc5"


def vol(**source: Any) -> Changes:
    return {"spec.volumes": [{"name": "v", **source}]}


def vols(*volumes: dict[str, Any]) -> Changes:
    return {"spec.volumes": list(volumes)}


def projected(*sources: dict[str, Any], **fields: Any) -> Changes:
    return vol(projected={"sources": list(sources), **fields})


def token(**fields: Any) -> Changes:
    return projected({"serviceAccountToken": {"path": "t", **fields}})


def bundle(**fields: Any) -> Changes:
    return projected({"clusterTrustBundle": {"path": "b", **fields}})


def certificate(**fields: Any) -> Changes:
    own = {"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "c"}
    return projected({"podCertificate": {**own, **fields}})


def lacks(kind: str, *fields: str, at: str = "") -> list[Case]:
    """A source that says nothing is told what it lacks."""
    return [(vol(**{kind: {}}), [f"{V}.{at or kind}.{field}: Required value" for field in fields])]


NAMES: list[Case] = [
    (vol(), []),
    (vol(emptyDir={}), []),
    (vols({"emptyDir": {}}), [f"{V}.name: Required value"]),
    (vols({"name": "A", "emptyDir": {}}), [f'{V}.name: Invalid value: "A": {LABEL}']),
    (vols({"name": "a.b", "emptyDir": {}}), [f'{V}.name: Invalid value: "a.b": must not contain dots']),
    (vols({"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}), [
        'spec.volumes[1].name: Duplicate value: "v"']),
    (vol(emptyDir={}, hostPath={"path": "/x"}), [f"{V}.hostPath: Forbidden: {MORE}"]),
    (vol(secret={"secretName": "s"}, configMap={"name": "m"}, emptyDir={}), [
        f"{V}.secret: Forbidden: {MORE}", f"{V}.configMap: Forbidden: {MORE}"]),
    (vol(emptyDir={}, downwardAPI={"items": []}, cephfs={"monitors": ["m"]}), [
        f"{V}.cephFS: Forbidden: {MORE}", f"{V}.downwarAPI: Forbidden: {MORE}"]),
    # A volume that is not good is none to mount.
    (
        vol(hostPath={"path": ""}) | {"spec.containers.0.volumeMounts": [{"name": "v", "mountPath": "/m"}]},
        [f"{V}.hostPath.path: Required value", 'spec.containers[0].volumeMounts[0].name: Not found: "v"'],
    ),
]  # fmt: skip

LOCAL: list[Case] = [
    (vol(emptyDir={"medium": "Memory", "sizeLimit": "1Gi", "mode": 0o1777}), []),
    (vol(emptyDir={"sizeLimit": "-1"}), [
        f"{V}.emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"]),
    (vol(emptyDir={"mode": 0o2000}), [
        f"{V}.emptyDir.mode: Invalid value: 1024: must be a number between 0 and 01777 (octal), both inclusive"]),
    *[(vol(hostPath={"path": "/x", "type": kind}), [])
      for kind in ("", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice",
                   "BlockDevice")],
    (vol(hostPath={"path": "/x", "type": "x"}), [
        f'{V}.hostPath.type: Unsupported value: "x": supported values: "", "BlockDevice", "CharDevice", "Directory", '
        '"DirectoryOrCreate", "File", "FileOrCreate", "Socket"']),
    (vol(hostPath={"path": "/a/../b"}), [f'{V}.hostPath.path: Invalid value: "/a/../b": {CLIMBS}']),
    *lacks("hostPath", "path"),
    *lacks("persistentVolumeClaim", "claimName"),
    (vol(persistentVolumeClaim={"claimName": "d", "readOnly": True}), []),
    (vol(csi={"driver": "A.example.com", "nodePublishSecretRef": {"name": "s"}}), []),
    (vol(csi={"driver": "a_b"}), [f'{V}.csi.driver: Invalid value: "a_b": {SUBDOMAIN}']),
    (vol(csi={"driver": "a" * 64}), [f"{V}.csi.driver: Too long: may not be more than 63 bytes"]),
    (vol(csi={"driver": "a", "nodePublishSecretRef": {}}), [f"{V}.csi.nodePublishSecretRef.name: Required value"]),
    (vol(csi={"driver": "a", "nodePublishSecretRef": {"name": "A"}}), [
        f'{V}.csi.name: Invalid value: "A": {SUBDOMAIN}']),
    *lacks("csi", "driver"),
    (vol(image={"reference": "r", "pullPolicy": "Never"}), []),
    (vol(image={"reference": "r", "pullPolicy": "x"}), [
        f'{V}.image.pullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"']),
    *lacks("image", "reference"),
    (vol(ephemeral={"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": CLAIM}}), []),
    *lacks("ephemeral", "volumeClaimTemplate"),
    (vol(ephemeral={"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": CLAIM}}), [
        f"{V}.ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set"]),
    (vol(ephemeral={"volumeClaimTemplate": {"spec": {**CLAIM, "accessModes": []}}}), [
        f"{V}.ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required"]),
    (
        vols({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": CLAIM}}},
             {"name": "w", "persistentVolumeClaim": {"claimName": "x-v"}}),
        ['spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "x-v": must not reference a PVC that gets '
         "created for an ephemeral volume"],
    ),
    (
        vol(ephemeral={"volumeClaimTemplate": {"spec": CLAIM}}) | {"metadata.name": "a" * 252},
        [f'{V}.name: Invalid value: "v": PVC name "{"a" * 252}-v": must be no more than 253 characters'],
    ),
]  # fmt: skip

FILES: list[Case] = [
    (vol(secret={"secretName": "s", "items": [{"key": "k", "path": "a/b", "mode": 0o400}], "optional": True}), []),
    (vol(configMap={"name": "m", "defaultMode": 0o777, "items": [{"key": "k", "path": "a..b"}]}), []),
    *lacks("secret", "secretName"),
    *lacks("configMap", "name"),
    (vol(secret={"secretName": "s", "defaultMode": 0o1000}), [f"{V}.secret.defaultMode: Invalid value: 512: {MODE}"]),
    (vol(configMap={"name": "s", "defaultMode": -1}), [f"{V}.configMap.defaultMode: Invalid value: -1: {MODE}"]),
    (vol(configMap={"name": "s", "defaultUser": -1}), [f"{V}.configMap.defaultUser: Invalid value: -1: {ID}"]),
    (vol(secret={"secretName": "s", "items": [{}]}), [
        f"{V}.secret.items[0].key: Required value", f"{V}.secret.items[0].path: Required value"]),
    (vol(secret={"secretName": "s", "items": [{"key": "k", "path": "/a", "mode": 512, "user": -1}]}), [
        f'{V}.secret.items[0].path: Invalid value: "/a": must be a relative path',
        f"{V}.secret.items[0].mode: Invalid value: 512: {MODE}",
        f"{V}.secret.items[0].user: Invalid value: -1: {ID}"]),
    (vol(configMap={"name": "m", "items": [{"key": "k", "path": "../a"}]}), [
        f'{V}.configMap.items[0].path: Invalid value: "../a": {CLIMBS}']),
    (vol(configMap={"name": "m", "items": [{"key": "k", "path": "..a"}]}), [
        f'{V}.configMap.items[0].path: Invalid value: "..a": {STARTS}']),
    (vol(downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": one}} for one in (
        "metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid",
        "metadata.labels['a']")]}), []),
    (vol(downwardAPI={"items": [{"path": "a", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}),
        []),
    (vol(downwardAPI={"items": [{"path": "a"}]}), [
        f"{V}.downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"]),
    (vol(downwardAPI={"items": [{"fieldRef": NAME_FIELD}]}), [f"{V}.downwardAPI.path: Required value"]),
    (vol(downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}), [
        f'{V}.downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: '
        '"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"']),
    (vol(downwardAPI={"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}), [
        f"{V}.downwardAPI.resourceFieldRef.containerName: Required value"]),
    (
        vol(downwardAPI={"items": [{"path": "a", "fieldRef": NAME_FIELD, "mode": 512,
                                    "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}),
        [f'{V}.downwardAPI: Invalid value: "resource": fieldRef and resourceFieldRef can not be specified '
         "simultaneously",
         f"{V}.downwardAPI.mode: Invalid value: 512: {MODE}"],
    ),
    (vol(downwardAPI={"defaultMode": 512}), [f"{V}.downwardAPI.defaultMode: Invalid value: 512: {MODE}"]),
]  # fmt: skip

PROJECTED: list[Case] = [
    (projected({"secret": {"name": "s"}}, {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}), []),
    (projected(), []),
    (projected({}), []),
    (projected(defaultMode=512), [f"{V}.projected.defaultMode: Invalid value: 512: {MODE}"]),
    (projected({"secret": {}}), [f"{V}.projected.sources[0].secret.name: Required value"]),
    (projected({"configMap": {}}), [f"{V}.projected.sources[0].configMap.name: Required value"]),
    (projected({"secret": {"name": "s"}, "configMap": {"name": "m"}}), [
        f"{V}.projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"]),
    (projected(*[{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}] * 2), [
        f'{V}.projected: Invalid value: "s": {TWICE}']),
    (projected(*[{"downwardAPI": {"items": [{"path": "p", "fieldRef": NAME_FIELD}]}}] * 2), [
        f'{V}.projected: Invalid value: "p": {TWICE}']),
    (projected({"downwardAPI": {"items": [{"path": "p"}]}}), [
        f"{V}.projected.sources[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"]),
    (token(), []),
    (token(audience="a", expirationSeconds=600), []),
    (token(expirationSeconds=599), [
        f"{V}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a "
        "duration less than 10 minutes"]),
    (token(expirationSeconds=2**32 + 1), [
        f"{V}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may not specify "
        "a duration larger than 2^32 seconds"]),
    (token(path=""), [f"{V}.projected.path: Required value"]),
    (token(path="../t"), [f'{V}.projected.path: Invalid value: "../t": {CLIMBS}']),
    (token(user=-1), [f"{V}.projected.sources[0].serviceAccountToken.user: Invalid value: -1: {ID}"]),
    (token() | {"spec.serviceAccountName": ""}, [
        f"{V}.projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is "
        "not set"]),
    (bundle(name="b"), []),
    (bundle(name="example.com:s:b"), []),
    (bundle(signerName="example.com/s", labelSelector={"matchLabels": {"a": "b"}}), []),
    (bundle(), [f"{V}.projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be "
                "specified"]),
    (bundle(name="b", labelSelector={}), [
        f"{V}.projected.sources[0].clusterTrustBundle.labelSelector: Invalid value: {{}}: labelSelector must be unset "
        "if name is specified"]),
    (bundle(name="B"), [f'{V}.projected.sources[0].clusterTrustBundle.name: Invalid value: "B": not a valid '
                        f"clustertrustbundlename: {SUBDOMAIN}"]),
    (bundle(signerName="x"), [
        f'{V}.projected.sources[0].clusterTrustBundle.signerName: Invalid value: "x": must be a fully qualified domain '
        "and path of the form 'example.com/signer-name'"]),
    (bundle(signerName="x/y"), [
        f'{V}.projected.sources[0].clusterTrustBundle.signerName: Invalid value: "x": should be a domain with at least '
        "two segments separated by dots"]),
    (bundle(signerName="a.b/Y"), [
        f'{V}.projected.sources[0].clusterTrustBundle.signerName: Invalid value: "Y": validating label "Y": '
        f"{SUBDOMAIN}"]),
    (bundle(name="b", path=""), [f"{V}.projected.sources[0].clusterTrustBundle.path: Required value"]),
    (certificate(), []),
    (certificate(keyPath="k", certificateChainPath="d", maxExpirationSeconds=3600), []),
    (certificate(keyType="x"), [f'{V}.projected.sources[0].podCertificate.keyType: Unsupported value: "x": supported '
                                f"values: {KEY_TYPES}"]),
    (certificate(signerName=""), [f"{V}.projected.sources[0].podCertificate.signerName: Required value"]),
    (certificate(maxExpirationSeconds=3599), [
        f"{V}.projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 3599: if provided, "
        "maxExpirationSeconds must be >= 3600"]),
    (certificate(maxExpirationSeconds=7862401), [
        f"{V}.projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 7862401: if provided, "
        "maxExpirationSeconds must be <= 7862400"]),
    (certificate(signerName="kubernetes.io/s", maxExpirationSeconds=86401), [
        f"{V}.projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 86401: if provided, "
        "maxExpirationSeconds must be <= 86400"]),
    (certificate(credentialBundlePath=""), [
        f"{V}.projected.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, "
        "keyPath, and certificateChainPath"]),
    (certificate(keyPath="c"), [f'{V}.projected: Invalid value: "c": {TWICE}']),
    (certificate(keyPath="/c"), [f'{V}.projected.sources[0].podCertificate.keyPath: Invalid value: "/c": must be a '
                                 "relative path"]),
    (certificate(userAnnotations={"example.com/a": "b"}), []),
    (certificate(userAnnotations={"a": "b"}), [
        f'{V}.projected.sources[0].podCertificate.userAnnotations: Invalid value: "a": must be a domain-prefixed key '
        '(such as "acme.io/foo")']),
]  # fmt: skip

CLOUDS: list[Case] = [
    (vol(nfs={"server": "s", "path": "/p"}), []),
    (vol(nfs={"server": "s", "path": "p"}), [f'{V}.nfs.path: Invalid value: "p": must be an absolute path']),
    (vol(nfs={}), [f"{V}.nfs.server: Required value", f"{V}.nfs.path: Required value",
                   f'{V}.nfs.path: Invalid value: "": must be an absolute path']),
    (vol(gitRepo={"repository": "r", "directory": "d"}), []),
    (vol(gitRepo={"directory": "/d"}), [f"{V}.gitRepo.repository: Required value",
                                        f'{V}.gitRepo.directory: Invalid value: "/d": must be a relative path']),
    (vol(gcePersistentDisk={"pdName": "d"}), []),
    (vol(gcePersistentDisk={"partition": 256}), [
        f"{V}.persistentDisk.pdName: Required value",
        f"{V}.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive"]),
    (vol(awsElasticBlockStore={"partition": -1}), [
        f"{V}.awsElasticBlockStore.volumeID: Required value",
        f"{V}.awsElasticBlockStore.partition: Invalid value: -1: must be between 1 and 255, inclusive"]),
    (vol(iscsi={"targetPortal": "1.2.3.4", "iqn": "iqn.2015-02.example.com:test", "lun": 1}), []),
    (vol(iscsi={"targetPortal": "1.2.3.4", "iqn": "eui.0123456789ABCDEF"}), []),
    (vol(iscsi={"targetPortal": "1.2.3.4", "iqn": "naa.62004567BA64678D0123456789ABCDEF"}), []),
    *lacks("iscsi", "targetPortal", "iqn"),
    (vol(iscsi={"targetPortal": "p", "iqn": "x"}), [
        f'{V}.iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa']),
    *[(vol(iscsi={"targetPortal": "p", "iqn": bad}), [f'{V}.iscsi.iqn: Invalid value: "{bad}": must be valid format'])
      for bad in ("iqn.2015", "eui.01", "naa.1", "iqn.2015-02.example.com:a b")],
    (vol(iscsi={"targetPortal": "p", "iqn": "eui.0123456789ABCDEF", "lun": 256}), [
        f"{V}.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"]),
    (vol(iscsi={"targetPortal": "p", "iqn": "eui.0123456789ABCDEF", "chapAuthSession": True}), [
        f"{V}.iscsi.secretRef: Required value"]),
    (vol(iscsi={"targetPortal": "p", "iqn": "eui.0123456789ABCDEF", "initiatorName": "x"}), [
        f'{V}.iscsi.initiatorname: Invalid value: "x": must be valid format starting with iqn, eui, or naa']),
    (vol(iscsi={"targetPortal": "p" * 63, "iqn": "eui.0123456789ABCDEF", "initiatorName": "eui.0123456789ABCDEF"}), [
        f'{V}.name: Invalid value: "v": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters '
        "if iscsi.initiatorName is specified."]),
    *lacks("glusterfs", "endpoints", "path"),
    *lacks("rbd", "monitors", "image"),
    *lacks("cinder", "volumeID"),
    (vol(cinder={"volumeID": "v", "secretRef": {}}), [f"{V}.cinder.secretRef.name: Required value"]),
    *lacks("cephfs", "monitors"),
    *lacks("azureFile", "secretName", "shareName"),
    *lacks("vsphereVolume", "volumePath"),
    *lacks("photonPersistentDisk", "pdID"),
    *lacks("portworxVolume", "volumeID"),
    *lacks("scaleIO", "gateway", "system", "volumeName"),
    *lacks("flexVolume", "driver"),
    *lacks("storageos", "volumeName"),
    (vol(flexVolume={"driver": "d", "options": {"a": "b"}}), []),
    (vol(flexVolume={"driver": "d", "options": {"X.K8s.io/a": "b"}}), [
        f'{V}.flexVolume.options[X.K8s.io/a]: Invalid value: "X.K8s.io/a": kubernetes.io and k8s.io namespaces are '
        "reserved"]),
    (vol(storageos={"volumeName": "A", "volumeNamespace": "B", "secretRef": {}}), [
        f'{V}.storageos.volumeName: Invalid value: "A": {LABEL}',
        f'{V}.storageos.volumeNamespace: Invalid value: "B": {LABEL}',
        f"{V}.storageos.secretRef.name: Required value"]),
    (vol(flocker={"datasetName": "d"}), []),
    (vol(flocker={}), [f"{V}.flocker: Required value: one of datasetName and datasetUUID is required"]),
    (vol(flocker={"datasetName": "a/b", "datasetUUID": "u"}), [
        f'{V}.flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously',
        f"{V}.flocker.datasetName: Invalid value: \"a/b\": must not contain '/'"]),
    (vol(quobyte={"registry": "r:1,[::1]:2", "volume": "v"}), []),
    (vol(quobyte={}), [
        f"{V}.quobyte.registry: Required value: must be a host:port pair or multiple pairs separated by commas",
        f"{V}.quobyte.volume: Required value"]),
    (vol(quobyte={"registry": "r,a:b:c", "volume": "v"}), [
        f'{V}.quobyte.registry: Invalid value: "r,a:b:c": must be a host:port pair or multiple pairs separated by '
        "commas"] * 2),
    (vol(quobyte={"registry": "r:1", "volume": "v", "tenant": "t" * 65}), [
        f"{V}.quobyte.tenant: Required value: must be a UUID and may not exceed a length of 64 characters"]),
    (vol(fc={"targetWWNs": [WWN], "lun": 2}), []),
    (vol(fc={"wwids": [WWN]}), []),
    (vol(fc={}), [f"{V}.fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"]),
    (vol(fc={"targetWWNs": [WWN]}), [f"{V}.fc.lun: Required value: lun is required if targetWWNs is specified"]),
    (vol(fc={"targetWWNs": [WWN], "wwids": [WWN], "lun": 256}), [
        f'{V}.fc.targetWWNs: Invalid value: ["{WWN}"]: targetWWNs and wwids can not be specified simultaneously',
        f"{V}.fc.lun: Invalid value: 256: must be between 0 and 255, inclusive"]),
    (vol(azureDisk={"diskName": "d", "diskURI": "https://x"}), []),
    (vol(azureDisk={"diskName": "d", "diskURI": "/subscriptions/x", "kind": "Managed"}), []),
    (vol(azureDisk={"diskName": "d", "diskURI": "x", "cachingMode": "y"}), [
        f'{V}.azureDisk.cachingMode: Unsupported value: "y": supported values: "None", "ReadOnly", "ReadWrite"',
        f'{V}.azureDisk.diskURI: Unsupported value: "x": supported values: '
        '"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"']),
    (vol(azureDisk={"diskName": "d", "diskURI": "https://x", "kind": "Managed"}), [
        f'{V}.azureDisk.diskURI: Unsupported value: "https://x": supported values: '
        '"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"']),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "findings"), tables(names=NAMES, local=LOCAL, files=FILES, projected=PROJECTED, clouds=CLOUDS)
)
def test_what_is_wrong_with_volumes_is_told(changes: Changes, findings: list[str]) -> None:
    assert refused(POD, changes) == findings
