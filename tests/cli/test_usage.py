"""Wrong usage and failures: one line on standard error, and the exit code."""

import errno
import json
from pathlib import Path

import pytest

from rayplane.control_plane.api.errors import Invalid, NotFound
from rayplane.control_plane.cli import app
from rayplane.control_plane.cli.printing import error_line
from rayplane.control_plane.cluster.state import StateDir

WRONG = [
    ("frob", "No such command 'frob'"),
    ("get", "; see `rayplane get --help`"),
    ("get pods --bogus", "No such option: --bogus"),
    ("get pods -o xml", "-o 'xml': use json, yaml, wide, name"),
    ("scale deployment/web", "Missing option '--replicas'"),
    ("scale deployment/web --replicas=-1", "--replicas"),
    ("scale deployment/web --replicas many", "--replicas"),
    ("apply", "Missing option"),
    ("delete", "either KIND NAME, or -f FILE"),
    ("delete pods web -f web.yaml", "either KIND NAME, or -f FILE"),
    ("delete pods web --now --grace-period 3", "give one of them"),
    ("delete pods web --cascade sideways", "--cascade 'sideways'"),
    ("delete pods web --timeout soon", "--timeout: 'soon' is no time span: use one such as 500ms, 30s"),
    ("logs", "Missing argument"),
    ("logs web --since -5s", "--since: '-5s' is no time span"),
    ("exec web", "Missing argument"),
    ("exec web -t -- sh", "-t goes with -i"),
    ("up --members 2", "--members 2: use an odd number"),
    ("up --host cloud", "--host 'cloud': use ray or process"),
    ("up --members x", "--members"),
    ("upgrade --python /does/not/exist", "there is no Python at /does/not/exist"),
    ("upgrade --python x --from y", "give either --python or --from"),
    ("up --nonsense", "No such option: --nonsense"),
    ("up --runtime docker", "--runtime"),
    ("up --node-cpu fast", "--node-cpu"),
    ("up --apiservers 0", "--apiservers 0"),
    ("up --audit-policy /does/not/exist", "--audit-policy /does/not/exist"),
    ("up --audit-policy pyproject.toml", "--audit-policy is no Policy of audit.k8s.io/v1"),
    ("up --enable-admission-plugins Nothing", "there is no admission plug-in Nothing"),
    ("up --name Bad_Name", "--name 'Bad_Name'"),
    # A name is no path.
    ("down --purge --name ../x", "--name '../x'"),
    ("kubeconfig --name ../x", "--name '../x'"),
    ("get pods --name a/b", "--name 'a/b'"),
    ("status -o xml", "xml"),
    ("add sidecar", "sidecar"),
    ("chaos kill everything", "everything"),
    ("chaos", "Missing command; see `rayplane chaos --help`"),
    ("token", "Missing command; see `rayplane token --help`"),
    ("test-env", "Missing command; see `rayplane test-env --help`"),
    ("chaos kill cat", "cat"),
    ("chaos kill nobody", "kill: 'nobody': write TARGET"),
    ("chaos kill leader --signal TERM", "TERM"),
    ("up --pull Docker.io/x", "--pull: "),
    ("up --pull docker.io=mirror", "'mirror' is no mirror of docker.io"),
    ("up --missing-images never", "--missing-images 'never': use stand-in or refuse"),
    ("image load /does/not/exist", "there is no file /does/not/exist: check its name"),
    ("image load pyproject.toml --tag Bad/Name", "couldn't parse image name 'Bad/Name'"),
    ("image map nginx", "give --command PROGRAM, or --remove"),
    ("image map nginx --command x --remove", "give --command PROGRAM, or --remove"),
    ("chaos inject pray", "write `VERB: ...` as in scenario files"),
    ("chaos run", "Missing argument"),
    ("chaos run /does/not/exist.yaml", "cannot read /does/not/exist.yaml"),
    ("chaos run /does/not/exist.yaml --record /does/not/exist/run", "cannot write /does/not/exist/run"),
    ("dashboard --open /does/not/exist --name shop", "--open shows a recording without any cluster"),
    ("dashboard --open /does/not/exist --state-dir /does/not/exist", "leave --name and --state-dir out"),
]


def test_the_schema_of_scenarios_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["chaos", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["faults"]


@pytest.mark.parametrize(("command", "said"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_usage_is_one_line_and_exit_code_2(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code = app.run(command.split())
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("rayplane: ") and err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        *("get pods", "describe pod x", "delete pod x", "logs x", "exec x -- true", "scale deploy/x --replicas 1"),
        *("status", "kubeconfig", "endpoints", "chaos kill leader"),
    ],
)
def test_without_a_cluster_commands_fail_and_say_what_to_do(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, dashes, rest = command.partition(" -- ")
    place = tmp_path / "none"
    code = app.run([*words.split(), "--state-dir", str(place), *(dashes + rest).split()])
    err = capsys.readouterr().err
    assert (code, err) == (1, f"rayplane: no cluster is up in {place}; run `rayplane up --state-dir {place}`\n")


def test_bad_manifests_are_told_before_the_cluster_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\nkind: Pod\n")
    assert app.run(["apply", "-f", str(file), "--state-dir", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"rayplane: {file}, document 2: apiVersion is missing\n"


def test_a_folder_without_images_is_told_before_the_cluster_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.run(["image", "load", str(tmp_path), "--state-dir", str(tmp_path / "none")])
    assert capsys.readouterr().err == f"rayplane: {tmp_path} holds no images: an OCI image layout has an index.json\n"


def test_errors_of_the_api_read_as_in_kubectl() -> None:
    assert error_line(NotFound.of("pods", "x")) == 'Error from server (NotFound): pods "x" not found'
    assert error_line(Invalid('Pod "x" is invalid: spec')) == 'The Pod "x" is invalid: spec'


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "up",
        "down",
        "status",
        "get",
        "apply",
        "describe",
        "delete",
        "logs",
        "exec",
        "scale",
        "chaos run",
        "image load",
    ):
        assert app.run([*command.split(), "--help"]) == 0
        assert "--state-dir" in capsys.readouterr().out


def test_restore_names_the_file_that_is_missing_and_makes_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no" / "such"
    assert app.run(["restore", str(missing), "--state-dir", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith(f"rayplane: there is no file {missing}: check its name\n")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cluster.json"))

    monkeypatch.setattr(StateDir, "read_running", full)
    assert app.run(["status", "--state-dir", str(tmp_path)]) == 1
    told = f"rayplane: {tmp_path}/cluster.json: No space left on device; make room there, or choose another place\n"
    assert capsys.readouterr().err == told
