"""Containers of pods: what is refused of them and in which words, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.kinds.changes import Case, Changes, refused, tables

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {
        "containers": [{"name": "c", "image": "nginx"}],
        "volumes": [
            {"name": "v", "emptyDir": {}},
            {"name": "w", "emptyDir": {}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "d"}},
            {"name": "own", "image": {"reference": "r"}},
        ],
    },
}
C = "spec.containers[0]"
I = "spec.initContainers[0]"  # noqa: E741
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
ENV_NAME = "a valid environment variable name must consist only of printable ASCII characters other than '='"
KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
RANGE = "must be between 1 and 65535, inclusive"
CLIMBS = "must not contain '..'"
NO_ENV_SOURCE = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
BYTES = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
ENV_FIELDS = (
    '"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", '
    '"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"'
)
RESOURCE_FIELDS = (
    '"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", '
    '"requests.memory"'
)


def c(**fields: Any) -> Changes:
    """The fields of the pod's container."""
    return {f"spec.containers.0.{field}": value for field, value in fields.items()}


def init(**fields: Any) -> Changes:
    return {"spec.initContainers": [{"name": "i", "image": "i", **fields}]}


def sidecar(**fields: Any) -> Changes:
    return init(restartPolicy="Always", **fields)


def env(source: dict[str, Any], **fields: Any) -> Changes:
    return c(env=[{"name": "A", "valueFrom": source, **fields}])


def mount(**fields: Any) -> Changes:
    return c(volumeMounts=[{"name": "v", "mountPath": "/m", **fields}])


def probe(kind: str = "livenessProbe", /, **fields: Any) -> Changes:
    return c(**{kind: {"tcpSocket": {"port": 80}, **fields}})


def hook(**handler: Any) -> Changes:
    return c(lifecycle={"preStop": handler})


def resources(**fields: Any) -> Changes:
    return c(resources=fields)


NAMES: list[Case] = [
    ({}, []),
    ({"spec.containers": []}, ["spec.containers: Required value"]),
    (c(name=""), [f"{C}.name: Required value"]),
    (c(name="A"), [f'{C}.name: Invalid value: "A": {LABEL}']),
    (c(name="a.b"), [f'{C}.name: Invalid value: "a.b": must not contain dots']),
    (c(name="a" * 64), [f'{C}.name: Invalid value: "{"a" * 64}": must be no more than 63 characters']),
    (c(image=""), [f"{C}.image: Required value"]),
    (c(image=" nginx"), [f'{C}.image: Invalid value: " nginx": must not have leading or trailing whitespace']),
    (init(image="i "), [f'{I}.image: Invalid value: "i ": must not have leading or trailing whitespace']),
    ({"spec.containers.1": {"name": "c", "image": "i"}}, ['spec.containers[1].name: Duplicate value: "c"']),
    (init(name="c"), [f'{I}.name: Duplicate value: "c"']),
    (init(name="A"), [f'{I}.name: Invalid value: "A": {LABEL}']),
    (
        {"spec.initContainers": [{"name": "i", "image": "i"}] * 2},
        ['spec.initContainers[1].name: Duplicate value: "i"'],
    ),
    (c(imagePullPolicy="x"), [f'{C}.imagePullPolicy: Unsupported value: "x": supported values: "Always", '
                              '"IfNotPresent", "Never"']),
    (c(imagePullPolicy="Never"), []),
    (c(terminationMessagePolicy="x"), [f'{C}.terminationMessagePolicy: Unsupported value: "x": supported values: '
                                       '"File", "FallbackToLogsOnError"']),
    (c(terminationMessagePolicy="FallbackToLogsOnError"), []),
    (c(name="A", image=""), [f'{C}.name: Invalid value: "A": {LABEL}', f"{C}.image: Required value"]),
    (c(command=["a"], args=["b"], workingDir="/", stdin=True, stdinOnce=True, tty=True), []),
]  # fmt: skip

