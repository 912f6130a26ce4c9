"""Guides as a reader follows them: files in a folder, commands and snippets as one script, and what it is to show."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.e2e.harness import OWN_BIN, ROOT, stock_kubectl
from tests.house.documents import blocks

#: Commands and options that texts name and no guide runs: the test that tries them.
TRIED_BY = {
    "rayplane add --runtime": "tests/cluster/test_node_runtime.py",
    "rayplane dashboard": "tests/dashboard/test_in_a_browser.py",
    "rayplane dashboard --open": "tests/dashboard/test_in_a_browser.py",
    "rayplane diff --to": "tests/e2e/test_time_travel.py",
    "rayplane diff -o": "tests/e2e/test_time_travel.py",
    "rayplane drain": "tests/machines/test_losses.py",
    "rayplane image load": "tests/e2e/test_images.py",
    "rayplane join": "tests/e2e/test_join.py",
    "rayplane join --discovery-token-ca-cert-hash": "tests/e2e/test_join.py",
    "rayplane join --token": "tests/e2e/test_join.py",
    "rayplane learn": "tests/cli/test_learn.py",
    "rayplane rewind -n": "tests/cluster/test_rewind.py",
    "rayplane status -o": "tests/e2e/harness.py",
    "rayplane test-env run": "tests/e2e/test_test_env.py",
    "rayplane test-env run --nodes": "tests/e2e/test_test_env.py",
    "rayplane top": "tests/cli/test_top_on_a_cluster.py",
    "rayplane trace -f": "tests/cli/test_trace.py",
    "rayplane undrain": "tests/machines/test_losses.py",
    "rayplane up --address": "tests/machines/conftest.py",
    "rayplane up --history": "tests/e2e/test_time_travel.py",
    "rayplane up --ui": "tests/dashboard/test_in_a_browser.py",
    "rayplane upgrade --from": "tests/e2e/test_upgrade.py",
}
SHELL, SNIPPET, SHOWN = "sh", "python", "text"
#: What stands in the script's output before that of a block.
_MARK = "@@@"
#: Guides that share a cluster, which the first of them brings up or none needs; by the day of their turn, and a name.
GROUPS = {
    (0, "operating"): (
        "control_plane/cli/first_hour.md",
        "control_plane/cluster/securing.md",
        "control_plane/scheduler/capacity.md",
        "control_plane/faults/chaos.md",
        "storage/backup.md",
    ),
    (1, "using"): (
        "control_plane/cli/first_hour.md",
        "control_plane/using.md",
        "control_plane/cluster/operating.md",
        "control_plane/dashboard/seeing.md",
        "control_plane/faults/breaking.md",
        "node/pods.md",
    ),
    (2, "ray"): ("README.md",),
    (3, "testing"): ("control_plane/testing/README.md", ".github/CONTRIBUTING.md"),
}
#: The guide that has a cluster of its own: images, and pods in namespaces.
WEB_SHOP = "node/web_shop.md"
#: Blocks of these documents and languages are run otherwise: by the test whose module names the document.
OTHERWISE = {
    ("control_plane/testing/README.md", "python"): "tests.testing.test_plugin",
    ("control_plane/testing/README.md", "py"): "tests.testing.test_plugin",
    ("control_plane/client/README.md", "python"): "tests.client.test_blocking",
    (".github/CONTRIBUTING.md", "python"): "tests.house.test_contributing",
    (".github/CONTRIBUTING.md", "json"): "tests.house.test_contributing",
}
_MACHINES = "several machines; tests/machines makes some of network namespaces and does the same"
_TESTS = "it is what runs this test"
_SUITES = "a language and its packages; tests/e2e/test_test_env.py runs tests/examples where the language is there"
#: Commands that no test runs as they stand there, and why.
NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {
        "scripts/demo": "several minutes, and it makes an environment from the network",
        "scripts/test": _TESTS,
        "python3 -m venv .venv && .venv/bin/pip install .": "a network; tests/packaging installs the wheel",
        ". .venv/bin/activate": "there is no .venv: the environment of the tests stands in",
        "rayplane top": "a terminal; tests/cli/test_top_on_a_cluster.py",
        "kubectl get pods -o wide -w": "it never ends",
    },
    "control_plane/cluster/machines.md": {
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(openssl rand -hex 32)": _MACHINES,
        "export RAY_worker_niceness=0": _MACHINES,
        "ray start --head --port=6379 --node-ip-address=10.0.0.1": _MACHINES,
        "ray start --address=10.0.0.1:6379 --node-ip-address=10.0.0.2": _MACHINES,
        "ray start --address=10.0.0.1:6379 --node-ip-address=10.0.0.3": _MACHINES,
        "ray status": _MACHINES,
        "rayplane up --address auto --members 3 --apiservers 3 --nodes 6": _MACHINES,
        "export KUBECONFIG=$(rayplane kubeconfig)": _MACHINES,
        "kubectl get nodes -o wide": _MACHINES,
        "rayplane status": _MACHINES,
        "rayplane top machines": _MACHINES,
        "rayplane drain machine 10.0.0.3": _MACHINES,
        "rayplane undrain machine 10.0.0.3": _MACHINES,
        "ray start --address=10.0.0.1:6379 --node-ip-address=10.0.0.4": _MACHINES,
        "rayplane add node": _MACHINES,
    },
    "control_plane/testing/README.md": {
        "rayplane test-env run -- go test ./...": _SUITES,
        "rayplane test-env run --nodes 3 -- npm test": _SUITES,
        "go test ./...": _SUITES,
    },
    ".github/CONTRIBUTING.md": {
        "scripts/test": _TESTS,
        "scripts/test --fast": _TESTS,
        "scripts/test tests/scheduler/test_filters.py -k taint": _TESTS,
        'scripts/test --check "import contracts"': _TESTS,
        "scripts/test --oldest tests/rpc": "a network, for the oldest dependencies",
        "rayplane simulate web.yaml --seed 1 --seeds 20": "a minute of two cores; the next line runs one of them",
        "rayplane simulate failures --seed 1": "a minute of a core; tests/simulation runs its faults",
    },
    "proto/README.md": {
        "pip install 'rayplane[generate]'": "a network",
        "python scripts/gen_proto": "tools from the network",
    },
}


def lines(guide: str) -> list[str]:
    """The commands that a reader types."""
    return [line for block in blocks(ROOT / guide) if block.language == SHELL for line in block.text.splitlines()]


def environment(home: Path) -> dict[str, str]:
    """A home of its own, and `rayplane` and `kubectl` on the way."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "rayplane").write_text(f'#!/bin/sh\nexec {sys.executable} -m rayplane.control_plane.cli.main "$@"\n')
    (programs / "rayplane").chmod(0o755)
    (programs / "kubectl").symlink_to(stock_kubectl())
    return os.environ | {"HOME": str(home), "PATH": f"{programs}:{OWN_BIN}:{os.environ['PATH']}"}


