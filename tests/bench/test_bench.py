"""Every subcommand of scripts/bench runs to its end and tells what it should."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks.api import ServerProcess
from scripts.benchmarks.api_client import Answer
from scripts.benchmarks.members import members_alone
from scripts.benchmarks.report import percentile

ROOT = Path(__file__).parents[2]
# Ends what hangs, and nothing else: on a busy machine the imports of a benchmark's processes alone take a minute.
LIMIT_S = 280

pytestmark = pytest.mark.e2e


def bench(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *arguments, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    return found


@pytest.mark.turn(2, of=3)
def test_up_measures_start_memory_and_idle_cpu() -> None:
    row = bench("up", "--host", "process", "--idle", "1", "--nodes", "1")["rows"][0]
    assert row["ready_s"] > 0 and row["memory_mb"] > 10 and row["idle_cpu_percent"] >= 0


@pytest.mark.turn(1, of=3)
def test_pods_sees_every_pod_run() -> None:
    options = ("--host", "process", "--pods", "6", "--nodes", "2", "--node-hosts", "1", "--account", "--idle", "1")
    row = bench("pods", *options)["rows"][0]
    assert row["ran"] == 6
    assert row["nodes_ready"] == 2 and row["nodes_ready_s"] >= 1
    assert row["memory_mb"] > 10 and row["idle_cpu_percent"] >= 0
    assert row["created_per_s"] >= row["bound_per_s"] >= row["running_per_s"] > 0
    assert row["cpu_s_per_1000"] > 0
    assert "process" in row["cpu_s_of_each"]
    account = {line["measure"]: line["for_each_pod"] for line in row["account"]}
    assert account["writes: POST pods"] == account["writes: POST pods/binding"] == 1
    assert account["keys written, in each member"] >= 3
    assert row["gone"] == 6 and row["gone_per_s"] > 0 and row["gone_cpu_s_per_1000"] > 0


@pytest.mark.turn(2, of=3)
def test_nodes_starts_pods_and_lets_them_talk() -> None:
    beside, row = bench("nodes", "--isolation", "none", "--pods", "2", "--megabytes", "1")["rows"]
    assert beside["mb_per_s"] > 0 and row["pods_per_s"] > 0
    ways = [
        way + name
        for way in ("", "service_", "sockets_")
        for name in ("round_trip_us", "udp_round_trip_us", "mb_per_s")
    ]
    assert all(row[name] > 0 for name in ways)


def test_scheduler_places_the_pods_of_each_case() -> None:
    rows = {row["case"]: row for row in bench("scheduler", "--scale", "0.005")["rows"]}
    assert rows["SchedulingBasic"]["placed"] == 50 and rows["PreemptionAsync"]["preempted"] > 0
    assert all(row["placed"] > 0 and row["per_cpu_s"] > 0 for row in rows.values())


@pytest.mark.turn(0, of=3)
def test_pods_kills_leaders_and_tells_what_must_never_happen() -> None:
    options = ("--host", "process", "--pods", "60", "--nodes", "4", "--node-hosts", "1", "--kill-leader", "0.05")
    row = bench("pods", *options)["rows"][0]
    assert row["ran"] == 60 and row["kills"] >= 1
    assert [row[what] for what in ("lost", "doubled", "bound_twice", "overcommitted")] == [0, 0, 0, 0]


def test_controllers_measures_each_controller_over_a_cluster_at_rest() -> None:
    rows = {r["controller"]: r for r in bench("controllers", "--nodes", "6", "--pods", "60", "--events", "6")["rows"]}
    assert {"(caches)", "replicaset", "statefulset", "job", "endpointslice", "nodelifecycle", "podgc"} <= rows.keys()
    for name in ("replicaset", "endpointslice", "disruption", "garbagecollector"):
        assert rows[name]["pod_us"] > 0 and rows[name]["pod_event_us"] > 0
    # At rest they want nothing, and one pod too many is deleted.
    assert rows["replicaset"]["idle_us"] > 0 and rows["replicaset"]["busy_us"] > 0
    assert rows["nodelifecycle"]["lease_event_us"] > 0 and rows["nodelifecycle"]["lost_node_us"] > 0
    assert rows["podgc"]["resync_ms"] > 0


@pytest.mark.turn(1, of=3)
def test_kv_measures_each_operation_without_errors() -> None:
    found = bench("kv", "--host", "process", "--clients", "2", "--seconds", "0.5", "--members", "1")
    ours = [r for r in found["rows"] if r["system"] == "process"]
    assert [r["operation"] for r in ours] == ["put", "read, linearizable", "read, serializable"]
    for row in found["rows"]:
        assert row["per_s"] > 0 and row["errors"] == {}
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]


@pytest.mark.turn(0, of=3)
def test_chaos_measures_the_spans_of_each_kill() -> None:
    rows = bench("chaos", "--host", "process", "--kills", "1,0,0,0")["rows"]
    spans = {row["what"]: row["spans_s"] for row in rows if row["lost"] == "leader"}
    assert len(spans["without writes"]) == len(spans["without reads"]) == 1
    assert spans["without writes"][0] > 0 and spans["without reads"][0] > 0


API = ("api", "--clients", "2", "--seconds", "1", "--watchers", "3", "--rate", "20", "--pods", "20", "--lists", "2")
OVER_MEMBERS = (*API, "--host", "members", "--members", "1", "--starts", "1")


@pytest.mark.turn(0, of=3)
def test_api_measures_requests_memory_and_start_of_a_server_over_members_and_what_extensions_cost() -> None:
    rows = bench(*OVER_MEMBERS, "--operations", "get,create,list,start,memory", "--extended", "1")["rows"]
    requests = ["get", "create", "list, consistent", "list, from the cache"]
    # Of requests that the extensions are not about.
    compared = ["get", "create", "get, extended", "create, extended"]
    by_name = {row["operation"]: row for row in rows}
    assert [r["operation"] for r in rows] == [
        *requests[:2],
        "start to first get",
        "memory of a pod",
        *requests[2:],
        *compared,
    ]
    assert by_name["list, consistent"]["kb"] == pytest.approx(20 * 3800 / 1024, rel=0.2)
    assert all(by_name[name]["per_s"] > 0 for name in requests)
    assert all(row["server_us"] > 0 for row in rows[-len(compared) :])
    assert by_name["start to first get"]["p50_ms"] > 0
    assert by_name["memory of a pod"]["kb"] is not None
    assert all(row["errors"] == {} for row in rows)


@pytest.mark.turn(2, of=3)
async def test_api_measures_a_server_that_is_there_already() -> None:
    async with members_alone(1) as (endpoints, credentials, _, _etcd):
        server = ServerProcess(endpoints, credentials)
        try:
            await server.start()
            where = ("--address", server.address, "--certificates", str(credentials))
            rows = (await asyncio.to_thread(bench, *API, *where, "--operations", "get,watch"))["rows"]
        finally:
            await server.stop()
    assert [r["system"] for r in rows] == ["given", "given"]
    assert rows[0]["per_s"] > 0 and rows[1]["missing"] == 0


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_answer_is_whole_when_all_of_it_has_come(step: int) -> None:
    whole = {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": b"hello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n": b"hello",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n": b"",
    }
    for text, body in whole.items():
        answer = Answer()
        pieces = [text[at : at + step] for at in range(0, len(text), step)]
        assert [answer.feed(p) for p in pieces] == [False] * (len(pieces) - 1) + [True]
        assert answer.status == int(text[9:12]) and b"".join(answer.body) == body


def test_a_wrong_option_is_refused() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), "pods", "--host", "moon"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 2 and "moon" in done.stderr


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (75, 3), (76, 4), (99, 4), (100, 4)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([3, 1, 4, 2], percent) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_it_has_it_give_back_what_it_made(number: signal.Signals, tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = (
        "import os, pathlib, signal, sys\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # nohup(1) has tests ignore one
        "from scripts.benchmarks import __main__ as bench\n"
        "made = pathlib.Path(sys.argv[1])\n"
        "def work():\n"
        "    made.touch()\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        made.unlink()\n"
        "bench.app = work\n"
        "bench.main()\n"
    )
    command = [sys.executable, "-c", code, str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, done.stderr, made.exists()) == (130, "bench: interrupted\n", False)
