"""Orders of CRI's clients in the words of this project's runtimes."""

import pytest

from rayplane.node.cri.orders import container_of, pod_around, pod_of
from rayplane.node.environment import expand
from rayplane.node.errors import Malformed
from rayplane.node.images.containers import ContainerImage, own_command
from rayplane.proto.cri import cri_pb2 as pb


@pytest.mark.parametrize("image", [None, ContainerImage("i:1", "sha256:1", entrypoint=("other",))], ids=["none", "own"])
def test_words_of_a_client_are_run_as_they_are(image: ContainerImage | None) -> None:
    """A kubelet has put the variables in, and left `$(A)` where its pod says `$$(A)`."""
    words = ["echo", "$(A)", "$$(A)", "$A", "$$", "$(NOBODY)"]
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="i"), command=words[:1], args=words[1:]
    )
    assert own_command(container_of(config), image, lambda word: expand(word, {"A": "wrong"})) == words


def test_a_container_has_the_groups_that_its_client_says() -> None:
    pod = pod_of(pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", namespace="n", uid="u")), uid="x")
    config = pb.ContainerConfig()
    assert pod_around(pod, config) is pod
    config.linux.security_context.supplemental_groups.append(1234)
    assert pod_around(pod, config)["spec"]["securityContext"]["supplementalGroups"] == [1234]
    assert pod["spec"]["securityContext"]["supplementalGroups"] == []


def test_a_group_without_a_user_is_refused() -> None:
    config = pb.ContainerConfig()
    config.linux.security_context.run_as_group.value = 7
    with pytest.raises(Malformed, match="goes with a user"):
        container_of(config)
    config.linux.security_context.run_as_user.value = 5
    assert container_of(config)["securityContext"]["runAsGroup"] == 7


@pytest.mark.parametrize(("said", "kind"), [(None, "Unconfined"), (pb.SecurityProfile(), "RuntimeDefault")])
def test_a_client_that_names_no_filter_wants_none(said: pb.SecurityProfile | None, kind: str) -> None:
    config = pb.ContainerConfig(linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext()))
    if said is not None:
        config.linux.security_context.seccomp.CopyFrom(said)
    assert container_of(config)["securityContext"]["seccompProfile"] == {"type": kind}