def steps(guide: str, left_out: Iterable[str] = ()) -> list[str]:
    """Commands, but for those left out, and snippets of Python that are no files; each block tells its number first."""
    found, unrun = [], {*left_out}
    for number, block in enumerate(blocks(ROOT / guide)):
        if block.language == SHELL:
            text = "\n".join(checked(line) for line in block.text.splitlines() if command_of(line) not in unrun)
        elif block.language == SNIPPET and not block.file and (guide, SNIPPET) not in OTHERWISE:
            text = f"python3 - <<'SNIPPET'\n{block.text}SNIPPET"
        else:
            continue
        found.append(f"{{ echo '{_MARK} {guide} {number}'; }} 2>/dev/null\n{text}")
    return found


def checked(line: str) -> str:
    """What is to fail ends the script when it does not; `set -e` alone overlooks it."""
    return f"{command_of(line)} || exit 1" if line.startswith("! ") else line


def command_of(line: str) -> str:
    """A line without its comment."""
    return re.split(r"\s+# ", line)[0].rstrip()


def missing_of_what_is_shown(guide: str, said: str) -> list[str]:
    """Lines of the blocks of output that the commands before them did not print, in their order; `...` is anything."""
    parts = dict(part.split("\n", 1) for part in said.split(f"{_MARK} ")[1:])
    found, output = [], ""
    for number, block in enumerate(blocks(ROOT / guide)):
        output = parts.get(f"{guide} {number}", output)
        if block.language == SHOWN:
            rest = iter(output.splitlines())
            found += [line for line in block.text.splitlines() if not any(shows(line, one) for one in rest)]
    return found


def shows(wanted: str, line: str) -> bool:
    pattern = re.sub(r"\\\.\\\.\\\.", ".*", re.escape(" ".join(wanted.split())))
    return re.fullmatch(pattern.replace(r"\ ", " "), " ".join(line.split())) is not None


def prepare(place: Path, guides: Iterable[str], commands: Iterable[str]) -> list[str]:
    """Write the files of guides and the script `guides.sh`; the command that runs it there."""
    for guide in guides:
        for block in blocks(ROOT / guide):
            if block.file and "/" not in block.file:
                (place / block.file).write_text(block.text)
    # What was begun behind the others ends with them.
    begin = ("set -eux", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT")
    (place / "guides.sh").write_text("\n".join([*begin, *commands]))
    return ["bash", "guides.sh"]


def run(command: Sequence[str], place: Path, variables: dict[str, str]) -> str:
    """What it printed."""
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
