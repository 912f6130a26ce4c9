"""Machines out of namespaces are apart, joined by their switch alone, and leave nothing, however their owner ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import processes
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.testing.machines import owned
from rayplane.control_plane.testing.machines.machines import NETWORK, Machine, Machines
from tests.e2e.harness import until
from tests.machines.places import needs_machines

PORT = 4000
FLOATING = f"{NETWORK}.100"
SERVE = f"""
import socket
server = socket.create_server(("", {PORT}))
print("listens", flush=True)
while True:
    server.accept()[0].sendall(socket.gethostname().encode())
"""
OWNS = """
import sys
from rayplane.control_plane.testing.machines.machines import Machines
with Machines(1) as machines:
    machine, = machines.all
    import subprocess
    subprocess.Popen(machine.command("sleep", "100000"), start_new_session=True)
    print(machines.folder, flush=True)
    sys.stdin.read()
"""

pytestmark = [pytest.mark.processes, needs_machines]


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    with Machines(3) as made:
        yield made.all
    # Who had started something in a machine ends a moment after it.
    until("its processes end", lambda: not naming(made.folder))
    assert not made.folder.exists()


def naming(folder: Path) -> list[int]:
    return [pid for pid in processes.running() if any(bytes(folder) in word for word in processes.arguments(pid))]


def serve(machine: Machine) -> None:
    server = subprocess.Popen(machine.command(sys.executable, "-c", SERVE), stdout=subprocess.PIPE)
    server.returncode = 0  # it ends with its machine
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"listens\n"


def answer(asks: Machine, of: Machine | str) -> str:
    address = of if isinstance(of, str) else of.address
    script = f"import socket; print(socket.create_connection(({address!r}, {PORT}), 1).recv(99).decode())"
    try:
        return asks.run(sys.executable, "-c", script).strip()
    except ClusterError as e:
        return str(e).strip().splitlines()[-1].partition(":")[0]


def test_machines_reach_each_other_while_their_cables_are_in_and_share_nothing_else(machines: list[Machine]) -> None:
    one, two, three = machines
    for machine in machines:
        serve(machine)
    assert [answer(one, m) for m in machines] == ["machine-1", "machine-2", "machine-3"]
    (one.path("here")).write_text("one's")
    assert one.run("cat", str(one.place / "here")) == "one's"
    assert "here" not in two.run("ls", str(two.place))
    links = two.run(sys.executable, "-c", "import socket; print(*(n for _, n in socket.if_nameindex()))").split()
    assert {"lo", "eth0"} <= set(links) and not any(link.startswith("machine") for link in links)

    two.cut()
    assert answer(one, two) == answer(two, one) == "TimeoutError"
    assert (answer(two, two), answer(one, three)) == ("machine-2", "machine-3")
    two.heal()
    assert answer(one, two) == "machine-2"


def test_a_lost_machine_says_nothing_and_comes_back_with_its_folder(machines: list[Machine]) -> None:
    one, two, _ = machines
    serve(two)
    two.path("kept").write_text("bytes")
    was = two.processes()
    two.lose()
    assert not [pid for pid in was if processes.is_alive(pid)]
    assert answer(one, two) != "machine-2"
    two.boot()
    assert answer(one, two) == "ConnectionRefusedError"
    serve(two)
    assert answer(one, two) == "machine-2"
    assert two.run("cat", str(two.place / "kept")) == "bytes"


def test_an_address_that_another_machine_takes_over_leads_there_at_once(machines: list[Machine]) -> None:
    one, two, three = machines
    for machine in (one, two):
        serve(machine)
    one.take_address(FLOATING)
    assert answer(three, FLOATING) == "machine-1"
    one.lose()
    two.take_address(FLOATING)
    assert answer(three, FLOATING) == "machine-2"


def test_nothing_of_a_killed_owner_is_left() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert naming(folder)
        # Others' machines are left alone.
        assert folder.name not in owned.clear(folder.parent)
        assert naming(folder) and folder.exists()
        owner.kill()
    until("its processes end by themselves", lambda: not naming(folder))
    assert folder.exists()
    with Machines(1):
        assert not folder.exists()


def test_a_stopped_machine_of_a_killed_owner_is_ended_by_the_next(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    began = processes.started(ended.pid)
    ended.wait()
    folder = tmp_path / f"{owned.PREFIX}-{ended.pid}-{began or 1}-left"
    folder.mkdir()
    program = "import signal; print(flush=True); signal.pause()"
    stopped = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
    # Between its fork and its first step a process has no arguments that others could read.
    assert stopped.stdout and stopped.stdout.readline()
    os.kill(stopped.pid, signal.SIGSTOP)
    (tmp_path / "rpm-other").mkdir()
    assert owned.clear(tmp_path) == [folder.name]
    assert stopped.wait() == -signal.SIGKILL
    stopped.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["rpm-other"]


def test_there_are_no_more_machines_than_the_switch_is_for() -> None:
    with pytest.raises(ClusterError, match="1 to 5"):
        Machines(6)
