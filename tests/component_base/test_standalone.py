"""Components as processes of their own: whom they are not to outlive."""

import asyncio

import pytest
import typer

from rayplane.control_plane.component_base.standalone import EXIT_USAGE, PARENT, run_command, told_to_stop


@pytest.mark.parametrize("parent", ["x", "-1", "9" * 30])
def test_a_parent_that_is_no_process_is_told_in_one_line(
    parent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve() -> None:
        told_to_stop()

    app = typer.Typer()
    app.command()(lambda: asyncio.run(serve()))
    monkeypatch.setenv(PARENT, parent)
    assert run_command(app, [], name="etcd", program="etcd", usage=LookupError, failures=()) == EXIT_USAGE
    told = capsys.readouterr().err
    assert told.startswith(f"etcd: {PARENT}={parent} ") and told.count("\n") == 1