PORTS: list[Case] = [
    (c(ports=[{"containerPort": 80, "hostPort": 80, "name": "http", "hostIP": "1.2.3.4"}]), []),
    (c(ports=[{"name": "a"}]), [f"{C}.ports[0].containerPort: Required value"]),
    (c(ports=[{"containerPort": 65536}]), [f"{C}.ports[0].containerPort: Invalid value: 65536: {RANGE}"]),
    (c(ports=[{"containerPort": -1}]), [f"{C}.ports[0].containerPort: Invalid value: -1: {RANGE}"]),
    (c(ports=[{"containerPort": 1, "hostPort": 65536}]), [f"{C}.ports[0].hostPort: Invalid value: 65536: {RANGE}"]),
    (c(ports=[{"containerPort": 1, "protocol": "tcp"}]), [f'{C}.ports[0].protocol: Unsupported value: "tcp": '
                                                          'supported values: "SCTP", "TCP", "UDP"']),
    (c(ports=[{"containerPort": 1, "name": "80"}]), [f'{C}.ports[0].name: Invalid value: "80": must contain at least '
                                                     "one letter (a-z)"]),
    (c(ports=[{"containerPort": 1, "name": "a" * 16}]), [f'{C}.ports[0].name: Invalid value: "{"a" * 16}": must be no '
                                                         "more than 15 characters"]),
    (c(ports=[{"containerPort": 1, "name": "a--b"}]), [f'{C}.ports[0].name: Invalid value: "a--b": must not contain '
                                                       "consecutive hyphens"]),
    (c(ports=[{"containerPort": n, "name": "a"} for n in (1, 2)]), [f'{C}.ports[1].name: Duplicate value: "a"']),
    (c(ports=[{"containerPort": n, "hostPort": 80} for n in (1, 2)]), [f'{C}.ports[1].hostPort: Duplicate value: '
                                                                       '"TCP//80"']),
    (c(ports=[{"containerPort": 1, "hostPort": 80, "protocol": p} for p in ("TCP", "UDP")]), []),
    (c(ports=[{"containerPort": 1, "hostPort": 80, "hostIP": a} for a in ("1.1.1.1", "")]), []),
    (
        c(ports=[{"containerPort": 1, "hostPort": 80}])
        | {"spec.containers.1": {"name": "d", "image": "i", "ports": [{"containerPort": 2, "hostPort": 80}]}},
        ['spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//80"'],
    ),
    # Init containers run in their turn.
    (c(ports=[{"containerPort": 1, "hostPort": 80}]) | init(ports=[{"containerPort": 2, "hostPort": 80}]), []),
    (init(ports=[{"containerPort": n, "hostPort": 80} for n in (1, 2)]), [f'{I}.ports[1].hostPort: Duplicate value: '
                                                                          '"TCP//80"']),
    ({"spec.hostNetwork": True, **c(ports=[{"containerPort": 1}])}, []),
    (
        {"spec.hostNetwork": True, **c(ports=[{"containerPort": 1, "hostPort": 2}])},
        [f"{C}.ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true"],
    ),
]  # fmt: skip

