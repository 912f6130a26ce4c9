"""Pods as a whole: what is refused of them and in which words, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.kinds.changes import Case, Changes, created, refused, tables

POD: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
TEMPLATE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    },
}
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
SEARCH = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
)
KEY = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
NO_KEY = ["name part must be non-empty", KEY]
VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
ID = "must be between 0 and 2147483647, inclusive"
SYSCTL = (
    r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*"
    "[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
)
REQUIRED, PREFERRED = (f"{one}DuringSchedulingIgnoredDuringExecution" for one in ("required", "preferred"))
WINDOWS = {"spec.os": {"name": "windows"}}
CS = "spec.containers[0].securityContext"
PS = "spec.securityContext"


def spec(**fields: Any) -> Changes:
    return {f"spec.{field}": value for field, value in fields.items()}


def dns(policy: str = "ClusterFirst", **config: Any) -> Changes:
    return spec(dnsPolicy=policy, dnsConfig=config)


def security(**fields: Any) -> Changes:
    return spec(securityContext=fields)


def of_container(**fields: Any) -> Changes:
    return {"spec.containers.0.securityContext": fields}


def toleration(**fields: Any) -> Changes:
    return spec(tolerations=[fields])


def node(*terms: dict[str, Any]) -> Changes:
    return spec(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}})


def node_rule(**rule: Any) -> Changes:
    return node({"matchExpressions": [rule]})


def near(**term: Any) -> Changes:
    return spec(affinity={"podAffinity": {REQUIRED: [{"topologyKey": "zone", "labelSelector": {}, **term}]}})


def spread(**fields: Any) -> Changes:
    own = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    return spec(topologySpreadConstraints=[{**own, **fields}])


def annotated(**annotations: str) -> Changes:
    return {"metadata.annotations": annotations}


def whole(containers: list[dict[str, Any]], **of_pod: Any) -> Changes:
    made = [{"name": f"c{index}", "image": "i", "resources": one} for index, one in enumerate(containers)]
    return spec(containers=made, resources=of_pod)


def invalid(field: str, value: str, *texts: str) -> list[str]:
    return [f"{field}: Invalid value: {value}: {text}" for text in texts]


FIELDS: list[Case] = [
    (spec(restartPolicy="Never", dnsPolicy="Default", schedulerName="Mine!", priority=5), []),
    (spec(restartPolicy="x"), ['spec.restartPolicy: Unsupported value: "x": supported values: "Always", "OnFailure", '
                               '"Never"']),
    (spec(dnsPolicy="x"), ['spec.dnsPolicy: Unsupported value: "x": supported values: "ClusterFirstWithHostNet", '
                           '"ClusterFirst", "Default", "None"']),
    (spec(terminationGracePeriodSeconds=0), []),
    (spec(terminationGracePeriodSeconds=-1), invalid("spec.terminationGracePeriodSeconds", "-1",
                                                     "must be greater than or equal to 0")),
    (spec(activeDeadlineSeconds=1), []),
    *[(spec(activeDeadlineSeconds=bad), invalid("spec.activeDeadlineSeconds", str(bad),
                                                "must be between 1 and 2147483647, inclusive"))
      for bad in (0, -1, 2**31)],
    *[(spec(**{field: "a.b-1"}), []) for field in ("serviceAccountName", "nodeName", "priorityClassName",
                                                    "runtimeClassName")],
    *[(spec(**{field: "A"}), invalid(f"spec.{field}", '"A"', SUBDOMAIN))
      for field in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName")],
    *[(spec(**{field: "A"}), invalid(f"spec.{field}", '"A"', LABEL)) for field in ("hostname", "subdomain")],
    (spec(hostname="a.b"), invalid("spec.hostname", '"a.b"', "must not contain dots")),
    (spec(hostnameOverride="a.b", setHostnameAsFQDN=False), []),
    (spec(hostnameOverride="A" * 65), [
        "spec.hostnameOverride: Too long: may not be more than 64 bytes",
        *invalid("spec.hostnameOverride", f'"{"A" * 65}"', SUBDOMAIN)]),
    (spec(hostnameOverride="a", setHostnameAsFQDN=True, hostNetwork=True), [
        "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
        "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"]),
    (spec(nodeSelector={"a": "b"}), []),
    (spec(nodeSelector={"a_": "b"}), invalid("spec.nodeSelector", '"a_"', KEY)),
    (spec(nodeSelector={"a": "-"}), invalid("spec.nodeSelector", '"-"', VALUE)),
    *[(spec(preemptionPolicy=one), []) for one in ("Never", "PreemptLowerPriority")],
    (spec(preemptionPolicy="x"), ['spec.preemptionPolicy: Unsupported value: "x": supported values: '
                                  '"PreemptLowerPriority", "Never"']),
    (spec(shareProcessNamespace=True, hostPID=True), invalid(
        "spec.shareProcessNamespace", "true", "ShareProcessNamespace and HostPID cannot both be enabled")),
    (spec(shareProcessNamespace=True), []),
    (spec(overhead={"cpu": "100m", "memory": "1Gi"}), []),
    (spec(overhead={"cpu": "-1"}), invalid("spec.overhead.limits[cpu]", '"-1"', "must be greater than or equal to 0")),
    (spec(overhead={"x": "1"}), invalid("spec.overhead.limits[x]", '"x"',
                                        "must be a standard resource type or fully qualified",
                                        "must be a standard resource for containers")),
    (spec(readinessGates=[{"conditionType": "example.com/a"}]), []),
    (spec(readinessGates=[{"conditionType": ""}]), invalid("spec.readinessGates[0].conditionType", '""', *NO_KEY)),
    (spec(schedulingGates=[{"name": "example.com/a"}]), []),
    (spec(schedulingGates=[{"name": "a_"}]), invalid("spec.schedulingGates[0]", '"a_"', KEY)),
    (spec(schedulingGates=[{"name": "a"}] * 2), ['spec.schedulingGates[1]: Duplicate value: "a"']),
    (spec(schedulingGates=[{"name": "a"}], nodeName="n"), [
        "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]),
    (spec(schedulingGroup={"podGroupName": "g"}), []),
    (spec(schedulingGroup={}), invalid("spec.schedulingGroup.podGroupName", "null",
                                       "must specify one of: `podGroupName`")),
    (spec(schedulingGroup={"podGroupName": "G"}), invalid("spec.schedulingGroup.podGroupName", '"G"', SUBDOMAIN)),
    (spec(imagePullSecrets=[{"name": "a"}, {}]), []),
    (spec(ephemeralContainers=[{"name": "e", "image": "i"}]), [
        "spec.ephemeralContainers: Forbidden: cannot be set on create"]),
    (spec(resourceClaims=[{"name": "a", "resourceClaimName": "b"}, {"name": "c", "resourceClaimTemplateName": "d"}]),
        []),
    (spec(resourceClaims=[{"name": "a"}]), invalid(
        "spec.resourceClaims[0]", '{"name":"a"}',
        "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
    (spec(resourceClaims=[{"resourceClaimName": "B"}]), [
        "spec.resourceClaims[0].name: Required value",
        *invalid("spec.resourceClaims[0].resourceClaimName", '"B"', SUBDOMAIN)]),
    (spec(resourceClaims=[{"name": "a", "resourceClaimName": "b"}] * 2), [
        'spec.resourceClaims[1].name: Duplicate value: "a"']),
]  # fmt: skip

NETWORK: list[Case] = [
    (dns(nameservers=["1.1.1.1", "2001:db8::1"], searches=["a.b.", ".", "_c.d"], options=[{"name": "ndots"}]), []),
    (dns("None", nameservers=["1.1.1.1"]), []),
    (spec(dnsPolicy="None"), ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
    (dns("None", searches=["a"]), [
        "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is "
        "None"]),
    (dns(nameservers=["1.1.1.1"] * 4), invalid(
        "spec.dnsConfig.nameservers", '["1.1.1.1","1.1.1.1","1.1.1.1","1.1.1.1"]',
        "must not have more than 3 nameservers")),
    (dns(nameservers=["x"]), invalid("spec.dnsConfig.nameservers[0]", '"x"', ADDRESS)),
    (dns(nameservers=["010.0.0.1"]), invalid("spec.dnsConfig.nameservers[0]", '"010.0.0.1"',
                                             "must not have leading 0s")),
    (dns(searches=["a"] * 33), invalid("spec.dnsConfig.searches", "[" + ",".join(['"a"'] * 33) + "]",
                                       "must not have more than 32 search paths")),
    (dns(searches=["a-"]), invalid("spec.dnsConfig.searches[0]", '"a-"', SEARCH)),
    (dns(options=[{"value": "x"}]), ["spec.dnsConfig.options[0]: Required value: must not be empty"]),
    (spec(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b.c"]}]), []),
    (spec(hostAliases=[{"ip": "x", "hostnames": ["A"]}]), [
        *invalid("spec.hostAliases[0].ip", '"x"', ADDRESS),
        *invalid("spec.hostAliases[0].hostnames[0]", '"A"', SUBDOMAIN)]),
    (spec(hostAliases=[{"ip": "::ffff:1.2.3.4"}]), invalid(
        "spec.hostAliases[0].ip", '"::ffff:1.2.3.4"', "must not be an IPv4-mapped IPv6 address")),
    (spec(hostUsers=False), []),
    (spec(hostUsers=False, hostNetwork=True, hostPID=True, hostIPC=True), [
        f"spec.{field}: Forbidden: when `hostUsers` is false" for field in ("hostNetwork", "HostPID", "HostIPC")]),
    (spec(hostUsers=True, hostNetwork=True, hostPID=True, hostIPC=True), []),
    (
        spec(hostUsers=False, volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "d"}}])
        | {"spec.containers.0.volumeDevices": [{"name": "v", "devicePath": "/d"}]},
        ["spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"],
    ),
]  # fmt: skip

SECURITY: list[Case] = [
    (security(runAsUser=0, runAsGroup=1, fsGroup=2, supplementalGroups=[3], runAsNonRoot=True,
              fsGroupChangePolicy="OnRootMismatch", supplementalGroupsPolicy="Strict", seLinuxChangePolicy="Recursive",
              sysctls=[{"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net/ipv4/ip_x", "value": "1"}],
              seccompProfile={"type": "RuntimeDefault"}, appArmorProfile={"type": "Unconfined"}), []),
    *[(security(**{field: -1}), invalid(f"{PS}.{field}", "-1", ID))
      for field in ("fsGroup", "runAsUser", "runAsGroup")],
    (security(runAsUser=2**31), invalid(f"{PS}.runAsUser", "2147483648", ID)),
    (security(supplementalGroups=[1, -1]), invalid(f"{PS}.supplementalGroups[1]", "-1", ID)),
    (security(fsGroupChangePolicy="x"), [f'{PS}.fsGroupChangePolicy: Unsupported value: "x": supported values: '
                                         '"Always", "OnRootMismatch"']),
    (security(supplementalGroupsPolicy="x"), [f'{PS}.supplementalGroupsPolicy: Unsupported value: "x": supported '
                                              'values: "Merge", "Strict"']),
    (security(seLinuxChangePolicy="x"), [f'{PS}.seLinuxChangePolicy: Unsupported value: "x": supported values: '
                                         '"MountOption", "Recursive"']),
    (security(sysctls=[{"value": "1"}]), [f"{PS}.sysctls[0].name: Required value"]),
    (security(sysctls=[{"name": "A", "value": "1"}]), invalid(f"{PS}.sysctls[0].name", '"A"', SYSCTL)),
    (security(sysctls=[{"name": "a.b", "value": "1"}] * 2), [f'{PS}.sysctls[1].name: Duplicate value: "a.b"']),
    *[(security(sysctls=[{"name": name, "value": "1"}]) | spec(hostNetwork=True), invalid(
        f"{PS}.sysctls[0].name", f'"{name}"', "may not be specified when 'hostNetwork' is true"))
      for name in ("net.ipv4.x", "net/ipv4/x")],
    *[(security(sysctls=[{"name": name, "value": "1"}]) | spec(hostIPC=True), invalid(
        f"{PS}.sysctls[0].name", f'"{name}"', "may not be specified when 'hostIPC' is true"))
      for name in ("kernel.shmmax", "kernel.sem", "fs.mqueue.x")],
    (security(seccompProfile={"type": "Localhost", "localhostProfile": "a/b"}), []),
    (security(seccompProfile={}), [f"{PS}.seccompProfile.type: Required value: type is required when seccompProfile is "
                                   "set"]),
    (security(seccompProfile={"type": "x"}), [f'{PS}.seccompProfile.type: Unsupported value: "x": supported values: '
                                              '"Localhost", "RuntimeDefault", "Unconfined"']),
    (security(seccompProfile={"type": "Localhost"}), [
        f"{PS}.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"]),
    (security(seccompProfile={"type": "Localhost", "localhostProfile": "../a"}), invalid(
        f"{PS}.seccompProfile.localhostProfile", '"../a"', "must not contain '..'")),
    (security(seccompProfile={"type": "Unconfined", "localhostProfile": "a"}), invalid(
        f"{PS}.seccompProfile.localhostProfile", '{"localhostProfile":"a","type":"Unconfined"}',
        "can only be set when seccomp type is Localhost")),
    (security(appArmorProfile={}), [f"{PS}.appArmorProfile.type: Required value: type is required when "
                                    "appArmorProfile is set"]),
    (security(appArmorProfile={"type": "Localhost"}), [
        f"{PS}.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost"]),
    (security(appArmorProfile={"type": "Localhost", "localhostProfile": " a"}), invalid(
        f"{PS}.appArmorProfile.localhostProfile", '" a"', "must not be padded with whitespace")),
    (security(appArmorProfile={"type": "Localhost", "localhostProfile": "a" * 4096}), [
        f"{PS}.appArmorProfile.localhostProfile: Too long: may not be more than 4095 bytes"]),
    (security(appArmorProfile={"type": "RuntimeDefault", "localhostProfile": "a"}), invalid(
        f"{PS}.appArmorProfile.localhostProfile", '"a"', "can only be set when AppArmor type is Localhost")),
    (of_container(runAsUser=1, privileged=True, capabilities={"add": ["A"], "drop": ["ALL"]}, procMount="Default"), []),
    (of_container(runAsUser=-1), invalid(f"{CS}.runAsUser", "-1", ID)),
    (of_container(runAsGroup=2**31), invalid(f"{CS}.runAsGroup", "2147483648", ID)),
    (of_container(procMount="x"), [f'{CS}.procMount: Unsupported value: "x": supported values: "Default", "Unmasked"']),
    (of_container(procMount="Unmasked"), invalid(f"{CS}.procMount", '"Unmasked"',
                                                 "`hostUsers` must be false to use `Unmasked`")),
    (of_container(procMount="Unmasked") | spec(hostUsers=False), []),
    (of_container(seccompProfile={"type": "x"}), [f'{CS}.seccompProfile.type: Unsupported value: "x": supported '
                                                  'values: "Localhost", "RuntimeDefault", "Unconfined"']),
    (of_container(allowPrivilegeEscalation=False, privileged=True), invalid(
        CS, '{"allowPrivilegeEscalation":false,"privileged":true}',
        "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")),
    (of_container(allowPrivilegeEscalation=False, capabilities={"add": ["CAP_SYS_ADMIN"]}), invalid(
        CS, '{"allowPrivilegeEscalation":false,"capabilities":{"add":["CAP_SYS_ADMIN"]}}',
        "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")),
    (of_container(allowPrivilegeEscalation=False, capabilities={"add": ["SYS_ADMIN"]}), []),
]  # fmt: skip


def options(**fields: Any) -> Changes:
    return WINDOWS | security(windowsOptions=fields)


W = f"{PS}.windowsOptions"
HOSTS = "hostNetwork must be true if pod contains any hostProcess containers"
SYSTEMS: list[Case] = [
    (spec(os={"name": "linux"}), []),
    (WINDOWS, []),
    (spec(os={}), ["spec.os.name: Required value"]),
    (spec(os={"name": "plan9"}), ['spec.os: Unsupported value: "plan9": supported values: "linux", "windows"']),
    (options(runAsUserName="DOMAIN\\user", gmsaCredentialSpecName="a.b", gmsaCredentialSpec="{}"), []),
    (options(gmsaCredentialSpecName="A"), invalid(f"{W}.gmsaCredentialSpecName", '"A"', SUBDOMAIN)),
    (options(gmsaCredentialSpec=""), invalid(f"{W}.gmsaCredentialSpec", '""',
                                             "gmsaCredentialSpec cannot be an empty string")),
    *[(options(runAsUserName=user), invalid(f"{W}.runAsUserName", shown, *texts)) for user, shown, *texts in (
        ("", '""', "runAsUserName cannot be an empty string"),
        ("a\tb", r'"a\tb"', "runAsUserName cannot contain control characters"),
        ("a\\b\\c", r'"a\\b\\c"', "runAsUserName cannot contain more than one backslash"),
        ("a\\", r'"a\\"', "runAsUserName's User cannot be empty"),
        ("\\a", r'"\\a"', "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
        (". .", '". ."', "runAsUserName's User cannot contain only periods or spaces"),
        ("a@b", '"a@b"', 'runAsUserName\'s User cannot contain the following characters: "/\\:;|=,+*?<>@[]'),
        ("a" * 105, f'"{"a" * 105}"', "runAsUserName's User length must not be longer than 104 characters"),
    )],
    (security(windowsOptions={"hostProcess": True}) | spec(hostNetwork=True), []),
    (security(windowsOptions={"hostProcess": True}), invalid("spec.hostNetwork", "false", HOSTS)),
    (of_container(windowsOptions={"hostProcess": True}), invalid("spec.hostNetwork", "false", HOSTS)),
    (
        of_container(windowsOptions={"hostProcess": True})
        | spec(hostNetwork=True, initContainers=[{"name": "i", "image": "i"}]),
        invalid("spec", '""',
                "If pod contains any hostProcess containers then all containers must be HostProcess containers"),
    ),
    (
        security(windowsOptions={"hostProcess": False}) | of_container(windowsOptions={"hostProcess": True})
        | spec(hostNetwork=True),
        invalid(f"{CS}.windowsOptions.hostProcess", "true",
                "pod hostProcess value must be identical if both are specified, was false"),
    ),
    (spec(os={"name": "linux"}) | security(windowsOptions={}) | of_container(windowsOptions={}), [
        f"{at}.windowsOptions: Forbidden: windows options cannot be set for a linux pod" for at in (PS, CS)]),
    (
        WINDOWS | security(seLinuxOptions={}, seccompProfile={"type": "Unconfined"}, fsGroup=1, runAsUser=1,
                           sysctls=[{"name": "a", "value": "b"}], supplementalGroups=[1])
        | spec(hostUsers=True, hostPID=True, hostIPC=True, shareProcessNamespace=False),
        [f"spec.{field}: Forbidden: cannot be set for a windows pod" for field in (
            *(f"securityContext.{one}" for one in (
                "seLinuxOptions", "seccompProfile", "fsGroup", "sysctls", "runAsUser", "supplementalGroups")),
            "hostUsers", "hostPID", "hostIPC", "shareProcessNamespace")],
    ),
    (
        WINDOWS | of_container(capabilities={}, privileged=False, readOnlyRootFilesystem=True, runAsGroup=1,
                               allowPrivilegeEscalation=True, procMount="Default"),
        [f"{CS}.{field}: Forbidden: cannot be set for a windows pod" for field in (
            "capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount",
            "runAsGroup")],
    ),
]  # fmt: skip

SCHEDULING: list[Case] = [
    (toleration(operator="Exists"), []),
    (toleration(key="a", operator="Equal", value="b", effect="NoExecute", tolerationSeconds=5), []),
    (toleration(key="a"), []),
    (toleration(), invalid("spec.tolerations[0].operator", '""', 'operator must be Exists when `key` is empty, which '
                           'means "match all values and all keys"')),
    (toleration(key="a_", operator="Exists"), invalid("spec.tolerations[0].key", '"a_"', KEY)),
    (toleration(key="a", tolerationSeconds=5, effect="NoSchedule"), invalid(
        "spec.tolerations[0].effect", '"NoSchedule"', "effect must be 'NoExecute' when `tolerationSeconds` is set")),
    (toleration(key="a", operator="Exists", value="b"), invalid(
        "spec.tolerations[0].operator", '"b"', "value must be empty when `operator` is 'Exists'")),
    (toleration(key="a", value="-"), invalid("spec.tolerations[0].operator", '"-"', VALUE)),
    (toleration(key="a", operator="x"), ['spec.tolerations[0].operator: Unsupported value: "x": supported values: '
                                         '"Equal", "Exists"']),
    (toleration(key="a", operator="Lt", value="5"), [
        'spec.tolerations[0].operator: Unsupported value: "Lt": supported values: "Equal", "Exists", "Lt", "Gt"']),
    (toleration(key="a", effect="x"), ['spec.tolerations[0].effect: Unsupported value: "x": supported values: '
                                       '"NoSchedule", "PreferNoSchedule", "NoExecute"']),
    *[(node_rule(key="a", operator=operator, values=values), []) for operator, values in (
        ("In", ["b"]), ("NotIn", ["b", "c"]), ("Exists", []), ("DoesNotExist", []), ("Gt", ["1"]), ("Lt", ["2"]))],
    (node({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}), []),
    (node(), [f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms: Required value: must have at least one node "
              "selector term"]),
    *[(node_rule(key="a", operator=operator, values=values),
       [f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].{text}"])
      for operator, values, text in (
        ("In", [], "values: Required value: must be specified when `operator` is 'In' or 'NotIn'"),
        ("Exists", ["a"], "values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        ("Gt", [], "values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"),
        ("x", [], 'operator: Invalid value: "x": not a valid selector operator'),
        ("In", ["-"], f'values[0]: Invalid value: "-": {VALUE}'),
      )],
    *[(node({"matchFields": [rule]}),
       [f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchFields[0].{text}"]) for rule, text in (
        ({"key": "metadata.name", "operator": "In", "values": ["a", "b"]},
         "values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector"),
        ({"key": "metadata.name", "operator": "Exists"}, 'operator: Invalid value: "Exists": not a valid selector '
                                                         "operator"),
        ({"key": "metadata.uid", "operator": "In", "values": ["a"]},
         'key: Invalid value: "metadata.uid": not a valid field selector key'),
        ({"key": "metadata.name", "operator": "In", "values": ["A"]}, f'values[0]: Invalid value: "A": {SUBDOMAIN}'),
      )],
    (spec(affinity={"nodeAffinity": {PREFERRED: [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}}]}}), []),
    *[(spec(affinity={"nodeAffinity": {PREFERRED: [{"weight": weight, "preference": {}}]}}), invalid(
        f"spec.affinity.nodeAffinity.{PREFERRED}[0].weight", str(weight), "must be in the range 1-100"))
      for weight in (0, 101)],
    (near(namespaces=["a"], namespaceSelector={}, matchLabelKeys=["x"], mismatchLabelKeys=["y"]), []),
    (near(topologyKey=""), [
        f"spec.affinity.podAffinity.{REQUIRED}[0].topologyKey: Required value: can not be empty",
        *invalid(f"spec.affinity.podAffinity.{REQUIRED}[0].topologyKey", '""', *NO_KEY)]),
    (near(namespaces=["A"]), invalid(f"spec.affinity.podAffinity.{REQUIRED}[0].namespace", '"A"', LABEL)),
    (near(labelSelector={"matchLabels": {"a": "-"}}), invalid(
        f"spec.affinity.podAffinity.{REQUIRED}[0].labelSelector.matchLabels", '"-"', VALUE)),
    (near(labelSelector=None, matchLabelKeys=["x"]), [
        f"spec.affinity.podAffinity.{REQUIRED}[0].matchLabelKeys: Forbidden: must not be specified when labelSelector "
        "is not set"]),
    (near(mismatchLabelKeys=["x_"]), invalid(
        f"spec.affinity.podAffinity.{REQUIRED}[0].mismatchLabelKeys[0]", '"x_"', KEY)),
    (near(matchLabelKeys=["x"], mismatchLabelKeys=["x"]), invalid(
        f"spec.affinity.podAffinity.{REQUIRED}[0].matchLabelKeys[0]", '"x"',
        "exists in both matchLabelKeys and mismatchLabelKeys")),
    (near(matchLabelKeys=["x"], labelSelector={"matchLabels": {"x": "1"}}) | {"metadata.labels": {"x": "1"}}, invalid(
        f"spec.affinity.podAffinity.{REQUIRED}[0][0]", '"x"', "exists in both matchLabelKeys and labelSelector")),
    (spec(affinity={"podAntiAffinity": {PREFERRED: [{"weight": 0, "podAffinityTerm": {"topologyKey": "z"}}]}}), invalid(
        f"spec.affinity.podAntiAffinity.{PREFERRED}[0].weight", "0", "must be in the range 1-100")),
    (spread(minDomains=2, nodeAffinityPolicy="Honor", nodeTaintsPolicy="Ignore", matchLabelKeys=["a"]), []),
    (spread(maxSkew=0), invalid("spec.topologySpreadConstraints[0].maxSkew", "0", "must be greater than zero")),
    (spread(topologyKey=""), ["spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty"]),
    (spread(whenUnsatisfiable="x"), ['spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "x": '
                                     'supported values: "DoNotSchedule", "ScheduleAnyway"']),
    (spread(minDomains=0), invalid("spec.topologySpreadConstraints[0].minDomains", "0", "must be greater than zero")),
    (spread(minDomains=1, whenUnsatisfiable="ScheduleAnyway"), invalid(
        "spec.topologySpreadConstraints[0].minDomains", "1",
        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway")),
    (spread(nodeTaintsPolicy="x"), ['spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "x": '
                                    'supported values: "Honor", "Ignore"']),
    (spread(matchLabelKeys=["a"], labelSelector=None), [
        "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not "
        "set"]),
    (
        spec(topologySpreadConstraints=[
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}] * 2),
        ['spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, DoNotSchedule}"'],
    ),
]  # fmt: skip

WHOLE: list[Case] = [
    (whole([{}], limits={"cpu": "1", "memory": "1Gi"}), []),
    (whole([{"requests": {"cpu": "1"}}] * 2, requests={"cpu": "2"}), []),
    (whole([{"requests": {"cpu": "1"}}] * 2, requests={"cpu": "1500m"}), invalid(
        "spec.resources.requests[cpu]", '"1500m"',
        "must be greater than or equal to aggregate container requests of 2")),
    (whole([{"limits": {"cpu": "2"}}], requests={"cpu": "2"}, limits={"cpu": "1"}), [
        *invalid("spec.resources.requests", '"2"', "must be less than or equal to cpu limit of 1"),
        *invalid("spec.resources.containers[0][cpu].limits", '"2"', "must be less than or equal to pod limits of 1")]),
    (whole([{}], requests={"ephemeral-storage": "1"}), [
        'spec.resources.requests[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", '
        '"hugepages-", "memory"']),
    (whole([{}], claims=[{"name": "a"}], requests={"cpu": "1"}) | spec(
        resourceClaims=[{"name": "a", "resourceClaimName": "b"}]), [
        "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level"]),
    (whole([{}], requests={"cpu": "1"}) | WINDOWS, ["spec.resources: Forbidden: may not be set for a windows pod"]),
    (
        whole([{"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}}], limits={"cpu": "1", "hugepages-2Mi": "2Mi"}),
        [*invalid("spec.resources.requests[hugepages-2Mi]", '"2Mi"',
                  "must be greater than or equal to aggregate container requests of 4Mi"),
         *invalid("spec.resources.limits[hugepages-2Mi]", '"2Mi"',
                  "must be greater than or equal to aggregate container limits of 4Mi"),
         *invalid("spec.resources.containers[0][hugepages-2Mi].limits", '"4Mi"',
                  "must be less than or equal to pod limits of 2Mi")],
    ),
]  # fmt: skip

COST = "controller.kubernetes.io/pod-deletion-cost"
MIRROR = "kubernetes.io/config.mirror"
SECCOMP = "container.seccomp.security.alpha.kubernetes.io/c"
SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
ARMOR = "container.apparmor.security.beta.kubernetes.io/"
A = "metadata.annotations"
ANNOTATIONS: list[Case] = [
    *[(annotated(**{COST: cost}), []) for cost in ("0", "-5", "2147483647")],
    *[(annotated(**{COST: cost}), invalid(f"{A}[{COST}]", f'"{cost}"', "must be a 32bit integer"))
      for cost in ("+1", "01", "x", "", "2147483648")],
    (annotated(**{MIRROR: "x"}), invalid(f"{A}[{MIRROR}]", '"x"',
                                         "must set spec.nodeName if mirror pod annotation is set")),
    (annotated(**{MIRROR: "x"}) | spec(nodeName="n"), []),
    (annotated(**{MIRROR: "x"}) | spec(nodeName="n", resourceClaims=[{"name": "a", "resourceClaimName": "b"}]), [
        ": Forbidden: static pods do not support resource claims"]),
    *[(annotated(**{SECCOMP: profile}), []) for profile in ("runtime/default", "docker/default", "unconfined",
                                                            "localhost/a")],
    (annotated(**{SECCOMP_POD: "x"}), invalid(f"{A}.{SECCOMP_POD}", '"x"', "must be a valid seccomp profile")),
    (annotated(**{SECCOMP: "localhost//a"}), invalid(f"{A}.{SECCOMP}", '"/a"', "must be a relative path")),
    (annotated(**{SECCOMP_POD: "unconfined"}) | security(seccompProfile={"type": "RuntimeDefault"}), [
        f"{PS}.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"]),
    (annotated(**{SECCOMP: "localhost/a"}) | of_container(
        seccompProfile={"type": "Localhost", "localhostProfile": "b"}), [
        f"{CS}.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match"]),
    (annotated(**{SECCOMP: "docker/default"}) | of_container(seccompProfile={"type": "RuntimeDefault"}), []),
    (annotated(**{f"{ARMOR}c": "localhost/a"}), []),
    (annotated(**{f"{ARMOR}d": "x"}), [
        *invalid(f"{A}[{ARMOR}d]", '"d"', "container not found"),
        *invalid(f"{A}[{ARMOR}d]", '"x"', 'invalid AppArmor profile name: "x"')]),
    (annotated(**{f"{ARMOR}c": "unconfined"}) | security(appArmorProfile={"type": "RuntimeDefault"})
     | of_container(appArmorProfile={"type": "RuntimeDefault"}), [
        f"{CS}.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "findings"),
    tables(
        fields=FIELDS,
        network=NETWORK,
        security=SECURITY,
        systems=SYSTEMS,
        scheduling=SCHEDULING,
        whole=WHOLE,
        annotations=ANNOTATIONS,
    ),
)
def test_what_is_wrong_with_specs_is_told(changes: Changes, findings: list[str]) -> None:
    assert refused(POD, changes) == findings


T = "spec.template"
TEMPLATES: list[Case] = [
    ({}, []),
    ({f"{T}.metadata.labels.x": "-"}, invalid(f"{T}.labels", '"-"', VALUE)),
    ({f"{T}.metadata.annotations": {"a_": "x"}}, invalid(f"{T}.annotations", '"a_"', KEY)),
    ({f"{T}.metadata.annotations": {COST: "x"}}, invalid(f"{T}.annotations[{COST}]", '"x"', "must be a 32bit integer")),
    ({f"{T}.spec.containers.0.image": " i "}, []),
    ({f"{T}.spec.terminationGracePeriodSeconds": -1}, []),
    ({f"{T}.spec.hostNetwork": True, f"{T}.spec.containers.0.ports": [{"containerPort": 1}]}, []),
    ({f"{T}.spec.hostNetwork": True, f"{T}.spec.containers.0.ports": [{"containerPort": 1, "hostPort": 2}]}, invalid(
        f"{T}.spec.containers[0].ports[0].hostPort", "2", "must match `containerPort` when `hostNetwork` is true")),
    ({f"{T}.spec.nodeName": "n", f"{T}.spec.schedulingGates": [{"name": "a"}]}, []),
    ({f"{T}.spec.volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, []),
    ({f"{T}.spec.ephemeralContainers": [{"name": "e", "image": "i"}]}, [
        f"{T}.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "findings"), TEMPLATES)
def test_templates_may_say_what_pods_may_not(changes: Changes, findings: list[str]) -> None:
    assert refused(TEMPLATE, changes) == findings


def test_label_keys_become_expressions_with_the_pods_own_values() -> None:
    pod, found = created(
        POD,
        near(matchLabelKeys=["x", "z"], mismatchLabelKeys=["y"])
        | spread(matchLabelKeys=["x"], labelSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]})
        | {"metadata.labels": {"x": "1", "y": "2"}},
    )
    assert found == []
    own = {"key": "x", "operator": "In", "values": ["1"]}
    assert pod["spec"]["affinity"]["podAffinity"][REQUIRED][0]["labelSelector"] == {
        "matchExpressions": [own, {"key": "y", "operator": "NotIn", "values": ["2"]}]
    }
    assert pod["spec"]["topologySpreadConstraints"][0]["labelSelector"] == {
        "matchExpressions": [{"key": "a", "operator": "Exists"}, own]
    }


@pytest.mark.parametrize(
    ("said", "profile"),
    [
        ("unconfined", {"type": "Unconfined"}),
        ("runtime/default", {"type": "RuntimeDefault"}),
        ("localhost/a", {"type": "Localhost", "localhostProfile": "a"}),
        ("", None),
    ],
)
def test_profiles_of_annotations_become_fields(said: str, profile: dict[str, str] | None) -> None:
    pod, found = created(POD, annotated(**{f"{ARMOR}c": said}))
    assert found == []
    assert (pod["spec"]["containers"][0].get("securityContext") or {}).get("appArmorProfile") == profile
