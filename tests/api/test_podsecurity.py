"""Pod Security Standards: what each level allows, since when, and in which words it refuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.podsecurity import (
    LATEST,
    Level,
    LevelVersion,
    Policy,
    details,
    parse_labels,
    violations,
)
from rayplane.control_plane.api.podsecurity.evaluation import CHECKS

BASELINE, RESTRICTED = LevelVersion(Level.BASELINE), LevelVersion(Level.RESTRICTED)
SAFE_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(name: str = "c", **context: Any) -> dict[str, Any]:
    return {"name": name, "image": "i", "securityContext": {**SAFE_CONTEXT, **context}}


def spec(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"containers": list(containers) or [container()], **fields}


def said(policy: LevelVersion, pod: dict[str, Any], annotations: dict[str, str] | None = None) -> str:
    return details(violations(policy, {"annotations": annotations or {}}, pod))


BASELINE_CASES = [
    (
        spec(hostNetwork=True, hostPID=True, hostIPC=True),
        "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
    ),
    (
        spec(container("a", privileged=True), container("b", privileged=True)),
        'privileged (containers "a", "b" must not set securityContext.privileged=true)',
    ),
    (
        spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
        'hostPath volumes (volume "v")',
    ),
    (
        spec({**container(), "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]}),
        'hostPort (container "c" uses hostPorts 443, 80)',
    ),
    (
        spec(securityContext={"appArmorProfile": {"type": "Unconfined"}}),
        'forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")',
    ),
    (
        spec(
            container(seLinuxOptions={"type": "spc_t", "user": "u"}),
            securityContext={"seLinuxOptions": {"role": "r"}},
        ),
        'seLinuxOptions (pod and container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; '
        "user may not be set; role may not be set)",
    ),
    (
        spec(container(procMount="Unmasked")),
        'procMount (container "c" must not set securityContext.procMount to "Unmasked")',
    ),
    (
        spec(container(seccompProfile={"type": "Unconfined"})),
        'seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        spec(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
        "forbidden sysctls (kernel.msgmax)",
    ),
    (
        spec(securityContext={"windowsOptions": {"hostProcess": True}}),
        "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ),
    (
        spec({**container(), "livenessProbe": {"httpGet": {"port": 1, "host": "10.0.0.1"}}}),
        'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")',
    ),
]
RESTRICTED_CASES = [
    (
        spec(container(allowPrivilegeEscalation=True)),
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)',
    ),
    (
        spec(container("a", capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), container("b", capabilities={})),
        'unrestricted capabilities (container "b" must set securityContext.capabilities.drop=["ALL"]; '
        'container "a" must not include "CHOWN" in securityContext.capabilities.add)',
    ),
    (
        spec(container(runAsNonRoot=False), securityContext={"runAsNonRoot": False}),
        'runAsNonRoot != true (pod and container "c" must not set securityContext.runAsNonRoot=false)',
    ),
    (spec(container(runAsUser=0)), 'runAsUser=0 (container "c" must not set runAsUser=0)'),
    (
        spec(volumes=[{"name": "a", "nfs": {}}, {"name": "b", "hostPath": {}}, {"name": "c", "emptyDir": {}}]),
        'restricted volume types (volumes "a", "b" use restricted volume types "hostPath", "nfs")',
    ),
    (
        spec(container(seccompProfile=None)),
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to '
        '"RuntimeDefault" or "Localhost")',
    ),
]


@pytest.mark.parametrize(("pod", "text"), BASELINE_CASES, ids=[text.partition(" (")[0] for _, text in BASELINE_CASES])
def test_what_the_baseline_refuses(pod: dict[str, Any], text: str) -> None:
    assert said(BASELINE, pod) == text
    # The restricted level has a check of its own for volumes and capabilities; the rest it takes over.
    assert text in said(RESTRICTED, pod) or "restricted volume types" in said(RESTRICTED, pod)


@pytest.mark.parametrize(
    ("pod", "text"), RESTRICTED_CASES, ids=[text.partition(" (")[0] for _, text in RESTRICTED_CASES]
)
def test_what_only_restricted_refuses(pod: dict[str, Any], text: str) -> None:
    assert said(RESTRICTED, pod) == text
    assert said(BASELINE, pod) == ("" if "volume" not in text else 'hostPath volumes (volume "b")')


def test_a_plain_pod_passes_the_baseline_and_fails_every_demand_of_restricted() -> None:
    plain = {"containers": [{"name": "c", "image": "i"}]}
    assert said(BASELINE, plain) == ""
    assert said(RESTRICTED, plain) == (
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or '
        '"Localhost")'
    )
    assert said(RESTRICTED, spec()) == ""
    assert said(LevelVersion(), {"hostNetwork": True, "containers": [container(privileged=True)]}) == ""


def test_default_capabilities_are_for_the_baseline_only() -> None:
    assert said(BASELINE, spec(container(capabilities={"add": ["CHOWN"]}))) == ""
    assert said(BASELINE, spec(container(capabilities={"add": ["SYS_ADMIN", "NET_RAW"]}))) == (
        'non-default capabilities (container "c" must not include "NET_RAW", "SYS_ADMIN" in '
        "securityContext.capabilities.add)"
    )


def test_init_and_ephemeral_containers_count() -> None:
    pod = spec(
        initContainers=[container("first", privileged=True)], ephemeralContainers=[container("x", privileged=True)]
    )
    assert said(BASELINE, pod) == 'privileged (containers "first", "x" must not set securityContext.privileged=true)'


def test_old_annotations_choose_profiles_too() -> None:
    key = "container.apparmor.security.beta.kubernetes.io/c"
    assert said(BASELINE, spec(), {key: "localhost/mine"}) == ""
    assert "must not set AppArmor profile type to" in said(BASELINE, spec(), {key: "unconfined"})
    alpha = {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}
    assert said(LevelVersion(Level.BASELINE, 18), spec(), alpha) == (
        'seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")'
    )
    assert said(LevelVersion(Level.BASELINE, 19), spec(), alpha) == ""


@pytest.mark.parametrize(
    ("level", "pod", "since", "until"),
    [
        (Level.BASELINE, spec({**container(), "lifecycle": {"preStop": {"tcpSocket": {"host": "h"}}}}), 34, LATEST),
        (Level.RESTRICTED, spec(container(allowPrivilegeEscalation=None)), 8, LATEST),
        (Level.RESTRICTED, spec(container(capabilities=None)), 22, LATEST),
        (Level.RESTRICTED, spec(container(runAsUser=0)), 23, LATEST),
        (Level.RESTRICTED, spec(container(runAsUser=0), hostUsers=False), 23, 34),
        (Level.RESTRICTED, spec(container(runAsNonRoot=False), hostUsers=False), 0, 34),
        (Level.BASELINE, spec(container(procMount="Unmasked"), hostUsers=False), 0, 34),
        (Level.RESTRICTED, spec(container(procMount="Unmasked"), hostUsers=False), 0, LATEST),
        (Level.RESTRICTED, spec(container(seccompProfile=None), os={"name": "windows"}), 19, 24),
        (Level.BASELINE, spec(securityContext={"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}), 0, 31),
        (Level.BASELINE, spec(container(seLinuxOptions={"type": "container_engine_t"})), 0, 30),
    ],
)
def test_versions_keep_what_they_meant(level: Level, pod: dict[str, Any], since: int, until: int) -> None:
    for version in (0, 7, 8, 18, 19, 21, 22, 23, 24, 25, 30, 31, 32, 34, 35, 37, 40, LATEST):
        refused = bool(said(LevelVersion(level, version), pod))
        assert refused == (since <= version <= until), f"v1.{version}"


def test_labels_choose_the_policy() -> None:
    prefix = "pod-security.kubernetes.io/"
    policy, errors = parse_labels({prefix + "enforce": "baseline", prefix + "enforce-version": "v1.30"}, Policy())
    assert not errors
    # Who enforces a level is warned of it too, unless the labels say otherwise.
    assert (str(policy.enforce), str(policy.audit), str(policy.warn)) == (
        "baseline:v1.30",
        "privileged:latest",
        "baseline:v1.30",
    )
    policy, _ = parse_labels({prefix + "enforce": "restricted", prefix + "warn": "privileged"}, Policy())
    assert str(policy.warn) == "privileged:latest"
    wrong = {prefix + "enforce": "strict", prefix + "audit": "no", prefix + "warn-version": "1.2"}
    policy, errors = parse_labels(wrong, Policy())
    assert (policy.enforce.level, policy.audit.level) == (Level.RESTRICTED, Level.PRIVILEGED)
    assert [str(e) for e in errors] == [
        f'metadata.labels[{prefix}enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted',
        f'metadata.labels[{prefix}audit]: Invalid value: "no": must be one of privileged, baseline, restricted',
        f'metadata.labels[{prefix}warn-version]: Invalid value: "1.2": must be "latest" or "v1.x"',
    ]


def test_every_check_has_one_id_and_ascending_revisions() -> None:
    ids = [check.id for check in CHECKS]
    assert len(ids) == len(set(ids))
    for check in CHECKS:
        since = [version for version, _ in check.revisions]
        assert since == sorted(set(since))
        assert not check.overrides or check.overrides in ids


POD_PARTS = st.fixed_dictionaries(
    {"containers": st.just([{"name": "c"}])},
    optional={
        "hostNetwork": st.booleans(),
        "hostUsers": st.booleans(),
        "volumes": st.lists(st.sampled_from([{"name": "v", "hostPath": {}}, {"name": "v"}, {"name": "v", "csi": {}}])),
        "initContainers": st.lists(
            st.builds(
                container,
                privileged=st.booleans(),
                runAsUser=st.sampled_from([None, 0, 1]),
                capabilities=st.sampled_from([None, {}, {"add": ["SYS_TIME"]}, {"drop": ["ALL"]}]),
                seccompProfile=st.sampled_from([None, {}, {"type": "Unconfined"}]),
            ),
            max_size=2,
        ),
        "securityContext": st.sampled_from([None, {}, {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost"}}]),
    },
)


@given(POD_PARTS, st.sampled_from([0, 10, 22, 25, 30, 35, 37, LATEST]))
def test_restricted_allows_nothing_that_the_baseline_refuses(pod: dict[str, Any], version: int) -> None:
    if said(LevelVersion(Level.BASELINE, version), pod):
        assert said(LevelVersion(Level.RESTRICTED, version), pod)
