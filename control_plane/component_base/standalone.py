"""A component as a process of its own: its command, the signals that end it, and one line when it fails."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import typer

from rayplane.control_plane.tasks import cancel_and_wait

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PARENT = "RAYPLANE_PARENT"
"""An environment variable: the process id of whom this process is not to outlive. Nobody where it is not set."""


class BadParent(ValueError):
    """A value of `PARENT` that names no process; the message says so."""


def run_command(
    app: typer.Typer,
    arguments: Sequence[str],
    *,
    name: str,
    program: str,
    usage: type[Exception],
    failures: tuple[type[Exception], ...],
) -> int:
    """Run a command; its exit code. `usage` is what it raises of its flags, `failures` of all else."""
    try:
        app(args=list(arguments), prog_name=program, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _fail(name, "interrupted", EXIT_INTERRUPTED)
    except typer.TyperException as e:
        text = e.format_message() if hasattr(e, "format_message") else str(e)
        return _fail(name, f"{text.rstrip('.')}; see `{program} --help`", EXIT_USAGE)
    except (usage, BadParent) as e:
        return _fail(name, str(e), EXIT_USAGE)
    except failures as e:
        return _fail(name, str(e), EXIT_FAILED)
    return 0


def _fail(name: str, message: str, code: int) -> int:
    print(f"{name}: " + " ".join(message.split()), file=sys.stderr)
    return code


def told_to_stop() -> asyncio.Event:
    """Set by SIGTERM, by SIGINT, and when the process that `PARENT` names is gone. Raises BadParent."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if parent := os.environ.get(PARENT):
        try:
            ended = os.pidfd_open(int(parent))
        except ProcessLookupError:
            told.set()
            return told
        except (ValueError, OverflowError, OSError) as e:
            raise BadParent(f"{PARENT}={parent} must be the id of a process that can be waited for: {e}") from e

        def gone() -> None:
            loop.remove_reader(ended)
            os.close(ended)
            told.set()

        loop.add_reader(ended, gone)
    return told


async def start_unless(told: asyncio.Event, starting: Coroutine[Any, Any, None]) -> None:
    """Start; who waits for others before it can serve can be told to give up."""
    start = asyncio.ensure_future(starting)
    stop = asyncio.ensure_future(told.wait())
    await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not start.done():
        await cancel_and_wait(start)
        return
    start.result()
