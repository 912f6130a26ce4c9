"""`rayplane test-env`: clusters for suites in any language, and the programs that envtest starts."""

import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.control_plane.apiserver import standalone
from rayplane.control_plane.cli.app import run
from rayplane.control_plane.cluster.envtest import write_programs
from rayplane.control_plane.rpc.tls import Authority
from tests.e2e.harness import ROOT, stock_kubectl, until
from tests.ports import free_port

RAYPLANE = (sys.executable, "-m", "rayplane.control_plane.cli.main")
EXAMPLES = ROOT / "tests" / "examples"
LOOPBACK = "127.0.0.1"
# How each language runs its example, in a directory that has a copy of it (node of before 22.18 as what it then is), by
# what tells that it is there; and the namespace that this one makes, since a runner that finds no test is content.
SUITES = {
    "node --version": (
        "mv namespaces.test.ts namespaces.test.mjs && node --test namespaces.test.mjs",
        "from-typescript",
    ),
    "java --version": ("java Namespaces.java", "from-java"),
    "rustc --version": ("rustc --test namespaces.rs && ./namespaces --quiet", "from-rust"),
    "go version": ("go vet namespaces_test.go && go test namespaces_test.go", "from-go"),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and `rayplane` on the way."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "rayplane").write_text(f'#!/bin/sh\nexec {" ".join(RAYPLANE)} "$@"\n')
    (programs / "rayplane").chmod(0o755)
    (programs / "kubectl").symlink_to(stock_kubectl())
    # Rust's toolchains, and what Go has built of its library, lie below the home that is left here.
    home = pwd.getpwuid(os.getuid()).pw_dir
    kept = {"RUSTUP_HOME": f"{home}/.rustup", "GOCACHE": f"{home}/.cache/go-build"}
    here = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    return kept | os.environ | here


@pytest.mark.turn(1, of=2)
def test_a_suite_has_a_cluster_and_gives_its_exit_code(tmp_path: Path, environment: dict[str, str]) -> None:
    missing = [
        probe for probe in SUITES if subprocess.run(["sh", "-c", probe], env=environment, check=False).returncode
    ]
    here = [
        f"{suite} && kubectl get namespace {made}" for probe, (suite, made) in SUITES.items() if probe not in missing
    ]
    for example in EXAMPLES.iterdir():
        shutil.copy(example, tmp_path)
    nodes = 'test "$(kubectl get nodes -o name | wc -l)" = 2'
    suite = ['test "$USE_EXISTING_CLUSTER" = true', nodes, "rayplane status -o json > status.json", *here]
    stop = ["rayplane test-env stop", 'test ! -e "$RAYPLANE_STATE_DIR"', "exit 7"]
    command = [*RAYPLANE, "test-env", "run", "--nodes", "2", "--", "sh", "-c", " && ".join((*suite, *stop))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stdout + done.stderr
    assert json.loads((tmp_path / "status.json").read_text())["healthy"]
    assert [*tmp_path.glob("rayplane-*")] == []
    if missing:
        pytest.skip(f"not on this machine, so that their examples were not tried: {', '.join(missing)}")


def test_a_cluster_that_was_started_ends_with_its_suite(tmp_path: Path, environment: dict[str, str]) -> None:
    suite = ["sh", "-c", 'eval "$(rayplane test-env start)" && kubectl get namespaces -o name && read -r end']
    with subprocess.Popen(
        suite, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "namespace/default\n"
        (place,) = tmp_path.glob("rayplane-*")
        running.send_signal(signal.SIGKILL)
    until("what its suite left is gone", lambda: not place.exists())


def test_what_cannot_be_meant_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test-env", "stop", "--state-dir", str(tmp_path / "none")]) == 0
    assert run(["test-env", "run", "--", "no-such-program"]) == 2
    assert run(["test-env", "start", "--parent", str(2**22 + 1)]) == 2
    told = capsys.readouterr().err
    assert "no-such-program" in told and "--parent" in told and told.count("\n") == 2


class Envtest:
    """A stand-in that starts the programs with the flags that controller-runtime's envtest gives them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._assets = place / "assets"
        write_programs(self._assets)
        self.etcd, self.api = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
        self._serving, self._clients = Authority.create("serving"), Authority.create("clients")
        shown = self._serving.issue("kube-apiserver", hosts=["localhost", LOOPBACK])
        signer = Authority.create("tokens")
        files = {
            "apiserver.crt": shown.cert,
            "apiserver.key": shown.key,
            "sa-signer.crt": signer.cert,
            "sa-signer.key": signer.key,
            "client-cert-auth-ca.crt": self._clients.cert,
        }
        for name, data in files.items():
            (place / name).write_bytes(data)

    def command(self) -> str:
        """For a shell: both programs, as its children."""
        place = self._place
        etcd = (
            *(self._assets / "etcd", f"--advertise-client-urls=http://{self.etcd}", f"--data-dir={place / 'data'}"),
            *(f"--listen-client-urls=http://{self.etcd}", f"--listen-peer-urls=http://{LOOPBACK}:{free_port()}"),
        )
        apiserver = (
            *(self._assets / "kube-apiserver", "--allow-privileged=true", "--authorization-mode=RBAC"),
            *(f"--bind-address={LOOPBACK}", f"--cert-dir={place}", f"--secure-port={self.api.partition(':')[2]}"),
            *("--disable-admission-plugins=ServiceAccount", f"--etcd-servers=http://{self.etcd}"),
            *(f"--client-ca-file={place}/client-cert-auth-ca.crt", f"--service-account-issuer=https://{self.api}/"),
            *(f"--service-account-key-file={place}/sa-signer.crt", "--service-cluster-ip-range=10.0.0.0/24"),
            f"--service-account-signing-key-file={place}/sa-signer.key",
        )
        return f"{' '.join(map(str, etcd))} & {' '.join(map(str, apiserver))} & wait"

    def ask(self, url: str, *, user: str = "", body: object = None) -> int:
        """The status of an answer; 0 while there is none."""
        trust = ssl.create_default_context(cadata=self._serving.cert.decode())
        if user:
            self._clients.issue(user, ["system:masters"]).load(trust)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, context=trust if url.startswith("https") else None) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as e:
            with e:
                return e.code
        except OSError:
            return 0


@pytest.fixture
def envtest(tmp_path: Path) -> Iterator[tuple[Envtest, "subprocess.Popen[bytes]"]]:
    started = Envtest(tmp_path)
    with subprocess.Popen(["sh", "-c", started.command()]) as suite:
        try:
            yield started, suite
        finally:
            suite.kill()


def test_what_envtest_starts_serves_it_and_ends_with_it(
    envtest: tuple[Envtest, "subprocess.Popen[bytes]"],
) -> None:
    started, suite = envtest
    until("etcd is healthy", lambda: started.ask(f"http://{started.etcd}/health") == 200)
    until("the API server is healthy", lambda: started.ask(f"https://{started.api}/healthz") == 200)
    api = f"https://{started.api}/api/v1/namespaces/default"
    assert started.ask(api) == 403
    assert started.ask(api, user="admin") == 200
    # Nobody has made the service account that pods have elsewhere.
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    assert started.ask(f"{api}/pods", user="admin", body=pod) == 201
    account = {"metadata": {"name": "robot"}}
    assert started.ask(f"{api}/serviceaccounts", user="admin", body=account) == 201
    assert started.ask(f"{api}/serviceaccounts/robot/token", user="admin", body={"spec": {}}) == 201
    suite.kill()
    until("both are gone", lambda: not started.ask(f"http://{started.etcd}/health") and not started.ask(api))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--feature-gates=A=true"], "No such option: --feature-gates"),
        (["--authorization-mode=AlwaysAllow"], "RBAC"),
        (["--allow-privileged=false"], "--allow-privileged"),
        (["--etcd-servers=https://127.0.0.1:1"], "http://HOST:PORT"),
        (["--service-node-port-range=low"], "LOW-HIGH"),
        (["--client-ca-file=none"], "--client-ca-file none"),
        (["--service-account-signing-key-file=none"], "--service-account-signing-key-file none"),
        (["--service-account-key-file={}/b.crt"], "--service-account-signing-key-file"),
        (["--encryption-provider-config={}/empty"], "is empty"),
        (["--authentication-config={}/empty"], "is empty"),
        (["--service-account-signing-key-file={}/a.key", "--service-account-key-file={}/b.crt"], "of no other"),
    ],
)
def test_flags_that_mean_nothing_here_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    one, other = Authority.create("a"), Authority.create("b")
    for name, data in {
        "a.key": one.key,
        "b.crt": other.cert,
        "empty": b"\n",
        "apiserver.crt": one.cert,
        "apiserver.key": one.key,
    }.items():
        (tmp_path / name).write_bytes(data)
    needed = [f"--cert-dir={tmp_path}", "--etcd-servers=http://127.0.0.1:1", f"--client-ca-file={tmp_path}/b.crt"]
    assert standalone.run([*needed, *(flag.format(tmp_path) for flag in flags)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("kube-apiserver: ") and says in told and told.count("\n") == 1
