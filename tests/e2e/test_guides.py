"""Commands of the guides: run one after the other as a reader would, on one cluster for all."""

from pathlib import Path

import pytest

from tests.e2e.guides import environment, lines, prepare, run

GUIDES = (
    "control_plane/cli/first_hour.md",
    "control_plane/cluster/securing.md",
    "control_plane/scheduler/capacity.md",
    "control_plane/faults/chaos.md",
    "storage/backup.md",
)


@pytest.mark.turn(1, of=2)
def test_every_command_of_the_guides_works(tmp_path: Path) -> None:
    commands = [line for guide in GUIDES for line in lines(guide)]
    assert len(commands) > 10
    variables = environment(tmp_path)
    try:
        run(prepare(tmp_path, GUIDES, commands), tmp_path, variables)
    finally:
        for state in (tmp_path / ".rayplane").glob("*/cluster.json"):
            run(["rayplane", "down", "--purge", "--name", state.parent.name], tmp_path, variables)
