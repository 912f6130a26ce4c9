"""All commands, and one line on standard error when one fails."""

import errno
import os
import sys

import typer

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cli import chaos, cluster, logs_of, objects, simulate
from rayplane.control_plane.cli.printing import error_line
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.rpc import RpcError
from rayplane.storage.backup import BackupError
from rayplane.storage.env import DiskError
from rayplane.storage.env.private import UMASK

app = typer.Typer(
    name="rayplane",
    help="A Kubernetes control plane of actors, on Ray or in one process.",
    add_completion=False,
    rich_markup_mode=None,
)
cluster.register(app)
chaos.register(app)
logs_of.register(app)
simulate.register(app)
objects.register(app)

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_FAILURES = (ClusterError, BackupError, DiskError)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    os.umask(UMASK)  # what it writes are keys, states and backups
    try:
        code = app(args=arguments or ["--help"], prog_name="rayplane", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except typer.TyperException as e:
        return _fail(f"{_usage_text(e)}; see `rayplane --help`", EXIT_USAGE)
    except UsageError as e:
        return _fail(str(e), EXIT_USAGE)
    except BrokenPipeError:
        # The reader of our output has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except ApiError as e:
        return _fail(error_line(e), EXIT_FAILED, program="")
    except RpcError as e:
        return _fail(e.message, EXIT_USAGE if e.code.name == "INVALID_ARGUMENT" else EXIT_FAILED)
    except _FAILURES as e:
        return _fail(str(e), EXIT_FAILED)
    except OSError as e:
        return _fail(_system_text(e), EXIT_FAILED)
    if code == EXIT_INTERRUPTED:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _system_text(error: OSError) -> str:
    """What the system refused, of which file, and what to do where that is known."""
    of = f"{error.filename}: " if error.filename else ""
    advice = "; make room there, or choose another --state-dir" if error.errno in _FULL else ""
    return f"{of}{error.strerror or error}{advice}"


def _usage_text(error: typer.TyperException) -> str:
    """What is wrong with the command's words, and where, without the usage lines."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return text.rstrip(".").replace("Value error, ", "")


def _fail(message: str, code: int, *, program: str = "rayplane: ") -> int:
    print(program + " ".join(message.split()), file=sys.stderr)
    return code
