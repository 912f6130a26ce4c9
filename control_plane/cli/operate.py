"""The command that runs operators of a file on a live cluster."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from rayplane.control_plane.cli.options import Name, State, run, state_dir
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(operate)


def operate(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="Operators, as `simulate --load` takes.")],
    name: Name = "default",
    state: State = None,
) -> None:
    """Run the operators of a file on the cluster, as its administrator, until Ctrl-C."""
    from rayplane.control_plane.cli.options import errors
    from rayplane.control_plane.client.operators import BadOperator, operate_by

    directory = state_dir(name, state)
    try:
        work = operate_by(vars(_module(file)))
    except BadOperator as e:
        raise UsageError(f"{file}: {e}") from e

    async def call() -> None:
        async with access(directory) as admin:
            errors.print(f"{file} operates; Ctrl-C ends it")
            await work(admin.api)

    run(call())


def _module(file: Path) -> Any:
    try:
        spec = importlib.util.spec_from_file_location(f"rayplane_operator_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise UsageError(f"cannot load {file}: it is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (OSError, SyntaxError, ImportError) as e:
        raise UsageError(f"cannot load {file}: {type(e).__name__}: {e}") from e
    return module
