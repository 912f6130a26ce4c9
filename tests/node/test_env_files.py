"""Variables from files, and paths from variables."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.node.environment import PodFacts, container_env, expand_path, file_references
from rayplane.node.errors import ContainerConfigError
from rayplane.node.kubelet.env_files import parse_env_file
from tests.fakes import FakeClient
from tests.node.conftest import make_pod
from tests.node.processes import NODE, QUICK, MakeHost, logs, phase, state


def test_lines_of_a_file_are_variables() -> None:
    text = "# first\n\nA='one'\n  B=two words \nC='three\nlines # not a comment\n'\nEMPTY=\nQUOTED=''\nA='again'"
    found = {"A": "again", "B": "two words", "C": "three\nlines # not a comment\n", "EMPTY": "", "QUOTED": ""}
    assert parse_env_file(text) == found


@pytest.mark.parametrize(("text", "line"), [("A='x'\nnonsense", 2), ("1A='x'", 1), ("A='open\n\n", 1), ("A='x' y", 1)])
def test_what_is_no_variable_is_named(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line} "):
        parse_env_file(text)


@given(st.text(alphabet="AB='#\\n \\\\\u00e9", max_size=60))
def test_any_text_is_read_to_its_end_or_refused(text: str) -> None:
    try:
        found = parse_env_file(text)
    except ValueError:
        return
    assert all("=" not in name for name in found)


REF: dict[str, Any] = {"volumeName": "v", "path": "env", "key": "A"}


def env_of(ref: dict[str, Any], files: Any) -> dict[str, str]:
    container = {"name": "c", "env": [{"name": "X", "valueFrom": {"fileKeyRef": ref}}]}
    assert file_references(container) == [("v", "env")]
    return container_env(container, make_pod("p"), PodFacts("", "", "", "1", "1"), found={}, files=files)


def test_a_key_that_is_missing_stops_the_container_unless_it_is_optional() -> None:
    there = {("v", "env"): {"A": "one"}}
    assert env_of(REF, there) == {"X": "one"}
    for missing in ({("v", "env"): None}, {("v", "env"): {"B": "x"}}):
        assert env_of({**REF, "optional": True}, missing) == {}
        with pytest.raises(ContainerConfigError, match='key "A" not found in file "env"'):
            env_of(REF, missing)
    # Where containers are data nobody has written the file.
    assert env_of(REF, None) == {}


@pytest.mark.parametrize(
    ("text", "env", "why"),
    [
        ("$(A)/x", {}, 'missing value for "A"'),
        ("$(A)", {"A": "/etc"}, "must not be an absolute path"),
        ("a/$(A)", {"A": "../.."}, "must not contain"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(text: str, env: dict[str, str], why: str) -> None:
    with pytest.raises(ContainerConfigError, match=why):
        expand_path(text, env)


def test_paths_are_made_of_variables() -> None:
    assert expand_path("logs/$(A)/$$(B)", {"A": "p"}) == "logs/p/$(B)"


@pytest.mark.processes
async def test_an_init_container_writes_what_the_next_one_knows(api: FakeClient, make_host: MakeHost) -> None:
    host = await make_host(NODE, timing=QUICK)
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    write = {"name": "w", "image": "x", "command": ["sh", "-c", "echo \"A='from a file'\" > /v/env"], **mount}
    env = [{"name": "X", "valueFrom": {"fileKeyRef": REF}}]
    say = {"command": ["sh", "-c", "echo $X"], "env": env}
    volumes = [{"name": "v", "emptyDir": {}}]
    api.put("pods", make_pod("job", container=say, initContainers=[write], volumes=volumes, restartPolicy="Never"))
    await api.until(lambda: phase(api, "job") == "Succeeded")
    assert await logs(host, "job") == b"from a file\n"
    # A link out of the volume is not followed.
    write["command"] = ["sh", "-c", "ln -s /etc/passwd /v/env"]
    api.put("pods", make_pod("bad", container=say, initContainers=[write], volumes=volumes, restartPolicy="Never"))
    await api.until(lambda: (state(api, "bad").get("waiting") or {}).get("reason") == "CreateContainerConfigError")
