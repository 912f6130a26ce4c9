"""A member as a process of its own: etcd's flags, one line when it listens, one line when it does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.etcd.flags import (
    UsageError,
    election_ticks,
    parse_cluster,
    parse_duration,
    parse_url,
    with_bare_booleans,
)
from rayplane.control_plane.etcd.standalone import run
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from scripts.benchmarks.members import LOOPBACK, REPOSITORY, running_members


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("5s", 5.0), ("500ms", 0.5), ("1m30s", 90.0), ("1h0.5s", 3600.5)]
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert parse_duration("flag", text) == seconds


def test_values_that_cannot_be_are_refused_by_their_flags_name() -> None:
    for text in ("", "5", "s", "5 s", "-5s"):
        with pytest.raises(UsageError, match="--some-time"):
            parse_duration("some-time", text)
    for text in ("", "localhost:1", "http://a", "http://a:1,http://b:1", "http://a:99999", "unix://a:1"):
        with pytest.raises(UsageError, match="--some-url"):
            parse_url("some-url", text)
    for text in ("http://a:1", "a=http://a", "a=http://a:1,a=http://a:2", "=http://a:1"):
        with pytest.raises(UsageError, match="--initial-cluster"):
            parse_cluster(text)
    for heartbeat, election in ((0, 1000), (100, 499), (100, 60_000)):
        with pytest.raises(UsageError, match=r"--(election-timeout|heartbeat-interval)"):
            election_ticks(heartbeat, election)


def test_values_are_read_as_etcd_reads_them() -> None:
    assert parse_url("f", "https://[::1]:2379/") == ("https", "[::1]:2379")
    assert parse_cluster("a=http://a:1,b=http://b:1/") == {"a": "http://a:1", "b": "http://b:1"}
    assert election_ticks(100, 1000) == 10
    assert list(with_bare_booleans(["--a=true", "--b=false", "--c=x", "true"])) == ["--a", "--no-b", "--c=x", "true"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-such-flag"], "No such option"),
        (["--initial-cluster-state=old"], "must be"),
        (["--name=a", "--initial-cluster=b=http://127.0.0.1:1"], "initial_cluster must contain"),
        (["--listen-client-urls=https://127.0.0.1:0"], "--cert-file"),
        (["--log-level=loud"], "--log-level"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rayplane.control_plane.etcd", f"--data-dir={tmp_path}/d", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "d").exists()
    assert done.stderr.startswith("etcd: ") and says in done.stderr and done.stderr.count("\n") == 1


def test_a_flag_that_is_false_counts(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--cert-file=none", "--key-file=none", "--trusted-ca-file=none"]
    assert run(["--listen-client-urls=https://127.0.0.1:0", *files, "--client-cert-auth=false"]) == 2
    assert "--client-cert-auth: callers are known" in capsys.readouterr().err


@pytest.mark.e2e
async def test_members_with_certificates_serve_and_stop_in_order(tmp_path: Path) -> None:
    authority = Secrets.create("test").authority
    authority.issue("member", hosts=[LOOPBACK]).write(tmp_path / "tls")
    async with running_members(2, tmp_path, tls=tmp_path / "tls") as members:
        assert [m.about["name"] for m in members] == ["m0", "m1"]
        assert members[0].about["client_url"] == f"https://{members[0].client}"
        assert members[0].about["cluster_id"] == members[1].about["cluster_id"]
        network = GrpcNetwork(authority.issue("client"))
        try:
            client = EtcdClient(network, [m.client for m in members])
            assert (await client.put(b"k", b"v")).header.cluster_id == members[0].about["cluster_id"]
        finally:
            await network.close()
        assert [await m.stop() for m in members] == [0, 0]
