"""Code of users in the simulation: as a process that dies and comes back, with the run's clock and chance alone."""

import signal
from pathlib import Path

import pytest

from rayplane.control_plane.cli.app import run as main
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.simulation import (
    Order,
    Setup,
    SimulationResult,
    UserFile,
    guard,
    load_scenario,
    parse_scenario,
    read_file,
    simulate,
    sweep,
)
from tests.tiers import todays_part

pytestmark = pytest.mark.timeout(600)

EXAMPLE = Path(__file__).parents[2] / "scripts/operators"
TINY = """
duration: 6s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
steps:
  - await: {ready: cluster}
  - kill: operator-0
"""


def run(code: str, seed: int = 1) -> SimulationResult:
    return simulate(parse_scenario(TINY, source="tiny"), seed, setup=Setup(load=UserFile("mine.py", code)))


@pytest.mark.turn(1, of=2)
def test_the_planted_bug_of_the_example_is_found() -> None:
    order = Order(load_scenario(EXAMPLE / "invoices.yaml"), Setup(load=read_file(str(EXAMPLE / "invoices.py"))))
    found = [result for result in sweep(order, range(1, 101)) if not result.ok]
    assert "no number twice" in found[0].failures[0]


@pytest.mark.turn(0, of=2)
def test_the_example_without_its_bug_holds() -> None:
    right = read_file(str(EXAMPLE / "invoices.py")).text.replace("INVOICE_FIRST = True", "INVOICE_FIRST = False")
    result = simulate(load_scenario(EXAMPLE / "invoices.yaml"), 2, setup=Setup(load=UserFile("invoices.py", right)))
    assert result.ok, str(result)


CLOCKS = """
import datetime, os, random, secrets, time, uuid
from random import random as draw

async def operate(client):
    began, started = time.time(), time.monotonic()
    await __import__("asyncio").sleep(0.5)
    assert abs(time.time() - began - 0.5) < 1e-6, time.time()
    assert abs(time.monotonic() - started - 0.5) < 1e-6
    now = datetime.datetime.now(datetime.timezone.utc)
    assert now.year == datetime.date.today().year == 2026 and isinstance(now, datetime.datetime)
    drawn = [draw(), random.Random().random(), secrets.token_hex(4), str(uuid.uuid4()), os.urandom(2).hex()]
    drawn.append(time.strftime("%Y"))
    name = f"drawn-{int(time.monotonic() * 1e6)}"
    data = {"drawn": " ".join(map(str, drawn))}
    await client.create("configmaps", {"metadata": {"name": name, "namespace": "default"}, "data": data})
    raise RuntimeError(data["drawn"])
"""


def test_what_a_program_draws_comes_from_the_seed() -> None:
    runs = [run(CLOCKS, seed) for seed in (1, 1, 2)]
    ends = [[event.text for event in r.story if event.kind == "ended"] for r in runs]
    assert all(r.ok for r in runs), str(runs[0])
    assert len(ends[0]) > 2
    assert ends[0] == ends[1] != ends[2]
    assert runs[0].trace_hash == runs[1].trace_hash
    assert len(set(ends[0])) == len(ends[0]), "each life draws anew"
    # In one life a server may go away before it answers.
    assert sum("RuntimeError: 0." in end for end in ends[0]) > 2


@pytest.mark.parametrize(
    ("asks", "told"),
    todays_part(
        2,
        [
            ("open('/etc/hostname').read()", "the file /etc/hostname: keep what must last in objects"),
            ("open('mine.txt', 'w')", "the file mine.txt"),
            ("__import__('socket').socket()", "a socket: use the client"),
            ("__import__('threading').Thread(target=print).start()", "a thread"),
            pytest.param("__import__('subprocess').run(['true'])", "a process", marks=pytest.mark.processes),
            ("__import__('time').sleep(1)", "a pause of the whole process"),
            ("await __import__('asyncio').to_thread(print)", "a thread"),
        ],
    ),
)
def test_what_would_bring_in_the_machine_is_refused_and_told_though_it_is_swallowed(asks: str, told: str) -> None:
    code = f"""
async def operate(client):
    try:
        {asks}
    except Exception:
        pass
    await __import__("asyncio").sleep(1000)
"""
    result = run(code)
    assert not result.ok
    assert any(told in failure for failure in result.failures), result.failures


@pytest.mark.parametrize("swallows", ["", "except Exception: pass"])
def test_a_program_that_never_awaits_ends_its_run_with_a_failure(
    swallows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "ENDLESS_S", 0.3)
    body = "1 / len(str(client))"
    if swallows:
        body = f"try: 1 / 0\n        {swallows}"
    result = run(f"async def operate(client):\n    while True:\n        {body}\n")
    assert not result.ok
    assert any("operator-0 computes for more than 0.3 s" in failure for failure in result.failures), result.failures
    assert "operator-0 computes" in result.ended_at
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0.0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("", "neither"),
        ("def operate(client): pass", "async def operate"),
        ("import rayplane\n@rayplane.reconcile('pods')\ndef f(c, k, o): pass", "async def"),
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("INVARIANTS = 3", "no list"),
    ],
)
def test_a_file_that_cannot_be_run_is_told(code: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UsageError, match=told):
        read_file(str(tmp_path / "mine.py"))


def test_a_program_that_ends_however_is_started_again() -> None:
    code = "import sys\nasync def operate(client): sys.exit(3)"
    ends = [event.text for event in run(code).story if event.kind == "ended"]
    assert len(ends) > 2 and all("SystemExit" in end for end in ends)


RECONCILES = """
import rayplane
CALLS = []

@rayplane.reconcile("configmaps", label_selector="kind=parent", owns=["secrets"])
async def children(client, key, parent):
    if parent is None:
        return
    uid = parent["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": key.name, "uid": uid, "controller": True}
    metadata = {"name": f"{key.name}-child", "namespace": key.namespace, "ownerReferences": [owner]}
    try:
        await client.create("secrets", {"metadata": metadata})
    except rayplane.errors.AlreadyExists:
        pass

def children_there(history):
    if history.last is None and len(history.list("secrets", "default")) != 2:
        yield f"there are {len(history.list('secrets', 'default'))} children"

INVARIANTS = [children_there]
"""


def test_a_reconcile_function_is_called_for_what_it_watches_and_what_it_owns() -> None:
    head, labels = "  - apply: {apiVersion: v1, kind: ConfigMap, metadata: {name: p", ", labels: {kind: parent}}}"
    parents = "\n".join(f"{head}{n}{labels}" for n in (1, 2))
    scenario = parse_scenario(TINY + parents, source="tiny")
    result = simulate(scenario, 1, setup=Setup(load=UserFile("mine.py", RECONCILES)))
    assert result.ok, str(result)


@pytest.mark.processes
@pytest.mark.parametrize(
    "drawn",
    todays_part(
        2,
        [
            "next(__import__('tempfile')._RandomNameSequence())",  # what it imports from elsewhere sees the machine
            "' '.join(set('abcdefghijklmnopqrstuvwxyz'))",  # in another order in each process
        ],
    ),
)
def test_code_that_is_not_the_same_again_is_told(
    drawn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    file = tmp_path / "mine.py"
    file.write_text(f"""
async def operate(client):
    drawn, metadata = {drawn}, {{"name": "x", "namespace": "default"}}
    await client.create("configmaps", {{"metadata": metadata, "data": {{"drawn": drawn}}}})
""")
    assert main(["simulate", str(tmp_path / "tiny.yaml"), "--load", str(file)]) == 2
    assert "does not do the same again with seed 1" in capsys.readouterr().err