ENVIRONMENT: list[Case] = [
    (c(env=[{"name": "A", "value": "b"}, {"name": "a b.-c", "value": ""}]), []),
    (c(env=[{"value": "b"}]), [f"{C}.env[0].name: Required value"]),
    (c(env=[{"name": "a=b"}]), [f'{C}.env[0].name: Invalid value: "a=b": {ENV_NAME}']),
    (c(env=[{"name": "é"}]), [f'{C}.env[0].name: Invalid value: "é": {ENV_NAME}']),
    (env({}), [f'{C}.env[0].valueFrom: Invalid value: "": {NO_ENV_SOURCE}']),
    *[(env({"fieldRef": {"fieldPath": one}}), []) for one in ENV_FIELDS.replace('"', "").split(", ")],
    (env({"fieldRef": {"fieldPath": "spec.host"}}), []),
    (env({"fieldRef": {"fieldPath": "metadata.labels['a']"}}), []),
    (env({"fieldRef": {"fieldPath": "metadata.annotations['Example.com/a']"}}), []),
    (
        env({"fieldRef": {"fieldPath": "metadata.labels['a_']"}}),
        [
            f'{C}.env[0].valueFrom.fieldRef: Invalid value: "a_": name part must consist of alphanumeric characters, '
            "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or "
            "'123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ],
    ),
    (
        env({"fieldRef": {"fieldPath": "metadata.labels"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: '
         f"{ENV_FIELDS}"],
    ),
    (
        env({"fieldRef": {"fieldPath": "status.phase"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: {ENV_FIELDS}'],
    ),
    (
        env({"fieldRef": {"fieldPath": "metadata.whoops"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.whoops": error converting fieldPath: '
         "field label not supported: metadata.whoops"],
    ),
    (
        env({"fieldRef": {"fieldPath": "metadata.name['a']"}}),
        [f"{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error converting fieldPath: "
         "field label does not support subscript: metadata.name['a']"],
    ),
    (
        env({"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v2"}}),
        [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath: '
         "unsupported pod version: v2"],
    ),
    (env({"fieldRef": {}}), [f"{C}.env[0].valueFrom.fieldRef.fieldPath: Required value"]),
    *[(env({"resourceFieldRef": {"resource": one}}), []) for one in RESOURCE_FIELDS.replace('"', "").split(", ")],
    (env({"resourceFieldRef": {"resource": "requests.hugepages-2Mi", "divisor": "1Mi"}}), []),
    (env({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}), []),
    (env({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}), []),
    (env({"resourceFieldRef": {}}), [f"{C}.env[0].valueFrom.resourceFieldRef.resource: Required value"]),
    (
        env({"resourceFieldRef": {"resource": "limits.pods"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.pods": supported values: '
         f"{RESOURCE_FIELDS}"],
    ),
    (
        env({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s values 1m and 1 '
         "are supported with the cpu resource"],
    ),
    (
        env({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1m"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.memory": only divisor\'s values '
         f"{BYTES} are supported with the memory resource"],
    ),
    (
        env({"resourceFieldRef": {"resource": "requests.ephemeral-storage", "divisor": "2"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "requests.ephemeral-storage": only divisor\'s '
         f"values {BYTES} are supported with the local ephemeral storage resource"],
    ),
    (
        env({"resourceFieldRef": {"resource": "limits.hugepages-2Mi", "divisor": "3"}}),
        [f'{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.hugepages-2Mi": only divisor\'s '
         f"values {BYTES} are supported with the hugepages resource"],
    ),
    (env({"configMapKeyRef": {"name": "m", "key": "k"}}), []),
    (env({"secretKeyRef": {"name": "m", "key": "k", "optional": True}}), []),
    (env({"configMapKeyRef": {"name": "m"}}), [f"{C}.env[0].valueFrom.configMapKeyRef.key: Required value"]),
    (
        env({"secretKeyRef": {"key": "a/b"}}),
        [
            f'{C}.env[0].valueFrom.secretKeyRef.name: Invalid value: "": {SUBDOMAIN}',
            f'{C}.env[0].valueFrom.secretKeyRef.key: Invalid value: "a/b": {KEY}',
        ],
    ),
    (env({"configMapKeyRef": {"name": "A", "key": ".."}}), [
        f'{C}.env[0].valueFrom.configMapKeyRef.name: Invalid value: "A": {SUBDOMAIN}',
        f"{C}.env[0].valueFrom.configMapKeyRef.key: Invalid value: \"..\": must not be '..'",
    ]),
    (env({"fileKeyRef": {"volumeName": "v", "path": "a", "key": "K"}}), []),
    (
        env({"fileKeyRef": {}}),
        [
            *(f"{C}.env[0].valueFrom.fileKeyRef.{field}: Required value" for field in ("key", "volumeName", "path")),
            f'{C}.env[0].valueFrom.fileKeyRef.volumeName: Not found: ""',
        ],
    ),
    (
        env({"fileKeyRef": {"volumeName": "claim", "path": "a/../b", "key": "K"}}),
        [
            f'{C}.env[0].valueFrom.fileKeyRef.path: Invalid value: "a/../b": {CLIMBS}',
            f'{C}.env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "claim": referenced volume must be of type '
            "emptyDir",
        ],
    ),
    (
        env({"secretKeyRef": {"name": "m", "key": "k"}, "fieldRef": {"fieldPath": "metadata.name"}}),
        [f'{C}.env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time'],
    ),
    (
        env({"secretKeyRef": {"name": "m", "key": "k"}}, value="x"),
        [f'{C}.env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
    ),
    (c(envFrom=[{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s-"}, "prefix": "a b"}]), []),
    (c(envFrom=[{}]), [f'{C}.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`']),
    (c(envFrom=[{"configMapRef": {}}]), [f"{C}.envFrom[0].configMapRef.name: Required value"]),
    (c(envFrom=[{"secretRef": {"name": "A"}}]), [f'{C}.envFrom[0].secretRef.name: Invalid value: "A": {SUBDOMAIN}']),
    (c(envFrom=[{"secretRef": {"name": "a"}, "prefix": "="}]), [f'{C}.envFrom[0].prefix: Invalid value: "=": '
                                                                f"{ENV_NAME}"]),
    (c(envFrom=[{"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}]), [
        f'{C}.envFrom: Invalid value: "": may not have more than one field specified at a time']),
]  # fmt: skip

MOUNTS: list[Case] = [
    (mount(), []),
    (mount(subPath="a/b", readOnly=True, mountPropagation="HostToContainer"), []),
    (mount(subPathExpr="$(POD)/b"), []),
    (mount(mountPath="d:\\x"), []),
    (mount(name=""), [f"{C}.volumeMounts[0].name: Required value", f'{C}.volumeMounts[0].name: Not found: ""']),
    (mount(name="x"), [f'{C}.volumeMounts[0].name: Not found: "x"']),
    (mount(mountPath=""), [f"{C}.volumeMounts[0].mountPath: Required value"]),
    (c(volumeMounts=[{"name": n, "mountPath": "/m"} for n in "vw"]), [
        f'{C}.volumeMounts[1].mountPath: Invalid value: "/m": must be unique']),
    (mount(subPath="/a"), [f'{C}.volumeMounts.subPath: Invalid value: "/a": must be a relative path']),
    (mount(subPath="a/../b"), [f'{C}.volumeMounts.subPath: Invalid value: "a/../b": {CLIMBS}']),
    (mount(subPathExpr="../b"), [f'{C}.volumeMounts.subPathExpr: Invalid value: "../b": {CLIMBS}']),
    (mount(subPath="a", subPathExpr="b"), [
        f'{C}.volumeMounts[0].subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive']),
    (mount(mountPropagation="x"), [f'{C}.volumeMounts.mountPropagation: Unsupported value: "x": supported values: '
                                   '"Bidirectional", "HostToContainer", "None"']),
    (mount(mountPropagation="Bidirectional"), [
        f"{C}.volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to "
        "privileged containers"]),
    (mount(mountPropagation="Bidirectional") | c(securityContext={"privileged": True}), []),
    (mount(recursiveReadOnly="Enabled", readOnly=True), []),
    (mount(recursiveReadOnly="Disabled"), []),
    (mount(recursiveReadOnly="IfPossible"), [
        f"{C}.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"]),
    (mount(recursiveReadOnly="Enabled", readOnly=True, mountPropagation="HostToContainer"), [
        f"{C}.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not "
        "specified"]),
    (mount(recursiveReadOnly="x"), [f'{C}.volumeMounts.recursiveReadOnly: Unsupported value: "x": supported values: '
                                    '"Disabled", "Enabled", "IfPossible"']),
    (mount(bindMountOptions=["noexec", "nosuid"]), []),
    (mount(bindMountOptions=["x", "nodev", "nodev"]), [
        f'{C}.volumeMounts[0].bindMountOptions[0]: Unsupported value: "x": supported values: "nodev", "noexec", '
        '"nosuid"',
        f'{C}.volumeMounts[0].bindMountOptions[2]: Duplicate value: "nodev"']),
    (mount(name="own", bindMountOptions=["nodev"]), [
        f'{C}.volumeMounts[0].bindMountOptions: Invalid value: ["nodev"]: bindMountOptions may not be used with image '
        "volumes"]),
    (c(volumeDevices=[{"name": "claim", "devicePath": "/dev/x"}]), []),
    (c(volumeDevices=[{"name": "v", "devicePath": "/dev/x"}]), [
        f'{C}.volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or '
        "Ephemeral for block mode"]),
    (c(volumeDevices=[{}]), [
        f"{C}.volumeDevices[0].name: Required value",
        f'{C}.volumeDevices[0].name: Not found: ""',
        f"{C}.volumeDevices[0].devicePath: Required value"]),
    (c(volumeDevices=[{"name": "claim", "devicePath": "/dev/x"}] * 2), [
        f'{C}.volumeDevices[1].name: Invalid value: "claim": must be unique',
        f'{C}.volumeDevices[1].devicePath: Invalid value: "/dev/x": must be unique']),
    (c(volumeDevices=[{"name": "claim", "devicePath": "../x"}]), [
        f"{C}.volumeDevices[0].devicePath: Invalid value: \"../x\": can not contain backsteps ('..')"]),
    (mount(name="claim") | c(volumeDevices=[{"name": "claim", "devicePath": "/m"}]), [
        f'{C}.volumeMounts[0].name: Invalid value: "claim": must not already exist in volumeDevices',
        f'{C}.volumeMounts[0].mountPath: Invalid value: "/m": must not already exist as a path in volumeDevices',
        f'{C}.volumeDevices[0].name: Invalid value: "claim": must not already exist in volumeMounts',
        f'{C}.volumeDevices[0].devicePath: Invalid value: "/m": must not already exist as a path in volumeMounts']),
]  # fmt: skip

HANDLERS: list[Case] = [
    *[(probe(kind), []) for kind in ("livenessProbe", "readinessProbe", "startupProbe")],
    (probe(tcpSocket=None, httpGet={"port": "http", "path": "/x", "scheme": "HTTPS"}), []),
    (probe(tcpSocket=None, exec={"command": ["true"]}), []),
    (probe(tcpSocket=None, grpc={"port": 5000}), []),
    (probe(tcpSocket=None), [f"{C}.livenessProbe: Required value: must specify a handler type"]),
    (probe(exec={"command": ["a"]}), [
        f"{C}.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"]),
    (probe(tcpSocket=None, exec={}), [f"{C}.livenessProbe.exec.command: Required value"]),
    (probe(tcpSocket={"port": "80"}), [f'{C}.livenessProbe.tcpSocket.port: Invalid value: "80": must contain at least '
                                       "one letter (a-z)"]),
    (probe(tcpSocket={}), [f"{C}.livenessProbe.tcpSocket.port: Invalid value: 0: {RANGE}"]),
    (probe(tcpSocket=None, grpc={"port": 65536}), [f"{C}.livenessProbe.grpc.port: Invalid value: 65536: {RANGE}"]),
    (probe(tcpSocket=None, grpc={"port": 1, "mode": "x"}), [f'{C}.livenessProbe.grpc.mode: Unsupported value: "x": '
                                                            'supported values: "Plaintext", "TLS"']),
    (probe(tcpSocket=None, httpGet={"port": 1, "scheme": "ftp"}), [
        f'{C}.livenessProbe.httpGet.scheme: Unsupported value: "ftp": supported values: "HTTP", "HTTPS"']),
    (probe(tcpSocket=None, httpGet={"port": 1, "httpHeaders": [{"name": "a b", "value": "x"}]}), [
        f'{C}.livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of '
        "alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"]),
    (probe(tcpSocket=None, httpGet={"port": 1, "protocol": "HTTP2"}), []),
    (probe(tcpSocket=None, httpGet={"port": 1, "protocol": "x"}), [
        f'{C}.livenessProbe.httpGet.protocol: Unsupported value: "x": supported values: "HTTP1", "HTTP2"']),
    (probe(tcpSocket=None, httpGet={"port": 1, "protocol": "HTTP2", "scheme": "HTTPS"}), [
        f'{C}.livenessProbe.httpGet.protocol: Invalid value: "HTTP2": is only supported with HTTP (H2C)']),
    (probe(tcpSocket=None, httpGet={"port": 1, "protocol": "HTTP2", "host": "h"}), [
        f'{C}.livenessProbe.httpGet.host: Invalid value: "h": must be empty when `protocol` is "HTTP2"']),
    *[(probe(**{field: -1}), [f"{C}.livenessProbe.{field}: Invalid value: -1: must be greater than or equal to 0"])
      for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "failureThreshold")],
    (probe(successThreshold=2), [f"{C}.livenessProbe.successThreshold: Invalid value: 2: must be 1"]),
    (probe("startupProbe", successThreshold=2), [f"{C}.startupProbe.successThreshold: Invalid value: 2: must be 1"]),
    (probe("readinessProbe", successThreshold=2), []),
    (probe("readinessProbe", successThreshold=-1), [
        f"{C}.readinessProbe.successThreshold: Invalid value: -1: must be greater than or equal to 0"]),
    (probe(terminationGracePeriodSeconds=10), []),
    (probe(terminationGracePeriodSeconds=0), [
        f"{C}.livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"]),
    (probe("readinessProbe", terminationGracePeriodSeconds=5), [
        f"{C}.readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes"]),
    (hook(sleep={"seconds": 5}), []),
    (hook(sleep={"seconds": 0}), []),
    (hook(sleep={"seconds": 31}), [
        f"{C}.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than "
        "terminationGracePeriodSeconds (30)"]),
    (hook(sleep={"seconds": -1}), [
        f"{C}.lifecycle.preStop.sleep: Invalid value: -1: must be non-negative and less than "
        "terminationGracePeriodSeconds (30)"]),
    (hook(), [f"{C}.lifecycle.preStop: Required value: must specify a handler type"]),
    (hook(httpGet={"port": 0}), [f"{C}.lifecycle.preStop.httpGet.port: Invalid value: 0: {RANGE}"]),
    (c(lifecycle={"postStart": {"exec": {}}}), [f"{C}.lifecycle.postStart.exec.command: Required value"]),
    (c(lifecycle={"stopSignal": "SIGTERM"}), [
        f"{C}.lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"]),
    (c(lifecycle={"stopSignal": "SIGRTMIN+3"}) | {"spec.os": {"name": "linux"}}, []),
    (c(lifecycle={"stopSignal": "SIGUSR1"}) | {"spec.os": {"name": "windows"}}, [
        f'{C}.lifecycle.stopSignal: Unsupported value: "SIGUSR1": supported values: "SIGKILL", "SIGTERM"']),
    *[(init(**{field: {"tcpSocket": {"port": 1}}}), [
        f"{I}.{field}: Forbidden: may not be set for init containers without restartPolicy=Always"])
      for field in ("livenessProbe", "readinessProbe", "startupProbe")],
    (init(lifecycle={"preStop": {"sleep": {"seconds": 1}}}), [
        f"{I}.lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"]),
    (sidecar(livenessProbe={"tcpSocket": {"port": 1}}, lifecycle={"preStop": {"sleep": {"seconds": 1}}}), []),
    (sidecar(readinessProbe={"exec": {}}), [f"{I}.readinessProbe.exec.command: Required value"]),
]  # fmt: skip

RESTARTS: list[Case] = [
    *[(c(restartPolicy=policy), []) for policy in ("Always", "Never", "OnFailure")],
    *[(init(restartPolicy=policy), []) for policy in ("Always", "Never", "OnFailure")],
    (c(restartPolicy="x"), [f'{C}.restartPolicy: Unsupported value: "x": supported values: "Always", "Never", '
                            '"OnFailure"']),
    (init(restartPolicy="x"), [f'{I}.restartPolicy: Unsupported value: "x": supported values: "Always", "Never", '
                               '"OnFailure"']),
    (
        c(restartPolicy="Never", restartPolicyRules=[{"action": a, "exitCodes": {"operator": "In", "values": [1]}}
                                                     for a in ("Restart", "RestartAllContainers")]),
        [],
    ),
    (c(restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "NotIn"}}]), [
        f"{C}.restartPolicy: Required value: must specify restartPolicy when restart rules are used"]),
    (init(restartPolicyRules=[{"action": "x"}]), [
        f"{I}.restartPolicy: Required value: must specify restartPolicy when restart rules are used"]),
    (c(restartPolicy="Never", restartPolicyRules=[{"action": "x"}]), [
        f'{C}.restartPolicyRules[0].action: Unsupported value: "x": supported values: "Restart", '
        '"RestartAllContainers"',
        f"{C}.restartPolicyRules[0].exitCodes: Required value: must be specified"]),
    (c(restartPolicy="Never", restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "x"}}]), [
        f'{C}.restartPolicyRules[0].exitCodes.operator: Unsupported value: "x": supported values: "In", "NotIn"']),
    (
        c(restartPolicy="Never", restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "In"}}] * 21),
        [f"{C}.restartPolicyRules: Too many: 21: must have at most 20 items"],
    ),
    (
        c(restartPolicy="Never", restartPolicyRules=[
            {"action": "Restart", "exitCodes": {"operator": "In", "values": list(range(256))}}]),
        [f"{C}.restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items"],
    ),
    (c(resizePolicy=[{"resourceName": r, "restartPolicy": "RestartContainer"} for r in ("cpu", "memory")]), []),
    (c(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}] * 2), [
        f'{C}.resizePolicy[1]: Duplicate value: "cpu"']),
    (c(resizePolicy=[{"resourceName": "x", "restartPolicy": "y"}]), [
        f'{C}.resizePolicy: Unsupported value: "x": supported values: "cpu", "memory"',
        f'{C}.resizePolicy: Unsupported value: "y": supported values: "NotRequired", "RestartContainer"']),
    (c(resizePolicy=[{}]), [f"{C}.resizePolicy: Required value"] * 2),
    ({"spec.restartPolicy": "Never",
      **c(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])}, [
        f'{C}.resizePolicy: Invalid value: "RestartContainer": must be \'NotRequired\' when pod `restartPolicy` is '
        "'Never'"]),
    (init(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}]), []),
    (init(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]), [
        f"{I}.resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to "
        "'RestartContainer' for non-sidecar initContainers"]),
    (sidecar(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]), []),
]  # fmt: skip

NAME_OF_RESOURCE = "must be a standard resource type or fully qualified"
OF_CONTAINERS = "must be a standard resource for containers"
RESOURCES: list[Case] = [
    (resources(requests={"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, limits={"cpu": "2"}), []),
    (resources(limits={"example.com/gpu": "2"}), []),
    (resources(requests={"cpu": "1"}, limits={"cpu": "1", "hugepages-2Mi": "4Mi"}), []),
    (resources(requests={"cpu": "-1"}), [f'{C}.resources.requests[cpu]: Invalid value: "-1": must be greater than or '
                                         "equal to 0"]),
    (resources(limits={"x": "1"}, requests={"x": "1"}), [
        f'{C}.resources.{section}[x]: Invalid value: "x": {text}'
        for section in ("limits", "requests") for text in (NAME_OF_RESOURCE, OF_CONTAINERS)]),
    (resources(requests={"pods": "1"}), [f'{C}.resources.requests[pods]: Invalid value: "pods": {OF_CONTAINERS}']),
    (resources(requests={"storage": "1"}), [
        f'{C}.resources.requests[storage]: Invalid value: "storage": {OF_CONTAINERS}']),
    (resources(limits={"requests.example.com/x": "1"}, requests={"requests.example.com/x": "1"}), [
        f'{C}.resources.{section}[requests.example.com/x]: Invalid value: "requests.example.com/x": doesn\'t follow '
        "extended resource name standard" for section in ("limits", "requests")]),
    (resources(limits={"example.com/gpu": "1500m"}), [
        f'{C}.resources.{section}[example.com/gpu]: Invalid value: "1500m": must be an integer'
        for section in ("limits", "requests")]),
    (resources(requests={"cpu": "2"}, limits={"cpu": "1"}), [
        f'{C}.resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1']),
    (resources(requests={"example.com/gpu": "1"}, limits={"example.com/gpu": "2"}), [
        f'{C}.resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2']),
    (resources(requests={"example.com/gpu": "1"}), [
        f"{C}.resources.limits: Required value: Limit must be set for non overcommitable resources"]),
    (resources(limits={"hugepages-2Mi": "2Mi"}), [f"{C}.resources: Forbidden: HugePages require cpu or memory"]),
    (resources(limits={"cpu": "1", "hugepages-2Mi": "3Mi"}), [
        f'{C}.resources.{section}[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of '
        "hugepages-2Mi" for section in ("limits", "requests")]),
    (resources(claims=[{"name": "d"}]), [
        f'{C}.resources.claims[0]: Not found: "d": must be one of the names in pod.spec.resourceClaims which is empty'
    ]),
    ({"spec.resourceClaims": [{"name": "d", "resourceClaimName": "r"}], **resources(claims=[{"name": "d"}])}, []),
    (
        {"spec.resourceClaims": [{"name": n, "resourceClaimName": "r"} for n in "ed"],
         **resources(claims=[{"name": "x"}])},
        [f'{C}.resources.claims[0]: Not found: "x": must be one of the names in pod.spec.resourceClaims: d, e'],
    ),
    (
        {"spec.resourceClaims": [{"name": "d", "resourceClaimName": "r"}], **resources(claims=[{"name": "d"}] * 2)},
        [f'{C}.resources.claims[1]: Duplicate value: "d"'],
    ),
    (
        {"spec.resourceClaims": [{"name": "d", "resourceClaimName": "r"}],
         **resources(claims=[{"name": "d", "request": r} for r in ("a", "b")])},
        [],
    ),
    (
        {"spec.resourceClaims": [{"name": "d", "resourceClaimName": "r"}],
         **resources(claims=[{"name": "d", "request": "a"}, {"name": "d"}])},
        [f'{C}.resources.claims[1]: Duplicate value: "d"'],
    ),
    (
        {"spec.resourceClaims": [{"name": "d", "resourceClaimName": "r"}],
         **resources(claims=[{"name": "d", "request": "a"}] * 2)},
        [f'{C}.resources.claims[1]: Duplicate value: "d/a"'],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "findings"),
    tables(
        names=NAMES,
        ports=PORTS,
        environment=ENVIRONMENT,
        mounts=MOUNTS,
        handlers=HANDLERS,
        restarts=RESTARTS,
        resources=RESOURCES,
    ),
)
def test_what_is_wrong_with_containers_is_told(changes: Changes, findings: list[str]) -> None:
    assert refused(POD, changes) == findings
