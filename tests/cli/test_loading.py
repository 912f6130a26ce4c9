"""What a command loads is most of what it costs, and on a busy machine the time until it does anything."""

import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rayplane.control_plane import cli
from tests.cli.whole import whole

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


#: What commands on a cluster need, and nothing that a shell asks, nor help.
OF_CLUSTERS = ("cryptography", "google", "grpc", "pydantic", "rich", "yaml")


def test_no_command_loads_anything_heavy() -> None:
    code = f"""if True:
        import sys
        from tests.cli.whole import whole
        whole()
        print([m for m in {HEAVY!r} if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)
    assert done.stdout.strip() == "[]"


def _options_of(group: Any, before: str = "") -> Iterator[str]:
    """The lines at which a shell asks for the options of each command, and of those that it has."""
    for name, command in group.commands.items():
        yield f"{before}{name} -"
        if hasattr(command, "commands"):
            yield from _options_of(command, f"{before}{name} ")


def test_what_shells_and_people_ask_first_loads_only_what_tells_it(tmp_path: Path) -> None:
    code = f"""if True:
        import sys, typer
        from rayplane.control_plane.cli import app, completion
        completion.begin()
        root = typer.main.get_command(app.app)
        for line in ("ge", "get po", "get pods ", "status --na", "up --host ", *{[*_options_of(whole())]!r}):
            assert completion.candidates(root, line.split(" ")) or line == "get pods ", line
            assert not [m for m in {HEAVY + OF_CLUSTERS!r} if m in sys.modules], line
        for line in ("--version", "--help", "get --help"):
            assert app.run(line.split()) == 0
        assert app.run(["stat"]) == 2
        print([m for m in {HEAVY + OF_CLUSTERS!r} if m in sys.modules])"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_the_list_of_commands_is_what_their_modules_have() -> None:
    """`commands.tsv` stands for them until they are loaded; its order is that of the help."""
    found = set()
    for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}."):
        register = getattr(import_module(module.name), "register", None)
        if register is not None and register.__module__ == module.name:
            register(part := typer.Typer())
            for name, command in typer.main.get_group(part).commands.items():
                text = " ".join((command.help or "").split("\n\n")[0].split())
                found.add((name, module.name.removeprefix(f"{cli.__name__}."), text))
    lines = (resources.files(cli) / "commands.tsv").read_text().splitlines()
    assert {tuple(line.split("\t")) for line in lines} == found and len(lines) == len(found)


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
        "import asyncio, os, signal\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # nohup(1) has tests ignore one
        "import rayplane.control_plane.cli.app as app\n"
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
