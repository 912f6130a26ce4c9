"""Names, users, commands and pull policies of images, as Docker and Kubernetes have them."""

import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.node.errors import ContainerConfigError
from rayplane.node.images.containers import ContainerImage, stop_signal, user_for
from rayplane.node.images.errors import BadImage, BadReference, ImageError, NoPull
from rayplane.node.images.manifests import document, read_config, read_index, read_manifest
from rayplane.node.images.policy import Choice, choose, policy_of
from rayplane.node.images.references import parse_reference
from rayplane.node.images.users import Accounts, User, user_of
from tests.tiers import examples

DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("bitnami/nginx", "docker.io/bitnami/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b_c:V1", "localhost:5000/a/b_c:V1"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        ("a/b--c/d__e.f", "docker.io/a/b--c/d__e.f:latest"),
    ],
)
def test_a_name_is_meant_in_full(said: str, meant: str) -> None:
    assert str(parse_reference(said)) == meant
    assert str(parse_reference(meant)) == meant


WRONG = ["", "A", "a:", "a:b:c", "a/", "/a", "a//b", "a b", "a@sha256:1", "a@", "-a", "a-", "a..b", "a___b", "a:-1"]
WRONG += ["http://a/b", "a/../b", "0a" * 32, "a" * 256, "a\0", "a\n", "bad!host/a", "a:" + "1" * 129]


@pytest.mark.parametrize("said", WRONG)
def test_what_is_no_name_is_told_as_kubernetes_does(said: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse_reference(said)
    assert said == "" or "couldn't parse image name" in str(caught.value)


@settings(max_examples=examples(300))
@given(st.text(st.sampled_from("ab1A./:@_-[] \0"), max_size=30))
def test_a_name_that_is_taken_means_the_same_in_full(said: str) -> None:
    try:
        meant = str(parse_reference(said))
    except BadReference:
        return
    assert str(parse_reference(meant)) == meant


FIELDS = ["schemaVersion", "config", "layers", "manifests", "mediaType", "digest", "size", "platform", "annotations"]
FIELDS += ["rootfs", "diff_ids", "Env", "Cmd", "Entrypoint", "User", "Volumes", "os", "architecture"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(300))
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_documents_of_any_content_are_read_or_refused(found: dict[str, Any]) -> None:
    import orjson

    try:
        data = orjson.dumps(found)
    except TypeError:
        return
    for read in (lambda: read_index(found), lambda: read_manifest(found), lambda: read_config(data)):
        try:
            read()
        except ImageError as e:
            assert isinstance(e, BadImage)


def test_what_is_no_document_is_refused() -> None:
    for data in (b"", b"[]", b"{", b'"a"', b" " * (5 << 20)):
        with pytest.raises(BadImage):
            document(data, "it")


PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:7:8::/srv:\nbroken\n:x:1:1::/:\nodd:x:-1:z::/:\n7:x:70:80::/seven:\n"
ACCOUNTS = Accounts(PASSWD, "web:x:8:\nmore:x:9:a,web\nodd:x:b:web\n")


@pytest.mark.parametrize(
    ("said", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("web", User(7, 8, (9,), "/srv", named=True)),
        ("web:more", User(7, 9, (), "/srv", named=True)),
        ("5", User(5, 0)),
        ("5:6", User(5, 6)),
        ("8:web", User(8, 8)),
        # A name that is a number is a name first.
        ("7", User(70, 80, (), "/seven")),
    ],
)
def test_users_are_looked_up_in_the_image(said: str, user: User) -> None:
    assert user_of(said, ACCOUNTS) == user


@pytest.mark.parametrize("said", ["nobody", "web:nobody", "odd", "broken", "99999999999", "-1", "web:odd"])
def test_users_that_the_image_does_not_know_are_told(said: str) -> None:
    with pytest.raises(ContainerConfigError, match="unable to find"):
        user_of(said, ACCOUNTS)


def test_contexts_overrule_the_image_and_root_is_refused_where_it_is_not_wanted() -> None:
    image = ContainerImage("a", "b", user="web", accounts=ACCOUNTS)
    pod = {"securityContext": {"runAsUser": 3, "supplementalGroups": [4], "fsGroup": 5}}
    assert user_for(image, pod, {}) == User(3, 0, (4, 5), "/")
    assert user_for(image, pod, {"securityContext": {"runAsUser": 0, "runAsGroup": 2}}) == User(0, 2, (4, 5), "/root")
    assert user_for(image, {"securityContext": {"supplementalGroupsPolicy": "Strict"}}, {}).groups == ()
    refused = [
        ("web", {}, "non-numeric user"),
        ("", {}, "will run as root"),
        ("7", {"runAsUser": 0}, "breaks non-root"),
    ]
    for user, context, why in refused:
        image = ContainerImage("a", "b", user=user, accounts=ACCOUNTS)
        with pytest.raises(ContainerConfigError, match=why):
            user_for(image, {}, {"securityContext": {"runAsNonRoot": True, **context}})
    image = ContainerImage("a", "b", user="5", accounts=ACCOUNTS)
    assert user_for(image, {"securityContext": {"runAsNonRoot": True}}, {}).uid == 5


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        (None, None, ["entry", "$(X)", "cmd"]),
        (None, ["$(X)"], ["entry", "$(X)", "x"]),
        (["run"], None, ["run"]),
        (["run"], ["$(X)"], ["run", "x"]),
    ],
)
def test_command_and_args_stand_for_entry_point_and_cmd(command: Any, args: Any, words: list[str]) -> None:
    image = ContainerImage("a", "b", entrypoint=["entry", "$(X)"], cmd=["cmd"])
    assert image.words({"command": command, "args": args}, lambda word: word.replace("$(X)", "x")) == words


@pytest.mark.parametrize(
    ("said", "number"),
    [("", signal.SIGTERM), ("SIGQUIT", signal.SIGQUIT), ("quit", signal.SIGQUIT), ("9", signal.SIGKILL)]
    + [("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMAX-1", signal.SIGRTMAX - 1), ("RTMIN-9", signal.SIGRTMIN)]
    + [(odd, signal.SIGTERM) for odd in ("SIG", "0", "99", "SIG_IGN", "a b", "²")],
)
def test_a_container_ends_by_its_images_signal(said: str, number: int) -> None:
    assert stop_signal({}, ContainerImage("a", "b", stop_signal=said)) == number
    assert stop_signal({"lifecycle": {"stopSignal": "SIGINT"}}, ContainerImage("a", "b", stop_signal=said)) == 2


def test_a_policy_says_whether_an_image_is_fetched() -> None:
    def way(policy: str, **known: bool) -> Choice | type[NoPull]:
        known = {"present": False, "pulls": False, "refuses": False, **known}
        try:
            return choose("a", policy, **known)
        except NoPull:
            return NoPull

    policies = ("Always", "IfNotPresent", "Never")
    table = {
        (True, True): (Choice.PULL, Choice.USE, Choice.USE),
        (False, True): (Choice.PULL, Choice.PULL, NoPull),
        (True, False): (Choice.USE, Choice.USE, Choice.USE),
        (False, False): (Choice.STAND_IN, Choice.STAND_IN, NoPull),
    }
    for (present, pulls), ways in table.items():
        assert tuple(way(policy, present=present, pulls=pulls) for policy in policies) == ways
    assert way("IfNotPresent", refuses=True) is NoPull
    defaults = {"a": "Always", "a:latest": "Always", "a:1": "IfNotPresent", f"a@{DIGEST}": "IfNotPresent"}
    assert {said: policy_of({}, parse_reference(said)) for said in defaults} == defaults
