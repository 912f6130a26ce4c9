"""Orders of CRI's clients in the words of this project's runtimes."""

import pytest

from rayplane.node.cri.orders import container_of
from rayplane.node.environment import expand
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
