"""What a command loads is most of what it costs, and on a busy machine the time until it does anything."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

HEAVY = (
    "aiohttp",
    "ray",
    "lmdb",
    "numpy",
    "textual",
    "rayplane.control_plane.etcd.server",
    "rayplane.control_plane.apiserver.registry.registry",
)


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, rayplane.control_plane.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)
    assert done.stdout.strip() == "[]"


def test_an_interruption_while_it_loads_is_one_line() -> None:
    code = (
        "import builtins, sys; load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'typer': raise KeyboardInterrupt\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "from rayplane.control_plane.cli.main import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rayplane: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_its_terminal_interrupts_it_after_what_ran_in_a_loop_too(number: signal.Signals) -> None:
    code = (
        "import asyncio, os, rayplane.control_plane.cli.app as app\n"
        "from rayplane.control_plane.cli import options\n"
        "def run(*_):\n"
        "    options.run(asyncio.sleep(0))\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    except KeyboardInterrupt:\n"
        "        return 130\n"
        "    return 1\n"
        "app.run = run\n"
        "from rayplane.control_plane.cli.main import main; main()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=180).returncode == 130
